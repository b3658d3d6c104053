"""The query of `WS /v1/listen`: Deepgram's parameters, served, or refused by name.

    encoding, sample_rate, channels, multichannel    what the audio is
    model, version, language                         what transcribes it
    interim_results, vad_events                      what is sent
    endpointing, utterance_end_ms                    where the VAD cuts
    punctuate, smart_format                          how text is written
    keyterm, keywords                                where the recogniser boosts phrases
    tag, extra, mip_opt_out                          accepted: they ask nothing of the recogniser
    right_context, resume, received                  ours

A feature that is switched off is accepted, since `deepgram-sdk` and Pipecat send `diarize=false`
and the like by default. A feature that is switched on and that we lack is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from voice_agent.server.decoding import ENCODINGS, MAX_CHANNELS

ENDPOINTING_MS = 500
"""Pause that ends a segment where the client says nothing.

Deepgram's is 10 ms, which cuts inside sentences. This one is longer than what Pipecat's VAD waits
(200 ms), so that a client which finalises does so first.
"""
MIN_RATE, MAX_RATE = 8_000, 192_000
_ALIASES = {"float32": "linear32"}  # what linear32 is: 32-bit floats
_OFF_ONLY = (
    "detect_entities",
    "diarize",
    "dictation",
    "filler_words",
    "measurements",
    "numerals",
    "profanity_filter",
)
_THEIR_MODELS = ("nova", "enhanced", "base", "whisper", "default")
_SINGLE = {
    "encoding",
    "sample_rate",
    "channels",
    "multichannel",
    "model",
    "version",
    "language",
    "interim_results",
    "vad_events",
    "endpointing",
    "utterance_end_ms",
    "punctuate",
    "smart_format",
    "mip_opt_out",
    "no_delay",
    "right_context",
    "resume",
    "received",
    *_OFF_ONLY,
}
_REPEATED = {"keyterm", "keywords", "tag", "extra"}


class QueryError(ValueError):
    """A query that cannot be served; the message is one sentence that names the parameter."""


@dataclass(frozen=True, slots=True)
class ListenQuery:
    """What a client asked for.

    Attributes:
        encoding: of `voice_agent.server.decoding`.
        sample_rate: samples a second, per channel.
        channels: interleaved channels.
        multichannel: transcribe each channel by itself.
        language: BCP-47 code; None where the recogniser decides (`multi`, or nothing).
        multi: `language=multi` was asked for: results name what was heard.
        interim_results: send text while it grows.
        vad_events: send SpeechStarted.
        endpointing_ms: pause that ends a segment; None for never (`endpointing=false`).
        own_endpointing: the client named `endpointing`.
        utterance_end_ms: silence after the last word that is reported; None for never.
        punctuate: False where the client wants bare lower-case words.
        phrases: keyterms and keywords, with their boost where one was given.
        tags: echoed in Metadata.
        extra: echoed in Metadata.
        right_context: encoder frames of look-ahead; None for the recogniser's default.
        resumable: numbers, acknowledgements and a token are wanted.
    """

    encoding: str = "linear16"
    sample_rate: int = 16_000
    channels: int = 1
    multichannel: bool = False
    language: str | None = None
    multi: bool = False
    interim_results: bool = False
    vad_events: bool = False
    endpointing_ms: int | None = ENDPOINTING_MS
    own_endpointing: bool = False
    utterance_end_ms: int | None = None
    punctuate: bool = True
    phrases: tuple[tuple[str, float | None], ...] = ()
    tags: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    right_context: int | None = None
    resumable: bool = False


def parse_query(items: Sequence[tuple[str, str]], *, model: str) -> ListenQuery:
    """Read a query.

    Args:
        items: names and values, in order, decoded.
        model: name of the recogniser that is served.

    Raises:
        QueryError: an unknown parameter, one that is not served, or a value that cannot be used.
    """
    one, many = _collect(items)
    for name in _OFF_ONLY:
        if _flag(one, name, False):
            raise QueryError(f"{name}=true is not served here; leave it out or send false")
    _check_model(one, model)
    encoding, sample_rate = _audio(one)
    channels = _integer(one, "channels", 1, 1, MAX_CHANNELS)
    interim = _flag(one, "interim_results", False)
    utterance_end_ms = _optional(one, "utterance_end_ms", 1, 60_000)
    if utterance_end_ms is not None and not interim:
        raise QueryError("utterance_end_ms needs interim_results=true")
    for harmless in ("mip_opt_out", "no_delay", "smart_format"):
        _flag(one, harmless, True)  # a value that is no flag is still an error
    language = one.get("language") or None
    return ListenQuery(
        encoding=encoding,
        sample_rate=sample_rate,
        channels=channels,
        multichannel=_flag(one, "multichannel", False) and channels > 1,
        language=None if language == "multi" else language,
        multi=language == "multi",
        interim_results=interim,
        vad_events=_flag(one, "vad_events", False),
        endpointing_ms=_endpointing(one),
        own_endpointing="endpointing" in one,
        utterance_end_ms=utterance_end_ms,
        punctuate=_flag(one, "punctuate", True) or _flag(one, "smart_format", False),
        phrases=(
            *((term, None) for term in many["keyterm"]),
            *(_keyword(word) for word in many["keywords"]),
        ),
        tags=tuple(many["tag"]),
        extra=tuple(_pair(item) for item in many["extra"]),
        right_context=_optional(one, "right_context", 0, 1_000),
        resumable=_flag(one, "resume", False),
    )


def _collect(items: Sequence[tuple[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    one: dict[str, str] = {}
    many: dict[str, list[str]] = {name: [] for name in _REPEATED}
    for name, value in items:
        if name in _REPEATED:
            many[name].append(value)
        elif name not in _SINGLE:
            raise QueryError(
                f"{name} is not served here; known are {', '.join(sorted(_SINGLE | _REPEATED))}"
            )
        elif name in one:
            raise QueryError(f"{name} is given twice")
        else:
            one[name] = value
    return one, many


def _check_model(one: Mapping[str, str], served: str) -> None:
    asked = one.get("model", served)
    if asked != served and not asked.startswith(_THEIR_MODELS):
        raise QueryError(
            f"model {asked!r} is not served here; this server runs {served!r}, which also answers "
            "to Deepgram's model names"
        )
    if one.get("version", "latest") != "latest":
        raise QueryError(f"version {one['version']!r} is not served here; leave it out")


def _audio(one: Mapping[str, str]) -> tuple[str, int]:
    encoding = one.get("encoding")
    if encoding is None:
        raise QueryError(
            "encoding is missing; containers such as WAV and WebM are not read here, so name one "
            f"of {', '.join(ENCODINGS)}, and send bare audio"
        )
    encoding = _ALIASES.get(encoding, encoding)
    if encoding not in ENCODINGS:
        raise QueryError(f"encoding {encoding!r} is not served; use {', '.join(ENCODINGS)}")
    if "sample_rate" not in one and encoding != "opus":
        raise QueryError(f"sample_rate is missing; {encoding} needs it")
    return encoding, _integer(one, "sample_rate", 48_000, MIN_RATE, MAX_RATE)


def _endpointing(one: Mapping[str, str]) -> int | None:
    value = one.get("endpointing", "true").lower()
    if value == "false":
        return None
    if value == "true":
        return ENDPOINTING_MS
    return _integer(one, "endpointing", 0, 0, 10_000, "false or milliseconds, ")


def _flag(one: Mapping[str, str], name: str, default: bool) -> bool:
    value = one.get(name)
    if value is None:
        return default
    if value.lower() not in ("true", "false"):
        _refuse(name, "true or false", value)
    return value.lower() == "true"


def _integer(
    one: Mapping[str, str], name: str, default: int, low: int, high: int, also: str = ""
) -> int:
    value = one.get(name)
    if value is None:
        return default
    # isdecimal alone takes other scripts' digits too, and int() would read them.
    number = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else -1
    if not low <= number <= high:
        _refuse(name, f"{also}{low} to {high}", value)
    return number


def _optional(one: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    return _integer(one, name, low, low, high) if name in one else None


def _keyword(item: str) -> tuple[str, float | None]:
    """Deepgram's `keywords=WORD:INTENSIFIER`."""
    word, colon, boost = item.rpartition(":")
    if not colon:
        return item, None
    try:
        return word, float(boost)
    except ValueError:
        _refuse("keywords", "WORD or WORD:NUMBER", item)


def _pair(item: str) -> tuple[str, str]:
    key, colon, value = item.partition(":")
    if not colon:
        _refuse("extra", "KEY:VALUE", item)
    return key, value


def _refuse(name: str, wanted: str, got: str) -> NoReturn:
    raise QueryError(f"{name} is {wanted}, got {got[:40]!r}")

"""Several languages by ear: recognisers and a language identifier that look like one recogniser.

    gate = GatedRecognizer({"en": nemotron, "kn": indic_conformer}, identifier)
    stream = gate.open(print)    # Partial, Final, Failed as ever, and LanguageDecided, GateTrouble

The default language's recogniser hears every segment at once, so it is as fast as without the
gate. Where the identifier, on a thread of its own, hears another language, that language's
recogniser gets the whole segment again and writes it; exactly one final comes, and it names its
language. `gate_policy` says when, `gate_stream` carries it out.

Partials before the first decision have no language, by which they are known as tentative;
`GateSettings.partials` can hold them back instead. After a decision for a language that writes
itself, none comes in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_events import GateEvent, GateTrouble, LanguageDecided, OnGateEvent
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.gate_tally import GateTally
from voice_agent.engine.lid.base import LanguageIdentifier
from voice_agent.engine.recognizer import (
    Deliver,
    OnEvent,
    Recognizer,
    Stream,
    StreamOptions,
    deliver_here,
)

__all__ = [
    "GateEvent",
    "GateSettings",
    "GateTrouble",
    "GatedRecognizer",
    "LanguageDecided",
    "load_gate",
]


class GatedRecognizer:
    """A `Recognizer` of several languages, which it tells apart by ear.

    Attributes:
        name: of its parts.
        languages: that it writes, the default first.
        streaming: whether the default recogniser streams.
        default: the default language.
        recognizers: by language.
        identifier: tells the languages.
        settings: of the gate.
        tally: counts what every stream was told.
        observers: get every `LanguageDecided` and `GateTrouble` of every stream, where its events
            are delivered; quick, and from any thread.
    """

    def __init__(
        self,
        recognizers: Mapping[str, Recognizer],
        identifier: LanguageIdentifier,
        *,
        default: str = "en",
        settings: GateSettings | None = None,
    ) -> None:
        """Start the thread that asks the identifier.

        Args:
            recognizers: by language code; one recogniser may serve several. They and the
                identifier are this one's from now on.
            identifier: names every one of the languages.
            default: the language that every segment is taken for at first.
            settings: of the gate; its `languages` are taken from here.

        Raises:
            ValueError: fewer than two languages, one that the identifier cannot name, or a
                default without a recogniser.
        """
        if default not in recognizers:
            raise ValueError(
                f"the default language {default!r} has no recogniser; "
                f"those that have one: {', '.join(recognizers)}"
            )
        deaf = [code for code in recognizers if code not in identifier.languages]
        if deaf:
            raise ValueError(
                f"{identifier.name} cannot tell {', '.join(deaf)}: it names "
                f"{', '.join(identifier.languages[:12])}; choose another identifier, or leave "
                "the language out"
            )
        languages = (default, *(code for code in recognizers if code != default))
        self.settings = replace(settings or GateSettings(), languages=languages)
        self.recognizers = dict(recognizers)
        self.identifier = identifier
        self.default, self.languages = default, languages
        self.streaming = recognizers[default].streaming
        names = dict.fromkeys(self.recognizers[code].name for code in languages)
        self.name = f"{' + '.join(names)} by {identifier.name}"
        self.tally = GateTally()
        self.observers: list[OnGateEvent] = [self.tally]
        self._ear = Ear(identifier)
        self._ear.start()

    @property
    def device(self) -> str:
        """Where the default recogniser computes."""
        return getattr(self.recognizers[self.default], "device", "an unnamed device")

    @property
    def right_contexts(self) -> tuple[int, ...]:
        """Look-aheads that a stream may choose: the default recogniser's."""
        return getattr(self.recognizers[self.default], "right_contexts", ())

    @property
    def stats(self) -> Any:
        """Counters of the default recogniser; None where it has none."""
        return getattr(self.recognizers[self.default], "stats", None)

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> Stream:
        """Claim a slot of the default recogniser; see `Recognizer.open`.

        Where the options name a language, its recogniser serves the stream and nothing is gated.
        """
        options = options or StreamOptions()
        if options.language is not None:
            primary = options.language.replace("_", "-").split("-")[0].lower()
            if primary not in self.recognizers:
                raise ValueError(
                    f"{self.name} writes {', '.join(self.languages)}, not {options.language!r}"
                )
            return self.recognizers[primary].open(on_event, deliver=deliver, options=options)
        return GatedStream(
            self.recognizers,
            self.settings,
            self._ear,
            on_event,
            deliver=deliver,
            options=options,
            observe=self._observe,
        )

    def _observe(self, event: GateEvent) -> None:
        for observer in self.observers:
            observer(event)

    def close(self) -> None:
        """Close every recogniser, and ask the identifier no more; see `Recognizer.close`."""
        for recognizer in {id(r): r for r in self.recognizers.values()}.values():
            recognizer.close()
        self._ear.stop()


def load_gate(
    models: Mapping[str, str | Recognizer],
    *,
    identifier: str | LanguageIdentifier = "embedded",
    identifier_model: str | None = None,
    device: str = "auto",
    slots: int | None = None,
    settings: GateSettings | None = None,
) -> GatedRecognizer:
    """Load recognisers and an identifier. Slow (seconds): not for an event loop.

    Args:
        models: by language, the default first: a model as `load_recognizer` takes it, or a
            recogniser that is loaded. A model that is named for several languages is loaded once.
        identifier: backend, one of `voice_agent.engine.lid.BACKENDS`, or one that is loaded.
        identifier_model: path or name that the backend knows; None for its own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        slots: streams of each recogniser at most; None for its default.
        settings: of the gate.

    Raises:
        ModelError, EngineError: as `load_recognizer` and `load_language_identifier`.
        ValueError: languages that do not fit the parts, named. What was loaded is closed again.
    """
    from voice_agent.engine.lid import load_language_identifier
    from voice_agent.engine.loading import load_recognizer

    loaded: dict[str, Recognizer] = {}
    try:
        for model in models.values():
            if isinstance(model, str) and model not in loaded:
                loaded[model] = load_recognizer(model, device=device, slots=slots)
        parts = {
            code: loaded[model] if isinstance(model, str) else model
            for code, model in models.items()
        }
        for code, part in parts.items():
            if part.languages and code not in part.languages:
                raise ValueError(f"{part.name} writes {', '.join(part.languages)}, not {code!r}")
        if isinstance(identifier, str):
            identifier = load_language_identifier(identifier, model=identifier_model, device=device)
        return GatedRecognizer(parts, identifier, default=next(iter(parts), ""), settings=settings)
    except Exception:
        for recognizer in loaded.values():
            recognizer.close()
        raise

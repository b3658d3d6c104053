"""Everything that can be set, in one typed object; the only module that reads the environment.

    Settings
    ├── language, greeting
    ├── stt      which recogniser, on what device, with how much look-ahead
    ├── vad      when speech starts and stops, how much of the audio before it is kept
    ├── turn     when the user's turn is over
    ├── llm      an OpenAI-compatible endpoint, or (no url) the echo stand-in
    ├── tts      which synthesiser, which voice for which language
    ├── gate     several languages by ear (config_gate.py)
    ├── server   address, ICE servers, how many sessions (config_server.py)
    └── log, tracing   what operators are told (config_operations.py)

`Settings()` is the defaults and reads nothing. `load_settings` merges, weakest first: a TOML or
YAML file, the environment (`VOICE_AGENT_STT__MODEL=...`), and overrides (command-line flags).
No Pipecat and no torch here: the command line imports this module before it knows what to run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from voice_agent.config_errors import ConfigError, Location, Source, did_you_mean, explain
from voice_agent.config_gate import GateConfig
from voice_agent.config_group import Group, matching
from voice_agent.config_operations import LogConfig, TracingConfig
from voice_agent.config_server import ServerSettings
from voice_agent.config_sources import merge, nested, read_file

ENV_PREFIX = "VOICE_AGENT_"
ENV_DELIMITER = "__"

DEFAULT_LANGUAGE = "en"
DEFAULT_SYSTEM = "nemotron"

DEFAULT_SYSTEM_PROMPT = (
    "You are a helpful voice assistant. Your words are spoken aloud, so answer in one to three "
    "short sentences, without lists, markup or emoji. Answer in the language of the user."
)


_Device = Annotated[str, matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]
_HttpUrl = Annotated[str, matching(r"https?://.+", "a URL that starts with http:// or https://")]
_Language = r"auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*"
_LanguageCode = Annotated[str, matching(_Language, 'a code such as "en" or "kn", or auto')]


def _known_system(name: str) -> str:
    if name != DEFAULT_SYSTEM:
        # Its rows are data, but its package imports numpy: only for those who ask for another.
        from voice_agent.alternatives.errors import UnknownSystem
        from voice_agent.alternatives.registry import system

        try:
            system(name)
        except UnknownSystem as error:
            raise ValueError(str(error)) from error
    return name


class SttSettings(Group):
    """Speech recognition.

    Attributes:
        name: which system: "nemotron", this project's engine, or another of the table in
            `voice_agent.alternatives.registry`.
        model: "tiny-en" (embedded), a path to a `.nemo` file or a Hugging Face directory, or a
            Hugging Face repository id; for other systems, what they know.
        device: "auto", "cpu", "cuda" or "cuda:N".
        right_context: encoder frames of look-ahead (0, 1, 6 or 13 for Nemotron Speech); None
            for the recogniser's default.
        final_pass: what all finals come from, with this project's engine: "stream", what was
            streamed; "beam", that by beam search; "full", the segment once more at the widest
            look-ahead; "search", that by beam search. None for the model's default: "beam" of
            tiny-en on a CPU, else "stream".
        language_model: an ARPA file of the model's tokens beside a search, for text that the
            model was not trained on. `python -m training.ngram` makes one.
        slots: streams that the engine holds at once; None for as many as `server.max_sessions`.
        dtype: what this project's engine computes the encoder in; None for float16 on a GPU and
            float32 on a CPU.
        weights: "int8" keeps its matrices in 8 bits: half the memory and less, for some accuracy.
        kv: "int8" keeps the attention's keys and values in 8 bits; on a GPU.
        url: address of the system's server, for those that have one.
        api_key: key of a hosted system.
    """

    name: Annotated[str, AfterValidator(_known_system)] = DEFAULT_SYSTEM
    model: str = Field(default="tiny-en", min_length=1)
    device: _Device = "auto"
    right_context: int | None = Field(default=None, ge=0)
    final_pass: Literal["stream", "beam", "full", "search"] | None = None
    language_model: Path | None = None
    slots: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    weights: Literal["int8"] | None = None
    kv: Literal["int8"] | None = None
    url: str | None = Field(default=None, min_length=1)
    api_key: SecretStr | None = None

    @model_validator(mode="after")
    def _precision_is_the_engines(self) -> SttSettings:
        given = [
            *self.precision,
            *(["final_pass"] if self.final_pass not in (None, "stream") else []),
        ]
        if self.name != DEFAULT_SYSTEM and given:
            raise ValueError(f"{min(given)} is this project's engine's, and {self.name} has none")
        if self.language_model is not None and self.final_pass not in ("beam", "search"):
            raise ValueError(
                f"language_model is for finals by search, and final_pass is {self.final_pass!r}: "
                "set final_pass to 'search' or 'beam', or leave it out"
            )
        return self

    @property
    def precision(self) -> dict[str, Any]:
        """`dtype`, `weights` and `kv`, those that were named."""
        chosen = {"dtype": self.dtype, "weights": self.weights, "kv": self.kv}
        return {name: value for name, value in chosen.items() if value is not None}

    @property
    def engine_options(self) -> dict[str, Any]:
        """What this project's engine alone loads with, of what was named."""
        lm = self.language_model
        return self.precision | ({"language_model": lm} if lm is not None else {})

    @property
    def named_model(self) -> str | None:
        """The model that somebody named; None where the system is to take its default."""
        return self.model if "model" in self.model_fields_set else None


class VadSettings(Group):
    """Voice activity detection (Silero, inside Pipecat).

    Attributes:
        confidence: speech probability above which a 32 ms window counts as speech.
        start_s: seconds of speech before a segment starts.
        stop_s: seconds of silence before a segment ends.
        min_volume: loudness below which a window never counts as speech, 0 to 1.
        pre_roll_s: seconds of audio before the moment of detection that belong to the segment.
            Must cover `start_s`, which has passed by then, and the first consonant.
    """

    confidence: float = Field(default=0.7, gt=0, lt=1)
    start_s: float = Field(default=0.2, gt=0, le=2)
    stop_s: float = Field(default=0.2, gt=0, le=5)
    min_volume: float = Field(default=0.6, ge=0, le=1)
    pre_roll_s: float = Field(default=0.5, ge=0, le=5)

    @model_validator(mode="after")
    def _pre_roll_covers_detection(self) -> VadSettings:
        if self.pre_roll_s < self.start_s:
            raise ValueError(
                f"pre_roll_s ({self.pre_roll_s}) must be at least start_s ({self.start_s}), "
                "or the first word is cut"
            )
        return self


class TurnSettings(Group):
    """End of the user's turn, which may hold several VAD segments.

    Attributes:
        smart: whether smart-turn (an ONNX model inside Pipecat) judges if the user is done;
            otherwise `pause_s` of silence ends the turn.
        pause_s: silence that ends a turn where `smart` is off.
        incomplete_pause_s: silence after which a turn that smart-turn holds for unfinished
            ends anyway.
    """

    smart: bool = True
    pause_s: float = Field(default=0.6, ge=0, le=10)
    incomplete_pause_s: float = Field(default=3.0, gt=0, le=30)


class LlmSettings(Group):
    """The language model.

    Attributes:
        url: base URL of an OpenAI-compatible endpoint ("http://localhost:8000/v1"); None for the
            built-in stand-in, which repeats what it heard.
        model: the model's name at that endpoint.
        api_key: bearer key, where the endpoint wants one.
        system_prompt: instructions sent before the conversation.
    """

    url: _HttpUrl | None = None
    model: str | None = Field(default=None, min_length=1)
    api_key: SecretStr | None = None
    system_prompt: str = DEFAULT_SYSTEM_PROMPT

    @model_validator(mode="after")
    def _url_and_model_go_together(self) -> LlmSettings:
        if (self.url is None) != (self.model is None):
            given, missing = ("model", "url") if self.url is None else ("url", "model")
            raise ValueError(f"{given} is set but {missing} is not; an endpoint needs both")
        return self


class TtsSettings(Group):
    """Speech synthesis.

    Attributes:
        name: "espeak" (embedded, many languages), "kokoro", "piper" (local, their own extras) or
            "nvidia" (Magpie over gRPC).
        voices: language code to that synthesiser's voice name; languages that are not named
            take its default.
        rate: speaking rate relative to the synthesiser's normal one (espeak only).
        api_key: key for a hosted synthesiser.
        url: address of the synthesiser's server (nvidia only), None for its hosted one.
    """

    name: Literal["espeak", "kokoro", "piper", "nvidia"] = "espeak"
    voices: dict[str, str] = Field(default_factory=dict)
    rate: float = Field(default=1.0, ge=0.5, le=2.0)
    api_key: SecretStr | None = None
    url: str | None = None


class Settings(Group):
    """One agent's settings. Immutable; see the module docstring for the sources.

    Attributes:
        language: BCP-47 code of what callers speak, e.g. "en"; "auto" to let the recogniser tell.
            With a gate, what they are taken to speak at first.
        greeting: what the agent says when a call begins; None for nothing.
        stt: speech recognition.
        vad: voice activity detection.
        turn: end of the user's turn.
        llm: the language model.
        tts: speech synthesis.
        gate: several languages by ear.
        server: the web server.
        log: what is logged, and how.
        tracing: OpenTelemetry.
    """

    language: _LanguageCode = DEFAULT_LANGUAGE
    greeting: str | None = None
    stt: SttSettings = SttSettings()
    vad: VadSettings = VadSettings()
    turn: TurnSettings = TurnSettings()
    llm: LlmSettings = LlmSettings()
    tts: TtsSettings = TtsSettings()
    gate: GateConfig = GateConfig()
    server: ServerSettings = ServerSettings()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _the_gate_adds_languages(self) -> Settings:
        if self.gate.enabled and self.stt.final_pass in ("full", "search"):
            raise ValueError(
                f"stt.final_pass is {self.stt.final_pass!r}, and behind a language gate finals are "
                "what was streamed: leave it out, or the gate"
            )
        if self.gate.enabled and self.default_language in self.gate.languages:
            raise ValueError(
                f"gate.languages names {self.default_language!r}, which stt serves; "
                "set language to another one, or leave it out of gate.languages"
            )
        return self

    @model_validator(mode="after")
    def _front_ends_know_no_gate(self) -> Settings:
        if self.server.front_ends and self.gate.enabled and not self.server.transcription_only:
            raise ValueError(
                "server.front_ends and gate.languages do not go together for an agent, whose "
                "front-end is not told the gate's decisions; set server.transcription_only, or "
                "leave out one of them"
            )
        return self

    @property
    def spoken_language(self) -> str | None:
        """`language` as a code; None where the recogniser, or the gate, is to tell."""
        return None if self.language == "auto" or self.gate.enabled else self.language

    @property
    def default_language(self) -> str:
        """`language` as a code without a region, English where it is "auto"."""
        language = DEFAULT_LANGUAGE if self.language == "auto" else self.language
        return language.split("-")[0].lower()

    @property
    def slots(self) -> int:
        """Streams that the recogniser must hold: `stt.slots`, or one for each session."""
        return self.stt.slots if self.stt.slots is not None else self.server.max_sessions


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Merge file, environment and overrides into one `Settings`.

    Args:
        path: a `.toml`, `.yaml` or `.yml` file; None for no file.
        overrides: the strongest values, nested (`{"server": {"port": 8000}}`) or dotted
            (`{"server.port": 8000}`). A value of None means "not given", as an absent
            command-line flag has it.

    Returns:
        The settings.

    Raises:
        ConfigError: a file that cannot be read, a key that does not exist, or a value that
            cannot be used; the message names the source and the key.
    """
    sources = [
        Source(_read_environment(), _variable),
        Source(nested(overrides or {}), lambda _: "command line"),
    ]
    if path is not None:
        sources.insert(0, Source(read_file(path), lambda _: str(path)))

    merged: dict[str, Any] = {}
    for source in sources:
        merged = merge(merged, source.values)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise explain(error, sources, Settings) from error


class _Environment(Settings, BaseSettings):  # type: ignore[misc]  # both define model_config
    """Carries `Settings`' fields for `EnvSettingsSource`, which wants a BaseSettings class."""


class _EnvironmentSource(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read a list or table from one variable: JSON, or else values between commas.

        What is neither is left as it is, so that validation names the setting.
        """
        if not value.lstrip().startswith(("[", "{")):
            return [part.strip() for part in value.split(",")]
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _read_environment() -> dict[str, Any]:
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            key = name[len(ENV_PREFIX) :].lower().split(ENV_DELIMITER)[0]
            if key not in Settings.model_fields:
                hint = did_you_mean((key,), Settings)
                raise ConfigError(f"{name} (environment) is not a setting{hint}")
    return _EnvironmentSource(
        _Environment,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
    )()


def _variable(location: Location) -> str:
    """The environment variable that sets this key; a list's items share one."""
    keys = takewhile(lambda part: isinstance(part, str), location)
    return ENV_PREFIX + ENV_DELIMITER.join(map(str, keys)).upper()

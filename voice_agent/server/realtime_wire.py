"""Messages of `WS /v1/realtime`, OpenAI's realtime transcription.

    client -> server   session.update · input_audio_buffer.append · .commit · .clear
    server -> client   session.created · session.updated
                       input_audio_buffer.speech_started · .speech_stopped · .committed · .cleared
                       conversation.item.created
                       conversation.item.input_audio_transcription.delta · .completed · .failed
                       error

Names and fields are those of the `openai` package (`openai/types/realtime`). A field that is not
served is not in these classes, and so is refused by name, unless it is null.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator


class _Model(BaseModel):
    """Immutable; a field that it does not know is an error, unless it is null or empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v for k, v in value.items() if k in cls.model_fields or v not in (None, [], "")}


# The session


class Pcm(_Model):
    """16-bit PCM, little-endian, mono."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class Pcmu(_Model):
    """G.711 mu-law at 8 kHz."""

    type: Literal["audio/pcmu"] = "audio/pcmu"


class Pcma(_Model):
    """G.711 A-law at 8 kHz."""

    type: Literal["audio/pcma"] = "audio/pcma"


AudioFormat = Annotated[Pcm | Pcmu | Pcma, Field(discriminator="type")]


class TranscriptionConfig(_Model):
    """What transcribes.

    Attributes:
        model: its name; OpenAI's names do too.
        language: BCP-47 code; None where the recogniser decides.
        keywords: phrases to prefer, where the recogniser can.
    """

    model: str | None = None
    language: str | None = None
    keywords: tuple[str, ...] = ()


class ServerVad(_Model):
    """Where the server cuts.

    Attributes:
        threshold: probability from which a 32 ms window is speech.
        prefix_padding_ms: audio before the start of speech that belongs to the segment.
        silence_duration_ms: pause that ends a segment.
        create_response: accepted, since there are no responses to create.
        interrupt_response: accepted, likewise.
    """

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
    silence_duration_ms: int = Field(default=500, ge=0, le=10_000)
    create_response: bool | None = None
    interrupt_response: bool | None = None


class AudioInput(_Model):
    """How audio comes and where it is cut; None for `turn_detection` leaves that to commits."""

    format: AudioFormat = Pcm()
    transcription: TranscriptionConfig = TranscriptionConfig()
    turn_detection: ServerVad | None = ServerVad()


class Audio(_Model):
    """Wrapper that the protocol has around the input."""

    input: AudioInput = AudioInput()


class SessionConfig(_Model):
    """What `session.update` may change; what it leaves out stays."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()

    def changed_by(self, update: SessionConfig) -> SessionConfig:
        """This with the fields that `update` names."""
        given = update.audio.input.model_dump(exclude_unset=True)
        now = self.audio.input.model_dump()
        if "transcription" in given:
            given["transcription"] = {**now["transcription"], **given["transcription"]}
        return SessionConfig.model_validate({"audio": {"input": {**now, **given}}})


# What a client sends


class _ClientMessage(_Model):
    event_id: str | None = None


class SessionUpdate(_ClientMessage):
    """Change the session; answered by `session.updated`."""

    type: Literal["session.update"] = "session.update"
    session: SessionConfig


class Append(_ClientMessage):
    """Audio, in base64."""

    type: Literal["input_audio_buffer.append"] = "input_audio_buffer.append"
    audio: str


class Commit(_ClientMessage):
    """End the segment."""

    type: Literal["input_audio_buffer.commit"] = "input_audio_buffer.commit"


class Clear(_ClientMessage):
    """Drop the audio since the last segment."""

    type: Literal["input_audio_buffer.clear"] = "input_audio_buffer.clear"


ClientMessage = Annotated[SessionUpdate | Append | Commit | Clear, Field(discriminator="type")]
_client: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
CLIENT_TYPES = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)


class RealtimeError(ValueError):
    """What a client asked for and cannot have; the message is one sentence.

    Attributes:
        code: one word for programs.
        param: path of the field that is wrong; None for no field.
        event_id: the client's, where it gave one.
    """

    def __init__(
        self, message: str, *, code: str, param: str | None = None, event_id: str | None = None
    ) -> None:
        self.code, self.param, self.event_id = code, param, event_id
        super().__init__(message)


def parse_client(text: str) -> ClientMessage:
    """Read a client's message.

    Raises:
        RealtimeError: not JSON, not an object, an unknown type, or a field that is wrong.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RealtimeError("a message is a JSON object with a type", code="invalid_json") from None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in CLIENT_TYPES:
        raise RealtimeError(
            f"a message's type is one of {', '.join(CLIENT_TYPES)}, got {str(kind)[:40]!r}",
            code="unknown_type",
            param="type",
        )
    try:
        return _client.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        # Pydantic puts the union's choice into the path, which no client has written.
        path = ".".join(str(p) for p in first["loc"] if p not in (kind, *_FORMATS))[:120]
        path = path.encode(errors="replace").decode()
        event_id = value.get("event_id")
        raise RealtimeError(
            f"{path} is not served here"
            if first["type"] == "extra_forbidden"
            else f"{path}: {first['msg']}",
            code="invalid_value",
            param=path,
            event_id=event_id if isinstance(event_id, str) else None,
        ) from None


_FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")

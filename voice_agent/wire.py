"""Messages of `WS /v1/listen`: Deepgram's streaming protocol, and what we add to it.

    client -> server   binary audio, and as text
                       KeepAlive · Finalize · CloseStream · Configure (refused)
                       Received (ours, resumable sessions alone)
    server -> client   Results · SpeechStarted · UtteranceEnd · Metadata · Error · ConfigureFailure
                       Session · Ack (ours, resumable sessions alone)

Names and fields are those of `deepgram-sdk` (`deepgram/listen/v1/types`). Times are seconds from
the stream's first sample. Server and client (`voice_agent.client`) share these classes.

`python -m voice_agent.wire` prints the JSON schema.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Message(BaseModel):
    """Base of every message: immutable; a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The message as it goes over the wire; fields that are None are left out."""
        return self.model_dump_json(exclude_none=True)


# What a client sends


class KeepAlive(Message):
    """Nothing to say, but do not hang up."""

    type: Literal["KeepAlive"] = "KeepAlive"


class Finalize(Message):
    """The turn is over: flush, then one `Results` with `from_finalize`, even if it is empty.

    Attributes:
        channel: which one of a multichannel stream; None for all.
    """

    type: Literal["Finalize"] = "Finalize"
    channel: int | None = None


class CloseStream(Message):
    """No more audio: flush, then `Metadata`, then the server closes with 1000."""

    type: Literal["CloseStream"] = "CloseStream"


class Configure(Message):
    """Change options of a running stream; answered by `ConfigureFailure`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: Literal["Configure"] = "Configure"


class Received(Message):
    """Ours: events up to this number have arrived, so the server may forget them.

    Attributes:
        seq: `seq` of the last event that arrived.
    """

    type: Literal["Received"] = "Received"
    seq: int = Field(ge=0)


ClientMessage = Annotated[
    KeepAlive | Finalize | CloseStream | Configure | Received, Field(discriminator="type")
]
_client: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
CLIENT_TYPES = ("KeepAlive", "Finalize", "CloseStream", "Received")


# What the server sends


class _ServerMessage(Message):
    """Base of server messages.

    Attributes:
        seq: 1, 2, 3 ... in resumable sessions; None in others.
    """

    seq: int | None = None


class WordInfo(Message):
    """One word.

    Attributes:
        word: lower case, without punctuation around it.
        punctuated_word: as the recogniser wrote it.
        start: seconds from the stream's first sample.
        end: seconds from the stream's first sample.
        confidence: 0 to 1.
    """

    word: str
    punctuated_word: str
    start: float
    end: float
    confidence: float


class Alternative(Message):
    """The transcript of one result; there is always exactly one.

    Attributes:
        transcript: words joined by spaces; may be empty in a final.
        confidence: mean of the words'; 0 where there are none.
        words: with times.
        languages: BCP-47 codes that were heard, where the client asked for `language=multi`.
    """

    transcript: str
    confidence: float
    words: list[WordInfo]
    languages: list[str] | None = None


class Channel(Message):
    """Wrapper that the protocol has around alternatives."""

    alternatives: list[Alternative] = Field(min_length=1, max_length=1)


class ModelInfo(Message):
    """Which model it was, whatever name the client asked by."""

    name: str
    version: str
    arch: str


class ResultMetadata(Message):
    """Which session and model a result came from."""

    request_id: str
    model_info: ModelInfo
    model_uuid: str
    extra: dict[str, str] | None = None


class Results(_ServerMessage):
    """Text of a stretch of audio.

    Attributes:
        channel_index: which channel, of how many.
        start: where the stretch begins.
        duration: its seconds, so far or in all.
        is_final: False for an interim result, which the next one for this channel replaces.
        speech_final: a pause, or the client, ended what the speaker was saying.
        from_finalize: this is the answer to a `Finalize`.
    """

    type: Literal["Results"] = "Results"
    channel_index: tuple[int, int]
    start: float
    duration: float
    is_final: bool
    speech_final: bool
    from_finalize: bool
    channel: Channel
    metadata: ResultMetadata


class SpeechStarted(_ServerMessage):
    """Somebody began to speak (`vad_events=true`)."""

    type: Literal["SpeechStarted"] = "SpeechStarted"
    channel: tuple[int, int]
    timestamp: float


class UtteranceEnd(_ServerMessage):
    """`utterance_end_ms` have passed since the last word."""

    type: Literal["UtteranceEnd"] = "UtteranceEnd"
    channel: tuple[int, int]
    last_word_end: float


class Metadata(_ServerMessage):
    """The last message before the server closes.

    Attributes:
        transaction_key: always "deprecated", as with Deepgram.
        request_id: of this session, as in the handshake's `dg-request-id`.
        sha256: of all audio bytes that were accepted.
        created: when the session began, ISO 8601.
        duration: seconds of audio that were heard.
        channels: of the audio.
        models: names of the models that ran.
        tags: `tag` parameters of the request.
        extra: `extra` parameters of the request.
    """

    type: Literal["Metadata"] = "Metadata"
    transaction_key: str = "deprecated"
    request_id: str
    sha256: str
    created: str
    duration: float
    channels: int
    models: list[str]
    tags: list[str] | None = None
    extra: dict[str, str] | None = None


class Error(_ServerMessage):
    """What went wrong, in one sentence; a close follows.

    Attributes:
        variant: "SchemaError" for a text message that could not be read, else "DataError",
            "LimitError" or "ServerError".
        description: the sentence.
        message: the offending text, shortened, for a "SchemaError".
    """

    type: Literal["Error"] = "Error"
    variant: Literal["SchemaError", "DataError", "LimitError", "ServerError"]
    description: str
    message: str | None = None


class ConfigureFailure(_ServerMessage):
    """`Configure` is not served; the stream goes on as it was."""

    type: Literal["ConfigureFailure"] = "ConfigureFailure"
    request_id: str
    code: Literal["CONFIGURE_KEYTERMS_NOT_SUPPORTED"] = "CONFIGURE_KEYTERMS_NOT_SUPPORTED"
    description: str


class Session(_ServerMessage):
    """Ours: the first message on every connection of a resumable session; never numbered.

    Attributes:
        token: secret with which to come back: `?resume=TOKEN&received=SEQ`.
        grace_s: seconds after a lost connection in which the token holds.
        received: client messages that were accepted so far: binary ones, `Finalize` and
            `CloseStream`. The client goes on with the next one.
    """

    type: Literal["Session"] = "Session"
    token: str
    grace_s: float
    received: int


class Ack(_ServerMessage):
    """Ours: client messages up to this number are accepted and need not be sent again."""

    type: Literal["Ack"] = "Ack"
    received: int


ServerMessage = Annotated[
    Results | SpeechStarted | UtteranceEnd | Metadata | Error | ConfigureFailure | Session | Ack,
    Field(discriminator="type"),
]
_server: TypeAdapter[ServerMessage] = TypeAdapter(ServerMessage)


class WireError(ValueError):
    """A text that is no message of the protocol; the message is one sentence."""


def parse_client(text: str) -> ClientMessage:
    """Read a client's text message.

    Raises:
        WireError: not JSON, not an object, an unknown type, or a wrong field.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError(
            "a text message is a JSON object with a type; audio is sent in binary messages"
        ) from None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in (*CLIENT_TYPES, "Configure"):
        raise WireError(
            f"a text message's type is one of {', '.join(CLIENT_TYPES)}, got {str(kind)[:40]!r}"
        )
    try:
        return _client.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])[:80]
        where = where.encode(errors="replace").decode()  # JSON's escapes can spell half a character
        raise WireError(f"{kind}.{where}: {first['msg']}") from None


def parse_server(text: str) -> ServerMessage:
    """Read a server's message.

    Raises:
        WireError: no message that this version knows.
    """
    try:
        return _server.validate_json(text)
    except ValidationError as error:
        raise WireError(f"the server sent what is no message of /v1/listen: {error}") from error


def schema() -> dict[str, Any]:
    """JSON schema of both directions, under "client" and "server"."""
    return {"client": _client.json_schema(), "server": _server.json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))

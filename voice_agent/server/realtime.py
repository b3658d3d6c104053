"""OpenAI's realtime transcription over a `Transcription`, without a socket.

    session.created     at once; session.update changes it between segments
    append*             audio: the VAD cuts it, or with turn_detection null the client's commits
    item                one a segment: deltas while it grows, then completed with the whole text

Deltas are only ever appended to, so they carry words that are certain to stay: all but the last
one of what was heard so far. `completed` has the text that counts. What is wrong with a message
is answered with `error`, and the session goes on. Any one thread at a time.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, assert_never

from voice_agent.audio import AudioFormatError
from voice_agent.engine.errors import EngineError
from voice_agent.server.realtime_wire import (
    Append,
    AudioInput,
    Clear,
    ClientMessage,
    Commit,
    Pcm,
    Pcmu,
    RealtimeError,
    SessionConfig,
    SessionUpdate,
    parse_client,
)
from voice_agent.server.socketless import CLOSED, SERVER_FAILED, Ended, ProtocolSession
from voice_agent.server.transcription import (
    Failure,
    Interim,
    Output,
    Segment,
    SpeechStarted,
    SpeechStopped,
    Transcription,
)
from voice_agent.transcribe.segments import Cutting

_START_S = 0.1  # of speech that make it certain, on top of the padding
_OFF_BELOW_ON = 0.15  # as in `Cutting`: what ends speech is less than what begins it

CheckModel = Callable[[str], None]
MakeCore = Callable[[AudioInput], Transcription]


def encoding_of(audio: AudioInput) -> tuple[str, int]:
    """Encoding and rate, as `voice_agent.server.decoding` names them."""
    match audio.format:
        case Pcm(rate=rate):
            return "linear16", rate
        case Pcmu():
            return "mulaw", 8_000
        case _:
            return "alaw", 8_000


def cutting_of(audio: AudioInput) -> Cutting | None:
    """Where the VAD cuts, or None for by commits alone."""
    vad = audio.turn_detection
    if vad is None:
        return None
    return Cutting(
        on=vad.threshold,
        off=max(vad.threshold - _OFF_BELOW_ON, vad.threshold / 2),
        start_s=_START_S,
        stop_s=vad.silence_duration_ms / 1000,
        pre_roll_s=_START_S + vad.prefix_padding_ms / 1000,
    )


@dataclass(slots=True)
class _Item:
    """A segment in the client's conversation."""

    id: str = field(default_factory=lambda: f"item_{uuid.uuid4().hex[:20]}")
    sent: str = ""  # deltas so far


class RealtimeSession(ProtocolSession):
    """See the module docstring."""

    def __init__(
        self,
        make_core: MakeCore,
        check_model: CheckModel,
        *,
        model: str,
        session_id: str | None = None,
        on_output: Callable[[Output], None] = lambda _: None,
    ) -> None:
        """Begin a session.

        Args:
            make_core: opens the core for a configuration; what it raises, this does.
            check_model: raises ValueError for a model's name that is not served.
            model: name of the recogniser.
            session_id: what logs call it, which the client sees in `session.id`; None for a new
                one.
            on_output: told each output, for metrics and traces.
        """
        self._config = SessionConfig()
        super().__init__(make_core(self._config.audio.input), on_output)
        self._make_core = make_core
        self._check_model = check_model
        self._model = model
        self._before_s, self._paid_before = 0.0, 0  # of cores before this one
        self._items: deque[_Item] = deque()
        self._previous: str | None = None  # item committed last
        self._id = f"sess_{session_id or uuid.uuid4()}"
        self._send("session.created", session=self._session())

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        return self._before_s + self._core.heard_s

    @property
    def paid(self) -> int:
        """Segments whose text has come."""
        return self._paid_before + self._core.paid

    # In

    def receive(self, data: bytes | str) -> None:
        """Take a client's message; what is wrong with it is answered with `error`."""
        if self.ended is not None:
            return
        try:
            if isinstance(data, bytes):
                raise RealtimeError(
                    "audio comes as base64 in input_audio_buffer.append, not in binary messages",
                    code="binary_message",
                )
            self._command(parse_client(data))
        except RealtimeError as error:
            self._refuse(error)
        except AudioFormatError as error:
            self._refuse(RealtimeError(str(error), code="invalid_audio", param="audio"))
        except EngineError as error:
            self._engine_failed(str(error))
        self._drain()

    def _command(self, message: ClientMessage) -> None:
        match message:
            case Append(audio=audio, event_id=event_id):
                self._core.audio(_decoded(audio, event_id))
            case Commit():
                self._core.finish("client")
            case Clear():
                self._clear()
            case SessionUpdate(session=update, event_id=event_id):
                self._update(self._config.changed_by(update), event_id)
            case _:
                assert_never(message)

    def _clear(self) -> None:
        dropped = self._core.clear()
        self._drain()  # so that the dropped segment has its item
        if dropped:
            self._items.pop()
        self._send("input_audio_buffer.cleared")

    def _update(self, config: SessionConfig, event_id: str | None) -> None:
        asked = config.audio.input
        if asked.transcription.model is not None:
            try:
                self._check_model(asked.transcription.model)
            except ValueError as error:
                raise RealtimeError(
                    str(error),
                    code="model_not_found",
                    param="session.audio.input.transcription.model",
                    event_id=event_id,
                ) from error
        if _heard_by(asked) != _heard_by(self._config.audio.input):
            self._replace_core(asked, event_id)
        self._config = config
        self._send("session.updated", session=self._session())

    def _replace_core(self, asked: AudioInput, event_id: str | None) -> None:
        if self._core.speaking(0):
            raise RealtimeError(
                "a segment is open; commit or clear it, and wait for its text, before a "
                "session.update that changes how audio is heard",
                code="segment_open",
                event_id=event_id,
            )
        before_s, paid = self.heard_s, self.paid
        self._core.close()
        refused: ValueError | None = None
        try:
            core = self._make_core(asked)
        except ValueError as error:
            refused = error
            core = self._make_core(self._config.audio.input)
        self._core, self._before_s, self._paid_before = core, before_s, paid
        if refused is not None:
            raise RealtimeError(
                str(refused), code="invalid_value", param="session", event_id=event_id
            ) from refused

    def _fail(self, code: int, variant: str, description: str) -> None:
        kind = "server_error" if code == SERVER_FAILED else "invalid_request_error"
        self._error(description, kind=kind, code=variant)
        self.ended = Ended(code, description)

    def _engine_failed(self, problem: str) -> None:
        for item in self._items:
            error = {"type": "server_error", "message": problem}
            self._about(item, "failed", error=error)
        self._fail(SERVER_FAILED, "engine_failed", problem)

    def _refuse(self, error: RealtimeError) -> None:
        self._error(str(error), code=error.code, param=error.param, event_id=error.event_id)

    # Out

    def _tell(self, output: Output) -> None:
        match output:
            case SpeechStarted():
                self._items.append(_Item())
                self._speech("started", audio_start_ms=self._ms(output.begin_s))
            case SpeechStopped():
                self._speech("stopped", audio_end_ms=self._ms(output.at_s))
                self._commit(self._items[-1])
            case Interim():
                stable, _, _ = output.text.rpartition(" ")
                self._delta(self._items[0], stable)
            case Segment():
                self._segment(output)
            case Failure(error=error):
                self._engine_failed(str(error))
            case _:
                assert_never(output)

    def _complete(self) -> None:
        self.ended = Ended(CLOSED, "the server is stopping")

    def _speech(self, what: str, **when: int) -> None:
        if self._config.audio.input.turn_detection is not None:
            self._send(f"input_audio_buffer.speech_{what}", item_id=self._items[-1].id, **when)

    def _commit(self, item: _Item) -> None:
        previous, self._previous = self._previous, item.id
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        self._send(
            "conversation.item.created",
            previous_item_id=previous,
            item={
                "id": item.id,
                "object": "realtime.item",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_audio", "transcript": None}],
            },
        )

    def _delta(self, item: _Item, text: str) -> None:
        if len(text) > len(item.sent) and text.startswith(item.sent):
            delta, item.sent = text[len(item.sent) :], text
            self._about(item, "delta", delta=delta)

    def _segment(self, segment: Segment) -> None:
        if segment.end_s == segment.start_s:  # what `finish` answers where nothing was open
            if segment.cause == "client":
                self._error(
                    "there is no speech to commit since the last segment",
                    code="input_audio_buffer_commit_empty",
                )
            return
        item = self._items.popleft()
        self._delta(item, segment.text)
        usage = {"type": "duration", "seconds": round(segment.end_s - segment.start_s, 3)}
        self._about(item, "completed", transcript=segment.text, usage=usage)

    def _about(self, item: _Item, what: str, **fields: object) -> None:
        self._send(
            f"conversation.item.input_audio_transcription.{what}",
            item_id=item.id,
            content_index=0,
            **fields,
        )

    def _error(self, message: str, *, kind: str = "invalid_request_error", **fields: Any) -> None:
        error = {"type": kind, "message": message, "code": None, "param": None, "event_id": None}
        self._send("error", error={**error, **fields})

    def _session(self) -> dict[str, Any]:
        audio = self._config.audio.model_dump()
        audio["input"]["transcription"]["model"] = self._model
        return {
            "id": self._id,
            "object": "realtime.transcription_session",
            "type": "transcription",
            "audio": audio,
        }

    def _ms(self, seconds: float) -> int:
        return round((self._before_s + seconds) * 1000)

    def _send(self, kind: str, **fields: object) -> None:
        event_id = f"event_{uuid.uuid4().hex[:20]}"
        self._texts.append(json.dumps({"type": kind, "event_id": event_id, **fields}))


def _heard_by(audio: AudioInput) -> tuple[object, ...]:
    """What of a configuration only another core can change."""
    wanted = audio.transcription
    return audio.format, wanted.language, wanted.keywords, audio.turn_detection


def _decoded(audio: str, event_id: str | None) -> bytes:
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RealtimeError(
            f"audio is not base64: {error}", code="invalid_base64", param="audio", event_id=event_id
        ) from error

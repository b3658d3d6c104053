"""Deepgram's streaming protocol over a `Transcription`, without a socket.

    attached(seq), detached()    a resumable session's connection comes and goes

Segments are cut by the VAD; a client that has sent `Finalize` without having named `endpointing`
cuts its own from then on, and the VAD only ends what it forgets (`CLIENT_CUTS_S` of pause).
Any one thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import assert_never

from voice_agent.audio import AudioFormatError
from voice_agent.engine.errors import EngineError
from voice_agent.server.listen_query import ListenQuery
from voice_agent.server.listen_results import Writer, seconds
from voice_agent.server.replay import Overrun, Replay
from voice_agent.server.socketless import (
    BAD_DATA,
    CLOSED,
    SERVER_FAILED,
    Ended,
    ProtocolSession,
)
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
from voice_agent.wire import (
    Ack,
    ClientMessage,
    CloseStream,
    Configure,
    ConfigureFailure,
    Error,
    Finalize,
    KeepAlive,
    Received,
    ServerMessage,
    Session,
    UtteranceEnd,
    WireError,
    parse_client,
)
from voice_agent.wire import SpeechStarted as SpeechStartedMessage

CLIENT_CUTS_S = 2.0
"""Pause that still ends a segment of a client that finalises."""
ACK_EVERY = 10
"""Accepted messages between two acknowledgements, at most."""


def cutting_of(query: ListenQuery) -> Cutting | None:
    """Where the VAD cuts, or None for nowhere."""
    if query.endpointing_ms is None:
        return None
    return Cutting(stop_s=query.endpointing_ms / 1000)


class ListenSession(ProtocolSession):
    """See the module docstring.

    Attributes:
        request_id: for logs and the client.
    """

    def __init__(
        self,
        query: ListenQuery,
        transcription: Transcription,
        *,
        model: str,
        session_id: str | None = None,
        token: str | None = None,
        grace_s: float = 0.0,
        on_output: Callable[[Output], None] = lambda _: None,
    ) -> None:
        """Begin a session.

        Args:
            query: what the client asked for.
            transcription: made for that, open.
            model: name of the recogniser.
            session_id: what logs call it, which the client sees as `request_id`; None for a new
                one.
            token: secret for coming back; None for a session that is not resumable.
            grace_s: seconds that the token holds after a lost connection.
            on_output: told each output, for metrics and traces.
        """
        super().__init__(transcription, on_output)
        self._writer = Writer(query, model, transcription.channels, session_id)
        self.request_id = self._writer.request_id
        self._query = query
        self._token = token
        self._grace_s = grace_s
        self._replay = Replay() if token is not None else None
        self._connected = token is None
        self._accepted = self._acknowledged = 0
        self._last_word: dict[int, float] = {}  # channel -> end of a word not yet reported
        self._sha256 = hashlib.sha256()

    @property
    def settled(self) -> bool:
        """Whether a resumable session's client has confirmed every event."""
        return not self._replay

    # Connections of a resumable session

    def attached(self, received: int) -> None:
        """A connection is there: say where the client goes on, and what it missed.

        Args:
            received: `seq` of the last event that the client has.
        """
        if self._replay is None or self._token is None:
            return
        self._connected = True
        self._acknowledged = self._accepted
        self._texts = [
            Session(token=self._token, grace_s=self._grace_s, received=self._accepted).to_json(),
            *self._replay.missed(received),
        ]

    def detached(self) -> None:
        """The connection is gone; events are kept."""
        self._connected = False
        self._texts = []

    # In

    def receive(self, data: bytes | str) -> None:
        """Take a client's message; what is wrong with it ends the session with an `Error`."""
        if self.ended is not None:
            self._confirm(data)
            return
        try:
            if isinstance(data, bytes):
                self._audio(data)
            else:
                self._command(parse_client(data))
        except WireError as error:
            shown = data[:200] if isinstance(data, str) else None
            self._fail(BAD_DATA, "SchemaError", str(error), shown)
        except AudioFormatError as error:
            self._fail(BAD_DATA, "DataError", str(error))
        except EngineError as error:
            self._fail(SERVER_FAILED, "ServerError", str(error))
        self._drain()

    def _confirm(self, data: bytes | str) -> None:
        """After the end only one message still matters: that the client has it."""
        if self._replay is not None and isinstance(data, str):
            with contextlib.suppress(WireError):
                message = parse_client(data)
                if isinstance(message, Received):
                    self._replay.forget(message.seq)

    def _audio(self, data: bytes) -> None:
        if self._closing:
            raise WireError("audio after CloseStream; open a new connection for more")
        self._core.audio(data)
        self._sha256.update(data)
        self._accept()

    def _command(self, message: ClientMessage) -> None:
        match message:
            case KeepAlive():
                pass
            case Finalize(channel=channel):
                if channel is not None and not 0 <= channel < self._core.channels:
                    raise WireError(
                        f"Finalize.channel is 0 to {self._core.channels - 1}, got {channel}"
                    )
                if not self._query.own_endpointing:
                    self._core.wait_for(CLIENT_CUTS_S)
                self._core.finish("client", channel)
                self._accept()
            case CloseStream():
                self._accept()
                self.finish()
            case Received(seq=seq):
                if self._replay is None:
                    raise WireError("Received is for sessions that were opened with resume=true")
                self._replay.forget(seq)
            case Configure():
                self._send(
                    ConfigureFailure(
                        request_id=self.request_id,
                        description="a running stream cannot be reconfigured; reconnect",
                    )
                )
            case _:
                assert_never(message)

    def _accept(self) -> None:
        """Count a message that need not be sent again, and say so now and then."""
        self._accepted += 1
        if self._replay is not None and self._accepted - self._acknowledged >= ACK_EVERY:
            self._acknowledged = self._accepted
            self._send(Ack(received=self._accepted))

    def _fail(self, code: int, variant: str, description: str, shown: str | None = None) -> None:
        self._send(
            Error(variant=variant, description=description, message=shown)  # type: ignore[arg-type]
        )
        self.ended = Ended(code, description)

    # Out

    def _tell(self, output: Output) -> None:
        match output:
            case SpeechStarted(channel=channel, at_s=at_s):
                self._last_word.pop(channel, None)
                if self._query.vad_events:
                    self._send(
                        SpeechStartedMessage(
                            channel=self._writer.index(channel), timestamp=seconds(at_s)
                        )
                    )
            case SpeechStopped():
                pass
            case Interim():
                if self._query.interim_results and output.text:
                    self._send(self._writer.results(output))
            case Segment():
                self._segment(output)
            case Failure(error=error):
                self._fail(SERVER_FAILED, "ServerError", str(error))
            case _:
                assert_never(output)

    def _complete(self) -> None:
        self._send(self._writer.summary(self._core.heard_s, self._sha256.hexdigest()))
        self.ended = Ended(CLOSED, "")

    def _segment(self, segment: Segment) -> None:
        # The close's own segment without words would tell the client nothing.
        if segment.text or segment.cause == "client":
            self._send(self._writer.results(segment))
        if segment.words:
            self._last_word[segment.channel] = segment.words[-1].end_s

    def _drained(self) -> None:
        """Report the silences that have become long enough."""
        if self._query.utterance_end_ms is None:
            return
        for channel, end_s in list(self._last_word.items()):
            silent_ms = (self._core.heard_s - end_s) * 1000
            if silent_ms >= self._query.utterance_end_ms and not self._core.speaking(channel):
                del self._last_word[channel]
                self._send(
                    UtteranceEnd(channel=self._writer.index(channel), last_word_end=seconds(end_s))
                )

    def _send(self, message: ServerMessage) -> None:
        try:
            text = self._replay.stamp(message) if self._replay is not None else message.to_json()
        except Overrun as error:
            self.ended = Ended(BAD_DATA, str(error))
            return
        if self._connected:
            self._texts.append(text)

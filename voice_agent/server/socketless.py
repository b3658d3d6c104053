"""What the streaming protocols have in common: a session over a `Transcription`, without a socket.

    receive(bytes | str)     a client's message
    take()                   texts to send, in order
    ended                    with which code to close, once everything taken is sent

A protocol says how its messages are read (`receive`) and what an output of the core becomes
(`_tell`, `_complete`). Any one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voice_agent.server.transcription import Output, Transcription

CLOSED = 1000
BAD_DATA = 1008  # Deepgram's code for audio or messages that it cannot read
SERVER_FAILED = 1011


@dataclass(frozen=True, slots=True)
class Ended:
    """How the connection is to be closed.

    Attributes:
        code: of the websocket's close.
        reason: for its reason field and the log.
    """

    code: int
    reason: str


class ProtocolSession:
    """See the module docstring.

    Attributes:
        ended: set once the session is over.
    """

    def __init__(self, core: Transcription, on_output: Callable[[Output], None]) -> None:
        """Begin a session.

        Args:
            core: open; closed with the session.
            on_output: told each output, for metrics and traces.
        """
        self.ended: Ended | None = None
        self._core = core
        self._on_output = on_output
        self._closing = False
        self._texts: list[str] = []

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        return self._core.heard_s

    @property
    def owed(self) -> int:
        """Segments whose text is still to come."""
        return self._core.owed

    @property
    def paid(self) -> int:
        """Segments whose text has come."""
        return self._core.paid

    @property
    def closing(self) -> bool:
        """Whether no more audio follows."""
        return self._closing

    @property
    def settled(self) -> bool:
        """Whether nothing is left that the client has to confirm before a close."""
        return True

    def attached(self, received: int) -> None:
        """A connection is there.

        Args:
            received: number of the last event that a returning client has.
        """

    def detached(self) -> None:
        """The connection is gone."""

    def receive(self, data: bytes | str) -> None:
        """Take a client's message."""
        raise NotImplementedError

    def finish(self) -> None:
        """No more audio: flush; the end follows."""
        if not self._closing and self.ended is None:
            self._closing = True
            self._core.finish("close")

    def fail(self, code: int, variant: str, description: str) -> None:
        """End the session for a reason that is not in its messages, such as a limit.

        Args:
            code: of the websocket's close.
            variant: which kind of reason, in one word.
            description: one sentence.
        """
        if self.ended is None:
            self._fail(code, variant, description)

    def _fail(self, code: int, variant: str, description: str) -> None:
        raise NotImplementedError

    def _tell(self, output: Output) -> None:
        """Turn one of the core's outputs into texts."""
        raise NotImplementedError

    def _complete(self) -> None:
        """Everything owed is told, and no audio follows: the last texts, and `ended`."""
        raise NotImplementedError

    def _drain(self) -> None:
        """Turn what the core has into texts."""
        for output in self._core.take():
            if self.ended is not None:
                return
            self._on_output(output)
            self._tell(output)
        if self.ended is None:
            self._drained()
            if self._closing and not self._core.owed:
                self._complete()

    def _drained(self) -> None:
        """Nothing is left to tell just now."""

    def take(self) -> list[str]:
        """Return the texts to send, and forget them."""
        self._drain()
        texts, self._texts = self._texts, []
        return texts

    def close(self) -> None:
        """Give the recogniser's slots back. Idempotent."""
        self._core.close()

"""What a resumable session remembers: events that its client may not have, and what it accepted.

    stamp(message)   number it, keep it, return it as text
    forget(seq)      the client has everything up to here
    missed(seq)      everything after it, again

An interim result is kept only until the next result of its channel, which replaces it. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict

from voice_agent.wire import Ack, Results, ServerMessage, Session

LIMIT = 10_000
"""Events that may wait for a client that never says what it has received."""


class Overrun(Exception):
    """The client lets too many events wait."""


class Replay:
    """See the module docstring.

    Attributes:
        last: number of the newest event.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """Remember up to `limit` events."""
        self.last = 0
        self._limit = limit
        self._kept: OrderedDict[int, str] = OrderedDict()
        self._interim: dict[int, int] = {}  # channel -> number of its kept interim

    def __len__(self) -> int:
        return len(self._kept)

    def stamp(self, message: ServerMessage) -> str:
        """Number an event and keep it. `Session` and `Ack` are neither numbered nor kept.

        Raises:
            Overrun: too many are kept.
        """
        if isinstance(message, Session | Ack):
            return message.to_json()
        self.last += 1
        text = message.model_copy(update={"seq": self.last}).to_json()
        if isinstance(message, Results):
            channel = message.channel_index[0]
            replaced = self._interim.pop(channel, None)
            if replaced is not None:
                self._kept.pop(replaced, None)
            if not message.is_final:
                self._interim[channel] = self.last
        if len(self._kept) >= self._limit:
            raise Overrun(
                f"{self._limit} events wait to be received; send "
                '{"type": "Received", "seq": N} now and then'
            )
        self._kept[self.last] = text
        return text

    def forget(self, seq: int) -> None:
        """Drop events up to `seq`; numbers that never were are taken for the newest."""
        while self._kept and next(iter(self._kept)) <= seq:
            self._kept.popitem(last=False)

    def missed(self, seq: int) -> list[str]:
        """Events after `seq`, oldest first; those up to it are dropped."""
        self.forget(seq)
        return list(self._kept.values())

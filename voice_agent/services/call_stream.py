"""One call's stream of a shared recogniser, as an event loop sees it.

    open ─► begin ─► feed… ─► finish ─► (a final is owed) ─► begin ─► …      close at any time

Events come from the recogniser's thread through `call_soon_threadsafe` and wait in a queue for
`next_event`. A recogniser that owes a final for too long is stuck: a `Failed` of our own says so.
A closed call stream may be opened again, with other options; events of the stream before that
are still on their way then, and are dropped. No Pipecat here; event loop only.
"""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import Event, Failed, Recognizer, Stream, StreamOptions


class CallStream:
    """See the module docstring.

    Attributes:
        in_segment: between `begin` and `finish`.
        finals_owed: segments that are finished and whose final has not been dealt with.
    """

    def __init__(self, final_timeout_s: float) -> None:
        """Make a stream that is closed.

        Args:
            final_timeout_s: seconds without an owed final after which the recogniser is stuck.
        """
        self.in_segment = False
        self.finals_owed = 0
        self._final_timeout_s = final_timeout_s
        self._stream: Stream | None = None
        self._generation = 0
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._stuck: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def is_open(self) -> bool:
        """Whether there is a stream to feed."""
        return self._stream is not None

    def open(self, recognizer: Recognizer, options: StreamOptions) -> None:
        """Claim a slot.

        Args:
            recognizer: whose.
            options: of the stream.

        Raises:
            EngineError, ValueError: as `Recognizer.open`.
        """
        self._generation += 1
        self._stream = recognizer.open(
            partial(self._on_event, self._generation),
            deliver=asyncio.get_running_loop().call_soon_threadsafe,
            options=options,
        )

    def close(self) -> None:
        """Give the slot back. Idempotent. Finals that were owed will not come."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self.in_segment = False
        self._owe(0)

    def begin(self) -> bool:
        """Begin a segment; False where one goes on already, or the stream is closed."""
        if self.in_segment or self._stream is None:
            return False
        self.in_segment = True
        return True

    def feed(self, samples: np.ndarray) -> None:
        """Add audio to the segment; see `Stream.feed` for what it raises.

        Args:
            samples: int16, 16 kHz mono, shape (n,).
        """
        if self._stream is not None and samples.size:
            self._stream.feed(samples)

    def finish(self) -> bool:
        """End the segment, so that its final is owed; False where there was none."""
        if not self.in_segment or self._stream is None:
            return False
        self.in_segment = False
        self._stream.finish()
        self._owe(self.finals_owed + 1)
        return True

    async def next_event(self) -> Event:
        """Wait for what the stream says next. After a final has been used, `settle` it."""
        while True:
            generation, event = await self._events.get()
            if generation == self._generation and self._stream is not None:
                return event

    def settle(self) -> None:
        """A final came and was passed on: one less is owed."""
        self._owe(max(0, self.finals_owed - 1))

    async def wait_until_settled(self) -> None:
        """Wait until no final is owed: at the latest when a stuck recogniser was closed."""
        await self._settled.wait()

    def _on_event(self, generation: int, event: Event) -> None:
        self._events.put_nowait((generation, event))

    def _owe(self, count: int) -> None:
        self.finals_owed = count
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if count == 0:
            self._settled.set()
            return
        self._settled.clear()
        late = EngineError(f"no final within {self._final_timeout_s:g} s of the segment's end")
        self._stuck = asyncio.get_running_loop().call_later(
            self._final_timeout_s, self._on_event, self._generation, Failed(late)
        )

"""A front-end's stream of an engine in another process, and how its events reach the caller."""

from __future__ import annotations

import threading
from collections import defaultdict
from functools import partial
from typing import Any, Protocol

import numpy as np
from loguru import logger

from voice_agent.engine.errors import EngineClosed, StreamClosed
from voice_agent.engine.recognizer import (
    Deliver,
    Event,
    OnEvent,
    StreamOptions,
    as_float32,
    deliver_here,
)
from voice_agent.link.keeping import Keeping
from voice_agent.link.ways import Way
from voice_agent.link.writing import Manuscript


class Owner(Protocol):
    """What a stream needs of its client.

    Attributes:
        lock: guards the streams' state, and the ways to them.
    """

    lock: threading.RLock

    def open_stream(
        self, on_event: OnEvent, deliver: Deliver, options: StreamOptions | None, *, lasting: bool
    ) -> LinkedStream:
        """Claim a slot for an ordinary or a lasting stream."""
        ...

    def forget(self, stream: LinkedStream) -> None:
        """Give a closed stream's slot back. Under the lock."""
        ...


class LinkedStream:
    """One caller's stream. Implements `voice_agent.engine.recognizer.Stream`.

    Attributes:
        number: by which the engine knows it.
        segment: that is fed now.
        keeping: its open segments, where it outlives the engine.
        way: to the engine; None while there is none.
        manuscript: of its segments, where this process writes them.
        gone: why it cannot go on, once it cannot.
    """

    def __init__(
        self,
        owner: Owner,
        number: int,
        on_event: OnEvent,
        deliver: Deliver,
        keeping: Keeping | None,
    ) -> None:
        """Make a stream; `EngineClient.open` does."""
        self.number = number
        self.segment = 0
        self.keeping = keeping
        self.way: Way | None = None
        self.manuscript: Manuscript | None = None
        self.gone: EngineClosed | None = None
        self.deliver = deliver
        self._owner = owner
        self._on_event = on_event
        self._cancelled: set[int] = set()
        self._closed = False

    @property
    def lasting(self) -> bool:
        """Whether it goes on when the engine is started again."""
        return self.keeping is not None and self.keeping.whole

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio; see `Stream.feed`."""
        if pcm.dtype != np.int16 or pcm.ndim != 1:
            pcm = as_float32(pcm)
        if not len(pcm):
            return
        with self._owner.lock:
            self._check("feed")
            if self.keeping is not None:
                self.keeping.feed(self.segment, pcm)
            if self.way is not None:
                self.way.feed(pcm)

    def finish(self) -> None:
        """End the segment; see `Stream.finish`."""
        with self._owner.lock:
            self._check("finish")
            if self.keeping is not None:
                self.keeping.finish(self.segment)
            if self.way is not None:
                self.way.finish()
            self.segment += 1

    def cancel(self) -> None:
        """Drop the segment; see `Stream.cancel`."""
        with self._owner.lock:
            self._check("cancel")
            self._cancelled.add(self.segment)
            if self.keeping is not None:
                self.keeping.drop(self.segment)
            if self.way is not None:
                self.way.cancel()
            self.segment += 1

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        with self._owner.lock:
            if not self._closed:
                self._closed = True
                self._owner.forget(self)

    def _check(self, what: str) -> None:
        if self._closed:
            raise StreamClosed(f"{what} after close(): open a new stream")
        if self.gone is not None:
            raise EngineClosed(str(self.gone))

    def hear(self, segment: int, event: Event) -> None:
        """Hand an event to the caller, unless it was cancelled meanwhile."""
        if not self._closed and segment not in self._cancelled:
            self._on_event(event)


class Lasting:
    """`EngineClient` whose streams outlive the engine process. Implements `Recognizer`."""

    def __init__(self, client: Owner) -> None:
        """Open streams of this client."""
        self._client = client

    def __getattr__(self, name: str) -> Any:
        """What the client has besides, such as `name`."""
        return getattr(self._client, name)

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> LinkedStream:
        """See `EngineClient.open`."""
        return self._client.open_stream(on_event, deliver, options, lasting=True)


Posting = tuple[LinkedStream, int, Event]


def publish(postings: list[Posting]) -> None:
    """Hand events over: one call for each place where callbacks run."""
    by_deliver: defaultdict[Deliver, list[Posting]] = defaultdict(list)
    for posting in postings:
        by_deliver[posting[0].deliver].append(posting)
    for deliver, theirs in by_deliver.items():
        try:
            deliver(partial(_dispatch, theirs))
        except RuntimeError as error:  # the event loop is closed: nobody is there to hear
            logger.debug(f"{len(theirs)} events not delivered: {error}")


def _dispatch(postings: list[Posting]) -> None:
    for stream, segment, event in postings:
        try:
            stream.hear(segment, event)
        except Exception:
            logger.exception("a stream's callback failed; the others go on")

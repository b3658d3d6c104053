"""A recogniser that is watched: whether it is alive, and how long it has owed a text.

    finish() ... Final      a debt, and its payment, of whichever session
    late                    the oldest debt is over `LATE_S`: nobody new until it is paid
    heartbeat               of its thread (`stats.heartbeat`), where it has one
    hung                    the heartbeat has stood still for `HUNG_S`, whatever is owed: nobody
                            new, and /readyz says so within 2 s
    gone                    its thread has died, or the heartbeat has stood still for `DEAF_S`, or
                            the oldest debt is over `GONE_S`: sessions are told, the process ends,
                            and whatever supervises it starts another

A heart that stands still is judged by the time in which we were there to see it, and in which a
processor was there for it: a machine that slept, stopped the whole process or has too much to do
has not hung its recogniser. A streaming recogniser's finals
take milliseconds, so one that owes for seconds is overloaded, stuck or dead. Audio that came
faster than it was spoken, a file's, has as long as it lasts before its text is due. Recognisers
that decode whole segments may take seconds, and are never late.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from loguru import logger

from voice_agent.engine.errors import EngineClosed, EngineError
from voice_agent.engine.feeding import End
from voice_agent.engine.inbox import Kind
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Failed,
    Final,
    OnEvent,
    Recognizer,
    Stream,
    StreamOptions,
    deliver_here,
)
from voice_agent.server.processor_time import ProcessorTime
from voice_agent.server.sessions import SessionTable

LATE_S = 2.0
HUNG_S = 1.25  # its heart beats twice a second
DEAF_S = 10.0
GONE_S = 30.0
LATE = "the recogniser is late"
HUNG = "the recogniser does not answer"
_LOOK_EVERY_S = 0.25


class Gone(EngineError):
    """A recogniser that can serve nobody any more; the message says why.

    Attributes:
        stuck: its thread is alive, and will not end.
    """

    def __init__(self, problem: str, *, stuck: bool) -> None:
        self.stuck = stuck
        super().__init__(f"{problem}; the server ends, so that another can start")


class WatchedRecognizer:
    """See the module docstring. Implements `Recognizer`; what else the recogniser has, it has too.

    Attributes:
        died: what its thread died of, once it has.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        """Watch a recogniser.

        Args:
            recognizer: loaded; `close` closes it.
        """
        self.name = recognizer.name
        self.languages = recognizer.languages
        self.streaming = recognizer.streaming
        self.died: EngineError | None = None
        self._recognizer = recognizer
        self._closing = False
        self._lock = threading.Lock()  # guards _debts: finish and finals are on different threads
        self._debts: dict[_WatchedStream, deque[float]] = {}

    def __getattr__(self, name: str) -> Any:
        """What only some recognisers have, such as `stats`."""
        return getattr(self._recognizer, name)

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> _WatchedStream:
        """Claim a slot; see `Recognizer.open`."""
        stream = _WatchedStream(self, on_event)
        try:
            stream.inner = self._recognizer.open(stream.on_event, deliver=deliver, options=options)
        except EngineClosed as error:
            self.dead(error)
            raise
        return stream

    def close(self) -> None:
        """Close the recogniser; see `Recognizer.close`."""
        self._closing = True
        self._recognizer.close()

    @property
    def heartbeat(self) -> float | None:
        """What its thread writes at least twice a second; None where it does not."""
        return getattr(getattr(self._recognizer, "stats", None), "heartbeat", None) or None

    @property
    def owed(self) -> int:
        """How many texts it owes."""
        with self._lock:
            return sum(map(len, self._debts.values()))

    def owes_s(self) -> float:
        """Seconds for which the oldest debt has been due; 0 where there is none."""
        with self._lock:
            oldest = min((debts[0] for debts in self._debts.values() if debts), default=None)
        return 0.0 if oldest is None else max(0.0, time.monotonic() - oldest)

    def owe(self, stream: _WatchedStream, due: float) -> None:
        """A segment has ended, whose text is due then, on the monotonic clock."""
        with self._lock:
            self._debts.setdefault(stream, deque()).append(due)

    def pay(self, stream: _WatchedStream) -> None:
        """Its text has come."""
        with self._lock:
            if debts := self._debts.get(stream):
                debts.popleft()

    def forget(self, stream: _WatchedStream) -> None:
        """A stream was closed; nobody waits for its texts."""
        with self._lock:
            self._debts.pop(stream, None)

    def dead(self, error: EngineError) -> None:
        """The recogniser has said that it is closed, though nobody closed it."""
        if not self._closing and self.died is None:
            self.died = error


class _WatchedStream:
    """A stream whose debts are noted. Implements `Stream`."""

    inner: Stream

    def __init__(self, owner: WatchedRecognizer, on_event: OnEvent) -> None:
        self._owner = owner
        self._on_event = on_event
        self._began: float | None = None  # when the first audio of the segment came
        self._audio_s = 0.0  # of the segment

    def on_event(self, event: Event) -> None:
        """Note what comes, and hand it on."""
        if isinstance(event, Final):
            self._owner.pay(self)
        elif isinstance(event, Failed):
            self._owner.forget(self)
            if isinstance(event.error, EngineClosed):
                self._owner.dead(event.error)
        self._on_event(event)

    def feed(self, pcm: np.ndarray) -> None:
        """See `Stream.feed`."""
        self.inner.feed(pcm)
        self._began = self._began or time.monotonic()
        self._audio_s += pcm.size / SAMPLE_RATE

    def finish(self) -> None:
        """See `Stream.finish`."""
        now = time.monotonic()
        spoken_by = now if self._began is None else max(now, self._began + self._audio_s)
        self._began, self._audio_s = None, 0.0
        self._owner.owe(self, spoken_by)  # before: the final may come before `finish` returns
        try:
            self.inner.finish()
        except BaseException:
            self._owner.pay(self)
            raise

    def end(self, kind: Kind, end: End) -> None:
        """See `EngineStream.end`."""
        inner: Any = self.inner
        if kind == "finish":
            self._owner.owe(self, max(end.due, time.monotonic()))
        try:
            inner.end(kind, end)
        except BaseException:
            if kind == "finish":
                self._owner.pay(self)
            raise

    def __getattr__(self, name: str) -> Any:
        """What only some streams have, such as `slot`."""
        return getattr(self.inner, name)

    def cancel(self) -> None:
        """See `Stream.cancel`."""
        self.inner.cancel()
        self._began, self._audio_s = None, 0.0

    def close(self) -> None:
        """See `Stream.close`."""
        self.inner.close()
        self._owner.forget(self)


def watched(recognizer: Recognizer) -> tuple[Recognizer, tuple[WatchedRecognizer, ...]]:
    """Watch a recogniser.

    Args:
        recognizer: loaded. A gate stays what it is, and its parts are watched.

    Returns:
        The one to use from now on, and those that are watched.
    """
    from voice_agent.engine.gate import GatedRecognizer

    if not isinstance(recognizer, GatedRecognizer):
        whole = WatchedRecognizer(recognizer)
        return whole, (whole,)
    # One part may serve several languages.
    parts = {id(part): WatchedRecognizer(part) for part in recognizer.recognizers.values()}
    for language, part in recognizer.recognizers.items():
        recognizer.recognizers[language] = parts[id(part)]
    return recognizer, tuple(parts.values())


class Pulse:
    """How long a recogniser's heart has stood still while it was looked at."""

    def __init__(self, recognizer: WatchedRecognizer) -> None:
        """Feel a recogniser's pulse; one without a heartbeat always passes."""
        self._recognizer = recognizer
        self._beat: float | None = None
        self._still_s = 0.0

    def still_s(self, since_s: float) -> float:
        """Look.

        Args:
            since_s: seconds since the last look.

        Returns:
            Seconds without a beat; what a look came late by is not counted.
        """
        beat = self._recognizer.heartbeat
        if beat is None or beat != self._beat:
            self._beat, self._still_s = beat, 0.0
        else:
            self._still_s += min(since_s, 2 * _LOOK_EVERY_S)
        return self._still_s


async def gone(
    recognizers: Sequence[WatchedRecognizer],
    sessions: SessionTable,
    *,
    late_s: float = LATE_S,
    hung_s: float = HUNG_S,
    deaf_s: float = DEAF_S,
    gone_s: float = GONE_S,
) -> Gone:
    """Watch until one of the recognisers is gone; admit nobody while one is late or hung.

    Args:
        recognizers: that serve the sessions.
        sessions: of the server.
        late_s: seconds that a text may be owed while new sessions are admitted.
        hung_s: seconds without a heartbeat while new sessions are admitted.
        deaf_s: seconds without a heartbeat after which a recogniser is given up.
        gone_s: seconds that a text may be owed before a recogniser is given up.

    Returns:
        Why one is gone.
    """
    pulses = [Pulse(each) for each in recognizers]
    looked, spending = time.monotonic(), ProcessorTime()
    while True:
        now = time.monotonic()
        since_s, looked = min(now - looked, 2 * _LOOK_EVERY_S), now
        since_s = spending.look().held_against(since_s, computing=False)
        still = [pulse.still_s(since_s) for pulse in pulses]
        for each, still_s in zip(recognizers, still, strict=True):
            if each.died is not None:
                return Gone(str(each.died), stuck=False)
            if still_s > deaf_s:
                return Gone(f"{each.name} has not answered for {still_s:.0f} s", stuck=True)
            if (owes_s := each.owes_s()) > gone_s:
                return Gone(f"{each.name} has owed a text for {owes_s:.0f} s", stuck=True)
        if max(still, default=0.0) > hung_s:
            _admit(sessions, HUNG)
        elif any(each.streaming and each.owes_s() > late_s for each in recognizers):
            _admit(sessions, LATE)
        else:
            _admit(sessions, None)
        await asyncio.sleep(_LOOK_EVERY_S)


def _admit(sessions: SessionTable, trouble: str | None) -> None:
    """Close the door for a trouble of the recogniser's, or open it where one is over."""
    if sessions.closed_because not in (None, LATE, HUNG) or sessions.closed_because == trouble:
        return
    if trouble is None:
        logger.info("the recogniser is well again; sessions are admitted")
        sessions.open()
    else:
        logger.error(f"{trouble}; nobody is admitted")
        sessions.close(trouble)

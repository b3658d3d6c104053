"""Who is computed next: one thread, one tick after another.

    take requests ─► pick who has a whole chunk ─► gather their windows ─► launch a step
          ▲                                                                     │
          └── publish events ◄── finals ◄── partials ◄── collect the step before ◄

A tick takes every stream that has a whole chunk of audio, longest-waiting first, and computes one
chunk of each in one step. A stream that is behind is ready again at once and so catches up; one
that is never fed costs nothing. Nobody waits for a batch to fill. Where the runner can launch a
step without waiting for it, the next one is gathered and launched while the device computes.

Picking, gathering and counting are array operations over all lanes (`lanes`, `rings`); Python runs
for a stream only where it said something, or where its segment begins or ends. Events go to each
event loop in one call a tick. The thread sleeps on its inbox while nobody is ready (`inbox`).

No torch here: the device is behind `Runner`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import assert_never

import numpy as np

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.device import Recorder, Runner, Step
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.errors import EngineClosed, EngineFull
from voice_agent.engine.feeders import Feeders
from voice_agent.engine.inbox import Inbox, Request
from voice_agent.engine.lanes import Lanes
from voice_agent.engine.recognizer import SAMPLE_RATE, Deliver, OnEvent, StreamOptions
from voice_agent.engine.rings import Rings
from voice_agent.engine.second_pass import SecondPass
from voice_agent.engine.staging import Staging
from voice_agent.engine.stats import Stats
from voice_agent.engine.streams import Decoding, EngineStream
from voice_agent.engine.taking import Takers
from voice_agent.engine.telling import Telling
from voice_agent.engine.text import Transcript

__all__ = ["Recorder", "Runner", "Scheduler", "Stats"]

log = logging.getLogger(__name__)

IDLE_S = 0.5
"""Seconds after which a sleeping engine shows that it is alive (`Stats.heartbeat`)."""
MAX_BATCH = 8192
_BACKLOG_EVERY_S = 0.1
_REQUESTS_A_TURN = 10_000


class Scheduler:
    """Streams in, steps out. `start()` runs it on a thread of its own; tests call `tick()`."""

    def __init__(
        self,
        runner: Runner,
        chunks: dict[int, Chunks],
        new_transcript: Callable[[], Transcript],
        *,
        slots: int,
        max_batch: int | None = None,
        language: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a scheduler.

        Args:
            runner: the device.
            chunks: geometry by right context.
            new_transcript: makes an empty transcript for a segment.
            slots: streams at most.
            max_batch: lanes a step, at most; None for the runner's own limit.
            language: written into finals whose stream names none.
            clock: monotonic seconds.
        """
        self.runner = runner
        self.chunks = chunks
        self.slots = slots
        self.max_batch = min(max_batch or MAX_BATCH, getattr(runner, "max_batch", MAX_BATCH))
        self.clock = clock
        self.recorder: Recorder | None = None
        self.stats = Stats()
        self._widest = max(chunks)
        self.rings = Rings(slots, chunks)
        self._feeders = Feeders(self.rings, clock)
        self._inbox = Inbox(clock, self.rings.asleep)
        self._lanes = Lanes(self.rings)
        self.takers = Takers(slots)
        self._launch = getattr(runner, "launch", None) or runner.step
        self._wait = getattr(runner, "collect", None)
        self._ahead = 2 if self._wait else 1
        self._offered = getattr(runner, "staging", None)
        self._search = getattr(runner, "search", None)
        self._staging = Staging(self._ahead + 1)
        self._lock = threading.Lock()  # guards _free and _owners, and open against dying
        self._free = list(range(slots - 1, -1, -1))
        self._owners: list[EngineStream | None] = [None] * slots
        self._passes: dict[int, SecondPass] = {}  # by slot
        self._overflowing: dict[EngineStream, None] = {}
        self._flying: deque[Step] = deque()
        self._telling = Telling(
            new_transcript, owners=self._owners, passes=self._passes, lanes=self._lanes,
            rings=self.rings, takers=self.takers, stats=self.stats,
            rest=getattr(runner, "rest", None), clock=lambda: self.clock(), language=language,
        )  # fmt: skip
        self._backlog_at = 0.0
        self._thread: threading.Thread | None = None

    # -- callers' side -------------------------------------------------------------------------

    def open(
        self,
        on_event: OnEvent,
        deliver: Deliver,
        options: StreamOptions,
        right: int,
        boost: PhraseBoost | None = None,
    ) -> EngineStream:
        """Claim a slot; see `Recognizer.open`."""
        with self._lock:
            self._inbox.check()
            if not self._free:
                self.stats.refused += 1
                raise EngineFull(self.slots)
            slot = self._free.pop()
            stream = EngineStream(
                self._inbox, self._feeders, self.takers, on_event, deliver, options,
                self.chunks[right], slot, boost,
            )  # fmt: skip
            self._owners[slot] = stream
            self.stats.open_streams += 1
            self._inbox.post(Request("open", stream))
        return stream

    def start(self, name: str) -> None:
        """Run ticks on a thread of their own until `stop()`."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """A feeder in another process has made a stream ready; from any thread."""
        self._inbox.wake()

    def stop(self) -> None:
        """End the thread; open streams get `Failed`. Idempotent."""
        self._inbox.stop()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    # -- engine thread: the loop ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            busy = False
            while self.take_requests(wait=not busy):
                busy = self.tick()
            self._die(EngineClosed("the recogniser was closed"))
        except BaseException as error:
            log.exception("the engine thread died")
            dead = EngineClosed(self._obituary(error))
            dead.__cause__ = error
            self._die(dead)

    def _obituary(self, error: BaseException) -> str:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            lanes = f"a step of {len(self._flying[-1])} streams" if self._flying else "a step"
            return (
                f"the engine thread died: out of memory in {lanes}; "
                f"restart with fewer --slots (they are {self.slots}) or a smaller model"
            )
        return f"the engine thread died: {error!r}; restart the process"

    def _die(self, error: EngineClosed) -> None:
        with self._lock:
            self._inbox.dead = error
            self._feeders.close()
            streams = [s for s in self._owners if s]
            self._owners[:] = [None] * self.slots
            self.stats.open_streams = 0
        self._telling.failed(streams, error)
        self._telling.publish()

    def take_requests(self, wait: bool) -> bool:
        """Take over what callers asked for; False once `stop()` was called.

        Args:
            wait: sleep until there is something, or a stream becomes ready.
        """
        inbox = self._inbox
        self.stats.heartbeat = self.clock()
        request = inbox.take()
        if request is None and wait:
            taken_ends = self._lanes.taken
            request = inbox.sleep(IDLE_S, ready=lambda: bool(len(self.rings.ready(taken_ends))))
        taken = 0
        while request is not None:
            if request.kind == "stop":
                return False
            if request.stream is not None:
                self._apply(request, request.stream)
            taken += 1
            if taken == _REQUESTS_A_TURN:
                break  # whoever floods the queue does not stop the steps
            request = inbox.take()
        return True

    def tick(self) -> bool:
        """Launch a step, and collect the oldest that is under way; False if nobody waits."""
        for stream in [s for s in self._overflowing if not s.refill()]:
            del self._overflowing[stream]
        step = self._pick()
        if step is not None:
            self._flying.append(step)
            self._begin(step)
        if self._flying and (step is None or len(self._flying) >= self._ahead):
            self._collect(self._flying[0])
            self._flying.popleft()
        else:
            self._telling.publish()
        return step is not None or bool(self._flying)

    # -- engine thread: requests ---------------------------------------------------------------

    def _apply(self, request: Request, stream: EngineStream) -> None:
        slot = stream._slot
        match request.kind:
            case "open":
                self._lanes.pace[slot], self._lanes.taken[slot] = 0.0, 0
                self._lanes.begin(slot, stream._chunks.right, 0, 0)
            case "finish" | "cancel":
                self._lanes.taken[slot] += 1
                ends = stream.decoding.ends
                ends.append(request)
                if len(ends) == 1:
                    self._settle(stream)
            case "overflow":
                self.stats.overflows += 1
                self._overflowing[stream] = None
            case "close":
                self._close(stream)
            case "wake" | "stop":
                pass
            case _:
                assert_never(request.kind)

    def _close(self, stream: EngineStream) -> None:
        slot = stream._slot
        self._overflowing.pop(stream, None)
        self._passes.pop(slot, None)
        stream.decoding = Decoding()
        with self._lock:
            if self._owners[slot] is stream:
                self._lanes.rest(slot)
                self._owners[slot] = None
                self._free.append(slot)
                self.stats.open_streams -= 1

    def _settle(self, stream: EngineStream) -> None:
        """The current segment has been ended: finish what can be, until there is more to compute.

        What a segment still needs is counted from here on; when its last chunk comes back,
        `_collect` comes here again.
        """
        decoding, slot = stream.decoding, stream._slot
        while decoding.ends:
            end = decoding.ends[0]
            if end.kind == "finish":
                if self._needs_second_pass(stream, end):
                    return
                if slot not in self._passes and not self._lanes.finish(slot, end.at.samples):
                    return
                self._telling.finalise(stream, end)
            self._passes.pop(slot, None)
            decoding.ends.popleft()
            decoding.number += 1
            self.takers.segment[slot] += 1
            decoding.transcript = None
            self._lanes.begin(slot, stream._chunks.right, end.at.samples, end.at.ordinal)
            self.rings.read[slot] = end.at.samples

    def _needs_second_pass(self, stream: EngineStream, end: Request) -> bool:
        """Whether the segment's audio has yet to go through the device a second time."""
        if not stream._keeps:
            return False
        slot = stream._slot
        again = self._passes.get(slot)
        if again is None:
            again = SecondPass(stream, end, self.chunks[self._widest])
            self._passes[slot] = again
            self._lanes.rest(slot)
            self.rings.read[slot] = end.at.samples
            stream.decoding.transcript = None
        return again.collected < again.total

    # -- engine thread: a step -----------------------------------------------------------------

    def _pick(self) -> Step | None:
        """Whoever waits longest, and all that can share a step with him."""
        lanes = self._lanes
        slots = self.rings.ready(lanes.taken)
        passes = [p for p in self._passes.values() if p.launched < p.total]
        if not len(slots) and not passes:
            return None
        arrived = lanes.arrived(slots)
        turns = lanes.turns(slots, arrived)
        rights = lanes.right[slots]
        right = int(rights[turns.argmin()]) if len(slots) else self._widest
        if passes and right != self._widest and min(p.end.at.time for p in passes) < turns.min():
            right = self._widest
        if right != self._widest:
            passes = []
        del passes[self.max_batch :]
        mine = np.flatnonzero(rights == right)
        if len(mine) > (room := self.max_batch - len(passes)):
            mine = np.sort(mine[np.argpartition(turns[mine], room)[:room]]) if room else mine[:0]
        if len(mine) < len(slots):
            slots, arrived, turns = slots[mine], arrived[mine], turns[mine]
        step = Step(
            self.chunks[right], slots, lanes.epoch[slots], lanes.launched[slots], arrived,
            [(p, p.launched) for p in passes], self.clock(),
        )  # fmt: skip
        step.result = self._fill(step)
        lanes.launch(slots, turns, step.chunks)
        # Only now: the windows are copied, so older samples may be overwritten.
        self.rings.read[slots] = lanes.still_read(slots)
        return step

    def _fill(self, step: Step) -> np.ndarray:
        """The windows of a step, float32 or int16, shape (lanes, window_samples)."""
        chunks, slots, n = step.chunks, step.slots, len(step.slots)
        width = chunks.window_samples
        pcm = self._offered(len(step), width) if self._offered else None
        if pcm is None or (
            pcm.dtype != np.float32 and (step.passes or self.rings.is_float[slots].any())
        ):
            pcm = self._staging.take(len(step), width)
        starts = self._lanes.start[slots]
        self.rings.gather(slots, starts, chunks.right, pcm[:n])
        before = self._lanes.base[slots] - starts  # samples that lie before the segment
        if before.max(initial=0) > 0:
            for count in np.unique(before[before > 0]):
                pcm[:n][before == count, :count] = 0
        after = self._lanes.end[slots] - starts  # where the segment ends in the window
        for lane in np.flatnonzero(after < width).tolist():
            pcm[lane, max(int(after[lane]), 0) :] = 0
        for lane, (again, _) in enumerate(step.passes, start=n):
            pcm[lane] = again.window()
            again.launched += 1
        if chunks.unread:
            pcm[:, -chunks.unread :] = 0
        return pcm

    def _begin(self, step: Step) -> None:
        """Hand a step to the device."""
        slots, numbers = step.slots, step.numbers
        for slot in slots[numbers == 0].tolist():
            owner = self._owners[slot]
            assert owner is not None
            owner.begin(self.runner, self._search)
        if step.passes:
            for again, number in step.passes:
                if number == 0:
                    again.stream.begin(self.runner, self._search, again.total)
            slots = np.append(slots, [again.stream._slot for again, _ in step.passes])
            numbers = np.append(numbers, [number for _, number in step.passes])
        pos = numbers * step.chunks.frames
        step.result = self._launch(slots, pos, step.result, step.chunks.right)

    def _collect(self, step: Step) -> None:
        """Wait for a step, and tell everybody concerned."""
        emissions: Emissions = self._wait(step.result) if self._wait else step.result
        current, complete = self._lanes.collect(step.slots, step.epochs)
        if len(emissions.lanes):
            self._telling.accept(step, current, emissions)
        for slot in step.slots[complete].tolist():
            if stream := self._owners[slot]:
                self._settle(stream)
        for again, _ in step.passes:
            again.collected += 1
            if again.collected == again.total and self._passes.get(again.stream._slot) is again:
                self._settle(again.stream)
        self._telling.publish()
        self._count(step)

    def _count(self, step: Step) -> None:
        now, stats, chunk_s = self.clock(), self.stats, step.chunks.samples / SAMPLE_RATE
        stats.count(len(step), now - step.began, now - step.arrived, chunk_s)
        if now - self._backlog_at > _BACKLOG_EVERY_S:
            self._backlog_at = now
            stats.backlog_s = self._lanes.waiting(self.rings.written) / SAMPLE_RATE
        if self.recorder:
            self.recorder(step.slots, step.arrived, now)

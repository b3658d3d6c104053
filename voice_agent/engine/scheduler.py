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

import functools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import numpy as np

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.errors import EngineClosed, EngineFull
from voice_agent.engine.inbox import Inbox, Request
from voice_agent.engine.lanes import Lanes
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Failed,
    Final,
    OnEvent,
    Partial,
    StreamOptions,
)
from voice_agent.engine.rings import Rings
from voice_agent.engine.second_pass import SecondPass
from voice_agent.engine.staging import Staging
from voice_agent.engine.stats import Stats
from voice_agent.engine.streams import Decoding, EngineStream
from voice_agent.engine.text import Transcript

log = logging.getLogger(__name__)

IDLE_S = 0.5
"""Seconds after which a sleeping engine shows that it is alive (`Stats.heartbeat`)."""
MAX_BATCH = 8192
_BACKLOG_EVERY_S = 0.1


class Runner(Protocol):
    """The device. Engine thread only.

    What a runner may have beside this, each on its own:

    launch(slots, pos, pcm, right) -> ticket, collect(ticket) -> Emissions
        `step` in two halves: the first returns at once, the second waits. Steps are collected in
        the order of their launch, and at most two are launched and not collected. A slot may be
        in both, with consecutive chunks.
    staging(lanes, window) -> array | None
        Where to put `pcm`, float32 (or int16: the samples as they are, 32768 for 1.0, if no lane
        was fed float32). Asked for once a step, so whoever gives one to write into while a launched
        step may still read takes turns between three. None: this step's comes from elsewhere.
    max_batch: int
        Lanes a step, at most.

    Attributes:
        boosts: whether it can prefer phrases.
    """

    boosts: bool

    def reset(self, slot: int, language: str | None, boost: PhraseBoost | None) -> None:
        """A new segment begins in `slot`: what is known of it outside the device.

        The lane's next step has pos 0, by which the device forgets the segment before.

        Args:
            slot: of the stream.
            language: that the caller named.
            boost: phrases to prefer; None always where the runner cannot.
        """
        ...

    def step(self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int) -> Emissions:
        """Compute one chunk a lane.

        Args:
            slots: int64, shape (n,): distinct slot of each lane.
            pos: int64, shape (n,): encoder frames of the lane's segment before this chunk.
            pcm: float32, shape (n, Chunks.window_samples); the runner may not keep it.
            right: right context of all lanes.
        """
        ...


Recorder = Callable[[np.ndarray, np.ndarray, float], None]
"""Called after each step's events were posted: (slots, when the audio of each was there, now)."""


@dataclass(slots=True)
class Step:
    """What is on the device.

    Attributes:
        chunks: geometry of all lanes.
        slots: streaming lanes.
        epochs: their segments' (`Lanes.epoch`).
        numbers: their chunks' numbers in the segment.
        arrived: when their audio was there.
        passes: the lanes after those.
        began: when it was launched.
        result: ticket, or what came back already.
    """

    chunks: Chunks
    slots: np.ndarray
    epochs: np.ndarray
    numbers: np.ndarray
    arrived: np.ndarray
    passes: list[tuple[SecondPass, int]]
    began: float
    result: Any = None

    def __len__(self) -> int:
        return len(self.slots) + len(self.passes)


Posting = tuple[EngineStream, int, Event]
"""A stream, the number of its segment, and what it is told."""


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
        self.new_transcript = new_transcript
        self.slots = slots
        self.max_batch = min(max_batch or MAX_BATCH, getattr(runner, "max_batch", MAX_BATCH))
        self.language = language
        self.clock = clock
        self.recorder: Recorder | None = None
        self.stats = Stats()
        self._widest = max(chunks)
        self._inbox = Inbox(clock)
        self._rings = Rings(slots, chunks)
        self._lanes = Lanes(slots, chunks)
        self._launch = getattr(runner, "launch", None) or runner.step
        self._wait = getattr(runner, "collect", None)
        self._ahead = 2 if self._wait else 1
        self._offered = getattr(runner, "staging", None)
        self._staging = Staging(self._ahead + 1)
        self._lock = threading.Lock()  # guards _free and _owners, and open against dying
        self._free = list(range(slots - 1, -1, -1))
        self._owners: list[EngineStream | None] = [None] * slots
        self._passes: dict[int, SecondPass] = {}  # by slot
        self._overflowing: dict[EngineStream, None] = {}
        self._flying: deque[Step] = deque()
        self._postings: list[Posting] = []
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
                self._inbox, self._rings, self._lanes, on_event, deliver, options,
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
            streams = [s for s in self._owners if s]
            self._owners = [None] * self.slots
            self.stats.open_streams = 0
        # A cancelled segment's number cannot be asked for again, so -1 reaches everybody.
        self._postings += [(s, -1, Failed(error)) for s in streams]
        self._publish()

    def take_requests(self, wait: bool) -> bool:
        """Take over what callers asked for; False once `stop()` was called.

        Args:
            wait: sleep until there is something, or a stream becomes ready.
        """
        inbox = self._inbox
        self.stats.heartbeat = self.clock()
        request = inbox.take()
        if request is None and wait:
            inbox.asleep = True  # before looking: see `inbox`
            if not len(self._lanes.ready(self._rings.written)):
                request = inbox.take(IDLE_S)
            inbox.asleep = False
        while request is not None:
            if request.kind == "stop":
                return False
            if request.stream is not None:
                self._apply(request, request.stream)
            request = inbox.take()
        return True

    def tick(self) -> bool:
        """Launch a step, and collect the oldest that is under way; False if nobody waits."""
        for stream in [s for s in self._overflowing if not s.refill()]:
            del self._overflowing[stream]
        step = self._pick()
        if step:
            self._flying.append(step)
            self._begin(step)
        if self._flying and (step is None or len(self._flying) >= self._ahead):
            self._collect(self._flying[0])
            self._flying.popleft()
        else:
            self._publish()
        return step is not None or bool(self._flying)

    # -- engine thread: requests ---------------------------------------------------------------

    def _apply(self, request: Request, stream: EngineStream) -> None:
        slot = stream._slot
        match request.kind:
            case "open":
                self._lanes.pace[slot] = 0.0
                self._lanes.begin(slot, stream._chunks.right, 0, 0)
            case "finish" | "cancel":
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
                if slot not in self._passes and not self._lanes.finish(slot, end.end):
                    return
                self._finalise(stream, end)
            self._passes.pop(slot, None)
            decoding.ends.popleft()
            decoding.number += 1
            decoding.transcript = None
            self._lanes.begin(slot, stream._chunks.right, end.end, end.ordinal)
            self._rings.read[slot] = end.end

    def _needs_second_pass(self, stream: EngineStream, end: Request) -> bool:
        """Whether the segment's audio has yet to go through the device a second time."""
        if stream._options.final_pass != "full":
            return False
        slot = stream._slot
        again = self._passes.get(slot)
        if again is None:
            again = SecondPass(stream, end, self.chunks[self._widest])
            self._passes[slot] = again
            self._lanes.rest(slot)
            self._rings.read[slot] = end.end
            stream.decoding.transcript = None
        return again.collected < again.total

    # -- engine thread: a step -----------------------------------------------------------------

    def _pick(self) -> Step | None:
        """Whoever waits longest, and all that can share a step with him."""
        lanes = self._lanes
        slots = lanes.ready(self._rings.written)
        passes = [p for p in self._passes.values() if p.launched < p.total]
        if not len(slots) and not passes:
            return None
        arrived = lanes.arrived(slots)
        turns = lanes.turns(slots, arrived)
        rights = lanes.right[slots]
        right = int(rights[turns.argmin()]) if len(slots) else self._widest
        if passes and right != self._widest and min(p.end.time for p in passes) < turns.min():
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
        self._rings.read[slots] = lanes.still_read(slots)
        return step

    def _fill(self, step: Step) -> np.ndarray:
        """The windows of a step, float32 or int16, shape (lanes, window_samples)."""
        chunks, slots, n = step.chunks, step.slots, len(step.slots)
        width = chunks.window_samples
        pcm = self._offered(len(step), width) if self._offered else None
        if pcm is None or (
            pcm.dtype != np.float32 and (step.passes or self._rings.is_float[slots].any())
        ):
            pcm = self._staging.take(len(step), width)
        starts = self._lanes.start[slots]
        self._rings.gather(slots, starts, chunks.right, pcm[:n])
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
            self.runner.reset(slot, owner._options.language, owner._boost)
        if step.passes:
            for again, number in step.passes:
                if number == 0:
                    stream = again.stream
                    self.runner.reset(stream._slot, stream._options.language, stream._boost)
            slots = np.append(slots, [again.stream._slot for again, _ in step.passes])
            numbers = np.append(numbers, [number for _, number in step.passes])
        pos = numbers * step.chunks.frames
        step.result = self._launch(slots, pos, step.result, step.chunks.right)

    def _collect(self, step: Step) -> None:
        """Wait for a step, and tell everybody concerned."""
        emissions: Emissions = self._wait(step.result) if self._wait else step.result
        current, complete = self._lanes.collect(step.slots, step.epochs)
        if len(emissions.lanes):
            self._accept(step, current, emissions)
        for slot in step.slots[complete].tolist():
            if stream := self._owners[slot]:
                self._settle(stream)
        for again, _ in step.passes:
            again.collected += 1
            if again.collected == again.total and self._passes.get(again.stream._slot) is again:
                self._settle(again.stream)
        self._publish()
        self._count(step)

    def _accept(self, step: Step, current: np.ndarray, said: Emissions) -> None:
        """Write what was said into the transcripts of those who said it, and tell them."""
        n = len(step.slots)
        lanes, frames = said.lanes, step.chunks.frames
        if step.passes:
            self._accept_again(step, said)
        # Whoever left, or began another segment, during the step is not told of it any more.
        here = np.flatnonzero(current[np.minimum(lanes, n - 1)] & (lanes < n)) if n else lanes[:0]
        lanes = lanes[here]
        words = zip(
            lanes.tolist(),
            step.slots[lanes].tolist(),
            said.tokens[here].tolist(),
            (step.numbers[lanes] * frames + said.frames[here]).tolist(),
            said.probs[here].tolist(),
            strict=True,
        )
        heard: list[EngineStream] = []
        spoke: list[int] = []
        last = -1
        for lane, slot, token, frame, prob in words:
            if lane != last:
                last = lane
                stream = self._owners[slot]
                assert stream is not None
                transcript = stream.decoding.transcript
                if transcript is None:
                    transcript = stream.decoding.transcript = self.new_transcript()
                if stream._options.partials:
                    heard.append(stream)
                    spoke.append(lane)
            transcript.append(token, frame, prob)
        if heard:
            self._tell(step, heard, np.array(spoke))

    def _tell(self, step: Step, heard: list[EngineStream], lanes: np.ndarray) -> None:
        """Partials for the streams on these lanes."""
        slots = step.slots[lanes]
        last = np.minimum(self._rings.written[slots], self._lanes.end[slots])
        audio_s = (last - self._lanes.base[slots]) / SAMPLE_RATE
        needed = step.chunks.needed(0) + step.numbers[lanes] * step.chunks.samples
        ends_s = np.minimum(needed / SAMPLE_RATE, audio_s).tolist()
        for stream, audio, end_s in zip(heard, audio_s.tolist(), ends_s, strict=True):
            t = stream.decoding.transcript
            assert t is not None
            partial = Partial(
                t.text, tuple(t.tokens), t.words(audio), end_s, self._language(stream, t)
            )
            self._postings.append((stream, stream.decoding.number, partial))

    def _accept_again(self, step: Step, said: Emissions) -> None:
        """The same for second passes, which tell nothing before their final."""
        n = len(step.slots)
        first = int(np.searchsorted(said.lanes, n))
        for at in range(first, len(said.lanes)):
            again, number = step.passes[int(said.lanes[at]) - n]
            stream = again.stream
            if self._passes.get(stream._slot) is again:
                transcript = stream.decoding.transcript
                if transcript is None:
                    transcript = stream.decoding.transcript = self.new_transcript()
                frame = number * step.chunks.frames + int(said.frames[at])
                transcript.append(int(said.tokens[at]), frame, float(said.probs[at]))

    def _finalise(self, stream: EngineStream, end: Request) -> None:
        base = int(self._lanes.base[stream._slot])
        audio_s = (end.end - base) / SAMPLE_RATE
        t = stream.decoding.transcript
        final = Final(
            text=t.text if t else "",
            tokens=tuple(t.tokens) if t else (),
            words=t.words(audio_s) if t else (),
            language=self._language(stream, t),
            audio_s=audio_s,
            decode_ms=(self.clock() - end.time) * 1000,
        )
        self._postings.append((stream, end.number, final))

    def _language(self, stream: EngineStream, transcript: Transcript | None) -> str | None:
        heard = transcript.language if transcript else None
        return stream._options.language or heard or self.language

    def _publish(self) -> None:
        """Hand this tick's events over: one call for each place where callbacks run."""
        if not self._postings:
            return
        by_deliver: defaultdict[Deliver, list[Posting]] = defaultdict(list)
        for posting in self._postings:
            by_deliver[posting[0]._deliver].append(posting)
        self._postings = []
        for deliver, postings in by_deliver.items():
            try:
                deliver(functools.partial(_dispatch, postings))
            except Exception as error:  # as a rule its event loop is closed: nobody is there
                self.stats.undelivered += len(postings)
                log.debug("%d events not delivered: %r", len(postings), error)

    def _count(self, step: Step) -> None:
        now, stats = self.clock(), self.stats
        stats.ticks += 1
        stats.chunks += len(step)
        stats.step_s = now - step.began
        if len(step.slots):
            lags = now - step.arrived
            stats.lag_s = float(lags.max())
            stats.late += int(np.count_nonzero(lags > step.chunks.samples / SAMPLE_RATE))
        if now - self._backlog_at > _BACKLOG_EVERY_S:
            self._backlog_at = now
            stats.backlog_s = self._lanes.waiting(self._rings.written) / SAMPLE_RATE
        if self.recorder:
            self.recorder(step.slots, step.arrived, now)


def _dispatch(postings: list[Posting]) -> None:
    """Run callbacks where the caller wants them, dropping what was cancelled meanwhile."""
    for stream, segment, event in postings:
        if stream._wants(segment):
            try:
                stream._on_event(event)
            except Exception:
                log.exception("a stream's callback failed; the others go on")

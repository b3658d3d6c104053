"""Who is computed next: one thread, one tick after another.

A tick takes every stream that has a whole chunk of audio, longest-waiting first, computes one
chunk of each in one step, and hands the events over in one call per event loop. A stream that is
behind is ready again at once and so catches up; one that is never fed costs nothing. The thread
sleeps on its request queue while nobody is ready.

No torch here: the device is behind `Runner`.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import EngineClosed, EngineFull
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
from voice_agent.engine.streams import EngineStream, Request, Segment
from voice_agent.engine.text import Transcript

log = logging.getLogger(__name__)


class Emitted(Protocol):
    """Tokens of one lane in one step, with the frame in the chunk and the posterior of each."""

    tokens: list[int]
    frames: list[int]
    probs: list[float]


class Runner(Protocol):
    """The device. Engine thread only.

    Attributes:
        boosts: whether it can prefer phrases.
    """

    boosts: bool

    def reset(self, slot: int, language: str | None, boost: PhraseBoost | None) -> None:
        """A new segment begins in `slot`.

        Args:
            slot: of the stream.
            language: that the caller named.
            boost: phrases to prefer; None always where the runner cannot.
        """
        ...

    def step(
        self, slots: Sequence[int], pos: Sequence[int], pcm: np.ndarray, right: int
    ) -> Sequence[Emitted]:
        """Compute one chunk a lane.

        Args:
            slots: distinct slot of each lane.
            pos: encoder frames of the lane's segment before this chunk.
            pcm: float32, shape (lanes, Chunks.window_samples).
            right: right context of all lanes.
        """
        ...


@dataclass(slots=True)
class Stats:
    """Counters since the start; read them from any thread.

    Attributes:
        ticks: steps computed.
        chunks: chunks computed, over all lanes.
        late: chunks whose events were posted later than a chunk's length after their audio.
        refused: calls of `open` that found no slot.
        open_streams: streams that hold a slot.
        lag_s: of the last tick's oldest chunk: end of its audio to its events' posting.
        step_s: the last step's duration.
    """

    ticks: int = 0
    chunks: int = 0
    late: int = 0
    refused: int = 0
    open_streams: int = 0
    lag_s: float = 0.0
    step_s: float = 0.0


Posting = tuple[EngineStream, int, Event]


class Scheduler:
    """Streams in, steps out. `start()` runs it on a thread of its own; tests call `tick()`."""

    def __init__(
        self,
        runner: Runner,
        chunks: dict[int, Chunks],
        new_transcript: Callable[[], Transcript],
        *,
        slots: int,
        max_batch: int = 1024,
        language: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a scheduler.

        Args:
            runner: the device.
            chunks: geometry by right context.
            new_transcript: makes an empty transcript for a segment.
            slots: streams at most.
            max_batch: lanes a step, at most.
            language: written into finals whose stream names none.
            clock: monotonic seconds.
        """
        self.runner = runner
        self.chunks = chunks
        self.new_transcript = new_transcript
        self.slots = slots
        self.max_batch = max_batch
        self.language = language
        self.clock = clock
        self.stats = Stats()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _free and _dead
        self._free = list(range(slots - 1, -1, -1))
        self._dead: EngineClosed | None = None
        self._streams: set[EngineStream] = set()
        self._ready: dict[EngineStream, None] = {}  # in the order of becoming ready
        self._postings: list[Posting] = []
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
            self._check_alive()
            if not self._free:
                self.stats.refused += 1
                raise EngineFull(self.slots)
            slot = self._free.pop()
            stream = EngineStream(
                self._post, on_event, deliver, options, self.chunks[right], slot, boost
            )
            self._streams.add(stream)
            self.stats.open_streams = len(self._streams)
        return stream

    def _check_alive(self) -> None:
        if self._dead:
            raise EngineClosed(str(self._dead)) from self._dead.__cause__

    def _post(self, request: Request) -> None:
        self._check_alive()
        self._requests.put(request)

    def start(self, name: str) -> None:
        """Run ticks on a thread of their own until `stop()`."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; open streams get `Failed`. Idempotent."""
        self._requests.put(None)
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    # -- engine thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._apply_requests(wait=not self._ready):
                self.tick()
            self._die(EngineClosed("the recogniser was closed"))
        except BaseException as error:
            log.exception("the engine thread died")
            dead = EngineClosed(f"the engine thread died: {error!r}; restart the process")
            dead.__cause__ = error
            self._die(dead)

    def _die(self, error: EngineClosed) -> None:
        with self._lock:
            self._dead = error
            streams = list(self._streams)
            self._streams.clear()
            self.stats.open_streams = 0
        # A cancelled segment's number cannot be asked for again, so -1 reaches everybody.
        self._postings += [(s, -1, Failed(error)) for s in streams]
        self._publish()

    def _apply_requests(self, wait: bool) -> bool:
        """Take over what callers asked for; False once `stop()` was called."""
        try:
            request = self._requests.get(block=wait)
            while request is not None:
                self._apply(request)
                request = self._requests.get(block=False)
            return False
        except queue.Empty:
            return True

    def _apply(self, request: Request) -> None:
        stream = request.stream
        match request.kind:
            case "feed":
                segment = self._segment(stream, request.segment)
                assert request.pcm is not None
                segment.pcm.append(request.pcm)
                segment.arrivals.append((segment.pcm.end, request.time))
            case "finish":
                segment = self._segment(stream, request.segment)
                segment.finished_at = request.time
                if stream._options.final_pass == "full":
                    self._restart(segment)
            case "cancel":
                kept = [s for s in stream._segments if s.number != request.segment]
                stream._segments.clear()
                stream._segments.extend(kept)
            case "close":
                self._close(stream)
                return
            case _:
                assert_never(request.kind)
        self._update_ready(stream)

    def _segment(self, stream: EngineStream, number: int) -> Segment:
        """The segment with this number: always the newest, or one after it."""
        if not stream._segments or stream._segments[-1].number != number:
            keep = stream._options.final_pass == "full"
            stream._segments.append(Segment(number, stream._chunks, self.new_transcript(), keep))
        return stream._segments[-1]

    def _restart(self, segment: Segment) -> None:
        """Decode the segment again, at the widest look-ahead, for its final.

        The steps of a wide look-ahead are long, so a few seconds take a few of them.
        """
        segment.chunks = self.chunks[max(self.chunks)]
        segment.transcript = self.new_transcript()
        segment.chunk = 0

    def _close(self, stream: EngineStream) -> None:
        self._ready.pop(stream, None)
        stream._segments.clear()
        with self._lock:
            if stream in self._streams:
                self._streams.remove(stream)
                self._free.append(stream._slot)
                self.stats.open_streams = len(self._streams)

    def _update_ready(self, stream: EngineStream) -> None:
        """Finish segments that have nothing left to compute; see whether a chunk is there."""
        while stream._segments:
            segment = stream._segments[0]
            if segment.ready():
                self._ready.setdefault(stream)
                return
            if segment.finished_at is None:
                break
            self._finalise(stream, stream._segments.popleft())
        self._ready.pop(stream, None)

    def tick(self) -> bool:
        """One step for whoever waits longest and all that can share it; False if nobody waits."""
        batch = self._pick()
        if batch:
            self._step(batch)
        self._publish()
        return bool(batch)

    def _pick(self) -> list[EngineStream]:
        if not self._ready:
            return []
        order = sorted(self._ready, key=lambda stream: stream._segments[0].due())
        right = order[0]._segments[0].chunks.right
        same = [s for s in order if s._segments[0].chunks.right == right]
        return same[: self.max_batch]

    def _step(self, batch: list[EngineStream]) -> None:
        chunks = batch[0]._segments[0].chunks
        pcm = np.empty((len(batch), chunks.window_samples), dtype=np.float32)
        dues = [s._segments[0].due() for s in batch]
        for row, stream in zip(pcm, batch, strict=True):
            segment = stream._segments[0]
            if segment.chunk == 0:
                self.runner.reset(stream._slot, stream._options.language, stream._boost)
            segment.pcm.read(*chunks.window(segment.chunk), out=row)
        began = self.clock()
        emitted = self.runner.step(
            [s._slot for s in batch],
            [s._segments[0].chunk * chunks.frames for s in batch],
            pcm,
            chunks.right,
        )
        now = self.clock()
        for stream, emission in zip(batch, emitted, strict=True):
            self._accept(stream, stream._segments[0], emission)
            self._update_ready(stream)
        self.stats.ticks += 1
        self.stats.chunks += len(batch)
        self.stats.step_s = now - began
        self.stats.lag_s = now - dues[0]
        self.stats.late += sum(now - due > chunks.samples / SAMPLE_RATE for due in dues)

    def _accept(self, stream: EngineStream, segment: Segment, emission: Emitted) -> None:
        chunks = segment.chunks
        first_frame = segment.chunk * chunks.frames
        segment.chunk += 1
        if not segment.keep:
            segment.pcm.drop_before(chunks.window(segment.chunk)[0])
        for token, frame, prob in zip(
            emission.tokens, emission.frames, emission.probs, strict=True
        ):
            segment.transcript.append(token, first_frame + frame, prob)
        again = segment.keep and segment.finished_at is not None
        if emission.tokens and stream._options.partials and not again:
            audio_s = segment.pcm.end / SAMPLE_RATE
            end = chunks.needed(segment.chunk - 1) / SAMPLE_RATE
            t = segment.transcript
            partial = Partial(
                t.text,
                tuple(t.tokens),
                t.words(audio_s),
                min(end, audio_s),
                self._language(stream, t),
            )
            self._postings.append((stream, segment.number, partial))

    def _finalise(self, stream: EngineStream, segment: Segment) -> None:
        assert segment.finished_at is not None
        audio_s = segment.pcm.end / SAMPLE_RATE
        t = segment.transcript
        final = Final(
            text=t.text,
            tokens=tuple(t.tokens),
            words=t.words(audio_s),
            language=self._language(stream, t),
            audio_s=audio_s,
            decode_ms=(self.clock() - segment.finished_at) * 1000,
        )
        self._postings.append((stream, segment.number, final))

    def _language(self, stream: EngineStream, transcript: Transcript) -> str | None:
        return stream._options.language or transcript.language or self.language

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
            except RuntimeError as error:  # the event loop is closed: nobody is there to hear
                log.debug("%d events not delivered: %s", len(postings), error)


def _dispatch(postings: list[Posting]) -> None:
    """Run callbacks where the caller wants them, dropping what was cancelled meanwhile."""
    for stream, segment, event in postings:
        if stream._wants(segment):
            try:
                stream._on_event(event)
            except Exception:
                log.exception("a stream's callback failed; the others go on")

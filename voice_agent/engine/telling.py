"""What a step said becomes transcripts, partials and finals, and reaches the callers.

Engine thread, but for `_dispatch`, which runs where the callers want their callbacks.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from voice_agent.engine.device import Step
from voice_agent.engine.emissions import Emissions, Said
from voice_agent.engine.errors import EngineError
from voice_agent.engine.heard import HeardPartial
from voice_agent.engine.inbox import Request
from voice_agent.engine.lanes import Lanes
from voice_agent.engine.recognizer import SAMPLE_RATE, Deliver, Event, Failed, Final
from voice_agent.engine.rings import Rings
from voice_agent.engine.second_pass import SecondPass
from voice_agent.engine.stats import Stats
from voice_agent.engine.streams import EngineStream
from voice_agent.engine.taking import Taken, Takers
from voice_agent.engine.text import Transcript

log = logging.getLogger(__name__)

Posting = tuple[EngineStream, int, Event]
"""A stream, the number of its segment, and what it is told."""


class Telling:
    """The way from tokens to callers; see the module's docstring."""

    def __init__(
        self,
        new_transcript: Callable[[], Transcript],
        *,
        owners: Sequence[EngineStream | None],
        passes: dict[int, SecondPass],
        lanes: Lanes,
        rings: Rings,
        takers: Takers,
        stats: Stats,
        rest: Callable[[int], Said] | None,
        clock: Callable[[], float],
        language: str | None,
    ) -> None:
        """Look at the scheduler's tables.

        Args:
            new_transcript: makes an empty transcript for a segment.
            owners: streams by slot.
            passes: second passes under way, by slot.
            lanes: where segments stand.
            rings: what was written.
            takers: who takes tokens as they are.
            stats: where events are counted that nobody took.
            rest: of the runner, where it has one (`voice_agent.engine.device.Runner`).
            clock: monotonic seconds.
            language: of finals whose stream names none.
        """
        self._new_transcript = new_transcript
        self._owners = owners
        self._passes = passes
        self._lanes = lanes
        self._rings = rings
        self._takers = takers
        self._stats = stats
        self._rest = rest
        self._clock = clock
        self._default_language = language
        self._postings: list[Posting] = []
        self._taken: list[tuple[int, Taken]] = []  # with their takers

    def failed(self, streams: Sequence[EngineStream], error: EngineError) -> None:
        """The last event of these streams."""
        # A cancelled segment's number cannot be asked for again, so -1 reaches everybody.
        self._postings += [(stream, -1, Failed(error)) for stream in streams]

    def accept(self, step: Step, current: np.ndarray, said: Emissions) -> None:
        """Write what was said into the transcripts of those who said it, and tell them.

        Args:
            step: that was computed.
            current: of its streaming lanes, whether their segments are still the current ones.
            said: what came back.
        """
        n = len(step.slots)
        lanes, frames = said.lanes, step.chunks.frames
        if step.passes:
            self._accept_again(step, said)
        # Whoever left, or began another segment, during the step is not told of it any more.
        here = np.flatnonzero(current[np.minimum(lanes, n - 1)] & (lanes < n)) if n else lanes[:0]
        lanes = lanes[here]
        taker = self._takers.taker[step.slots[lanes]]
        if (taken := taker >= 0).any():
            self._take(step, taker[taken], here[taken], said)
            lanes, here = lanes[~taken], here[~taken]
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
                transcript = self._transcript(stream)
                if stream._options.partials:
                    heard.append(stream)
                    spoke.append(lane)
            transcript.append(token, frame, prob)
        if heard:
            self._tell(step, heard, np.array(spoke))

    def _take(self, step: Step, taker: np.ndarray, at: np.ndarray, said: Emissions) -> None:
        """Tokens for those who write elsewhere.

        Args:
            step: that was computed.
            taker: of each token.
            at: which tokens of what was said.
            said: what came back.
        """
        by_taker = np.argsort(taker, kind="stable")  # of each, still lane after lane
        at, taker = at[by_taker], taker[by_taker]
        lanes = said.lanes[at]
        firsts = np.flatnonzero(np.diff(lanes, prepend=-1))  # of each lane that spoke
        spoke = lanes[firsts]
        slots = step.slots[spoke]
        audio_s, ends_s = self._until(step, spoke)
        frames = step.numbers[lanes] * step.chunks.frames + said.frames[at]
        by_stream = (
            self._takers.number[slots], self._takers.segment[slots],
            np.diff(firsts, append=len(lanes)), audio_s, ends_s,
        )  # fmt: skip
        by_token = said.tokens[at], frames.astype(np.int32), said.probs[at]
        begins = np.flatnonzero(np.diff(taker[firsts], prepend=-1)).tolist()
        for begin, end in itertools.pairwise([*begins, len(firsts)]):
            first = int(firsts[begin])
            last = int(firsts[end]) if end < len(firsts) else len(lanes)
            taken = Taken(*(x[begin:end] for x in by_stream), *(x[first:last] for x in by_token))
            self._taken.append((int(taker[first]), taken))

    def _until(self, step: Step, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of each lane's segment that are there, and that its tokens account for."""
        slots = step.slots[lanes]
        last = np.minimum(self._rings.written[slots], self._lanes.end[slots])
        audio_s = (last - self._lanes.base[slots]) / SAMPLE_RATE
        needed = step.chunks.needed(0) + step.numbers[lanes] * step.chunks.samples
        return audio_s, np.minimum(needed / SAMPLE_RATE, audio_s)

    def _tell(self, step: Step, heard: list[EngineStream], lanes: np.ndarray) -> None:
        """Partials for the streams on these lanes."""
        audio_s, ends_s = (seconds.tolist() for seconds in self._until(step, lanes))
        for stream, audio, end_s in zip(heard, audio_s, ends_s, strict=True):
            t = stream.decoding.transcript
            assert t is not None
            partial = HeardPartial.of(t, audio, end_s, self._language(stream, t))
            self._postings.append((stream, stream.decoding.number, partial))

    def _accept_again(self, step: Step, said: Emissions) -> None:
        """The same for second passes, which tell nothing before their final."""
        n = len(step.slots)
        first = int(np.searchsorted(said.lanes, n))
        for at in range(first, len(said.lanes)):
            again, number = step.passes[int(said.lanes[at]) - n]
            stream = again.stream
            if self._passes.get(stream._slot) is again:
                frame = number * step.chunks.frames + int(said.frames[at])
                token, prob = int(said.tokens[at]), float(said.probs[at])
                self._transcript(stream).append(token, frame, prob)

    def _transcript(self, stream: EngineStream) -> Transcript:
        """Of the stream's current segment; it is there from the first thing said on."""
        transcript = stream.decoding.transcript
        if transcript is None:
            transcript = stream.decoding.transcript = self._new_transcript()
        return transcript

    def finalise(self, stream: EngineStream, end: Request) -> None:
        """The segment that `end` finished is complete."""
        slot = stream._slot
        if stream._options.final_pass == "beam" and self._lanes.launched[slot]:
            assert self._rest is not None, "the recogniser refuses it where there is none"
            for token, frame, prob in zip(*self._rest(slot), strict=True):
                self._transcript(stream).append(token, frame, prob)
        base = int(self._lanes.base[slot])
        audio_s = (end.at.samples - base) / SAMPLE_RATE
        t = stream.decoding.transcript
        final = Final(
            text=t.text if t else "",
            tokens=tuple(t.tokens) if t else (),
            words=t.words(audio_s) if t else (),
            language=self._language(stream, t),
            audio_s=audio_s,
            decode_ms=(self._clock() - end.at.time) * 1000,
        )
        self._postings.append((stream, end.number, final))

    def _language(self, stream: EngineStream, transcript: Transcript | None) -> str | None:
        heard = transcript.language if transcript is not None else None
        return stream._options.language or heard or self._default_language

    def publish(self) -> None:
        """Hand this tick's events over: one call for each place where callbacks run."""
        if not self._postings and not self._taken:
            return
        takes: defaultdict[Deliver, list[Callable[[], None]]] = defaultdict(list)
        for taker, taken in self._taken:
            if (there := self._takers.get(taker)) is not None:
                takes[there[0]].append(functools.partial(there[1], taken))
        by_deliver: defaultdict[Deliver, list[Posting]] = defaultdict(list)
        for posting in self._postings:
            by_deliver[posting[0]._deliver].append(posting)
        self._postings, self._taken = [], []
        for deliver in takes.keys() | by_deliver.keys():
            postings = by_deliver[deliver]
            try:
                deliver(functools.partial(_dispatch, takes[deliver], postings))
            except Exception as error:  # as a rule its event loop is closed: nobody is there
                self._stats.undelivered += len(postings)
                log.debug("%d events not delivered: %r", len(postings), error)


def _dispatch(takes: Sequence[Callable[[], None]], postings: Sequence[Posting]) -> None:
    """Run callbacks where the caller wants them, dropping what was cancelled meanwhile."""
    for take in takes:
        take()
    for stream, segment, event in postings:
        if stream._wants(segment):
            try:
                stream._on_event(event)
            except Exception:
                log.exception("a stream's callback failed; the others go on")

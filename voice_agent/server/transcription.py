"""The session behind every transcription protocol: bytes in, segments of text out.

    open()            one recogniser stream for each channel that is transcribed
    audio(bytes)      decode, cut, feed
    finish(cause)     the client ends the segment: exactly one `Segment` a channel follows
    clear()           drop the open segment
    take()            what happened since the last call, in order

    SpeechStarted  Interim*  SpeechStopped  Segment      for each stretch of speech
    Failure                                              the last of all

Knows no protocol, socket, asyncio or clock. Any one thread at a time: the recogniser's events
come through `deliver`, which the owner gives. Times are seconds from the stream's first sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Failed,
    Final,
    Partial,
    Recognizer,
    Stream,
    StreamOptions,
    Word,
)
from voice_agent.server.cutter import Action, Begin, Cutter, End, Feed
from voice_agent.server.decoding import Decoder
from voice_agent.transcribe.segments import Cutting, Score

Cause = Literal["pause", "length", "client", "close"]


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The VAD is certain that somebody speaks."""

    channel: int
    at_s: float
    begin_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A segment's audio is complete; its `Segment` follows."""

    channel: int
    at_s: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class Interim:
    """The open segment so far; each replaces the one before.

    Attributes:
        lag_s: audio that had come when the text did, but that it does not account for yet.
    """

    channel: int
    text: str
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    language: str | None
    lag_s: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of audio and what was said in it.

    Attributes:
        cause: what ended it.
        decode_ms: from the end of its audio to its text; 0 where there was nothing to decode.
    """

    channel: int
    text: str
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    language: str | None
    cause: Cause
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The recogniser cannot go on; nothing follows."""

    error: EngineError


Output = SpeechStarted | SpeechStopped | Interim | Segment | Failure


@dataclass(slots=True)
class _Owed:
    """A segment whose text is not there yet; or (`empty`) one without audio, waiting its turn."""

    start: int
    end: int | None = None
    cause: Cause = "pause"
    empty: bool = False


@dataclass(slots=True)
class _Channel:
    """One channel: its cutter, its stream, and the segments that it owes, oldest first."""

    index: int
    cutter: Cutter
    stream: Stream | None = None
    owed: deque[_Owed] = field(default_factory=deque)
    deaf: int = 0  # partials to ignore: they may be a dropped segment's, still on their way


class Transcription:
    """See the module docstring.

    Attributes:
        heard_s: seconds of audio so far, per channel; other threads may read it.
        owed: segments that are complete and whose text is still to come; likewise.
        paid: segments whose text has come; likewise.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        decoder: Decoder,
        *,
        deliver: Deliver,
        cutting: Cutting | None,
        new_vad: Callable[[], Score],
        options: StreamOptions | None = None,
    ) -> None:
        """Make a session; nothing is claimed before `open`.

        Args:
            recognizer: loaded.
            decoder: of this stream.
            deliver: runs the recogniser's callbacks when no other method of this runs.
            cutting: where the VAD cuts; None for by `finish` alone.
            new_vad: makes a stream's VAD; called on the thread of the first audio.
            options: for the recogniser's streams.
        """
        self._recognizer = recognizer
        self._decoder = decoder
        self._deliver = deliver
        self._options = options or StreamOptions()
        self._channels: list[_Channel] = []
        self._cutting = cutting
        self._new_vad = new_vad
        self._out: list[Output] = []
        self._closed = False
        self.heard_s = 0.0
        self.owed = self.paid = 0

    def open(self) -> None:
        """Claim the recogniser's slots: all or none.

        Raises:
            EngineFull, EngineClosed: no slot.
            ValueError: an option that the recogniser does not serve, named.
        """
        try:
            for index in range(self._decoder.outputs):
                score = _Lazy(self._new_vad) if self._cutting is not None else None
                channel = _Channel(index, Cutter(self._cutting, score))
                channel.stream = self._open_stream(channel)
                self._channels.append(channel)
        except BaseException:
            self.close()
            raise

    def _open_stream(self, channel: _Channel) -> Stream:
        return self._recognizer.open(
            partial(self._on_event, channel), deliver=self._deliver, options=self._options
        )

    @property
    def channels(self) -> int:
        """How many are transcribed."""
        return self._decoder.outputs

    def speaking(self, channel: int) -> bool:
        """Whether a segment is open or its text is still to come."""
        return bool(self._channels[channel].owed)

    def wait_for(self, stop_s: float) -> None:
        """Let the VAD end segments only after this much pause; nothing without VAD."""
        if self._cutting is not None:
            self._cutting = replace(self._cutting, stop_s=stop_s)
            for channel in self._channels:
                channel.cutter.wait_for(stop_s)

    def audio(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            AudioFormatError: bytes that cannot be audio of this encoding.
            EngineError: the recogniser is closed or has died.
        """
        self._take_in(self._decoder.decode(data))

    def _take_in(self, pieces: list[np.ndarray]) -> None:
        for channel, pcm in zip(self._channels, pieces, strict=True):
            self._act(channel, channel.cutter.push(pcm))
        self.heard_s = self._channels[0].cutter.position / SAMPLE_RATE

    def finish(self, cause: Literal["client", "close"], channel: int | None = None) -> None:
        """End the open segment; an empty `Segment` follows where there is none.

        Args:
            cause: for the segment.
            channel: of this channel; None for every one.
        """
        chosen = self._channels if channel is None else [self._channels[channel]]
        if channel is None:
            # Else the last syllable would wait in the resampler for audio that may never come.
            self._take_in(self._decoder.flush())
        for each in chosen:
            actions = each.cutter.finish()
            self._act(each, actions, cause)
            if not actions:
                at = each.cutter.position
                each.owed.append(_Owed(at, at, cause, empty=True))
                self.owed += 1
                self._pay_empty(each)

    def clear(self) -> bool:
        """Drop the open segment and the audio before it; segments that ended stay.

        Returns:
            Whether a segment was open: no `SpeechStopped` and no `Segment` follow for it.
        """
        self._take_in(self._decoder.flush())
        dropped = False
        for channel in self._channels:
            channel.cutter.drop()
            if channel.owed and channel.owed[-1].end is None:
                dropped = True
                channel.owed.pop()
                assert channel.stream is not None
                channel.stream.cancel()
                channel.deaf += 1
                self._deliver(partial(_hear_again, channel))
        return dropped

    def _act(self, channel: _Channel, actions: list[Action], cause: Cause | None = None) -> None:
        assert channel.stream is not None
        for action in actions:
            match action:
                case Begin(at=at, onset=onset):
                    channel.owed.append(_Owed(at))
                    self._out.append(
                        SpeechStarted(channel.index, onset / SAMPLE_RATE, at / SAMPLE_RATE)
                    )
                case Feed(pcm=pcm):
                    channel.stream.feed(pcm)
                case End(at=at, cause=own):
                    owed = channel.owed[-1]
                    owed.end, owed.cause = at, cause or own
                    self.owed += 1
                    channel.stream.finish()
                    self._out.append(SpeechStopped(channel.index, at / SAMPLE_RATE, owed.cause))

    def _on_event(self, channel: _Channel, event: Event) -> None:
        if self._closed:
            return
        match event:
            case Partial():
                self._interim(channel, event)
            case Final():
                self._segment(channel, event)
            case Failed(error=error):
                self._out.append(Failure(error))

    def _interim(self, channel: _Channel, event: Partial) -> None:
        if not channel.owed or channel.deaf:
            return
        owed = channel.owed[0]
        start_s = owed.start / SAMPLE_RATE
        end = owed.end if owed.end is not None else channel.cutter.position
        self._out.append(
            Interim(
                channel.index,
                event.text,
                _shifted(event.words, start_s),
                start_s,
                start_s + event.audio_end_s,
                event.language,
                max(0.0, (end - owed.start) / SAMPLE_RATE - event.audio_end_s),
            )
        )

    def _segment(self, channel: _Channel, event: Final) -> None:
        owed = channel.owed.popleft()
        assert owed.end is not None, "a final comes after its finish"
        self._pay()
        start_s = owed.start / SAMPLE_RATE
        self._out.append(
            Segment(
                channel.index,
                event.text,
                _shifted(event.words, start_s),
                start_s,
                owed.end / SAMPLE_RATE,
                event.language,
                owed.cause,
                event.decode_ms,
            )
        )
        self._pay_empty(channel)

    def _pay(self) -> None:
        self.owed -= 1
        self.paid += 1

    def _pay_empty(self, channel: _Channel) -> None:
        """Let out segments without audio whose turn has come."""
        while channel.owed and channel.owed[0].empty:
            owed = channel.owed.popleft()
            self._pay()
            at_s = owed.start / SAMPLE_RATE
            self._out.append(Segment(channel.index, "", (), at_s, at_s, None, owed.cause))

    def take(self) -> list[Output]:
        """Return what happened since the last call, and forget it."""
        out, self._out = self._out, []
        return out

    def close(self) -> None:
        """Give the slots back. Idempotent; nothing happens afterwards."""
        self._closed = True
        for channel in self._channels:
            if channel.stream is not None:
                channel.stream.close()


def _hear_again(channel: _Channel) -> None:
    channel.deaf -= 1


class _Lazy:
    """A VAD that is made when it is first asked: making one may load a file."""

    def __init__(self, make: Callable[[], Score]) -> None:
        self._make = make
        self._score: Score | None = None

    def __call__(self, window: object) -> float:
        if self._score is None:
            self._score = self._make()
        return self._score(window)  # type: ignore[arg-type]


def _shifted(words: tuple[Word, ...], by_s: float) -> tuple[Word, ...]:
    return tuple(Word(w.word, w.start_s + by_s, w.end_s + by_s, w.confidence) for w in words)

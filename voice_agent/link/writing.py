"""A front-end writes the text of what the engine says in tokens (`voice_agent.engine.taking`).

Writing      what the engine's tokens mean
Manuscript   of one stream: a transcript of each segment that is open
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from voice_agent.engine.heard import HeardPartial
from voice_agent.engine.recognizer import Final, StreamOptions
from voice_agent.engine.taking import Taken
from voice_agent.engine.text import Tokenizer, Transcript


@dataclass(frozen=True, slots=True)
class Writing:
    """What the engine's tokens mean.

    Attributes:
        tokenizer: surfaces by id.
        frame_s: seconds of an encoder frame.
        language: of what is written, unless its stream or its text says another.
    """

    tokenizer: Tokenizer
    frame_s: float
    language: str | None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Writing:
        """As the engine describes it in its HELLO."""
        tokenizer = Tokenizer(tuple(described["surfaces"]), described["tags"])
        return cls(tokenizer, described["frame_s"], described["language"])


Said = list[tuple[int, int, float]]
"""Tokens, each with its frame and posterior."""


def by_stream(taken: Taken) -> Iterator[tuple[int, int, Said, float, float]]:
    """What a step said: number, segment, tokens, `audio_s` and `ends_s` of each stream."""
    said = list(
        zip(taken.tokens.tolist(), taken.frames.tolist(), taken.probs.tolist(), strict=True)
    )
    at = 0
    for number, segment, count, audio_s, end_s in zip(
        taken.numbers.tolist(), taken.segments.tolist(), taken.counts.tolist(),
        taken.audio_s.tolist(), taken.ends_s.tolist(), strict=True,
    ):  # fmt: skip
        yield number, segment, said[at : at + count], audio_s, end_s
        at += count


class Manuscript:
    """Event loop only."""

    def __init__(self, writing: Writing, options: StreamOptions) -> None:
        """Nothing is written yet.

        Args:
            writing: of the engine.
            options: of the stream.
        """
        self._writing = writing
        self._options = options
        self._segments: dict[int, Transcript] = {}

    def write(self, segment: int, said: Said, audio_s: float, end_s: float) -> HeardPartial | None:
        """Go on with a segment.

        Args:
            segment: which one.
            said: its next tokens.
            audio_s: see `Taken`.
            end_s: see `Taken`.

        Returns:
            What is to be told of it; None where no partials are wanted.
        """
        transcript = self._segments.get(segment)
        if transcript is None:
            for old in [s for s in self._segments if s < segment]:
                del self._segments[old]  # it was cancelled: its final would have come before this
            transcript = Transcript(self._writing.tokenizer, self._writing.frame_s)
            self._segments[segment] = transcript
        for token, frame, prob in said:
            transcript.append(token, frame, prob)
        if not self._options.partials:
            return None
        return HeardPartial.of(transcript, audio_s, end_s, self._language(transcript))

    def finish(self, segment: int, final: Final) -> Final:
        """The segment's final, which came without its text."""
        transcript = self._segments.pop(segment, None)
        if transcript is None:
            return final
        return replace(
            final,
            text=transcript.text,
            tokens=tuple(transcript.tokens),
            words=transcript.words(final.audio_s),
            language=self._language(transcript),
        )

    def _language(self, transcript: Transcript) -> str | None:
        return self._options.language or transcript.language or self._writing.language

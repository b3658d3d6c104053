"""Transcripts as text, JSON, SubRip and WebVTT.

    txt    one line a segment
    json   a list with one object a file: file, text, language, segments[]
    srt    cues of at most two lines, from the words' times
    vtt    the same

Pure: transcripts in, text out.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from voice_agent.engine.recognizer import Word
from voice_agent.transcribe.transcriber import Segment, Transcript

CUE_LINE = 42
"""Characters on a line of subtitles, as broadcasters have it."""

CUE_S = 6.0
"""Seconds that one cue stays at most."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle.

    Attributes:
        start_s: when it appears.
        end_s: when it goes.
        text: what it says, on one line.
    """

    start_s: float
    end_s: float
    text: str


def to_txt(transcript: Transcript) -> str:
    """One line a segment; empty where nothing was said."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def to_json(transcripts: Sequence[Transcript]) -> str:
    """A list with one object for each file; times in seconds from the file's start."""
    return json.dumps([_as_dict(t) for t in transcripts], ensure_ascii=False, indent=2) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, times with a comma."""
    return "\n".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT: a header, then cues, times with a point."""
    blocks = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escaped(_lines(cue))}\n"
        for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Break segments where a cue is full, at word ends.

    Args:
        transcript: where a recogniser gives no word times, they are estimated.

    Yields:
        Cues in order.
    """
    for segment in transcript.segments:
        yield from _cues_of(segment)


def _cues_of(segment: Segment) -> Iterator[Cue]:
    words = segment.words or _spread(segment)
    begin = 0
    for i in range(1, len(words) + 1):
        if i < len(words):
            text = " ".join(w.word for w in words[begin : i + 1])
            fits = len(textwrap.wrap(text, CUE_LINE)) <= 2
            if fits and words[i].end_s - words[begin].start_s <= CUE_S:
                continue
        text = " ".join(w.word for w in words[begin:i])
        yield Cue(words[begin].start_s, words[i - 1].end_s, text)
        begin = i


def _spread(segment: Segment) -> tuple[Word, ...]:
    """Times for words that have none: each takes its share of the segment by its letters."""
    texts = segment.text.split()
    per_letter_s = (segment.end_s - segment.start_s) / max(1, sum(map(len, texts)))
    ends = [segment.start_s + n * per_letter_s for n in accumulate(map(len, texts))]
    starts = [segment.start_s, *ends]
    return tuple(
        Word(text, start, end, 0.0) for text, start, end in zip(texts, starts, ends, strict=False)
    )


def _lines(cue: Cue) -> str:
    return "\n".join(textwrap.wrap(cue.text, CUE_LINE))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    total_ms = round(seconds * 1000)
    hours, rest = divmod(total_ms, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole_s, ms = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole_s:02d}{point}{ms:03d}"


def _as_dict(transcript: Transcript) -> dict[str, Any]:
    return {
        "file": transcript.file,
        "text": transcript.text,
        "language": transcript.language,
        "segments": [
            {
                "text": segment.text,
                "start_s": round(segment.start_s, 3),
                "end_s": round(segment.end_s, 3),
                "tokens": list(segment.tokens),
                "words": [
                    {
                        "word": word.word,
                        "start_s": round(word.start_s, 3),
                        "end_s": round(word.end_s, 3),
                        "confidence": round(word.confidence, 4),
                    }
                    for word in segment.words
                ],
            }
            for segment in transcript.segments
        ],
    }

"""Measures when words come: how long after its sound a streaming model says each.

    python -m training.lateness --model tiny-en --speech ../shared/speech

Where words end in the audio PocketSphinx finds, by forced alignment with the transcript; where a
model has said one its tokens tell: the last of them belongs to an encoder frame, and that is
computed when the audio of its chunk has been heard. Counted is the time between the two in the
audio, of the words that are heard right. What computing takes is no part of it: see
`voice-agent bench ttfs`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import jiwer
import numpy as np

from training.align import Aligner
from training.measure import read_manifest
from training.mel import HOP, SAMPLE_RATE
from voice_agent.bench.wer import transcribe_clip
from voice_agent.engine.loading import load_recognizer
from voice_agent.engine.recognizer import Recognizer, StreamOptions, Word

FRAME_S = 8 * HOP / SAMPLE_RATE


def known_at(end_s: float, right: int) -> float:
    """Return when a word has been said whose last token's frame ends at `end_s`, in seconds.

    A chunk is `right` + 1 frames, and all of them are computed when it is complete.
    """
    chunk = right + 1
    return math.ceil(round(end_s / FRAME_S) / chunk) * chunk * FRAME_S


def late(said: Sequence[tuple[str, float]], heard: Sequence[Word], right: int) -> Iterable[float]:
    """Yield how late each word comes that was heard right, in seconds.

    Args:
        said: words, and where each ends in the audio.
        heard: the model's.
        right: right context of the stream, in frames.
    """
    if not heard:
        return
    found = jiwer.process_words(" ".join(w for w, _ in said), " ".join(w.word for w in heard))
    for part in found.alignments[0]:
        if part.type == "equal":
            pairs = zip(
                said[part.ref_start_idx : part.ref_end_idx],
                heard[part.hyp_start_idx : part.hyp_end_idx],
                strict=True,
            )
            for (_, end), word in pairs:
                yield known_at(word.end_s, right) - end


def aligned(aligner: Aligner, manifest: Path) -> list[tuple[np.ndarray, list[tuple[str, float]]]]:
    """Return the audio of clips, and their words with the seconds at which each ends.

    Clips that cannot be aligned are left out, as are those with a word that the dictionary lacks.
    """
    clips = []
    for clip in read_manifest(manifest):
        found = aligner(np.round(clip.audio * 32767.0).astype(np.int16), clip.text)
        if found is not None:
            clips.append((clip.audio, [(word, end / SAMPLE_RATE) for word, _, end in found[1]]))
    return clips


def measure(
    recognizer: Recognizer, clips: list[tuple[np.ndarray, list[tuple[str, float]]]], right: int
) -> list[float]:
    """Return the lateness of every word of `aligned` clips that was heard right, in seconds."""
    options = StreamOptions(right_context=right)
    every: list[float] = []
    for audio, said in clips:
        every += late(said, transcribe_clip(recognizer, audio, options).words, right)
    return every


def main() -> None:
    """Read the command line and print a line for each right context."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="tiny-en", help="of lower-case words: an embedded name or a .nemo file"
    )
    parser.add_argument("--speech", type=Path, required=True, help="folder of human speech: dev/")
    parser.add_argument("--right-context", type=int, nargs="+", default=[0, 1, 6, 13])
    args = parser.parse_args()
    clips = aligned(Aligner(), args.speech / "dev/manifest.jsonl")
    recognizer = load_recognizer(args.model)
    try:
        for right in args.right_context:
            found = 1000 * np.array(measure(recognizer, clips, right))
            low, middle, high = np.percentile(found, [5, 50, 95])
            print(
                f"right {right}: {middle:.0f} ms after its end (p5 {low:.0f}, p95 {high:.0f}; "
                f"{len(found)} words)",
                flush=True,
            )
    finally:
        recognizer.close()


if __name__ == "__main__":
    main()

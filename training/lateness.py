"""Measures when words come: how long after its sound a streaming model says each.

    python -m training.lateness --model tiny-en --speech ../shared/speech

Where words end in the audio PocketSphinx finds, by forced alignment with the transcript; when a
model has said one its partials tell: it hears a clip chunk by chunk, and the next one only when it
has said what it has to say of the last. Counted is the time between the two in the audio, of the
words that are heard right. What computing takes is no part of it: see `voice-agent bench ttfs`.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import jiwer
import numpy as np

from training.align import Aligner
from training.measure import read_manifest
from training.mel import HOP, SAMPLE_RATE
from voice_agent.engine.loading import load_recognizer
from voice_agent.engine.nemotron import NemotronRecognizer
from voice_agent.engine.recognizer import Event, Failed, FinalPass, Partial, StreamOptions

FRAME = 8 * HOP  # samples
PATIENCE_S = 60.0
Timed = Sequence[tuple[str, float]]  # words, each with a moment in seconds


def told(recognizer: NemotronRecognizer, audio: np.ndarray, options: StreamOptions) -> Timed:
    """Return the words that a model hears, and how much audio it had heard when it said each.

    What it says only when the clip has ended counts as said at its end.

    Args:
        recognizer: of a model that streams.
        audio: float32, shape (n,), 16 kHz.
        options: with a right context.

    Raises:
        EngineError: the recogniser failed.
        TimeoutError: it does not go on.
    """
    computed, ended = threading.Semaphore(0), threading.Event()
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        if not isinstance(event, Partial):
            ended.set()

    said: Timed = []
    recognizer.record_lags(lambda *_: computed.release())
    stream = recognizer.open(hear, options=options)
    try:
        chunk = (stream.right + 1) * FRAME
        for end in range(chunk, len(audio) + 1, chunk):
            stream.feed(audio[end - chunk : end])
            if not computed.acquire(timeout=PATIENCE_S):
                raise TimeoutError(f"the engine has computed no chunk for {PATIENCE_S:.0f} s")
            for event in heard:
                said = _grown(said, event, end / SAMPLE_RATE)
            heard.clear()
        stream.feed(audio[len(audio) // chunk * chunk :])
        stream.finish()
        ended.wait()
    finally:
        stream.close()
        recognizer.record_lags(None)
    return _grown(said, heard[-1], len(audio) / SAMPLE_RATE)


def _grown(said: Timed, event: Event, moment: float) -> Timed:
    """Return the words of `event`; those that are new, or other ones, are of `moment`."""
    if isinstance(event, Failed):
        raise event.error
    words = event.text.split()
    known = [*said, *[("", 0.0)] * len(words)]
    return [known[at] if known[at][0] == word else (word, moment) for at, word in enumerate(words)]


def late(said: Timed, heard: Timed) -> Iterable[float]:
    """Yield how late each word comes that was heard right, in seconds.

    Args:
        said: words, and where each ends in the audio.
        heard: the model's, and when it had said each.
    """
    if not heard:
        return
    found = jiwer.process_words(" ".join(w for w, _ in said), " ".join(w for w, _ in heard))
    for part in found.alignments[0]:
        if part.type == "equal":
            pairs = zip(
                said[part.ref_start_idx : part.ref_end_idx],
                heard[part.hyp_start_idx : part.hyp_end_idx],
                strict=True,
            )
            for (_, end), (_, moment) in pairs:
                yield moment - end


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
    recognizer: NemotronRecognizer,
    clips: Sequence[tuple[np.ndarray, Timed]],
    options: StreamOptions,
) -> list[float]:
    """Return the lateness of every word of `aligned` clips that was heard right, in seconds."""
    return [s for audio, said in clips for s in late(said, told(recognizer, audio, options))]


def main() -> None:
    """Read the command line and print a line for each right context and way of decoding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="tiny-en", help="of lower-case words: an embedded name or a .nemo file"
    )
    parser.add_argument("--speech", type=Path, required=True, help="folder of human speech: dev/")
    parser.add_argument("--right-context", type=int, nargs="+", default=[0, 1, 6, 13])
    parser.add_argument(
        "--final-pass", choices=get_args(FinalPass), nargs="+", default=["beam", "stream"]
    )
    args = parser.parse_args()
    clips = aligned(Aligner(), args.speech / "dev/manifest.jsonl")
    recognizer = load_recognizer(args.model)
    if not isinstance(recognizer, NemotronRecognizer):
        parser.error(f"{args.model} does not stream")
    try:
        for final_pass in args.final_pass:
            for right in args.right_context:
                options = StreamOptions(right_context=right, final_pass=final_pass)
                found = 1000 * np.array(measure(recognizer, clips, options))
                low, middle, high = np.percentile(found, [5, 50, 95])
                print(
                    f"{final_pass}, right {right}: {middle:.0f} ms after its end "
                    f"(p5 {low:.0f}, p95 {high:.0f}; {len(found)} words)",
                    flush=True,
                )
    finally:
        recognizer.close()


if __name__ == "__main__":
    main()

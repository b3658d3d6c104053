"""The speech that the demo plays: 48 kHz mono, with its text and the ends of its phrases.

By default sixteen seconds of a human voice reading Dickens, `two_cities.wav` of the
moonshine-voice wheel (the extra `demo`); the recording itself is not ours to ship.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from voice_agent.demo.errors import DemoError
from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.transcribe.segments import WINDOW, Score, silero

CLIP_RATE = 48_000
"""Samples a second of a clip: Opus' own rate."""

DICKENS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of light, it was the season of darkness"
)
_DICKENS_FROM_S, _DICKENS_TO_S = 0.7, 17.2  # in a pause on either side

_PHRASE_GAP_S = 0.15  # shorter pauses are inside a phrase
_SPEECH = 0.5


@dataclass(frozen=True, slots=True)
class Clip:
    """What is played.

    Attributes:
        name: for the screen.
        pcm: int16, shape (n,), 48 kHz mono.
        text: what it says; None where nobody told.
        speech_ends_s: ends of its phrases, in seconds from its start, ascending.
    """

    name: str
    pcm: np.ndarray
    text: str | None
    speech_ends_s: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.pcm.size / CLIP_RATE

    def speech_end_before(self, clip_s: float) -> float | None:
        """The last end of a phrase before a moment; None where there is none.

        Args:
            clip_s: seconds from the clip's start, which may be after its end.
        """
        ends = [end for end in self.speech_ends_s if end <= clip_s]
        return ends[-1] if ends else None


def known_clip() -> Clip:
    """The excerpt whose text we know.

    Raises:
        DemoError: the wheel that holds it is not installed.
    """
    spec = find_spec("moonshine_voice")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    path = folder / "assets" / "two_cities.wav" if folder is not None else None
    if path is None or not path.is_file():
        raise DemoError(
            "the demo's clip is not installed: pip install 'voice-agent[demo]', or name a "
            "recording of speech with --clip"
        )
    return load_clip(str(path), DICKENS, from_s=_DICKENS_FROM_S, to_s=_DICKENS_TO_S)


def load_clip(
    file: str, text: str | None = None, *, from_s: float = 0.0, to_s: float | None = None
) -> Clip:
    """Read a clip and find its phrases.

    Args:
        file: any audio that libsndfile reads.
        text: what it says, if known.
        from_s: where to begin in the file.
        to_s: where to end; None for the file's end.

    Raises:
        AudioFileError: it cannot be read.
        DemoError: nothing lies between `from_s` and `to_s`.
    """
    import soxr

    from voice_agent.transcribe.audio import open_audio

    with open_audio(file) as audio:
        wanted = slice(round(from_s * CLIP_RATE), None if to_s is None else round(to_s * CLIP_RATE))
        samples = np.concatenate(list(audio.pieces(CLIP_RATE)))[wanted]
    if not samples.size:
        raise DemoError(f"{file}: there is no audio between {from_s} s and {to_s} s")
    heard = soxr.resample(samples, CLIP_RATE, SAMPLE_RATE)
    return Clip(
        name=Path(file).name,
        pcm=(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16),
        text=text,
        speech_ends_s=_phrase_ends(heard, silero()),
    )


def _phrase_ends(pcm: np.ndarray, score: Score) -> tuple[float, ...]:
    """Ends of the runs of speech, in seconds."""
    window_s = WINDOW / SAMPLE_RATE
    gap = round(_PHRASE_GAP_S / window_s)
    windows = pcm[: pcm.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    voiced = np.flatnonzero([score(window) >= _SPEECH for window in windows])
    if not voiced.size:
        return ()
    last_of_phrase = np.append(np.diff(voiced) > gap, True)
    return tuple((voiced[last_of_phrase] + 1) * window_s)

"""Audio files as mono float32 pieces at one rate, whatever their own rate, channels and format.

Reading, mixing and resampling go a second at a time, so an hour costs no more memory than a
minute. Formats are libsndfile's: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, CAF and more.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.transcribe.errors import AudioFileError

if TYPE_CHECKING:
    import soundfile

STDIN = "-"
_PIECE_S = 1.0
_SPOOL_BYTES = 64 << 20  # what of stdin is kept in memory; more goes to a temporary file


class AudioFile:
    """An open audio file.

    Attributes:
        name: as it was given; "-" for stdin.
        rate: its own sample rate in Hz.
        channels: its own channels.
        duration_s: its length in seconds.
    """

    def __init__(self, name: str, sound: soundfile.SoundFile, stream: IO[bytes] | None) -> None:
        """Wrap an opened file; use `open_audio`."""
        self.name = name
        self.rate: int = sound.samplerate
        self.channels: int = sound.channels
        self.duration_s: float = sound.frames / sound.samplerate
        self._sound = sound
        self._stream = stream

    def pieces(self, rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
        """Read the file once from its start.

        Args:
            rate: samples a second that are wanted.

        Yields:
            float32, shape (n,), mono, about a second each.

        Raises:
            AudioFileError: damaged further on, or samples that are not finite.
        """
        import soundfile
        import soxr

        resample = None
        if self.rate != rate:
            resample = soxr.ResampleStream(self.rate, rate, 1, dtype="float32")
        frames = max(1, round(self.rate * _PIECE_S))
        last = False
        while not last:
            try:
                read = self._sound.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioFileError(self.name, f"cannot be read to its end: {error}") from error
            last = len(read) < frames
            piece = read.mean(axis=1) if self.channels > 1 else read[:, 0]
            if not np.isfinite(piece).all():
                raise AudioFileError(self.name, "holds samples that are NaN or infinite")
            if resample is not None:
                piece = resample.resample_chunk(piece, last=last)
            if piece.size:
                yield np.ascontiguousarray(piece, dtype=np.float32)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._sound.close()
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(name: str, stdin: IO[bytes] | None = None) -> AudioFile:
    """Open a file, or stdin for "-".

    Args:
        name: path, or "-".
        stdin: where "-" reads; None for the process's own.

    Raises:
        AudioFileError: missing, unreadable, empty, or no audio that libsndfile knows.
    """
    import soundfile

    stream = _spool(stdin) if name == STDIN else _open(name)
    try:
        if not stream.seek(0, 2):
            raise AudioFileError(name, "is empty")
        stream.seek(0)
        try:
            sound = soundfile.SoundFile(stream)
        except soundfile.LibsndfileError as error:
            # Its own text repeats the file object; the part after the colon is the reason.
            why = str(error).rsplit(": ", 1)[-1].rstrip(".")
            raise AudioFileError(
                name,
                f"is no audio that can be read ({why}); convert it first, for example with "
                f"ffmpeg -i INPUT speech.wav",
            ) from error
        if sound.frames == 0:
            raise AudioFileError(name, "holds no samples")
    except BaseException:
        stream.close()
        raise
    return AudioFile(name, sound, stream)


def _open(name: str) -> IO[bytes]:
    path = Path(name)
    if path.is_dir():
        raise AudioFileError(name, "is a folder; name the files in it")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise AudioFileError(name, "no such file") from None
    except OSError as error:
        raise AudioFileError(name, f"cannot be opened: {error.strerror}") from error


def _spool(stdin: IO[bytes] | None) -> IO[bytes]:
    source = stdin if stdin is not None else sys.stdin.buffer
    if source.isatty():
        raise AudioFileError(STDIN, "stdin is a terminal; pipe an audio file into it")
    # libsndfile seeks; a pipe cannot.
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
    while block := source.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return spool

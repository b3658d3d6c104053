"""Raw PCM as it comes from outside, made into what recognisers take: 16 kHz mono int16.

    MonoResampler   bytes at any rate and channel count -> samples [n] at 16 kHz
    Rechunker       samples in pieces of any size -> pieces of one size
    PreRoll         the last part of a second, for a segment that begins before it is noticed

Plain Python for one stream each, no Pipecat, not thread-safe: the pipeline's input processor,
the STT services and the transcription server use them alike.
"""

from __future__ import annotations

import numpy as np
import soxr

SAMPLE_RATE = 16_000
"""Samples a second of everything that leaves this module."""

CHUNK_SAMPLES = 1_280
"""80 ms: one encoder frame of the streaming recogniser."""

_MAX_RATE = 384_000
_MAX_CHANNELS = 32


class AudioFormatError(ValueError):
    """Bytes that cannot be 16-bit PCM of the rate and channels that they claim."""


class MonoResampler:
    """Bytes of interleaved 16-bit PCM to mono samples at 16 kHz, piece by piece.

    Channels are averaged before resampling. The resampler holds back the last
    milliseconds (at most 40 from 22.05 kHz and above, 120 from 8 kHz) until more audio comes;
    `flush` lets them out, and so does a change of rate. At 16 kHz nothing is computed and
    nothing is held back.
    """

    def __init__(self) -> None:
        self._rate = SAMPLE_RATE
        self._stream: soxr.ResampleStream | None = None

    def process(self, pcm: bytes, sample_rate: int, channels: int = 1) -> np.ndarray:
        """Convert the next piece.

        Args:
            pcm: whole little-endian 16-bit samples of every channel, interleaved.
            sample_rate: samples a second of this piece, per channel.
            channels: interleaved channels of this piece.

        Returns:
            int16, shape (n,), at 16 kHz.

        Raises:
            AudioFormatError: a rate or channel count that no audio has, half a sample, or
                samples that the channels do not share evenly.
        """
        _check(len(pcm), sample_rate, channels)
        tail = self._change_rate(sample_rate)
        samples = np.frombuffer(pcm, dtype="<i2")
        if channels > 1:
            mixed = samples.reshape(-1, channels).mean(axis=1)
            samples = np.rint(mixed).astype(np.int16)
        if self._stream is not None and samples.size:
            samples = self._stream.resample_chunk(samples)
        return np.concatenate([tail, samples]) if tail.size else samples

    def flush(self) -> np.ndarray:
        """Return what was held back, int16 (n,), and start afresh."""
        if self._stream is None:
            return np.empty(0, np.int16)
        rest = self._stream.resample_chunk(np.empty(0, np.int16), last=True)
        self._stream.clear()
        return rest

    def _change_rate(self, sample_rate: int) -> np.ndarray:
        """Take up another input rate; return what the resampler for the old one held back."""
        if sample_rate == self._rate:
            return np.empty(0, np.int16)
        tail = self.flush()
        self._rate, self._stream = sample_rate, None
        if sample_rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="int16", quality="HQ"
            )
        return tail


def _check(size: int, sample_rate: int, channels: int) -> None:
    if not 1_000 <= sample_rate <= _MAX_RATE:
        raise AudioFormatError(
            f"audio claims {sample_rate} samples a second; send 1,000 to {_MAX_RATE:,}"
        )
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioFormatError(f"audio claims {channels} channels; send 1 to {_MAX_CHANNELS}")
    if size % (2 * channels):
        raise AudioFormatError(
            f"{size} bytes are not whole 16-bit samples of {channels} channel(s); "
            f"send a multiple of {2 * channels}"
        )


class Rechunker:
    """Samples in pieces of any size to pieces of exactly `chunk` samples; loses none.

    Args:
        chunk: samples in every piece that `push` returns.
    """

    def __init__(self, chunk: int = CHUNK_SAMPLES) -> None:
        self.chunk = chunk
        self._rest = np.empty(0, np.int16)

    def push(self, samples: np.ndarray) -> list[np.ndarray]:
        """Add samples, int16 (n,), and return every whole piece there now is."""
        held = np.concatenate([self._rest, samples])
        whole = held.size - held.size % self.chunk
        # A copy, so that one small rest does not keep a long piece alive.
        self._rest = held[whole:].copy()
        return list(held[:whole].reshape(-1, self.chunk))

    def flush(self) -> np.ndarray:
        """Return the last, short piece, int16 (fewer than `chunk`,), and forget it."""
        rest, self._rest = self._rest, np.empty(0, np.int16)
        return rest


class PreRoll:
    """The last `seconds` of audio that was heard while nobody was known to speak.

    Args:
        seconds: how much to keep.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._limit = round(seconds * SAMPLE_RATE)
        self._kept = np.empty(0, np.int16)

    def push(self, samples: np.ndarray) -> None:
        """Add samples, int16 (n,), and let the oldest go."""
        held = np.concatenate([self._kept, samples])
        self._kept = held[max(0, held.size - self._limit) :].copy()

    def take(self) -> np.ndarray:
        """Return what is kept, int16 (n,), and forget it."""
        kept, self._kept = self._kept, np.empty(0, np.int16)
        return kept

"""Which samples a chunk of encoder frames needs, and how many chunks a segment has.

Plain arithmetic on the checkpoint's own sizes; no torch. With right context R a chunk is R + 1
encoder frames. Encoder frame e reads mel frames up to 8·e, and mel frame m reads samples up to
160·m + 199, so chunk c of a segment is complete once

    160 · 8 · ((c + 1)·(R + 1) - 1) + 200   samples are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from voice_agent.engine.config import ModelConfig

_KERNEL = 3  # of each subsampling stage
_STRIDE = 2


@dataclass(frozen=True, slots=True)
class Chunks:
    """The geometry of one right context.

    Attributes:
        right: look-ahead in encoder frames.
        hop: samples from one mel frame to the next.
        edge: samples that a mel frame reads on either side of its centre.
        n_fft: samples of the STFT.
        factor: mel frames an encoder frame.
        receptive: mel frames that one encoder frame's subsampling reads.
        tail: encoder frames of silence that the last words want behind them.
    """

    right: int
    hop: int
    edge: int
    n_fft: int
    factor: int
    receptive: int
    tail: int = 0

    @classmethod
    def of(cls, config: ModelConfig, right: int) -> Chunks:
        """Read the geometry off a checkpoint."""
        receptive, factor = 1, config.encoder.subsampling_factor
        stages = factor.bit_length() - 1
        for _ in range(stages):
            receptive = (receptive - 1) * _STRIDE + _KERNEL
        p = config.preprocessor
        edge, tail = p.win_length // 2, config.tail_frames
        return cls(right, p.hop_length, edge, p.n_fft, factor, receptive, tail)

    @property
    def frames(self) -> int:
        """Encoder frames a chunk."""
        return self.right + 1

    @property
    def mel_frames(self) -> int:
        """Mel frames a chunk."""
        return self.frames * self.factor

    @property
    def samples(self) -> int:
        """New samples a chunk, once the segment is under way."""
        return self.mel_frames * self.hop

    @property
    def window_samples(self) -> int:
        """Samples that the features of one chunk are computed from."""
        return (self.mel_frames - 1) * self.hop + self.n_fft + 1

    @property
    def lead(self) -> int:
        """Samples of a segment's first window that lie before the segment."""
        return -self.window(0)[0]

    @property
    def unread(self) -> int:
        """Samples at a window's end that `needed` does not wait for, since no mel frame reads them.

        They lie under the STFT's padding; whoever fills a window clears them, so that it does not
        depend on what has come by then.
        """
        return self.n_fft - self.n_fft // 2 - self.edge

    def window(self, chunk: int) -> tuple[int, int]:
        """Samples [start, stop) under chunk `chunk`; zero where they lie outside the segment.

        A segment's first encoder frame reads one mel frame, and the seven "before" it lie outside:
        with them every chunk has the same shape. One sample more at the left is for pre-emphasis.
        """
        first = chunk * self.mel_frames - (self.factor - 1)
        start = first * self.hop - self.n_fft // 2 - 1
        return start, start + self.window_samples

    def needed(self, chunk: int) -> int:
        """Samples of the segment that must have come before chunk `chunk` can be computed."""
        last_mel = ((chunk + 1) * self.frames - 1) * self.factor
        return last_mel * self.hop + self.edge

    def total(self, samples: int) -> int:
        """Chunks of a finished segment, padded by zeros as far as the model's own sizes ask.

        The last sample reaches the mel frames whose window touches it (the STFT's edge), those
        reach the encoder frames whose subsampling reads them (receptive field), some more follow
        where the model tells words late (`tail`), and each of these frames has its whole right
        context. What is then missing to a full chunk is zeros too.
        """
        if samples == 0:
            return 0
        last_mel = (samples - 1 + self.edge) // self.hop
        last_frame = (last_mel + self.receptive - 1) // self.factor + self.tail
        return -(-(last_frame + 1 + self.right) // self.frames)

    def padded_samples(self, samples: int) -> int:
        """Length of the padded segment in whole mel frames, for comparisons with NeMo.

        NeMo computes `samples // hop` frames, so this is the shortest audio of which it computes
        exactly the frames of `total(samples)` chunks.
        """
        chunks = self.total(samples)
        return ((chunks * self.frames - 1) * self.factor + 1) * self.hop if chunks else 0

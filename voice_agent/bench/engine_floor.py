"""What a step must do at least, and what the machine can do at most.

A step of n lanes reads every weight once, and of each lane its keys and values, its convolutions'
inputs and its new samples; and it multiplies what the config says. Bytes over the copy bandwidth
and operations over the rate of a large matrix product, both measured in the same run, give two
times. The larger is the floor: no implementation in this precision is much faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voice_agent.engine.chunks import Chunks

if TYPE_CHECKING:
    import torch

    from voice_agent.engine.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Counts:
    """The least work of one step.

    Attributes:
        weight_bytes: of everything that is multiplied with; an embedding's rows are looked up.
        state_bytes: read and written of the lanes' slots, and their new samples.
        flop: floating-point operations; a multiply and an add are two.
    """

    weight_bytes: int
    state_bytes: int
    flop: int


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine did, in this run.

    Attributes:
        bytes_per_s: a large copy within the device's memory, bytes read plus bytes written.
        flop_per_s: a large square matrix product in the run's dtype.
        copied_bytes: size of the copy's source.
        product: rows and columns of the product.
    """

    bytes_per_s: float
    flop_per_s: float
    copied_bytes: int
    product: int

    def floor_ms(self, counts: Counts) -> tuple[float, float]:
        """Milliseconds that the bytes take, and that the operations take."""
        moved = counts.weight_bytes + counts.state_bytes
        return 1000 * moved / self.bytes_per_s, 1000 * counts.flop / self.flop_per_s


def encoder_weights(config: ModelConfig) -> int:
    """Numbers in the matrices, convolutions and norms that a step of the encoder reads.

    `linear_pos` is left out: it is applied to the position table once, at load.
    """
    e = config.encoder
    d, inner = e.d_model, e.d_model * e.ff_expansion_factor
    layer = 4 * d * inner + 4 * d * d + 3 * d * d + d * e.conv_kernel_size
    layer += 6 * 2 * d + 2 * d  # six norms; two position biases
    if e.use_bias:
        layer += 2 * (inner + d) + 4 * d + 4 * d
    return e.n_layers * layer + _subsampling_weights(config)


def _frequencies(config: ModelConfig) -> list[int]:
    """Frequency bins after each stage of the subsampling."""
    out, freq = [], config.encoder.feat_in
    for _ in range(config.encoder.subsampling_factor.bit_length() - 1):
        freq = freq // 2 + 1
        out.append(freq)
    return out


def _subsampling_weights(config: ModelConfig) -> int:
    c, d = config.encoder.subsampling_conv_channels, config.encoder.d_model
    freq = _frequencies(config)
    later = (len(freq) - 1) * (c * 9 + c + c * c + c)
    return c * 9 + c + later + c * freq[-1] * d + d


def decoder_weights(config: ModelConfig) -> int:
    """Numbers that the prediction network and the joint multiply with, and the prompt's."""
    dec, d = config.decoder, config.encoder.d_model
    lstm = dec.pred_rnn_layers * (8 * dec.pred_hidden**2 + 8 * dec.pred_hidden)
    joint = (d + 1 + dec.pred_hidden + 1) * dec.joint_hidden
    out = (dec.joint_hidden + 1) * (dec.vocab_size + 1)
    prompt = 2 * d * (d + 1) + d * (2 * d + 1) if config.prompt else 0
    return lstm + joint + out + prompt


def step_counts(
    config: ModelConfig,
    lanes: int,
    right: int,
    *,
    weight_bytes: int,
    kv_bytes: int,
    state_bytes: int,
    tokens_a_frame: float,
) -> Counts:
    """Count one step of lanes that all have their whole past.

    Args:
        config: sizes.
        lanes: in the step.
        right: right context of all of them.
        weight_bytes: of one number of a weight.
        kv_bytes: of one number of K or V.
        state_bytes: of one number of the other state.
        tokens_a_frame: emitted.
    """
    e, dec, p = config.encoder, config.decoder, config.preprocessor
    chunk, left, d = right + 1, e.left(right), e.d_model
    freq = _frequencies(config)
    channels, kept = e.subsampling_conv_channels, e.conv_kernel_size - 1
    frames = lanes * chunk
    tokens = tokens_a_frame * frames
    kv = 2 * e.n_layers * d * (left + chunk)  # the past is read, the chunk written
    other = e.n_layers * d * (kept + min(chunk, kept))
    other += 2 * (p.features + channels * sum(freq[:-1]))
    # What a blank reads of the decoder's state, and what a token reads and writes.
    decoder = 4 * (frames * dec.joint_hidden + tokens * 4 * dec.pred_rnn_layers * dec.pred_hidden)
    samples = 4 * Chunks.of(config, right).samples
    state = lanes * (kv * kv_bytes + other * state_bytes + samples) + decoder

    per_frame = encoder_weights(config) - _subsampling_weights(config)
    attention = e.n_layers * 3 * d * (left + chunk)  # q·k, q·p, weights·v
    mel = e.subsampling_factor
    subsampling, rows = 0, mel
    for stage, f in enumerate(freq):
        rows //= 2
        subsampling += rows * f * channels * (9 if stage == 0 else 9 + channels)
    subsampling += channels * freq[-1] * d
    features = mel * (p.n_fft // 2 + 1) * p.features
    blanks = dec.joint_hidden * (dec.vocab_size + 1) * (1 + tokens_a_frame)
    spoken = tokens_a_frame * (
        8 * dec.pred_rnn_layers * dec.pred_hidden**2 + dec.pred_hidden * dec.joint_hidden
    )
    joint = d * dec.joint_hidden + blanks + spoken
    prompt = 4 * d * d if config.prompt else 0
    each = per_frame + attention + subsampling + features + joint + prompt
    numbers = encoder_weights(config) + decoder_weights(config)
    return Counts(numbers * weight_bytes, round(state), round(2 * each * frames))


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure the two ceilings on random data; medians of ten."""
    import torch

    large = device.type == "cuda"
    size = 2**31 if large else 2**28
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), device)
    source = target = torch.empty(0)  # gives the memory back
    n = 8192 if large else 512 if dtype == torch.float32 else 128  # CPUs are slow at 16 bits
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=dtype)
    product_s = median_s(lambda: torch.matmul(a, b, out=out), device)
    return Ceilings(2 * size / copy_s, 2 * n**3 / product_s, size, n)


def median_s(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median seconds of something that keeps the device busy, after three warm-ups."""
    return sorted(times_s(work, device, repeats))[repeats // 2]


def times_s(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each run: by the device's own events, or by a clock where it is the CPU."""
    import torch

    for _ in range(3):
        work()
    if device.type != "cuda":
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return taken
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in marks:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) / 1000 for begin, end in marks]

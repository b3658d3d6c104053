"""Log-mel features around a library FFT: frames before it, mel filters and logarithm after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, begin

_FRAMES = 16  # a program of the second kernel: one tensor-core tile


@triton.jit(do_not_specialize=["frames"])
def _frame(
    pcm_ptr, floats_ptr, is_float_ptr, window_ptr, out_ptr, lanes_ptr, frames, samples, preemph,
    HOP: tl.constexpr, N_FFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(lanes_ptr) * frames:
        return
    i = tl.arange(0, BLOCK)
    real = i < N_FFT
    at = (row // frames) * samples + (row % frames) * HOP + i
    if tl.load(is_float_ptr) != 0:
        before = tl.load(floats_ptr + at, mask=real, other=0.0)
        x = tl.load(floats_ptr + at + 1, mask=real, other=0.0)
    else:
        before = tl.load(pcm_ptr + at, mask=real, other=0).to(tl.float32) * (1 / 32768)
        x = tl.load(pcm_ptr + at + 1, mask=real, other=0).to(tl.float32) * (1 / 32768)
    x -= preemph * before
    x *= tl.load(window_ptr + i, mask=real, other=0.0)
    tl.store(out_ptr + row * N_FFT + i, x, mask=real)


@triton.jit(do_not_specialize=["frames"])
def _log_mel(
    spectrum_ptr, filters_ptr, out_ptr, lanes_ptr, frames, guard, power, BINS,
    MELS: tl.constexpr, ADD: tl.constexpr, SQUARE: tl.constexpr,
    ROWS: tl.constexpr, BK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    rows = tl.load(lanes_ptr) * frames
    first = tl.program_id(0) * ROWS
    if first >= rows:
        return
    row = first + tl.arange(0, ROWS)
    alive = row < rows
    mel = tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, BINS, BK):
        bin_ = start + tl.arange(0, BK)
        seen = alive[:, None] & (bin_ < BINS)[None, :]
        at = (row.to(tl.int64)[:, None] * BINS + bin_[None, :]) * 2
        re = tl.load(spectrum_ptr + at, mask=seen, other=0.0)
        im = tl.load(spectrum_ptr + at + 1, mask=seen, other=0.0)
        energy = re * re + im * im
        if not SQUARE:
            energy = tl.exp(tl.log(tl.maximum(energy, 1e-38)) * (0.5 * power))
        filters = tl.load(
            filters_ptr + bin_[:, None] * MELS + mel[None, :],
            mask=(bin_ < BINS)[:, None] & (mel < MELS)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(energy, filters, total, input_precision="tf32x3")
    if ADD:
        total = tl.log(total + guard)
    else:
        total = tl.log(tl.maximum(total, guard))
    to = out_ptr + row.to(tl.int64)[:, None] * MELS + mel[None, :]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=alive[:, None] & (mel < MELS)[None, :])


def frame(
    pcm: torch.Tensor,
    floats: torch.Tensor,
    is_float: torch.Tensor,
    window: torch.Tensor,
    out: torch.Tensor,
    lanes: torch.Tensor,
    *,
    frames: int,
    hop: int,
    preemph: float,
) -> None:
    """Pre-emphasised, windowed frames.

    Args:
        pcm: int16, shape (capacity, samples): 32768 for 1.0.
        floats: float32, likewise.
        is_float: int32, shape (1,): not 0 where `floats` holds the samples, and not `pcm`.
        window: float32, shape (n_fft,).
        out: float32, shape (capacity · frames, n_fft).
        lanes: int32, shape (1,).
        frames: mel frames a lane.
        hop: samples from one to the next.
        preemph: coefficient.
    """
    n_fft = window.shape[0]
    block = triton.next_power_of_2(n_fft)
    _frame[(out.shape[0],)](
        pcm, floats, is_float, window, out, lanes, frames, pcm.shape[1], preemph,
        HOP=hop, N_FFT=n_fft, BLOCK=block, num_warps=4, **OPTIONS,
    )  # fmt: skip


def log_mel(
    spectrum: torch.Tensor,
    filters: torch.Tensor,
    out: torch.Tensor,
    lanes: torch.Tensor,
    *,
    frames: int,
    power: float,
    guard: float,
    add: bool,
) -> None:
    """Mel energies and their logarithm.

    Args:
        spectrum: complex64, shape (capacity · frames, bins).
        filters: float32, shape (bins, mels).
        out: shape (capacity · frames, mels), in the encoder's dtype.
        lanes: int32, shape (1,).
        frames: mel frames a lane.
        power: of the magnitude.
        guard: against log(0).
        add: the guard is added, else it is the least value.
    """
    rows = out.shape[0]
    bins, mels = filters.shape
    _log_mel[(triton.cdiv(rows, _FRAMES),)](
        torch.view_as_real(spectrum), filters, out, lanes, frames, guard, power, bins,
        MELS=mels, ADD=add, SQUARE=power == 2.0, ROWS=_FRAMES, BK=32,
        BLOCK=triton.next_power_of_2(mels), num_warps=4, **OPTIONS,
    )  # fmt: skip

"""The convolutions of the 8x subsampling, channels last, each with one input frame from the slot.

Three stages of stride 2 and kernel 3: `first` from mel frames to channels, then two `depthwise`,
whose pointwise halves are `linear.linear`. Between stages lie [lane, frame, frequency, channel]
with the slot's frame in front, copied there by the stage before: so no program reads what another
one of the same launch writes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, begin, seat


@triton.jit
def _first(
    mel_ptr, mel_cache, w_ptr, b_ptr, cache_ptr, out_ptr, slots_ptr, pos_ptr, lanes_ptr,
    MELS: tl.constexpr, FREQ: tl.constexpr, CHANNELS: tl.constexpr, FRAMES: tl.constexpr,
    PER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0)
    alive, slot, pos = seat(lane, slots_ptr, pos_ptr, lanes_ptr)
    began = pos == 0
    c = tl.arange(0, BLOCK)
    real = c < CHANNELS
    kind = out_ptr.dtype.element_ty
    bias = tl.load(b_ptr + c, mask=real, other=0.0).to(tl.float32)
    begin()
    if not alive:
        return
    mel = mel_ptr + lane.to(tl.int64) * (2 * FRAMES * MELS)
    out = out_ptr + lane.to(tl.int64) * ((FRAMES + 1) * FREQ * CHANNELS)
    # A segment's first seven rows, and its first three outputs, lie before it.
    first_row = tl.where(began, 7, 0)
    first_out = tl.where(began, 3, 0)
    old_rows = tl.where(began, -1, 0)
    for step in range(PER):
        f = tl.program_id(1) * PER + step
        if f < FREQ:
            kept = cache_ptr + (slot * FREQ + f) * CHANNELS + c
            before = tl.load(kept, mask=c < tl.where(pos > 0, CHANNELS, 0), other=0.0)
            tl.store(out + f * CHANNELS + c, before, mask=real)
            y = tl.zeros((BLOCK,), tl.float32)
            for j in range(FRAMES):
                y = bias
                for dt in tl.static_range(3):
                    row = 2 * j - 1 + dt
                    for df in tl.static_range(3):
                        at = 2 * f - 2 + df
                        inside = (at >= 0) & (at < MELS)
                        new = inside & (row >= first_row)
                        x = tl.load(mel + row * MELS + at, mask=new, other=0.0).to(tl.float32)
                        if dt == 0:
                            old = inside & (row < old_rows)
                            x += tl.load(mel_cache + slot * MELS + at, mask=old, other=0.0).to(
                                tl.float32
                            )
                        w = tl.load(w_ptr + (dt * 3 + df) * CHANNELS + c, mask=real, other=0.0)
                        y += x * w.to(tl.float32)
                y = tl.maximum(y, 0.0)
                y = tl.where(j < first_out, 0.0, y)
                tl.store(out + ((j + 1) * FREQ + f) * CHANNELS + c, y.to(kind), mask=real)
            tl.store(kept, y.to(kind), mask=real)


@triton.jit
def _depthwise(
    x_ptr, w_ptr, b_ptr, second_ptr, out_ptr, slots_ptr, pos_ptr, lanes_ptr,
    mel_ptr, mel_cache, next_cache, next_ptr, own_cache,
    MELS: tl.constexpr, FREQ_IN: tl.constexpr, FREQ: tl.constexpr, CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr, STAGE: tl.constexpr, SECOND: tl.constexpr, PER: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_MEL: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0)
    alive, slot, pos = seat(lane, slots_ptr, pos_ptr, lanes_ptr)
    i = tl.program_id(1)
    began = pos == 0
    c = tl.arange(0, BLOCK)
    real = c < CHANNELS
    kind = out_ptr.dtype.element_ty
    lane64 = lane.to(tl.int64)
    x = x_ptr + lane64 * ((2 * FRAMES + 1) * FREQ_IN * CHANNELS)
    bias = tl.load(b_ptr + c, mask=real, other=0.0).to(tl.float32)
    begin()
    if not alive:
        return
    # NeMo's zero frames: a first chunk's blank frame makes room for the one that it keeps instead.
    instead = began & (i == 0)
    if STAGE != 2 or not SECOND:
        instead = i < 0
    from_i = tl.where(instead, 1, i)
    for step in range(PER):
        f = tl.program_id(2) * PER + step
        if f < FREQ:
            y = bias
            for dt in tl.static_range(3):
                row = 2 * from_i + dt
                # Row 0 is the slot's; in stage 3 a first chunk's row 1 is before the segment too.
                seen = (pos > 0) | (row >= STAGE - 1)
                for df in tl.static_range(3):
                    at = 2 * f - 2 + df
                    inside = (at >= 0) & (at < FREQ_IN) & seen
                    value = tl.load(
                        x + (row * FREQ_IN + at) * CHANNELS + c,
                        mask=c < tl.where(inside, CHANNELS, 0),
                        other=0.0,
                    ).to(tl.float32)
                    w = tl.load(w_ptr + (dt * 3 + df) * CHANNELS + c, mask=real, other=0.0)
                    y += value * w.to(tl.float32)
            if STAGE == 2:
                if SECOND:
                    y = y.to(kind).to(tl.float32)
                    y += tl.load(
                        second_ptr + f * CHANNELS + c,
                        mask=c < tl.where(instead, CHANNELS, 0), other=0.0,
                    ).to(tl.float32)  # fmt: skip
                if i == 0:
                    held = tl.load(
                        next_cache + (slot * FREQ + f) * CHANNELS + c,
                        mask=c < tl.where(pos > 0, CHANNELS, 0), other=0.0,
                    )  # fmt: skip
                    to = next_ptr + (lane64 * (FRAMES + 1) * FREQ + f) * CHANNELS + c
                    tl.store(to, held, mask=real)
            to = out_ptr + ((lane64 * FRAMES + i) * FREQ + f) * CHANNELS + c
            tl.store(to, y.to(kind), mask=real)
    if STAGE == 2:
        if (i == 0) & (tl.program_id(2) == 0):
            # FRAMES here are half of stage 1's, a quarter of the mel's.
            m = tl.arange(0, BLOCK_MEL)
            newest = mel_ptr + (lane64 * (4 * FRAMES) + 4 * FRAMES - 1) * MELS + m
            kept = mel_cache + slot * MELS + m
            tl.store(kept, tl.load(newest, mask=m < MELS, other=0.0), mask=m < MELS)
    else:
        if i == 0:
            keep = 2 * FRAMES
            if SECOND:
                keep = tl.where(began, 1, keep)
            for step in range(2 * PER):
                f = tl.program_id(2) * 2 * PER + step
                if f < FREQ_IN:
                    value = tl.load(x + (keep * FREQ_IN + f) * CHANNELS + c, mask=real, other=0.0)
                    tl.store(own_cache + (slot * FREQ_IN + f) * CHANNELS + c, value, mask=real)


def first(
    mel: torch.Tensor,
    mel_cache: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cache: torch.Tensor,
    out: torch.Tensor,
    *,
    slots: torch.Tensor,
    pos: torch.Tensor,
    lanes: torch.Tensor,
) -> None:
    """Stage 1 with its relu.

    Args:
        mel: shape (capacity, 8·chunk, mels).
        mel_cache: shape (slots, mels): the frame before; read only, stage 2 moves it on.
        weight: shape (9, channels), time before frequency.
        bias: shape (channels,).
        cache: shape (slots, freq, channels): last output; moved on.
        out: shape (capacity, 4·chunk + 1, freq, channels): the slot's frame, then the new ones.
        slots: int32, shape (capacity,).
        pos: int32, shape (capacity,).
        lanes: int32, shape (1,).
    """
    capacity, frames, mels = mel.shape
    freq, channels = out.shape[2:]
    per = 13 if capacity > 64 else 1
    block = triton.next_power_of_2(channels)
    _first[(capacity, triton.cdiv(freq, per))](
        mel, mel_cache, weight, bias, cache, out, slots, pos, lanes,
        MELS=mels, FREQ=freq, CHANNELS=channels, FRAMES=frames // 2, PER=per, BLOCK=block,
        num_warps=max(1, block // 64), **OPTIONS,
    )  # fmt: skip


def depthwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    *,
    stage: int,
    slots: torch.Tensor,
    pos: torch.Tensor,
    lanes: torch.Tensor,
    second: torch.Tensor | None,
    mel: torch.Tensor | None = None,
    mel_cache: torch.Tensor | None = None,
    next_cache: torch.Tensor | None = None,
    next_in: torch.Tensor | None = None,
    own_cache: torch.Tensor | None = None,
) -> None:
    """The depthwise half of stage 2 or 3.

    Args:
        x: shape (capacity, 2·frames + 1, freq_in, channels): the slot's frame, then the new ones.
        weight: shape (9, channels).
        bias: shape (channels,).
        out: shape (capacity, frames, freq, channels).
        stage: 2 or 3.
        slots: int32, shape (capacity,).
        pos: int32, shape (capacity,).
        lanes: int32, shape (1,).
        second: shape (freq of stage 2, channels): `Subsampling.second_frame_bias` where this
            chunk length needs it, else None.
        mel: stage 2: shape (capacity, 8·chunk, mels), whose last frame goes to `mel_cache`.
        mel_cache: stage 2: shape (slots, mels).
        next_cache: stage 2: shape (slots, freq, channels), copied into row 0 of `next_in`.
        next_in: stage 2: shape (capacity, frames + 1, freq, channels): stage 3's `x`.
        own_cache: stage 3: shape (slots, freq_in, channels), moved on from x.
    """
    capacity, frames, freq, channels = out.shape
    per = 3 if capacity > 64 else 1
    block = triton.next_power_of_2(channels)
    mels = mel.shape[-1] if mel is not None else 1
    _depthwise[(capacity, frames, triton.cdiv(freq, per))](
        x, weight, bias, second, out, slots, pos, lanes,
        mel, mel_cache, next_cache, next_in, own_cache,
        MELS=mels, FREQ_IN=x.shape[2], FREQ=freq, CHANNELS=channels, FRAMES=frames, STAGE=stage,
        SECOND=second is not None, PER=per, BLOCK=block, BLOCK_MEL=triton.next_power_of_2(mels),
        num_warps=max(1, block // 64), **OPTIONS,
    )  # fmt: skip

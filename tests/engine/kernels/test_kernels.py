"""Each kernel beside its plain twin, in Triton's interpreter, with NaN wherever nobody may read."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="the GPU kernels need Triton")

from tests.engine.kernels.small import small_checkpoint, small_config  # noqa: E402
from voice_agent.engine.attention import distance_index, rel_attention, ring_positions  # noqa: E402
from voice_agent.engine.features import LogMel  # noqa: E402
from voice_agent.engine.kernels import features as feature_kernels  # noqa: E402
from voice_agent.engine.kernels import linear as linear_module  # noqa: E402
from voice_agent.engine.kernels.attention import attention  # noqa: E402
from voice_agent.engine.kernels.convolution import convolution  # noqa: E402
from voice_agent.engine.kernels.linear import Tile, Weight, linear  # noqa: E402
from voice_agent.engine.kernels.norms import Norm, add_norm  # noqa: E402
from voice_agent.engine.quant import quantize_rows  # noqa: E402
from voice_agent.engine.slots import SlotPool  # noqa: E402

NAN = float("nan")
TILES = [Tile(16, 16, 32), Tile(32, 64, 16)]


def one(n: int) -> torch.Tensor:
    """A number of lanes, as the kernels read it."""
    return torch.tensor([n], dtype=torch.int32)


def rows_of(n: int, capacity: int, width: int) -> torch.Tensor:
    """`n` rows of noise, and NaN in the rest."""
    out = torch.full((capacity, width), NAN)
    out[:n] = torch.randn(n, width)
    return out


@pytest.mark.parametrize("tile", TILES, ids=["small", "wide"])
@pytest.mark.parametrize("act", ["", "silu", "relu"])
def test_linear_matches_torch_and_leaves_other_rows_alone(tile, act):
    x, w, b = rows_of(6, 9, 40), torch.randn(50, 40), torch.randn(50)
    out = torch.full((9, 50), NAN)
    linear(x, Weight(w, b), out, one(3), tile, rows=2, act=act)
    want = F.linear(x[:6], w, b)
    want = {"": want, "silu": F.silu(want), "relu": torch.relu(want)}[act]
    torch.testing.assert_close(out[:6], want, atol=1e-5, rtol=1e-5)
    assert out[6:].isnan().all()


def test_linear_takes_int8_rows_a_bias_by_lane_and_room_between_groups():
    x, w = rows_of(4, 6, 32), torch.randn(16, 32)
    data, scale = quantize_rows(w)
    table, lane = torch.randn(5, 16), torch.tensor([4, 1, 99], dtype=torch.int32)
    out = torch.full((9, 16), NAN)
    linear(
        x, Weight(data, None, scale), out, one(2), TILES[0], rows=2, row_bias=(table, lane),
        out_group=2, out_skip=1,
    )  # fmt: skip
    want = F.linear(x[:4], data.float() * scale[:, None]) + table[[4, 4, 1, 1]]
    torch.testing.assert_close(out[[1, 2, 4, 5]], want, atol=1e-5, rtol=1e-5)
    assert out[[0, 3, 6, 7, 8]].isnan().all()


@pytest.mark.parametrize("bias", [None, torch.arange(24) / 7], ids=["plain", "bias"])
def test_a_long_sum_is_the_same_to_the_bit_however_its_parts_are_computed(monkeypatch, bias):
    monkeypatch.setattr(linear_module, "LONG", 64)
    x, weight = rows_of(6, 9, 192), Weight(torch.randn(24, 192), bias)
    assert weight.parts == 4
    together = linear(x, weight, torch.full((9, 24), NAN), one(3), TILES[0], rows=2)
    wide = linear(x, weight, torch.full((9, 24), NAN), one(3), Tile(32, 32, 16), rows=2)
    apart = torch.full((4, 9, 24), NAN)
    linear(x, weight, apart, one(3), Tile(16, 16, 32, apart=True), rows=2)
    assert apart[:, 6:].isnan().all() and together[6:].isnan().all()
    assert torch.equal(together[:6], wide[:6])
    by_hand = F.linear(x[:6], weight.data, bias)
    torch.testing.assert_close(together[:6], by_hand, atol=1e-4, rtol=1e-5)

    of_parts, of_sum = (torch.zeros(9, 24) for _ in range(2))
    h = torch.full((9, 24), NAN, dtype=torch.float16)
    for y, to in ((apart, of_parts), (together.half(), of_sum)):
        add_norm(to, y, one(3), rows=2, h=h)
    assert torch.equal(of_parts, of_sum) and of_sum[:6].abs().sum() > 0


@pytest.mark.parametrize("last", [False, True], ids=["inside a layer", "its end"])
def test_add_norm_matches_torch(last):
    d = 24
    x, y, h = rows_of(4, 5, d), rows_of(4, 5, d), torch.full((5, d), NAN)
    norms = [Norm(torch.randn(d), torch.randn(d)) for _ in range(2)]
    want = x[:4] + 0.5 * y[:4]
    if last:
        want = F.layer_norm(want, (d,), norms[0].weight, norms[0].bias)
    want_h = F.layer_norm(want, (d,), norms[1].weight, norms[1].bias)
    add_norm(
        x, y, one(2), rows=2, factor=0.5, last=norms[0] if last else None, following=norms[1], h=h
    )
    torch.testing.assert_close(x[:4], want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(h[:4], want_h, atol=1e-5, rtol=1e-5)
    assert x[4:].isnan().all() and h[4:].isnan().all()


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
def test_attention_matches_sdpa_reads_no_stray_place_and_appends(chunk, quantized):
    config = small_config(rights=(0, 1, 6))
    heads, d_head, left, max_chunk = 2, 12, 6, 7
    pool = SlotPool(
        config, 5, freq=(9, 5), device=torch.device("cpu"), dtype=torch.float32,
        quantized=quantized,
    )  # fmt: skip
    slots = torch.tensor([4, 0, 2, 99], dtype=torch.int32)
    pos = torch.tensor([0, 3, 40, 99], dtype=torch.int32)
    seen = torch.zeros(5, pool.ring, dtype=torch.bool)
    for slot, at in zip(slots[:3].tolist(), pos[:3].tolist(), strict=True):
        for p in range(max(0, at - left), at):
            seen[slot, p % pool.ring] = True
    true = [torch.randn(5, heads, pool.ring, d_head) for _ in range(2)]
    kept, scales = [pool.k[0], pool.v[0]], [pool.k_scale[0], pool.v_scale[0]]
    for tensor, scale, values in zip(kept, scales, true, strict=True):
        if quantized:
            of = values.abs().amax(-1) / 127
            tensor.copy_((values / of[..., None]).round())
            scale.copy_(of.masked_fill(~seen[:, None], NAN))
            values.copy_(tensor * of[..., None])
        else:
            tensor.copy_(values.masked_fill(~seen[:, None, :, None], NAN))
    qkv = rows_of(3 * chunk, 4 * chunk, 3 * heads * d_head)
    bias_u, bias_v = torch.randn(heads, d_head), torch.randn(heads, d_head)
    table = torch.randn(heads, left + 2 * max_chunk - 1, d_head)
    out = torch.full((4 * chunk, heads * d_head), NAN)
    attention(
        qkv, pool.k[0], pool.v[0], out, bias_u=bias_u, bias_v=bias_v, table=table, slots=slots,
        pos=pos, lanes=one(3), chunk=chunk, left=left, max_chunk=max_chunk,
        scales=(pool.k_scale[0], pool.v_scale[0]) if quantized else None,
    )  # fmt: skip

    n, at, where = 3, pos[:3].long(), slots[:3].long()
    q, k, v = qkv[: n * chunk].view(n, chunk, 3, heads, d_head).unbind(2)
    held = ring_positions(at, chunk, pool.ring)
    places = (at[:, None] + torch.arange(chunk)) % pool.ring
    for tensor, new in zip(true, (k, v), strict=True):
        tensor.transpose(1, 2)[where[:, None], places] = new
    index, visible = distance_index(at, held, chunk=chunk, left=left, max_chunk=max_chunk)
    want = rel_attention(
        q, true[0][where], true[1][where], bias_u=bias_u, bias_v=bias_v, table=table, index=index,
        visible=visible,
    )  # fmt: skip
    torch.testing.assert_close(out[: n * chunk], want.reshape(n * chunk, -1), atol=1e-5, rtol=1e-5)
    assert out[n * chunk :].isnan().all()
    for tensor, scale, new in zip(kept, scales, (k, v), strict=True):
        got = tensor.transpose(1, 2)[where[:, None], places]
        if quantized:
            of = scale.transpose(1, 2)[where[:, None], places][..., None]
            torch.testing.assert_close(got * of, new, atol=new.abs().max().item() / 200, rtol=0)
        else:
            torch.testing.assert_close(got, new, atol=0, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("normed", [True, False], ids=["layer norm", "folded batch norm"])
def test_convolution_matches_torch_over_chunks_and_restarts(chunk, normed):
    d, taps, lanes = 12, 5, 2
    weight, bias = torch.randn(taps, d), torch.randn(d)
    norm = Norm(torch.randn(d), torch.randn(d)) if normed else None
    cache = torch.full((4, taps - 1, d), NAN)
    slots = torch.tensor([3, 1, 99], dtype=torch.int32)
    history: dict[int, torch.Tensor] = {}
    for step in range(3):
        began = [step, step % 2]  # lane 1's segment begins anew at step 2
        pos = torch.tensor([*(b * chunk for b in began), 99], dtype=torch.int32)
        x = rows_of(lanes * chunk, 3 * chunk, 2 * d)
        out = torch.full((3 * chunk, d), NAN)
        convolution(
            x, weight, bias, norm, cache, out, slots=slots, pos=pos, lanes=one(lanes), chunk=chunk
        )
        for lane in range(lanes):
            new = F.glu(x[lane * chunk : (lane + 1) * chunk], dim=-1)
            past = history.get(lane) if began[lane] else None
            history[lane] = torch.cat([torch.zeros(taps - 1, d) if past is None else past, new])
            window = history[lane][-(chunk + taps - 1) :].T[None]
            want = F.conv1d(window, weight.T[:, None], bias, groups=d)[0].T
            if norm:
                want = F.layer_norm(want, (d,), norm.weight, norm.bias)
            torch.testing.assert_close(
                out[lane * chunk : (lane + 1) * chunk], F.silu(want), atol=1e-5, rtol=1e-5
            )
        assert out[lanes * chunk :].isnan().all()


@pytest.mark.parametrize("is_float", [0, 1], ids=["int16", "float32"])
@pytest.mark.parametrize("add", [True, False], ids=["added guard", "least value"])
def test_log_mel_matches_the_plain_features(add, is_float):
    config = small_config().preprocessor
    plain = LogMel(config)
    frames, lanes = 4, 2
    pcm = torch.full((3, plain.window_samples(frames)), NAN)
    pcm[:lanes] = torch.randint(-32768, 32768, pcm[:lanes].shape) / 32768
    samples = torch.zeros(pcm.shape, dtype=torch.int16)
    if not is_float:
        samples[:lanes] = (pcm[:lanes] * 32768).to(torch.int16)
    floats = pcm if is_float else torch.full(pcm.shape, NAN)
    framed = torch.full((3 * frames, config.n_fft), NAN)
    feature_kernels.frame(
        samples, floats, one(is_float), plain.window, framed, one(lanes), frames=frames,
        hop=config.hop_length, preemph=config.preemph,
    )  # fmt: skip
    out = torch.full((3 * frames, config.features), NAN)
    feature_kernels.log_mel(
        torch.fft.rfft(framed), plain.filters.T.contiguous(), out, one(lanes), frames=frames,
        power=config.mag_power, guard=config.log_zero_guard_value, add=add,
    )  # fmt: skip
    want = plain(pcm[:lanes]).flatten(0, 1)
    if not add:  # far from the guard both are the same but for the guard itself
        want = torch.log(torch.exp(want) - config.log_zero_guard_value)
    torch.testing.assert_close(out[: lanes * frames], want, atol=2e-5, rtol=1e-5)
    assert out[lanes * frames :].isnan().all()


def test_int8_rows_are_as_near_as_their_scale():
    w = torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None]
    data, scale = quantize_rows(w)
    error = (data * scale[:, None] - w).abs().amax(dim=1)
    assert (error <= scale / 2 * 1.001).all() and data.abs().amax() == 127
    assert math.isclose(scale[0].item(), w[0].abs().max().item() / 127, rel_tol=1e-6)
    assert small_checkpoint(small_config()).weights

"""The step on a GPU: the same function as `encoder`, `prompt` and `decoder`, made of our kernels.

Everything has a fixed address, nothing asks the host, and the number of lanes is read on the
device: so the same launches can be captured in a graph and serve every number of lanes up to their
bucket (`graphs`). Sub-layers and caches are in the encoder's dtype; sums, the residual stream,
features, prompt and decoder in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from voice_agent.engine.config import ModelConfig
from voice_agent.engine.decoder import Decoder
from voice_agent.engine.encoder import Encoder, LayerWeights, Plain
from voice_agent.engine.features import LogMel
from voice_agent.engine.kernels import features as feature_kernels
from voice_agent.engine.kernels import subsampling as subsampling_kernels
from voice_agent.engine.kernels.attention import attention
from voice_agent.engine.kernels.convolution import convolution
from voice_agent.engine.kernels.decode import DecodeWeights, GreedyDecode
from voice_agent.engine.kernels.linear import Weight, linear
from voice_agent.engine.kernels.norms import Norm, add_norm
from voice_agent.engine.prompt import Prompt
from voice_agent.engine.quant import Affine, quantize_rows
from voice_agent.engine.slots import SlotPool
from voice_agent.engine.tiles import tile


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a step reads, for `capacity` lanes.

    Attributes:
        pcm: int16, shape (capacity, window samples): 32768 for 1.0.
        floats: float32, likewise.
        is_float: int32, shape (1,): not 0 where `floats` holds the samples, and not `pcm`.
        slots: int32, shape (capacity,): distinct among the lanes.
        pos: int32, shape (capacity,).
        prompts: int32, shape (capacity,).
        skip: int32, shape (capacity,): 1 for lanes whose decoding is left to the host.
        lanes: int32, shape (1,): how many lanes there are.
    """

    pcm: torch.Tensor
    floats: torch.Tensor
    is_float: torch.Tensor
    slots: torch.Tensor
    pos: torch.Tensor
    prompts: torch.Tensor
    skip: torch.Tensor
    lanes: torch.Tensor


class Scratch:
    """Memory between kernels: one flat tensor a name, viewed in the shape that is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def __call__(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A view; the largest shape of a name has to be asked for first."""
        size = torch.Size(shape).numel()
        flat = self._flat.get((name, dtype))
        if flat is None or flat.numel() < size:
            flat = self._flat[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return flat[:size].view(shape)

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(flat.nbytes for flat in self._flat.values())


@dataclass(frozen=True, slots=True)
class _Layer:
    ff1: tuple[Weight, Weight]
    qkv: Weight
    out: Weight
    bias_u: torch.Tensor
    bias_v: torch.Tensor
    table: torch.Tensor
    point1: Weight
    taps: torch.Tensor  # [kernel, d]
    taps_bias: torch.Tensor | None
    conv_norm: Norm | None
    point2: Weight
    ff2: tuple[Weight, Weight]
    norms: tuple[Norm, Norm, Norm, Norm, Norm]  # ff1, att, conv, ff2, out

    @classmethod
    def of(cls, w: LayerWeights, quantized: bool) -> _Layer:
        def weight(pair: Affine) -> Weight:
            assert isinstance(pair[0], torch.Tensor)
            if not quantized:
                return Weight(pair[0], pair[1])
            data, scale = quantize_rows(pair[0])
            return Weight(data, pair[1], scale)

        return cls(
            ff1=(weight(w.ff1[0]), weight(w.ff1[1])),
            qkv=weight(w.qkv),
            out=weight(w.out),
            bias_u=w.bias_u,
            bias_v=w.bias_v,
            table=w.positions,
            point1=weight(w.point1),
            taps=w.depthwise[0][:, 0].T.contiguous(),
            taps_bias=w.depthwise[1],
            conv_norm=_norm(w.conv_norm) if w.conv_norm else None,
            point2=weight(w.point2),
            ff2=(weight(w.ff2[0]), weight(w.ff2[1])),
            norms=tuple(  # type: ignore[arg-type]
                map(_norm, (w.norm_ff1, w.norm_att, w.norm_conv, w.norm_ff2, w.norm_out))
            ),
        )


def _norm(pair: Plain) -> Norm:
    assert pair[1] is not None
    return Norm(pair[0], pair[1])


class FusedStep:
    """Weights in the kernels' layouts, over a pool; `run` is a step."""

    def __init__(
        self,
        config: ModelConfig,
        features: LogMel,
        encoder: Encoder,
        prompt: Prompt | None,
        decoder: Decoder,
        pool: SlotPool,
        *,
        capacity: int,
        records: int,
        quantized: bool = False,
    ) -> None:
        """Take the plain modules' weights; large ones are shared with them, not copied.

        Args:
            config: shapes.
            features: constants of the front end.
            encoder: plain.
            prompt: plain, of checkpoints that have one.
            decoder: plain.
            pool: state.
            capacity: lanes a step, at most.
            records: tokens a step, at most.
            quantized: hold the layers' matrices in int8, a scale a row.
        """
        self.config = config
        self.pool = pool
        self.features = features
        self.prompt = prompt
        self.dtype = encoder.layers[0].bias_u.dtype
        self.max_chunk = encoder.max_chunk
        self.scratch = Scratch(pool.k.device)
        self.layers = [_Layer.of(w, quantized) for w in encoder.layers]
        self._filters = features.filters.T.contiguous()
        sub = encoder.subsampling
        self.freq = (*sub.cached_freq, sub.cached_freq[1] // 2 + 1)
        channels = config.encoder.subsampling_conv_channels
        self._first = _taps(sub.first)
        self._depthwise = [_taps(conv) for conv in sub.depthwise]
        self._pointwise = [Weight(w[:, :, 0, 0].contiguous(), b) for w, b in sub.pointwise]
        self._second = sub.second_frame_bias.T.contiguous() if sub.zero_frames else None
        out = sub.out[0].view(-1, channels, self.freq[2]).transpose(1, 2).flatten(1).contiguous()
        self._sub_out = Weight(out, sub.out[1])
        self._enc = Weight(*decoder.enc)
        d = config.decoder
        self.decode = GreedyDecode(
            DecodeWeights(
                embed=decoder.embed,
                lstm=tuple((w_ih, w_hh, b_ih, b_hh) for w_ih, w_hh, b_ih, b_hh in decoder.lstm),
                pred=decoder.pred,
                out=decoder.out,
                activation=d.activation,
                blank=d.blank,
                max_symbols=d.max_symbols,
                start=decoder.start,
            ),
            capacity,
            records,
            pool.k.device,
        )

    def run(self, x: Inputs, right: int, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One step: features, encoder, prompt, and `rounds` rounds of the decoder.

        Args:
            x: static inputs, as many lanes as the bucket has.
            right: right context of all lanes.
            rounds: of the decoder; more may be needed (`more_rounds`).

        Returns:
            The encoder's frames, float32, shape (bucket · chunk, d_model), and the same in the
            joint's space, shape (bucket · chunk, joint_hidden).
        """
        encoded = self.encode(self.mel(x, right), x, right)
        return encoded, self.emit(encoded, x, right, rounds)

    def emit(self, encoded: torch.Tensor, x: Inputs, right: int, rounds: int) -> torch.Tensor:
        """Prompt and decoder over encoder frames; see `run`."""
        projected = self._project(encoded, x, right)
        self.decode.begin(self.pool.decoder, x.slots, x.pos, x.skip, x.lanes)
        self.decode.rounds(rounds, projected, self.pool.decoder, x.slots, chunk=right + 1)
        return projected

    def more_rounds(self, x: Inputs, right: int, rounds: int, projected: torch.Tensor) -> None:
        """Go on with the decoder where `rounds` rounds have left lanes busy."""
        self.decode.go_on(rounds)
        self.decode.rounds(rounds, projected, self.pool.decoder, x.slots, chunk=right + 1)

    def mel(self, x: Inputs, right: int) -> torch.Tensor:
        """Log-mel frames, shape (bucket, mel frames, mels)."""
        c = self.config.preprocessor
        frames = self.config.encoder.chunk_frames(right)
        rows = len(x.slots) * frames
        framed = self.scratch("frames", torch.float32, rows, c.n_fft)
        feature_kernels.frame(
            x.pcm, x.floats, x.is_float, self.features.window, framed, x.lanes,
            frames=frames, hop=c.hop_length, preemph=c.preemph,
        )  # fmt: skip
        spectrum = self.scratch("spectrum", torch.complex64, rows, c.n_fft // 2 + 1)
        torch.fft.rfft(framed, out=spectrum)
        mel = self.scratch("mel", self.dtype, rows, c.features)
        feature_kernels.log_mel(
            spectrum, self._filters, mel, x.lanes, frames=frames, power=c.mag_power,
            guard=c.log_zero_guard_value, add=c.log_zero_guard_type == "add",
        )  # fmt: skip
        return mel.view(len(x.slots), frames, c.features)

    def _subsample(self, mel: torch.Tensor, x: Inputs, right: int) -> tuple[torch.Tensor, Weight]:
        """The convolutions' output, shape (lanes · chunk, k), and the matrix that follows."""
        n, chunk, pool = len(x.slots), right + 1, self.pool
        channels = self.config.encoder.subsampling_conv_channels
        f1, f2, f3 = self.freq
        shared = {"slots": x.slots, "pos": x.pos, "lanes": x.lanes}
        second = self._second if chunk == 1 else None

        def between(name: str, frames: int, freq: int) -> torch.Tensor:
            return self.scratch(name, self.dtype, n, frames, freq, channels)

        one = between("sub1", 4 * chunk + 1, f1)
        subsampling_kernels.first(mel, pool.mel, *self._first, pool.sub1, one, **shared)
        two_in = between("sub2_depthwise", 2 * chunk, f2)
        two = between("sub2", 2 * chunk + 1, f2)
        subsampling_kernels.depthwise(
            one, *self._depthwise[0], two_in, stage=2, **shared, second=second, mel=mel,
            mel_cache=pool.mel, next_cache=pool.sub2, next_in=two,
        )  # fmt: skip
        rows = 2 * chunk * f2
        linear(
            two_in.view(-1, channels), self._pointwise[0], two.view(-1, channels), x.lanes,
            tile(n * rows, channels, channels, wide=self._wide), rows=rows, act="relu",
            out_group=rows, out_skip=f2,
        )  # fmt: skip
        three_in = between("sub3_depthwise", chunk, f3)
        subsampling_kernels.depthwise(
            two, *self._depthwise[1], three_in, stage=3, **shared, second=second,
            own_cache=pool.sub2,
        )  # fmt: skip
        three = between("sub3", chunk, f3)
        linear(
            three_in.view(-1, channels), self._pointwise[1], three.view(-1, channels), x.lanes,
            tile(n * chunk * f3, channels, channels, wide=self._wide), rows=chunk * f3, act="relu",
        )  # fmt: skip
        return three.view(n * chunk, f3 * channels), self._sub_out

    @property
    def _wide(self) -> bool:
        return self.dtype == torch.float32

    def encode(self, mel: torch.Tensor, inputs: Inputs, right: int) -> torch.Tensor:
        """Encoder frames, float32, shape (bucket · chunk, d_model)."""
        c, chunk, lanes = self.config.encoder, right + 1, inputs.lanes
        rows, d = len(inputs.slots) * chunk, c.d_model
        x = self.scratch("x", torch.float32, rows, d)
        h = self.scratch("h", self.dtype, rows, d)

        def product(y: torch.Tensor, w: Weight, name: str, act: str = "") -> torch.Tensor:
            n, k = w.data.shape
            how = tile(rows, n, k, wide=self._wide, parts=w.parts)
            if how.apart:
                out = self.scratch("parts", torch.float32, w.parts, rows, n)
            else:
                out = self.scratch(name, self.dtype, rows, n)
            return linear(y, w, out, lanes, how, rows=chunk, act=act)

        def into(w: Weight, act: str = "") -> torch.Tensor:
            return product(h, w, "wide", act)

        def out_of(y: torch.Tensor, w: Weight, **kwargs) -> None:
            add_norm(x, product(y, w, "y"), lanes, rows=chunk, h=h, **kwargs)

        flat, w_out = self._subsample(mel, inputs, right)
        factor = d**0.5 if c.xscaling else 1.0
        out_of(flat, w_out, factor=factor, add=False, following=self.layers[0].norms[0])
        for i, w in enumerate(self.layers):
            _, norm_att, norm_conv, norm_ff2, norm_out = w.norms
            out_of(into(w.ff1[0], "silu"), w.ff1[1], factor=0.5, following=norm_att)
            scales = (self.pool.k_scale[i], self.pool.v_scale[i])
            attention(
                into(w.qkv), self.pool.k[i], self.pool.v[i], h,
                bias_u=w.bias_u, bias_v=w.bias_v, table=w.table,
                slots=inputs.slots, pos=inputs.pos, lanes=lanes,
                chunk=chunk, left=c.left(right), max_chunk=self.max_chunk,
                scales=scales if self.pool.k.dtype == torch.int8 else None,
            )  # fmt: skip
            out_of(h, w.out, following=norm_conv)
            convolution(
                into(w.point1), w.taps, w.taps_bias, w.conv_norm, self.pool.conv[i], h,
                slots=inputs.slots, pos=inputs.pos, lanes=lanes, chunk=chunk,
            )  # fmt: skip
            out_of(h, w.point2, following=norm_ff2)
            following = self.layers[i + 1].norms[0] if i + 1 < len(self.layers) else None
            out_of(into(w.ff2[0], "silu"), w.ff2[1], factor=0.5, last=norm_out, following=following)
        return x

    def _project(self, encoded: torch.Tensor, x: Inputs, right: int) -> torch.Tensor:
        rows, chunk = encoded.shape[0], right + 1

        def product(frames: torch.Tensor, w: Weight, name: str, **kwargs) -> torch.Tensor:
            n, k = w.data.shape
            out = self.scratch(name, torch.float32, rows, n)
            return linear(
                frames, w, out, x.lanes, tile(rows, n, k, wide=True), rows=chunk, **kwargs
            )

        if self.prompt:
            hidden = product(
                encoded, Weight(self.prompt.frame), "prompt_hidden", act="relu",
                row_bias=(self.prompt.of_prompt, x.prompts),
            )  # fmt: skip
            encoded = product(hidden, Weight(*self.prompt.out), "prompted")
        return product(encoded, self._enc, "projected")


def _taps(conv: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A 3x3 convolution's weight as (9, channels), and its bias."""
    weight, bias = conv
    return weight.flatten(1).T.contiguous(), bias

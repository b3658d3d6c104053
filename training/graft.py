r"""Begins tiny-en's encoder from Whisper tiny.en's, which has heard more people than we have.

    python -m training.graft --teacher model.bin --speech ../shared/speech \
        --tokenizer tokenizer.model --out graft.nemo

Both are four pre-norm transformers of the same width, but Whisper hears 20 ms frames, both
directions and where in the clip it is, and has one feed-forward a layer where a Conformer has two
halves. So weights cannot be copied. They are fitted instead, layer after layer, each to what
Whisper's own layer does with the same clips, by ridge regression on what the student has at that
point: nothing is learnt by heart that a linear map cannot hold.

    subsampling     to Whisper's convolutions, the mean of four frames (this one by gradient steps)
    q, k, v         to Whisper's, the mean of four
    relative place  to what Whisper's mean log attention at each distance is
    output          to what Whisper's attention adds
    feed-forward    the weaker half of its units ends the layer, the stronger one begins the next
    convolution     adds nothing yet

Whisper's feed-forward has GELU, the Conformer's Swish: gelu(x) is close to silu(1.702 x) / 1.702
(Hendrycks and Gimpel 2016, arXiv 1606.08415). What all clips have in common at a frame says where
that frame is, which the student cannot know, and is taken out of every target.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.fastconformer import (
    FastConformerRNNT,
    FeedForward,
    RelativeAttention,
    chunk_mask,
    relative_positions,
)
from training.human import human_clips
from training.mel import LogMel
from training.nemo_file import write_nemo
from training.teacher import Heard, WhisperEar, read_ctranslate2
from training.tiny_en import SHAPE

GELU = 1.702
LATE = 1  # frames by which the student's frame comes after Whisper's four: it ends with its audio
LEFT, RIGHT = SHAPE.att_context_size[0]  # what is fitted: the widest context, which knows most
ROWS = 8  # clips in a step of the subsampling
WELL_KNOWN = 40  # clips that it takes to know the mean of a place


@dataclass(frozen=True, slots=True)
class Clips:
    """What is fitted on: some clips, all frames of which stand one after the other."""

    mel: list[Tensor]  # [1, mels, frames] log-mel of each
    heard: list[Heard]  # what Whisper's layers did with it

    @property
    def lengths(self) -> list[int]:
        """Return the encoder frames of each clip."""
        return [len(heard.front) for heard in self.heard]

    def joined(self, of: Callable[[Heard], Tensor]) -> Tensor:
        """Return [frames, …]: `of` every clip, without what says where in the clip it is."""
        values = [of(heard) for heard in self.heard]
        every = nn.utils.rnn.pad_sequence(values)
        there = (torch.arange(len(every))[:, None] < torch.tensor(self.lengths)).sum(1)
        mean = every.sum(1) / there[:, None]
        known = int((there >= min(WELL_KNOWN, len(values))).sum())
        mean[known:] = mean[max(0, known - 20) : known].mean(0)
        joined = torch.cat(values)
        return joined - torch.cat([mean[: len(v)] for v in values]) + joined.mean(0)

    def layer(self, index: int, what: str) -> Tensor:
        """Return the same of a field of `LayerHeard`."""
        return self.joined(lambda heard: getattr(heard.layers[index], what))


def listened(ear: WhisperEar, waves: Iterable[np.ndarray], mels: int) -> Clips:
    """Let Whisper hear int16 clips of 16 kHz."""
    log_mel, mel, heard = LogMel(mels, torch.device("cpu")), [], []
    for pcm in waves:
        wave = torch.from_numpy(pcm[: len(pcm) // 1280 * 1280].astype(np.float32) / 32768)[None]
        features, frames = log_mel(wave, torch.tensor([wave.shape[1]]))
        mel.append(features[:, :, : int(frames)])
        heard.append(ear.listen(wave))
    return Clips(mel, heard)


def fit(layer: nn.Linear, x: Tensor, wanted: Tensor, scale: float = 1.0) -> float:
    """Set a layer so that `scale * wanted` comes of `x`; return the share it explains.

    Args:
        layer: with a bias.
        x: [frames, inputs].
        wanted: [frames, outputs].
        scale: factor on what is wanted.
    """
    inputs = F.pad(x, (0, 1), value=1.0).double()
    product = inputs.T @ inputs
    product += 1e-3 * product.diagonal().mean() * torch.eye(len(product), dtype=torch.double)
    found = torch.linalg.solve(product, inputs.T @ wanted.double()).float()
    layer.weight.copy_(scale * found[:-1].T)
    layer.bias.copy_(scale * found[-1])
    apart = (layer(x) / scale - wanted).square().sum()
    return float(1.0 - apart / (wanted - wanted.mean(0)).square().sum())


def fit_subsampling(model: FastConformerRNNT, clips: Clips, steps: int, seed: int) -> float:
    """Train the subsampling to give what Whisper's convolutions do; return the share explained."""
    rng, subsampling = np.random.default_rng(seed), model.encoder.pre_encode
    subsampling.expect(torch.cat([mel.flatten() for mel in clips.mel[:50]]))
    spread = torch.cat([heard.front for heard in clips.heard]).var(0).mean()
    optimizer = torch.optim.AdamW(subsampling.parameters(), lr=3e-3, betas=(0.9, 0.98))
    by_length = sorted(range(len(clips.mel)), key=lambda i: clips.mel[i].shape[2])
    apart: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 50)
            group["lr"] = 3e-3 * warm * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        begin = int(rng.integers(0, max(1, len(by_length) - ROWS)))
        rows = by_length[begin : begin + ROWS]
        frames = torch.tensor([clips.mel[i].shape[2] for i in rows])
        mel = torch.zeros(len(rows), clips.mel[0].shape[1], int(frames.max()))
        for row, i in enumerate(rows):
            mel[row, :, : frames[row]] = clips.mel[i][0]
        out, _ = subsampling(mel, frames)
        wanted = [clips.heard[i].front[: out.shape[1] - LATE] for i in rows]
        given = [out[row, LATE : LATE + len(w)] for row, w in enumerate(wanted)]
        loss = (torch.cat(given) - torch.cat(wanted)).square().mean() / spread
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(subsampling.parameters(), 1.0)
        optimizer.step()
        apart.append(loss.item())
    return 1.0 - float(np.mean(apart[-50:]))


def _fit_half(
    half: FeedForward, norm: nn.LayerNorm, x: Tensor, inner: Tensor, added: Tensor
) -> Tensor:
    """Fit half a feed-forward: its units to `inner`, what comes out to `added`; return x after."""
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    fit(half.linear1, norm(x), inner, GELU)
    units = F.silu(half.linear1(norm(x)))
    fit(half.linear2, units, added, 2.0)  # the Conformer takes half of it
    return x + 0.5 * half.linear2(units)


def _fit_places(attention: RelativeAttention, seen: list[Tensor]) -> None:
    """Fit the scores of relative places to the mean log attention [heads, frames, frames]."""
    distances = torch.arange(-RIGHT, LEFT + 1)
    total, count = torch.zeros(attention.heads, len(distances)), torch.zeros(len(distances))
    for weights in seen:
        frames = torch.arange(weights.shape[1])
        apart = frames[:, None] - frames
        inside = (apart <= LEFT) & chunk_mask(len(frames), LEFT, RIGHT, frames.device)
        count.index_add_(0, apart[inside] + RIGHT, torch.ones(int(inside.sum())))
        log = weights.clamp(min=1e-4).log()
        total.index_add_(1, apart[inside] + RIGHT, log[:, inside])
    mean = total / count.clamp(min=1)
    d_model, d_head = attention.linear_pos.in_features, attention.d_head
    # Row `longest - d` of the table is the distance d.
    longest = LEFT + RIGHT
    table = relative_positions(longest + 1, d_model, mean.device)[longest - distances]
    gram = table @ table.T + 0.1 * torch.eye(len(distances))
    wanted = math.sqrt(d_head) * (mean - mean.mean(1, keepdim=True))
    found = torch.linalg.solve(gram, wanted.T).T @ table  # [heads, d_model]
    # All of a head's units give the same, so that `pos_bias_v` of ones adds them up.
    attention.pos_bias_u.zero_()
    attention.pos_bias_v.fill_(1.0)
    attention.linear_pos.weight.copy_((found / d_head).repeat_interleave(d_head, 0))


def _attended(attention: RelativeAttention, x: Tensor) -> Tensor:
    """Return what the heads of one clip [frames, d_model] see, before the output layer."""
    out, attention.linear_out = attention.linear_out, nn.Identity()
    hidden = ~chunk_mask(len(x), LEFT, RIGHT, x.device)[None, None]
    seen = attention(x[None], hidden, relative_positions(len(x), x.shape[1], x.device))[0]
    attention.linear_out = out
    return seen


@torch.no_grad()
def graft(model: FastConformerRNNT, ear: WhisperEar, clips: Clips) -> Iterator[str]:
    """Fit the layers of the encoder, whose subsampling is fitted; yield a line about each.

    Raises:
        ValueError: width, heads or layers are not Whisper's, or half a feed-forward is not half.
    """
    shape, layers = model.shape, model.encoder.layers
    if (shape.d_model, shape.n_heads, shape.n_layers) != (ear.width, ear.heads, ear.layers):
        raise ValueError(
            f"an encoder of {shape.n_layers} layers of {shape.d_model} with {shape.n_heads} heads "
            f"cannot be begun from {ear.layers} of {ear.width} with {ear.heads}"
        )
    half = shape.ff_expansion_factor * shape.d_model
    if 2 * half != len(ear.weights["layer_0/ffn/linear_0/bias"]):
        raise ValueError(f"{half} units are not half of Whisper's feed-forward")
    model.eval()
    x = torch.cat([
        _as_long(model.encoder.pre_encode(mel, torch.tensor([mel.shape[2]]))[0][0, LATE:], n)
        for mel, n in zip(clips.mel, clips.lengths, strict=True)
    ])  # fmt: skip
    first = layers[0].feed_forward1.linear2
    first.weight.zero_()
    first.bias.zero_()
    rest = x  # of a layer's units before GELU, those that the next layer begins with
    for index, layer in enumerate(layers):
        if index:
            missing = clips.layer(index - 1, "after") - x
            x = _fit_half(layer.feed_forward1, layer.norm_feed_forward1, x, rest, missing)
        at = layer.self_attn
        layer.norm_self_att.weight.fill_(1.0)
        layer.norm_self_att.bias.zero_()
        normed = layer.norm_self_att(x)
        wanted = clips.layer(index, "qkv").chunk(3, 1)
        qkv = zip("qkv", (at.linear_q, at.linear_k, at.linear_v), wanted, strict=True)
        told = [f"{name} {fit(linear, normed, y):.2f}" for name, linear, y in qkv]
        _fit_places(at, [heard.layers[index].attention for heard in clips.heard])
        seen = torch.cat([_attended(at, part) for part in normed.split(clips.lengths)])
        told.append(f"attention {fit(at.linear_out, seen, clips.layer(index, 'attended')):.2f}")
        x = x + at.linear_out(seen)
        layer.conv.pointwise_conv2.weight.zero_()
        layer.conv.pointwise_conv2.bias.zero_()
        inner, last = clips.layer(index, "inner"), index + 1 == len(layers)
        out = ear.weights[f"layer_{index}/ffn/linear_1/weight"]
        order = (F.gelu(inner).abs().mean(0) * out.norm(dim=0)).argsort()
        weak, strong = order[:half], order[half:]
        if last:  # no layer comes after it to take the other half
            units, added = strong, clips.layer(index, "fed")
        else:
            units, added = weak, F.gelu(inner[:, weak]) @ out[:, weak].T
        x = _fit_half(layer.feed_forward2, layer.norm_feed_forward2, x, inner[:, units], added)
        # Whisper does not norm its stream between layers: keep its mean and its size.
        layer.norm_out.weight.fill_(1.0 if last else float(x.std(-1).mean()))
        layer.norm_out.bias.fill_(0.0 if last else float(x.mean()))
        x, rest = layer.norm_out(x), inner[:, strong]
        yield f"layer {index}, explained: {', '.join(told)}"
    final = clips.joined(lambda h: h.final)
    yield f"Whisper's output, explained: {fit(nn.Linear(x.shape[1], final.shape[1]), x, final):.2f}"


def _as_long(x: Tensor, length: int) -> Tensor:
    """Cut [frames, d_model], or repeat its last frame, so that it is that long."""
    return torch.cat((x, x[-1:].expand(max(0, length - len(x)), -1)))[:length]


def main() -> None:
    """Read the command line and write a `.nemo` for `training.tiny_en --warm`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="CTranslate2 model.bin")
    parser.add_argument("--speech", type=Path, required=True, help="folder of human speech")
    parser.add_argument("--tokenizer", type=Path, required=True, help="sentencepiece model")
    parser.add_argument("--clips", type=int, default=700, help="of people, to fit on")
    parser.add_argument("--steps", type=int, default=900, help="of the subsampling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    ear = WhisperEar(read_ctranslate2(args.teacher), torch.device("cpu"))
    waves = [pcm for pcm, *_ in human_clips(args.speech / "train/manifest.jsonl")]
    chosen = np.random.default_rng(args.seed).permutation(len(waves))[: args.clips]
    model = FastConformerRNNT(SHAPE)
    clips = listened(ear, (waves[i] for i in chosen), SHAPE.feat_in)
    explained = fit_subsampling(model, clips, args.steps, args.seed)
    print(f"subsampling, explained: {explained:.3f}", flush=True)
    for line in graft(model, ear, clips):
        print(line, flush=True)
    write_nemo(args.out, model, args.tokenizer.read_bytes())
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()

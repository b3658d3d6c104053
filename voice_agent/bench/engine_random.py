"""Random weights that behave like a trained model, as far as a benchmark can tell.

Plain random weights hear nothing: their encoder frames are nearly one constant vector, so the joint
says blank for ever or one token for ever, and rounding decides which. Speech emits some 0.3 tokens
in a frame of 80 ms, seldom more than one, and a small difference in the sound makes a small one in
the words. So, by measuring on noise:

1. the first convolution, the subsampling's output and both inputs of the joint are centred and
   scaled, and the joint's outputs centred: every frame and every token is then like no other.
   Attention gets a small part in the sum: its mean over a long past is nearly one vector for each
   stream, in which, layer upon layer, what is heard now would drown;
2. one unit of the prediction network is made to remember whether the last token was even (c = 1) or
   odd (c = -1, as before the first), and two units of the joint are given a meaning. One side of
   what is heard, s, calls for even tokens and the other for odd ones, and c answers: the units are
   relu(s - 2 c) and relu(2 c - s), the first speaks for even tokens, the second for odd ones.
   What was called for is then said once;
3. blank's bias is searched for the rate that was asked for.

The noise is longer than the past that attention sees: frames of a young segment are unlike those of
an old one, and a rate found on the former alone is not the latter's.

It stays the same model in every other respect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from voice_agent.bench.engine_audio import noise, samples_for, windows
from voice_agent.bench.engine_systems import plain_runner
from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.runner import EngineRunner
from voice_agent.engine.text import Tokenizer

TOKENS_A_FRAME = 0.3
LANES = 8
FRAMES = 160
"""Of noise that is measured on: twice the past of the checkpoints that are served, and more."""
_MEL_CHUNK_FRAMES = 32  # of them the subsampling is centred on: it has no memory
_HALVINGS = 10
_ATTENTION = 0.3
_ANSWER = 2.0
_SURE = 20.0  # saturates a gate
_LOUD = 3.0


@torch.inference_mode()
def calibrated(
    checkpoint: Checkpoint,
    *,
    right: int,
    device: torch.device | str = "cpu",
    rate: float = TOKENS_A_FRAME,
    seed: int = 0,
) -> tuple[Checkpoint, float]:
    """Centre, scale and bias random weights.

    Args:
        checkpoint: random weights (`voice_agent.bench.shapes`); left as it is.
        right: right context to measure at.
        device: where to compute, in float32.
        rate: tokens a frame to aim at.
        seed: of the noise.

    Returns:
        The same model with other numbers in a few tensors and a made-up tokenizer, and the tokens
        a frame that it emitted on the noise.
    """
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    weights["decoder.prediction.embed.weight"][-1] = 0.0  # every reference starts from zeros
    for name, tensor in weights.items():
        if name.endswith("self_attn.linear_out.weight"):
            tensor *= _ATTENTION
    made = replace(checkpoint, weights=weights, tokenizer=_tokenizer(checkpoint))
    chunks = Chunks.of(checkpoint.config, right)
    steps = max(2, -(-FRAMES // chunks.frames))
    rng = np.random.default_rng(seed)
    pcm = windows(noise(LANES, samples_for(chunks, steps), rng), chunks, steps)
    runner = plain_runner(made, LANES, device)
    mel = [runner.features(torch.from_numpy(window).to(runner.device)) for window in pcm]
    few = mel[: max(2, _MEL_CHUNK_FRAMES // chunks.frames)]
    _centre_subsampling(weights, torch.cat(few, 1)[:, 7:].cpu())
    del runner  # it holds the weights as they were
    frames = _encode(plain_runner(made, LANES, device), mel, chunks)
    _remember_parity(weights)
    decoder = _Decoder(weights, made, torch.device(device))
    _standardise(weights, "joint.enc", frames.flatten(0, 1).cpu())
    _standardise(weights, "joint.pred", decoder.spoken(rng)[1].cpu())
    heard = F.linear(frames.cpu(), *_pair(weights, "joint.enc"))
    _answer(weights, _liveliest(heard))
    decoder = _Decoder(weights, made, torch.device(device))
    weights["joint.joint_net.2.bias"].sub_(decoder.habit(frames, rng).cpu())
    _call(weights["joint.joint_net.2.weight"])
    decoder = _Decoder(weights, made, torch.device(device))
    found = _search(decoder, frames, rate)
    emitted = decoder.rate(frames, found)
    weights["joint.joint_net.2.bias"][-1] += found
    return made, emitted


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Words "w0", "w1", ..., so that a recogniser can write what the random model says."""
    return checkpoint.tokenizer or Tokenizer(
        tuple(f" w{i}" for i in range(checkpoint.config.decoder.vocab_size))
    )


def _encode(runner: EngineRunner, mel: list[torch.Tensor], chunks: Chunks) -> torch.Tensor:
    """Encoder frames (with the prompt, where there is one), shape (lanes, frames, d_model)."""
    slots = torch.arange(LANES, device=runner.device)
    out = []
    for slot in range(LANES):
        runner.reset(slot)
    for step, chunk in enumerate(mel):
        pos = torch.full_like(slots, step * chunks.frames)
        encoded = runner.encode(chunk, slots, pos, chunks.right).float()
        if runner.prompt and runner.config.prompt:
            prompts = torch.full_like(slots, runner.config.prompt.index(None))
            encoded = runner.prompt(encoded, prompts)
        out.append(encoded.clone())
    return torch.cat(out, 1)


def _centre_subsampling(weights: dict[str, torch.Tensor], mel: torch.Tensor) -> None:
    """Centre the first convolution and scale the last projection of `encoder.pre_encode`."""
    name = "encoder.pre_encode."

    def conv(x: torch.Tensor, index: int, **options: int) -> torch.Tensor:
        weight, bias = (weights[f"{name}conv.{index}.{part}"] for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, **options)

    def causal(x: torch.Tensor, index: int, groups: int) -> torch.Tensor:
        return conv(F.pad(x, (2, 1, 2, 1)), index, stride=2, groups=groups)

    x = causal(mel[:, None], 0, 1)
    spread = x.std((0, 2, 3))
    weights[f"{name}conv.0.bias"].sub_(x.mean((0, 2, 3))).div_(spread)
    weights[f"{name}conv.0.weight"].div_(spread[:, None, None, None])
    x = torch.relu(causal(mel[:, None], 0, 1))
    for depthwise, point in ((2, 3), (5, 6)):
        x = torch.relu(conv(causal(x, depthwise, x.shape[1]), point))
    frames = F.linear(x.transpose(1, 2).flatten(2), *_pair(weights, f"{name}out"))
    _standardise(weights, f"{name}out", None, frames.flatten(0, 1))


def _standardise(
    weights: dict[str, torch.Tensor],
    layer: str,
    inputs: torch.Tensor | None,
    outputs: torch.Tensor | None = None,
) -> None:
    """Give a layer's outputs, over these inputs, mean 0 and deviation 1."""
    if outputs is None:
        assert inputs is not None
        outputs = F.linear(inputs, *_pair(weights, layer))
    spread = outputs.std(0)
    weights[f"{layer}.weight"].div_(spread[:, None])
    weights[f"{layer}.bias"].sub_(outputs.mean(0)).div_(spread)


def _liveliest(heard: torch.Tensor) -> int:
    """The unit that changes most from frame to frame, of (lanes, frames, units) of deviation 1."""
    return int((heard[:, 1:] - heard[:, :-1]).std((0, 1)).argmax())


def _remember_parity(weights: dict[str, torch.Tensor]) -> None:
    """Make unit 0 of every LSTM layer +-tanh(1): whether the last token was even or odd.

    Its input gate and output gate stay open, its forget gate shut, and its cell is the sign of
    input 0: of the embedding, which is 0 before the first token, and of the layer below.
    """
    embed = weights["decoder.prediction.embed.weight"]
    embed[:-1:2, 0], embed[1:-1:2, 0] = 1.0, -1.0
    layer = 0
    while (name := f"decoder.prediction.dec_rnn.lstm.{{}}_l{layer}").format("bias_ih") in weights:
        hidden = len(weights[name.format("bias_ih")]) // 4
        rows = hidden * torch.arange(4)  # of unit 0: input, forget, cell, output
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            weights[name.format(part)][rows] = 0.0
        weights[name.format("weight_ih")][rows[2], 0] = _SURE
        weights[name.format("bias_ih")][rows] = torch.tensor([_SURE, -_SURE, -_SURE / 4, _SURE])
        layer += 1


def _answer(weights: dict[str, torch.Tensor], unit: int) -> None:
    """Make units 0 and 1 of the joint s - 2 c and 2 c - s.

    Args:
        weights: changed; the prediction network's unit 0 remembers.
        unit: of the joint, whose frame side becomes s.
    """
    for part in ("weight", "bias"):
        s = weights[f"joint.enc.{part}"][unit].clone()
        weights[f"joint.enc.{part}"][unit] = weights[f"joint.enc.{part}"][0]
        weights[f"joint.enc.{part}"][0], weights[f"joint.enc.{part}"][1] = s, -s
        weights[f"joint.pred.{part}"][:2] = 0.0
    for row, sign in ((0, -1.0), (1, 1.0)):
        weights["joint.pred.weight"][row, 0] = sign * _ANSWER / math.tanh(1.0)
    weights["joint.joint_net.2.weight"][:, :2] = 0.0
    weights["joint.joint_net.2.weight"][-1] *= 0.2  # blank is decided by the bias and the units


def _call(out: torch.Tensor) -> None:
    """Let unit 0 speak for even tokens and unit 1 for odd ones; blank is the last."""
    out[:-1:2, 0] = _LOUD
    out[1:-1:2, 1] = _LOUD


def _pair(weights: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    return weights[f"{layer}.weight"], weights[f"{layer}.bias"]


def _search(decoder: _Decoder, frames: torch.Tensor, rate: float) -> float:
    """Blank's extra bias for a rate; the more blank, the fewer tokens."""
    low, high = -10.0, 20.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if decoder.rate(frames, middle) > rate else (low, middle)
    return (low + high) / 2


class _Decoder:
    """Greedy decoding as plainly as it can be said: frame after frame, token after token."""

    def __init__(
        self, weights: dict[str, torch.Tensor], checkpoint: Checkpoint, device: torch.device
    ) -> None:
        c = self.config = checkpoint.config.decoder
        get: Callable[[str], torch.Tensor] = lambda name: weights[name].to(device, copy=True)  # noqa: E731
        self.embed = get("decoder.prediction.embed.weight")
        self.lstm = torch.nn.LSTM(c.pred_hidden, c.pred_hidden, c.pred_rnn_layers).to(device)
        for name, parameter in self.lstm.named_parameters():
            parameter.data = get(f"decoder.prediction.dec_rnn.lstm.{name}")
        self.enc = get("joint.enc.weight"), get("joint.enc.bias")
        self.pred = get("joint.pred.weight"), get("joint.pred.bias")
        self.out = get("joint.joint_net.2.weight"), get("joint.joint_net.2.bias")
        self.activation = getattr(torch, c.activation)

    def spoken(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random tokens, shape (n,), and the prediction network behind each, (n, pred_hidden)."""
        tokens = torch.from_numpy(rng.integers(0, self.config.vocab_size, (80, LANES)))
        tokens = tokens.to(self.embed.device)
        return tokens.flatten(), self.lstm(self.embed[tokens])[0].flatten(0, 1)

    def habit(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mean logit of each token, without bias: what it says whatever it hears."""
        heard = F.linear(frames.flatten(0, 1), *self.enc)
        said = F.linear(self.spoken(rng)[1], *self.pred)
        pairs = torch.from_numpy(rng.integers(0, len(said), len(heard))).to(said.device)
        return F.linear(self.activation(heard + said[pairs]).mean(0), self.out[0])

    def rate(self, frames: torch.Tensor, bias: float) -> float:
        """Tokens a frame with this much added to blank's logit."""
        c = self.config
        projected = F.linear(frames, *self.enc)
        lanes = len(frames)
        weight, out_bias = self.out
        out_bias = out_bias.clone()
        out_bias[-1] += bias
        y, state = self.lstm(self.embed[-1].expand(1, lanes, -1))
        total = 0
        for frame in range(frames.shape[1]):
            alive = torch.ones(lanes, dtype=torch.bool, device=frames.device)
            for _ in range(c.max_symbols):
                hidden = self.activation(projected[:, frame] + F.linear(y[0], *self.pred))
                best = F.linear(hidden, weight, out_bias).argmax(-1)
                alive &= best != c.blank
                said = int(alive.sum())
                if not said:
                    break
                total += said
                next_y, (h, cell) = self.lstm(self.embed[best][None], state)
                keep = alive[None, :, None]
                y = torch.where(keep, next_y, y)
                state = torch.where(keep, h, state[0]), torch.where(keep, cell, state[1])
        return total / (lanes * frames.shape[1])

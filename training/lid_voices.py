"""Other people's voices for synthetic speech: what is said stays, who says it changes.

Nobody was recorded who speaks Kannada, Hindi or Tamil here; people's English was. Every frame of an
utterance is replaced by the mean of the frames of one group of people that sound most like it to
the ear of the network itself, which was taught to hear phones (after Baas et al. 2023, kNN-VC). All
languages go the same way, English too, so a person's timbre is no evidence for English.

`align` finds when the phones of a known text are said, so that people's frames can be taught, too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.lid_net import LidNet

NEVER = -1e30


@torch.no_grad()
def align(scores: Tensor, frames: Tensor, texts: list[list[int]]) -> Tensor:
    """The likeliest time of every phone of known texts (Viterbi), with pauses where they fit.

    Args:
        scores: [batch, frames, phones] log-probabilities; phone 0 is a pause.
        frames: [batch], those of each row that are real.
        texts: the phones that each row says, in order.

    Returns:
        [batch, frames] int64, the phone of each frame; -1 in rows whose text does not fit.
    """
    batch, steps, _ = scores.shape
    device = scores.device
    states = 2 * max(len(text) for text in texts) + 1
    chain = torch.zeros(batch, states, dtype=torch.long)
    for row, text in zip(chain, texts, strict=True):
        row[1 : 2 * len(text) : 2] = torch.tensor(text, dtype=torch.long)
    chain = chain.to(device)
    last = torch.tensor([2 * len(text) for text in texts], device=device)
    gain = scores.gather(2, chain[:, None].expand(-1, steps, -1))
    best = torch.full((batch, states), NEVER, device=device)
    best[:, :2] = gain[:, 0, :2]
    came = torch.zeros(steps, batch, states, dtype=torch.int8, device=device)
    is_phone = torch.arange(states, device=device) % 2 == 1
    pad = nn.functional.pad
    for t in range(1, steps):
        # A state is entered from itself, from the one before, or past a pause that was not made.
        one = pad(best[:, :-1], (1, 0), value=NEVER)
        two = pad(best[:, :-2], (2, 0), value=NEVER).masked_fill(~is_phone, NEVER)
        top, way = torch.stack([best, one, two]).max(0)
        came[t] = way
        best = torch.where((t < frames)[:, None], top + gain[:, t], best)
    ends = torch.stack([last, (last - 1).clamp(min=0)], dim=1)
    value, end = best.gather(1, ends).max(1)
    state = ends.gather(1, end[:, None])
    path = torch.zeros(batch, steps, dtype=torch.long, device=device)
    for t in range(steps - 1, -1, -1):
        path[:, t : t + 1] = chain.gather(1, state)
        back = came[t].gather(1, state).long()
        state = state - torch.where((t < frames)[:, None], back, 0)
    fits = (value > NEVER / 2) & (last > 0)
    return path.masked_fill(~fits[:, None], -1)


class Bank:
    """Frames of people: how each sounds to the ear [n, width], and its features [n, 128]."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []
        self.mel: list[Tensor] = []

    @torch.no_grad()
    def add(self, heard: Tensor, mel: Tensor) -> None:
        """Add one clip: heard [width, n], features [64, 2n] less their mean."""
        n = min(heard.shape[1], mel.shape[1] // 2)
        pairs = mel[:, : 2 * n].reshape(64, n, 2).permute(1, 0, 2).reshape(n, 128)
        self.heard.append(torch.nn.functional.normalize(heard[:, :n].T.float(), dim=1))
        self.mel.append(pairs)

    @torch.no_grad()
    def speak(self, net: LidNet, mel: Tensor, rng: np.random.Generator, clips: int = 8) -> Tensor:
        """Say features [batch, 64, frames] in the voices of a few clips; the same shape."""
        chosen = rng.choice(len(self.heard), min(clips, len(self.heard)), replace=False)
        keys = torch.cat([self.heard[i] for i in chosen])
        values = torch.cat([self.mel[i] for i in chosen])
        query = torch.nn.functional.normalize(net.hear(mel).float(), dim=1).transpose(1, 2)
        near = (query @ keys.T).topk(3, dim=2)
        weight = torch.softmax(near.values * 20.0, dim=2)[..., None]
        said = (values[near.indices] * weight).sum(2)  # [batch, n, 128]
        batch, n, _ = said.shape
        out = said.reshape(batch, n, 64, 2).permute(0, 2, 1, 3).reshape(batch, 64, 2 * n)
        out = out[:, :, : mel.shape[2]]
        return out - out.mean(dim=2, keepdim=True)

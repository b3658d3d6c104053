"""Greedy RNNT decoding of a chunk of encoder frames, many streams at once.

At each encoder frame a lane emits tokens until the joint prefers blank, or `max_symbols` is
reached; only then does it move to the next frame (nemo GreedyBatchedRNNTInfer). The prediction
network's output is kept in the slot, projected already, so that a blank frame costs one joint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voice_agent.engine.boosting import START, PhraseBoost, Place
from voice_agent.engine.config import DecoderConfig
from voice_agent.engine.slots import SlotPool


@dataclass(slots=True)
class Emission:
    """Tokens of one lane in one step.

    Attributes:
        tokens: ids.
        frames: frame within the chunk at which each was emitted.
        probs: posterior of each, over all tokens and blank.
    """

    tokens: list[int]
    frames: list[int]
    probs: list[float]


@dataclass(slots=True)
class BoostState:
    """How far the phrases of one slot have been said in its segment."""

    phrases: PhraseBoost
    state: tuple[Place, ...] = START


def _boosted(
    logits: torch.Tensor, best: torch.Tensor, boosts: Sequence[BoostState | None]
) -> torch.Tensor:
    """The best token of each lane that is about to speak, its phrases preferred.

    Args:
        logits: shape (n, tokens + 1); the last is blank, which has lost already.
        best: shape (n,), without boosts.
        boosts: of each lane; moved on by what it says.
    """
    best = best.clone()
    for row, boost in enumerate(boosts):
        if boost is not None:
            bonus = boost.phrases.bonus(boost.state)
            scores = logits[row, :-1].clone()
            tokens = torch.tensor(list(bonus), device=scores.device)
            scores[tokens] += torch.tensor(list(bonus.values()), device=scores.device)
            best[row] = scores.argmax()
            boost.state = boost.phrases.after(boost.state, int(best[row]))
    return best


class Decoder:
    """Prediction network and joint, float32."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: DecoderConfig) -> None:
        """Take `decoder.*` and `joint.*` of a state dict, on the device."""
        self.config = config
        rnn = "decoder.prediction.dec_rnn.lstm."
        self.embed = weights["decoder.prediction.embed.weight"]
        self.lstm = [
            tuple(weights[f"{rnn}{kind}_l{i}"] for kind in ("weight_ih", "weight_hh"))
            + tuple(weights[f"{rnn}{kind}_l{i}"] for kind in ("bias_ih", "bias_hh"))
            for i in range(config.pred_rnn_layers)
        ]
        self.pred = weights["joint.pred.weight"], weights["joint.pred.bias"]
        self.enc = weights["joint.enc.weight"], weights["joint.enc.bias"]
        # joint_net is [activation, dropout if trained with it, linear].
        out = max(k for k in weights if k.startswith("joint.joint_net.") and k.endswith("weight"))
        self.out = weights[out], weights[out.replace("weight", "bias")]
        self.activation = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}[
            config.activation
        ]

    def start(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """State before the first token: the network after blank, which stands for the start.

        Returns:
            lstm_h, lstm_c, shape (layers, pred_hidden), and pred, shape (joint_hidden,).
        """
        c = self.config
        zeros = self.embed.new_zeros(1, c.pred_rnn_layers, c.pred_hidden)
        h, cell, pred = self._predict(self.embed[c.blank][None], zeros, zeros)
        return h[0], cell[0], pred[0]

    def _predict(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One token through the LSTM. x (n, hidden); h, c (n, layers, hidden)."""
        hs, cs = [], []
        for i, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.lstm):
            x, cell = torch._VF.lstm_cell(x, (h[:, i], c[:, i]), w_ih, w_hh, b_ih, b_hh)
            hs.append(x)
            cs.append(cell)
        return torch.stack(hs, 1), torch.stack(cs, 1), F.linear(x, *self.pred)

    def __call__(
        self,
        encoded: torch.Tensor,
        pool: SlotPool,
        slots: torch.Tensor,
        boosts: Sequence[BoostState | None] = (),
    ) -> list[Emission]:
        """Decode one chunk a lane and move the slots' decoder state on.

        Args:
            encoded: shape (n, frames, d_model).
            pool: state.
            slots: int64, shape (n,): distinct.
            boosts: of each lane, moved on as it emits; empty where no lane has one.

        Returns:
            One emission a lane.
        """
        c = self.config
        emissions = [Emission([], [], []) for _ in range(len(slots))]
        h, cell, pred = pool.lstm_h[slots], pool.lstm_c[slots], pool.pred[slots]
        projected = F.linear(encoded.float(), *self.enc)
        for frame in range(encoded.shape[1]):
            active = torch.arange(len(slots), device=encoded.device)
            for _ in range(c.max_symbols):
                hidden = self.activation(projected[active, frame] + pred[active])
                logits = F.linear(hidden, *self.out)
                best = logits.argmax(-1)
                spoke = best != c.blank
                if not spoke.any():
                    break
                active, best, logits = active[spoke], best[spoke], logits[spoke]
                if any(boosts):
                    best = _boosted(logits, best, [boosts[lane] for lane in active.tolist()])
                probs = logits.softmax(-1).gather(-1, best[:, None])[:, 0]
                h[active], cell[active], pred[active] = self._predict(
                    self.embed[best], h[active], cell[active]
                )
                for lane, token, prob in zip(
                    active.tolist(), best.tolist(), probs.tolist(), strict=True
                ):
                    emissions[lane].tokens.append(token)
                    emissions[lane].frames.append(frame)
                    emissions[lane].probs.append(prob)
        pool.lstm_h[slots], pool.lstm_c[slots], pool.pred[slots] = h, cell, pred
        return emissions

"""Greedy RNNT decoding of a chunk of encoder frames, many streams at once, in plain torch.

Every lane stands at a frame of its own. A round asks the joint for each lane that has frames left:
blank moves the lane to its next frame; a token is emitted and moves its prediction network on,
and after `max_symbols` tokens the lane goes to the next frame without asking (nemo
GreedyBatchedRNNTInfer emits the same tokens). The prediction network's output is kept in the slot,
projected already, so that a blank frame costs one joint; and as it stays what it is until a lane
speaks, all frames of a chunk are asked at once for the first that does. `kernels.decode` does the
same on a GPU without the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voice_agent.engine.boosting import START, PhraseBoost, Place
from voice_agent.engine.config import DecoderConfig
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.slots import SlotPool


@dataclass(slots=True)
class BoostState:
    """How far the phrases of one slot have been said in its segment."""

    phrases: PhraseBoost
    state: tuple[Place, ...] = START


def with_bonus(
    scores: torch.Tensor, phrases: PhraseBoost, state: tuple[Place, ...]
) -> torch.Tensor:
    """Scores of all tokens, shape (tokens,), and what phrases that are so far said add to them."""
    bonus = phrases.bonus(state)
    tokens = torch.tensor(list(bonus), device=scores.device)
    more = torch.tensor(list(bonus.values()), device=scores.device)
    return scores.index_add(0, tokens, more)


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
            best[row] = with_bonus(logits[row, :-1], boost.phrases, boost.state).argmax()
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
        self.start = self._start()

    @torch.inference_mode()
    def _start(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """State before the first token: the network after blank, which stands for the start.

        Returns:
            lstm_h, lstm_c, shape (layers, pred_hidden), and pred, shape (joint_hidden,).
        """
        c = self.config
        zeros = self.embed.new_zeros(1, c.pred_rnn_layers, c.pred_hidden)
        h, cell, pred = self.predict(self.embed[c.blank][None], zeros, zeros)
        return h[0], cell[0], pred[0]

    def predict(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One token through the LSTM.

        Args:
            x: embedded, shape (n, pred_hidden).
            h: state before it, shape (n, layers, pred_hidden).
            c: the same.

        Returns:
            h and c after it, and its output in the joint's space, shape (n, joint_hidden).
        """
        hs, cs = [], []
        for i, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.lstm):
            x, cell = torch._VF.lstm_cell(x, (h[:, i], c[:, i]), w_ih, w_hh, b_ih, b_hh)
            hs.append(x)
            cs.append(cell)
        return torch.stack(hs, 1), torch.stack(cs, 1), F.linear(x, *self.pred)

    def project(self, encoded: torch.Tensor) -> torch.Tensor:
        """Encoder frames (n, frames, d_model) into the joint's space, float32."""
        return F.linear(encoded.float(), *self.enc)

    def joint(self, x: torch.Tensor) -> torch.Tensor:
        """Logits from the sum of both sides, shape (..., joint_hidden)."""
        return F.linear(self.activation(x), *self.out)

    def begin(self, pool: SlotPool, slots: torch.Tensor, first: torch.Tensor) -> None:
        """Start the state of the lanes whose segment begins.

        Args:
            pool: state.
            slots: int64, shape (n,): distinct.
            first: bool, shape (n,).
        """
        for tensor, start in zip(pool.decoder, self.start, strict=True):
            new = first.view(-1, *[1] * start.dim())
            tensor[slots] = torch.where(new, start, tensor[slots])

    def __call__(
        self,
        projected: torch.Tensor,
        pool: SlotPool,
        slots: torch.Tensor,
        boosts: Sequence[BoostState | None] = (),
    ) -> Emissions:
        """Decode one chunk a lane and move the slots' decoder state on.

        Args:
            projected: shape (n, frames, joint_hidden), from `project`.
            pool: state; `begin` was called.
            slots: int64, shape (n,): distinct.
            boosts: of each lane, moved on as it emits; empty where no lane has one.

        Returns:
            What the lanes say.
        """
        c = self.config
        n, frames, _ = projected.shape
        spoken = self.joint(projected + pool.pred[slots][:, None]).argmax(-1) != c.blank
        lanes_speak = spoken.any(1)
        if not lanes_speak.any():
            return Emissions.of([], [], [], [])
        h, cell, pred = (tensor[slots] for tensor in pool.decoder)
        busy = lanes_speak.nonzero()[:, 0]
        frame = spoken.byte().argmax(1)  # of a lane's first token
        symbols = torch.zeros_like(frame)
        said: list[tuple[torch.Tensor, ...]] = []
        while len(busy):
            logits = self.joint(projected[busy, frame[busy]] + pred[busy])
            best = logits.argmax(-1)
            spoke = best != c.blank
            if spoke.any():
                lanes, best, logits = busy[spoke], best[spoke], logits[spoke]
                if any(boosts):
                    best = _boosted(logits, best, [boosts[lane] for lane in lanes.tolist()])
                probs = logits.softmax(-1).gather(-1, best[:, None])[:, 0]
                h[lanes], cell[lanes], pred[lanes] = self.predict(
                    self.embed[best], h[lanes], cell[lanes]
                )
                said.append((lanes, best, frame[lanes], probs))
                symbols[lanes] += 1
            moved = busy[~spoke | (symbols[busy] >= c.max_symbols)]
            frame[moved] += 1
            symbols[moved] = 0
            busy = busy[frame[busy] < frames]
        if not said:  # what was all but a tie may round to blank when it is asked alone
            return Emissions.of([], [], [], [])
        for tensor, state in zip(pool.decoder, (h, cell, pred), strict=True):
            tensor[slots] = state
        return Emissions.of(*(torch.cat(column).tolist() for column in zip(*said, strict=True)))

"""Beam search over a segment's encoder frames, finished or still being spoken.

Greedy decoding takes the best token of every frame and lives with it. This keeps the `WIDTH` most
likely texts from frame to frame. At a frame each may go on by some tokens, and must end with a
blank; the ways that lead to one text are added up (Graves 2012, arXiv 1211.3711, section 2.7, but
with all texts at the same frame). Which tokens a text goes on by, a language model may have a say
in (`fusion`), and after it the phrases that are preferred.

While a segment is being spoken, what most of the probability agrees on is told, and nothing is ever
taken back.

Engine thread only. It asks the joint and the prediction network for all texts at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import compress

import torch

from voice_agent.engine.boosting import START, PhraseBoost, Place
from voice_agent.engine.decoder import Decoder, with_bonus
from voice_agent.engine.emissions import Said
from voice_agent.engine.fusion import Fusion
from voice_agent.engine.ngram import State

WIDTH = 8
"""Texts that are kept from frame to frame."""
PATIENCE = 12
"""Frames after which a text that is being spoken may not be disputed any more: a second."""
AGREED = 0.8
"""Share of the texts' probability that settles it before."""
_WORSE = 8.0  # nats behind the best text at which one is given up


@dataclass(frozen=True, slots=True)
class _Text:
    """A text so far.

    Attributes:
        tokens: of it.
        frames: at which each was emitted, on the most likely way.
        probs: posterior of each there.
        score: log probability of all ways to it, and what a language model added.
        at: row of the prediction network's state.
        boost: how far the phrases have been said.
        lm: state of the language model.
    """

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    probs: tuple[float, ...] = ()
    score: float = 0.0
    at: int = 0
    boost: tuple[Place, ...] = START
    lm: State = ()


class BeamSearch:
    """One segment's search; its frames come in chunks."""

    def __init__(
        self,
        decoder: Decoder,
        chunks: int | None,
        phrases: PhraseBoost | None = None,
        width: int = WIDTH,
        fusion: Fusion | None = None,
    ) -> None:
        """Begin.

        Args:
            decoder: joint and prediction network.
            chunks: that will come; the text is told with the last of them. None where nobody knows:
                it is told as far as it is settled, and the rest when it is asked for (`rest`).
            phrases: to prefer.
            width: texts that are kept.
            fusion: a language model, for which likely text is preferred.
        """
        self._decoder = decoder
        self._left = chunks
        self._phrases = phrases
        self._width = width
        self._frame = 0
        self._told = self._said_at = 0
        self._fusion = fusion
        self._texts = [_Text(lm=fusion.lm.start if fusion else ())]
        # State after each text: rows of lstm_h, lstm_c (rows, layers, hidden), pred (rows, joint),
        # and what the language model adds to the next token (rows, tokens).
        self._state = self._fused(tuple(tensor[None] for tensor in decoder.start), self._texts)

    def feed(self, projected: torch.Tensor) -> Said | None:
        """Hear a chunk.

        Args:
            projected: shape (frames, joint_hidden), from `Decoder.project`.

        Returns:
            After the last chunk the tokens of the best text, the frame of each counted from the
            beginning of that chunk (below 0 before it), and its posterior; before, None. Where the
            number of chunks is not known, what has been settled since the chunk before.
        """
        settled = self._told
        for frame in projected:
            self._hear(frame)
            self._frame += 1
            if self._left is None:  # after every frame, so that chunks make no difference
                settled = self._settled()
        first = self._frame - len(projected)
        if self._left is None:
            return self._tell(settled, first)
        self._left -= 1
        return None if self._left else self._tell(len(self._texts[0].tokens), first)

    @property
    def ended(self) -> bool:
        """Whether the last chunk has come."""
        return self._left == 0

    def rest(self) -> Said:
        """What has not been told of the best text; frames are counted from the segment's first."""
        return self._tell(len(self._texts[0].tokens), 0)

    def _tell(self, until: int, first: int) -> Said:
        """The best text's tokens from where it has been told, their frames counted from `first`."""
        best, new = self._texts[0], slice(self._told, until)
        # The likeliest way may be another one by now, on which what was told came later.
        frames = [max(frame, self._said_at) for frame in best.frames[new]]
        self._told, self._said_at = until, max(frames, default=self._said_at)
        return best.tokens[new], [frame - first for frame in frames], best.probs[new]

    def _settled(self) -> int:
        """Tokens of the best text that are settled; the texts that dispute them are given up."""
        best = self._texts[0]
        settled = max(self._told, sum(f < self._frame - PATIENCE for f in best.frames))
        self._keep_those_that_begin(best.tokens[:settled])
        shares = [math.exp(text.score - best.score) for text in self._texts]
        while settled < len(best.tokens):
            begins = best.tokens[: settled + 1]
            agree = [text.tokens[: settled + 1] == begins for text in self._texts]
            if sum(compress(shares, agree)) < AGREED * sum(shares):
                break
            settled += 1
        self._keep_those_that_begin(best.tokens[:settled])
        return settled

    def _keep_those_that_begin(self, tokens: tuple[int, ...]) -> None:
        self._texts = [text for text in self._texts if text.tokens[: len(tokens)] == tokens]

    def _hear(self, frame: torch.Tensor) -> None:
        """Go on by a frame, shape (joint_hidden,)."""
        blank = self._decoder.config.blank
        ended: dict[tuple[int, ...], _Text] = {}
        going = self._texts
        for symbols in range(self._decoder.config.max_symbols + 1):
            rows = torch.tensor([text.at for text in going], device=frame.device)
            scores = self._decoder.joint(frame + self._state[2][rows]).log_softmax(-1)
            for text, score in zip(going, scores[:, blank].tolist(), strict=True):
                _add(ended, replace(text, score=text.score + score))
            best = sorted(ended.values(), key=lambda text: -text.score)[: self._width]
            if symbols == self._decoder.config.max_symbols:
                break
            least = best[0].score - _WORSE
            if len(best) == self._width:
                least = max(least, best[-1].score)
            going = self._spoken(going, scores[:, :blank], rows, least)
            if not going:
                break
        self._texts = best
        self._forget()

    def _spoken(
        self, texts: list[_Text], scores: torch.Tensor, rows: torch.Tensor, least: float
    ) -> list[_Text]:
        """The best texts that are one token longer, and better than `least` before any blank."""
        posteriors = scores
        if self._fusion is not None:
            scores = scores + self._state[3][rows]
        if self._phrases is not None:
            scores = torch.stack(
                [self._boosted(t.boost, row) for t, row in zip(texts, scores, strict=True)]
            )
        likely = scores.topk(min(self._width, scores.shape[1]), -1)
        found = sorted(
            (
                (text.score + score, row, token)
                for row, text in enumerate(texts)
                for score, token in zip(
                    likely.values[row].tolist(), likely.indices[row].tolist(), strict=True
                )
                if text.score + score > least
            ),
            reverse=True,
        )[: self._width]
        if not found:
            return []
        tokens = torch.tensor([token for _, _, token in found], device=scores.device)
        chosen = torch.tensor([row for _, row, _ in found], device=scores.device)
        probs = posteriors[chosen, tokens].exp().tolist()
        h, cell, *_ = self._state
        before, first = rows[chosen], len(h)
        after = self._decoder.predict(self._decoder.embed[tokens], h[before], cell[before])
        longer = [
            _Text(
                (*texts[row].tokens, token),
                (*texts[row].frames, self._frame),
                (*texts[row].probs, prob),
                score,
                first + number,
                self._phrases.after(texts[row].boost, token) if self._phrases else START,
                self._fusion.lm.after(texts[row].lm, token) if self._fusion else (),
            )
            for number, ((score, row, token), prob) in enumerate(zip(found, probs, strict=True))
        ]
        self._state = tuple(
            torch.cat((old, new))
            for old, new in zip(self._state, self._fused(after, longer), strict=True)
        )
        return longer

    def _fused(
        self, state: tuple[torch.Tensor, ...], texts: list[_Text]
    ) -> tuple[torch.Tensor, ...]:
        """The network's state after some texts, and what the language model adds to each."""
        if self._fusion is None:
            return state
        pred = state[2]
        return (*state, self._fusion.bonus(self._decoder, pred, [text.lm for text in texts]))

    def _boosted(self, boost: tuple[Place, ...], scores: torch.Tensor) -> torch.Tensor:
        """Log probabilities of a text's tokens, phrases preferred; their sum stays what it is.

        So a boost chooses between tokens, and not between a token and blank, as in greedy decoding.
        """
        assert self._phrases is not None
        more = with_bonus(scores, self._phrases, boost)
        return more - more.logsumexp(-1) + scores.logsumexp(-1)

    def _forget(self) -> None:
        """Keep the state of the texts that are left."""
        rows = torch.tensor([text.at for text in self._texts], device=self._state[0].device)
        self._state = tuple(tensor[rows] for tensor in self._state)
        self._texts = [replace(text, at=row) for row, text in enumerate(self._texts)]


def _add(texts: dict[tuple[int, ...], _Text], text: _Text) -> None:
    """Add a way to a text; it keeps the frames of the likeliest one."""
    known = texts.get(text.tokens)
    if known is None:
        texts[text.tokens] = text
        return
    better, worse = (known, text) if known.score >= text.score else (text, known)
    both = better.score + math.log1p(math.exp(worse.score - better.score))
    texts[text.tokens] = replace(better, score=both)

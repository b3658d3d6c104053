"""A language model beside the search: what each next token gets for being likely text.

    + lm * log p(token | tokens before)          the n-gram model (shallow fusion)
    - internal * log p_internal(token | before)  what the recogniser knows of texts by itself
    + bonus                                      for each token, since the first is below 0

The internal model is the joint over tokens with the encoder's part left out (HAT, Variani et al.
2020, arXiv 2003.07705; internal language model estimation, Meng et al. 2021, arXiv 2011.01991).
Taking it off keeps what the recogniser knows of the training's texts from counting twice, as in the
density ratio method (McDermott et al. 2019, arXiv 2002.11268). Blank keeps its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from voice_agent.engine.decoder import Decoder
from voice_agent.engine.errors import LanguageModelError
from voice_agent.engine.ngram import NGram, State

_BEGINS = 0.9  # of the lines must begin with a token that begins a word


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part counts; the defaults are what is used where nobody says otherwise.

    Attributes:
        lm: of the language model.
        internal: of the recogniser's own.
        bonus: nats for each token.
    """

    lm: float = 0.3
    internal: float = 0.2
    bonus: float = 0.6


class Fusion:
    """A language model and its weights.

    Attributes:
        lm: the model.
        weights: of its parts.
        spared: tokens of which it has no opinion.
    """

    def __init__(
        self, lm: NGram, weights: Weights | None = None, spared: Sequence[int] = ()
    ) -> None:
        """Put them together.

        Args:
            lm: the model.
            weights: None for the default ones.
            spared: tokens that no text has, such as language tags: they keep their probability.
        """
        self.lm = lm
        self.weights = weights or Weights()
        self.spared = list(spared)

    def bonus(self, decoder: Decoder, pred: torch.Tensor, states: Sequence[State]) -> torch.Tensor:
        """What the next tokens of some texts get on their log probabilities.

        Args:
            decoder: of the recogniser.
            pred: the prediction network's output after each text, shape (n, joint_hidden).
            states: of the language model after each.

        Returns:
            Shape (n, tokens).
        """
        w = self.weights
        logs = torch.from_numpy(np.stack([self.lm.scores(state) for state in states]))
        internal = decoder.joint(pred)[:, : decoder.config.blank].log_softmax(-1)
        added = w.lm * logs.to(pred.device) - w.internal * internal + w.bonus
        added[:, self.spared] = 0.0
        return added


def check_vocabulary(lm: NGram, name: str, surfaces: Sequence[str], recognizer: str) -> None:
    """Refuse a model that was made with another tokenizer, though of no more tokens.

    A file names tokens by number, so nothing else tells. But the first token of any line begins
    a word, and elsewhere other numbers do.

    Args:
        lm: the model.
        name: of its file, for the message.
        surfaces: text of each of the recogniser's tokens; a leading space begins a word.
        recognizer: its name.

    Raises:
        LanguageModelError: its lines begin in the middle of words.
    """
    first = lm.listed(lm.start)
    weights = np.exp(lm.scores(lm.start)[first])
    begin = np.array([surfaces[token].startswith(" ") for token in first.tolist()], bool)
    if (share := weights[begin].sum() / max(weights.sum(), 1e-9)) < _BEGINS and len(first):
        raise LanguageModelError(
            name,
            f"is a model of other tokens than {recognizer}'s, by which {100 * (1 - share):.0f} % "
            "of its lines begin within a word; make one with python -m training.ngram",
        )

"""Phrase boosting: names and terms that a caller expects are preferred where they fit.

A phrase is followed letter by letter, whatever tokens spell it. At each emission, tokens that go
on with a phrase, or begin one, get a bonus on their logits:

    "nemotron", after " nemo":   "t" +3, "tron" +3, "tro" +3, ...    begun: the whole boost
                at any time:     " n" +1.5, " nemo" +1.5, ...        to begin: half of it

The bonus chooses between tokens alone. Where the joint prefers blank without it, blank it stays:
a boost cannot make words out of nothing. NeMo's label-looping decoder keeps the two apart in the
same way (nemo/collections/asr/parts/submodules/transducer_decoding/rnnt_label_looping.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

DEFAULT_BOOST = 3.0
"""Logits by which a phrase is preferred where the caller gives no number."""
MAX_BOOST = 20.0
MAX_PHRASES = 500
MAX_LETTERS = 200
MAX_LETTERS_IN_ALL = 10_000
"""Bounds what compiling takes: callers open streams on their event loops."""
_BEGIN = 0.5  # of the boost, for a token that begins a phrase: most words are not in the list

Place = tuple[int, int]  # phrase, letters of it that were said
START: tuple[Place, ...] = ()
"""The state in which no phrase is begun."""


class Vocabulary:
    """Tokens by their text. One for each checkpoint: making it takes longer than most phrases."""

    def __init__(self, surfaces: Sequence[str]) -> None:
        """Sort the tokens.

        Args:
            surfaces: text of each token; a leading space marks the start of a word.
        """
        self.tokens: dict[str, list[int]] = {}
        for token, surface in enumerate(surfaces):
            if surface:
                self.tokens.setdefault(surface, []).append(token)
        self.prefixes = {text[:end] for text in self.tokens for end in range(1, len(text) + 1)}


class PhraseBoost:
    """The phrases of one stream over one vocabulary. Immutable; states are tuples of places."""

    def __init__(
        self, phrases: Mapping[str, float | None], surfaces: Sequence[str] | Vocabulary
    ) -> None:
        """Compile phrases.

        Args:
            phrases: boost in logits by phrase, None for `DEFAULT_BOOST`. A phrase is also
                followed in lower case and with a capital first letter.
            surfaces: text of each token; a leading space marks the start of a word. A
                `Vocabulary` of them spares making one.

        Raises:
            ValueError: too many or too long phrases, an empty one, one that the vocabulary
                cannot spell, or a boost out of range; the message names it.
        """
        if len(phrases) > MAX_PHRASES:
            raise ValueError(f"{len(phrases)} phrases to boost; at most {MAX_PHRASES} are served")
        if (letters := sum(map(len, phrases))) > MAX_LETTERS_IN_ALL:
            raise ValueError(
                f"{letters} letters of phrases to boost; at most {MAX_LETTERS_IN_ALL} are served"
            )
        vocabulary = surfaces if isinstance(surfaces, Vocabulary) else Vocabulary(surfaces)
        self._boosts: list[float] = []
        # By phrase and letters said: where each token that goes on leads to.
        self._steps: list[list[dict[int, int]]] = []
        for phrase, boost in phrases.items():
            boost = _checked(phrase, DEFAULT_BOOST if boost is None else boost)
            spellings = [
                steps
                for text in _variants(phrase)
                if (steps := _steps(text, vocabulary)) is not None
            ]
            if not spellings:
                raise ValueError(f"the phrase {phrase!r} has letters that the model cannot write")
            self._steps += spellings
            self._boosts += [boost] * len(spellings)
        self._begin = self._bonus_of((i, 0) for i in range(len(self._steps)))
        self._beginning: dict[int, list[int]] = {}  # phrases by the tokens that begin them
        for phrase_number, steps in enumerate(self._steps):
            for token in steps[0]:
                self._beginning.setdefault(token, []).append(phrase_number)

    def _bonus_of(self, places: Iterable[Place]) -> dict[int, float]:
        found: dict[int, float] = {}
        for phrase, said in places:
            bonus = self._boosts[phrase] * (1.0 if said else _BEGIN)
            for token in self._steps[phrase][said]:
                found[token] = max(bonus, found.get(token, 0.0))
        return found

    def bonus(self, state: tuple[Place, ...]) -> dict[int, float]:
        """Logits to add, by token."""
        if not state:
            return self._begin
        found = dict(self._begin)
        for token, bonus in self._bonus_of(state).items():
            found[token] = max(bonus, found.get(token, 0.0))
        return found

    def after(self, state: tuple[Place, ...], token: int) -> tuple[Place, ...]:
        """The state after a token was emitted; what it does not go on with is dropped."""
        reached = []
        for phrase, said in (*state, *((i, 0) for i in self._beginning.get(token, ()))):
            step = self._steps[phrase][said].get(token)
            if step is not None and step < len(self._steps[phrase]):
                reached.append((phrase, step))
        return tuple(reached)


def _checked(phrase: str, boost: float) -> float:
    if not phrase.strip():
        raise ValueError("a phrase to boost is empty")
    if len(phrase) > MAX_LETTERS:
        raise ValueError(f"the phrase {phrase[:40]!r}... is longer than {MAX_LETTERS} letters")
    if not 0.0 <= boost <= MAX_BOOST:
        raise ValueError(f"the boost of {phrase!r} is {boost:g}; give 0 to {MAX_BOOST:g}")
    return boost


def _variants(phrase: str) -> list[str]:
    """The ways to write a phrase, each with the space that begins a word."""
    text = " ".join(phrase.split())
    capital = text[0].upper() + text[1:]
    return [f" {variant}" for variant in dict.fromkeys((text, text.lower(), capital))]


def _steps(text: str, vocabulary: Vocabulary) -> list[dict[int, int]] | None:
    """By letters said: the tokens that go on with `text`, and how far each reaches.

    Returns:
        None where no sequence of tokens spells the whole text.
    """
    steps: list[dict[int, int]] = [{} for _ in text]
    spelled = [False] * len(text) + [True]  # from here to the end
    for at in range(len(text) - 1, -1, -1):
        for end in range(at + 1, len(text) + 1):
            piece = text[at:end]
            if piece not in vocabulary.prefixes:
                break
            if spelled[end]:
                for token in vocabulary.tokens.get(piece, ()):
                    steps[at][token] = end
                    spelled[at] = True
    return steps if spelled[0] else None

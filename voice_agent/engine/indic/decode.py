"""Scores to tokens, and tokens to words: greedy CTC and greedy RNNT.

Tokens are numbered within their language, 0 to 255; 256 is the blank. Times are those of the
encoder frames that a token was read from.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from voice_agent.engine.recognizer import Word

_SPACE = "\u2581"  # SentencePiece's mark for "a word begins here"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a hypothesis; `last` is the last of the frames that it was read from."""

    number: int
    first: int
    last: int
    probability: float


def ctc_tokens(scores: np.ndarray, blank: int) -> list[Token]:
    """Greedy CTC: the best token of each frame, repeats joined, blanks dropped.

    Args:
        scores: log-probabilities or logits of one language, float32, shape (frames, blank + 1).
        blank: number of the blank.

    Returns:
        The tokens; a token's probability is its highest over its frames, among this language's.
    """
    if not len(scores):
        return []
    best = scores.argmax(axis=1)
    top = scores.max(axis=1)
    chance = 1.0 / np.exp(scores - top[:, None]).sum(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    return [
        Token(int(best[a]), int(a), int(b - 1), float(chance[a:b].max()))
        for a, b in zip(starts, ends, strict=True)
        if best[a] != blank
    ]


State = tuple[np.ndarray, np.ndarray]
Predict = Callable[[int, State], tuple[np.ndarray, State]]
Join = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rnnt_tokens(
    frames: np.ndarray,
    predict: Predict,
    join: Join,
    *,
    state: State,
    sos: int,
    blank: int,
    max_symbols: int,
) -> list[Token]:
    """Greedy RNNT over one segment.

    Args:
        frames: the joint network's encoder side, float32, shape (frames, joint).
        predict: (token, state) to the joint network's prediction side and the next state.
        join: (encoder side, prediction side) to logits of one language, shape (blank + 1,).
        state: the prediction network's state before anything was said.
        sos: token fed first.
        blank: number of the blank.
        max_symbols: tokens a frame at most.
    """
    tokens: list[Token] = []
    said, after = predict(sos, state)
    for place, frame in enumerate(frames):
        for _ in range(max_symbols):
            logits = join(frame, said)
            number = int(logits.argmax())
            if number == blank:
                break
            chance = float(1.0 / np.exp(logits - logits[number]).sum())
            tokens.append(Token(number, place, place, chance))
            said, after = predict(number, after)
    return tokens


def words_of(
    tokens: Sequence[Token], pieces: Sequence[str], frame_s: float, offset_s: float = 0.0
) -> list[Word]:
    """Join tokens to words, NFC.

    A word begins at a piece that starts with "▁" and ends with its last token's last frame; its
    confidence is the mean probability of its tokens.
    """
    words: list[Word] = []
    run: list[Token] = []

    def close() -> None:
        text = "".join(pieces[t.number] for t in run).replace(_SPACE, "").replace("<unk>", "\u2047")
        if text:
            words.append(
                Word(
                    unicodedata.normalize("NFC", text),
                    offset_s + run[0].first * frame_s,
                    offset_s + (run[-1].last + 1) * frame_s,
                    float(np.mean([t.probability for t in run])),
                )
            )

    for token in tokens:
        if run and pieces[token.number].startswith(_SPACE):
            close()
            run = []
        run.append(token)
    if run:
        close()
    return words

"""A naive twin of `voice_agent.engine.ngram`: dictionaries, and back-off as the definition has it."""

from __future__ import annotations

import gzip
from pathlib import Path

OFFSET = 100


class Naive:
    """An ARPA file. Words are `<s>`, `</s>`, `<unk>`, or characters of tokens; logs are of 10."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        self.p: dict[tuple[str, ...], float] = {}
        self.back: dict[tuple[str, ...], float] = {}
        for line in text.split("\n"):
            if "\t" in line:
                log, words, *back = line.split("\t")
                ngram = tuple(words.split(" "))
                self.p[ngram] = float(log)
                self.back[ngram] = float(back[0]) if back else 0.0
        self.order = max(map(len, self.p))

    def log10(self, context: tuple[str, ...], word: str) -> float:
        """Of a word after a context of any length."""
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        if (*context, word) in self.p:
            return self.p[*context, word]
        return self.back.get(context, 0.0) + self.log10(context[1:], word)


def words(tokens: tuple[int, ...]) -> tuple[str, ...]:
    """Tokens as the file writes them; -1 is `<s>`."""
    return tuple("<s>" if token < 0 else chr(token + OFFSET) for token in tokens)

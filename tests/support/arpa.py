"""A naive twin of `voice_agent.engine.ngram`: dictionaries, and back-off as it is defined."""

from __future__ import annotations

import gzip
from pathlib import Path

OFFSET = 100

A, B, C = map(chr, (100, 101, 102))
# Token 3 is not listed, and (a c b) not the n-gram (c b) that it backs off to.
ARPA = f"""\\data\\
ngram 1=6
ngram 2=6
ngram 3=3

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.3
-1.1\t</s>
-0.7\t{A}\t-0.2
-0.5\t{B}\t-0.4
-0.9\t{C}

\\2-grams:
-0.2\t<s> {A}\t-0.15
-0.8\t<s> {C}
-0.6\t{A} {B}\t-0.25
-0.4\t{A} {C}\t-0.35
-0.3\t{B} {B}
-0.9\t{B} </s>

\\3-grams:
-0.1\t<s> {A} {B}
-0.2\t{A} {C} {B}
-0.7\t{A} {B} </s>

\\end\\
"""


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

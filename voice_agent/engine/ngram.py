r"""An n-gram language model of tokens, from an ARPA file.

Its words are tokens of a recogniser's vocabulary, each written as one character,
`chr(id + 100)`, as NeMo's KenLM scripts have it for BPE models (`DEFAULT_TOKEN_OFFSET` in
nemo/collections/asr/parts/submodules/ngram_lm/constants.py). `python -m training.ngram` makes one.

    \data\                 how many n-grams of each length follow
    ngram 1=1026
    \2-grams:
    -1.203	<s> ê	-0.31   log10 p(ê | <s>), the n-gram, log10 of its back-off weight

N-grams lie in a trie of sorted arrays, 16 bytes each. A node is a row of its order's arrays, and
its key is `row of its prefix * base + last token`, so children of a node lie together:

    keys    [n] int64      sorted
    logs    [n] float32    natural log of the last token's probability after the others
    backs   [n] float32    natural log of the back-off weight; none at the longest
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from voice_agent.engine.errors import LanguageModelError, ModelNotFound

TOKEN_OFFSET = 100
"""NeMo's: token `id` is the character `chr(id + TOKEN_OFFSET)`."""
START = -1
"""Stands for `<s>` in a state."""
MAX_ORDER = 16
_LOG10 = math.log(10.0)
_NEVER = -99.0  # log10 of what ARPA files write for 0
_BLOCK = 1 << 16  # lines that are read at once
# Below TOKEN_OFFSET, where no token is.
_SPECIAL = {"<s>": "\x01", "</s>": "\x02", "<unk>": "\x03"}
_BOS, _EOS, _UNK = (ord(c) - TOKEN_OFFSET for c in _SPECIAL.values())

State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Order:
    """N-grams of one length."""

    keys: np.ndarray
    logs: np.ndarray
    backs: np.ndarray


class NGram:
    """Log probabilities of the next token. Immutable; states are the tokens that matter.

    Attributes:
        tokens: size of the vocabulary.
        order: tokens of the longest n-gram.
        ngrams: how many there are.
        start: the state at the beginning of a segment.
    """

    start: State = (START,)

    def __init__(self, path: str | Path, tokens: int) -> None:
        """Read a file. Blocks, some seconds for a million n-grams.

        Args:
            path: ARPA, plain or gzipped.
            tokens: size of the recogniser's vocabulary, without blank.

        Raises:
            ModelNotFound: no such file.
            LanguageModelError: not ARPA, damaged, or of tokens outside the vocabulary.
        """
        self.tokens = tokens
        self._base = tokens + 1  # tokens, then <s>
        self._unigrams = np.full(tokens, _NEVER * _LOG10, np.float32)
        # Back-off weights of single tokens and, last, of <s>.
        self._backs = np.zeros(tokens + 1, np.float32)
        self._longer: list[_Order] = []
        name = str(path)
        try:
            with open(path, "rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
            # Lines end at \n alone: what else ends lines elsewhere is a token here.
            opened: IO[str] = (
                gzip.open(path, "rt", encoding="utf-8", newline="\n")
                if packed
                else open(path, encoding="utf-8", newline="\n")
            )
            with opened as file:
                self._read(name, file)
        except FileNotFoundError as error:
            raise ModelNotFound(name, "there is no such language model") from error
        except UnicodeDecodeError as error:
            raise LanguageModelError(name, "is no ARPA file, nor any text") from error
        except (EOFError, zlib.error, OSError) as error:
            raise LanguageModelError(name, f"cannot be read: {error}") from error
        self.order = 1 + len(self._longer)
        self.ngrams = tokens + sum(len(order.keys) for order in self._longer)

    def scores(self, state: State) -> np.ndarray:
        """Log probabilities of all tokens after a state, float32, shape (tokens,)."""
        row = self._unigrams.copy()
        for length in range(1, len(state) + 1):
            context = state[-length:]
            node = self._find(context)
            if node is None:
                continue
            row += self._backs[node] if length == 1 else self._longer[length - 2].backs[node]
            if length <= len(self._longer):
                tokens, logs = self._children(node, self._longer[length - 1])
                row[tokens] = logs
        return row

    def listed(self, state: State) -> np.ndarray:
        """Tokens that the file lists after a whole state, without backing off."""
        node = self._find(state) if 0 < len(state) <= len(self._longer) else None
        if node is None:
            return np.zeros(0, np.int64)
        return self._children(node, self._longer[len(state) - 1])[0]

    def after(self, state: State, token: int) -> State:
        """The state after one more token: as many of the last tokens as the model knows of."""
        longest = (*state, token)[-(self.order - 1) :] if self.order > 1 else ()
        for first in range(len(longest)):
            if self._find(longest[first:]) is not None:
                return longest[first:]
        return ()

    def _children(self, node: int, order: _Order) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that go on from a node of the order below, and their log probabilities."""
        first, last = order.keys.searchsorted((node * self._base, (node + 1) * self._base))
        return order.keys[first:last] - node * self._base, order.logs[first:last]

    def _find(self, tokens: State) -> int | None:
        """The node of an n-gram."""
        node = tokens[0] if tokens[0] != START else self.tokens
        for token, order in zip(tokens[1:], self._longer, strict=False):
            key = node * self._base + token
            node = int(order.keys.searchsorted(key))
            if node == len(order.keys) or order.keys[node] != key:
                return None
        return node

    def _read(self, name: str, file: IO[str]) -> None:
        lines = _Lines(name, file)
        counts = lines.counts()
        for length, count in enumerate(counts, 1):
            lines.expect(f"\\{length}-grams:")
            blocks = list(lines.ngrams(length, count, self.tokens))
            words, logs, backs = (np.concatenate(column) for column in zip(*blocks, strict=True))
            if length == 1:
                self._take_unigrams(name, words[:, 0], logs, backs)
            else:
                self._longer.append(self._ordered(name, words, logs, backs))
        lines.expect("\\end\\")

    def _take_unigrams(
        self, name: str, words: np.ndarray, logs: np.ndarray, backs: np.ndarray
    ) -> None:
        if not (words == _BOS).any():
            raise LanguageModelError(name, "has no <s>, by which segments begin")
        if (unknown := words == _UNK).any():
            # What is not listed shares what an unknown word has, as in NeMo.
            missing = self.tokens - int((words >= 0).sum())
            self._unigrams[:] = logs[unknown][0] - math.log(max(missing, 1))
        real = words >= 0
        self._unigrams[words[real]] = logs[real]
        self._backs[words[real]] = backs[real]
        self._backs[self.tokens] = backs[words == _BOS][0]

    def _ordered(self, name: str, words: np.ndarray, logs: np.ndarray, backs: np.ndarray) -> _Order:
        """N-grams of one length by their keys; those that nobody asks for are left out."""
        asked = (words[:, 1:] >= 0).all(1) & ((words[:, 0] >= 0) | (words[:, 0] == _BOS))
        words, logs, backs = words[asked], logs[asked], backs[asked]
        nodes = np.where(words[:, 0] == _BOS, self.tokens, words[:, 0]).astype(np.int64)
        for column, order in enumerate(self._longer, 1):
            keys = nodes * self._base + words[:, column]
            nodes = order.keys.searchsorted(keys)
            known = nodes < len(order.keys)
            known[known] = order.keys[nodes[known]] == keys[known]
            if not known.all():
                raise LanguageModelError(
                    name, f"has {_shown(words[~known][0])} without the n-gram before its last token"
                )
        keys = nodes * self._base + words[:, -1]
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
            raise LanguageModelError(name, f"has {_shown(words[by_key[twice[0]]])} twice")
        return _Order(keys, logs[by_key], backs[by_key])


class _Lines:
    """The lines of a file, from the first to the last."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self._name = name
        self._file = file
        self._number = 0

    def _next(self) -> str:
        """The next line that is not empty; "" at the end."""
        for line in self._file:
            self._number += 1
            if line := line.rstrip(" \r\n"):
                return line
        return ""

    def expect(self, wanted: str) -> None:
        if (line := self._next()) != wanted:
            raise self._error(f"{wanted} was to come, not {line[:40]!r}" if line else "it is cut")

    def counts(self) -> list[int]:
        """N-grams of each length, from the head, up to the line before the first of them."""
        if (line := self._next()) != "\\data\\":
            raise LanguageModelError(
                self._name, f"is no ARPA file: it begins with {line[:40]!r} and not with \\data\\"
            )
        counts: list[int] = []
        for raw in self._file:
            self._number += 1
            line = raw.strip(" \r\n")
            if not line:  # as all who write such files end their head
                if counts:
                    break
                continue
            length, _, count = line.removeprefix("ngram ").partition("=")
            count = count.strip()
            if not line.startswith("ngram ") or not count.isdecimal() or not int(count):
                raise self._error(f"not a count of n-grams: {line[:40]!r}")
            if length.strip() != str(len(counts) + 1) or len(counts) == MAX_ORDER:
                raise self._error(f"counts of n-grams go from 1 to {MAX_ORDER} at most")
            counts.append(int(count))
        if not counts:
            raise self._error("it counts no n-grams")
        return counts

    def ngrams(
        self, length: int, count: int, tokens: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """So many n-grams in blocks: words [n, length] int32, logs and back-offs [n] float32."""
        while True:
            lines = list(islice(self._file, min(count, _BLOCK)))
            if len(lines) < min(count, _BLOCK):
                raise self._error(f"it is cut among the {length}-grams")
            try:
                yield self._block(lines, length, tokens)
            except (ValueError, IndexError) as error:
                raise self._culprit(lines, length) from error
            self._number += len(lines)
            count -= len(lines)
            if not count:
                return

    def _block(
        self, lines: list[str], length: int, tokens: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fields = [line.rstrip("\r\n").split("\t") for line in lines]
        logs = np.array([float(field[0]) for field in fields], np.float64)
        backs = np.array([float(field[2]) if len(field) > 2 else 0.0 for field in fields])
        if not (np.isfinite(logs) & np.isfinite(backs) & (logs <= 0)).all():
            raise ValueError("not log probabilities")
        text = "".join(field[1] + "\n" for field in fields)
        for special, character in _SPECIAL.items():
            text = text.replace(special, character)
        # A character a word, and one after it: any other word would move what follows.
        codes = np.frombuffer(text.encode("utf-32-le"), np.int32).reshape(len(lines), 2 * length)
        if (codes[:, 1:-1:2] != ord(" ")).any() or (codes[:, -1] != ord("\n")).any():
            raise ValueError("not words of one character")
        words = codes[:, ::2] - TOKEN_OFFSET
        outside = (words >= tokens) | ((words < 0) & ~np.isin(words, (_BOS, _EOS, _UNK)))
        if outside.any():
            word = int(words[outside][0])
            raise LanguageModelError(
                self._name,
                f"has the token {word} ({chr(word + TOKEN_OFFSET)!r}), and the recogniser's "
                f"vocabulary ends at {tokens - 1}: it is a model of other tokens",
            )
        return words, (logs * _LOG10).astype(np.float32), (backs * _LOG10).astype(np.float32)

    def _culprit(self, lines: list[str], length: int) -> LanguageModelError:
        """What is wrong with the first line of a block that cannot be read."""
        for line in lines:
            self._number += 1
            try:
                self._block([line], length, 0x110000)
            except (ValueError, IndexError):
                break
            except LanguageModelError:  # only tokens outside: the block has told of those
                continue
        return self._error(
            f"not a {length}-gram of tokens, 'log10 p <tab> {length} characters, spaces between "
            f"them <tab> log10 back-off': {line.strip()[:60]!r}"
        )

    def _error(self, problem: str) -> LanguageModelError:
        return LanguageModelError(self._name, f"line {self._number}: {problem}")


def _shown(words: np.ndarray) -> str:
    """An n-gram for people."""
    names = {_BOS: "<s>", _EOS: "</s>", _UNK: "<unk>"}
    return "the n-gram " + " ".join(names.get(int(word), str(word)) for word in words)

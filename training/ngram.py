"""Train an n-gram language model of a recogniser's tokens: interpolated, modified Kneser-Ney.

    python -m training.ngram --text a.txt b.txt --model voice_agent/models/tiny-en.nemo \
        --order 6 --prune 3e-7 --out lm.arpa.gz

Estimation is Chen and Goodman's (1999, "An empirical study of smoothing techniques for language
modeling"): counts of an n-gram that something longer ends with are counts of what stands before it,
and each order takes three discounts off, for what was seen once, twice and more often. Pruning is
Stolcke's (1998, arXiv cs/0006025): an n-gram goes if without it, backed off to what is left, the
perplexity grows by less than `--prune` of itself. How often a context comes is counted, not
worked out from the lower orders, whose probabilities Kneser-Ney makes for another purpose.

The file is ARPA as `voice_agent.engine.ngram` and NeMo read it: with an n-gram, those without its
first and without its last token are listed too.
"""

from __future__ import annotations

import argparse
import gzip
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.nemo_file import read_tokenizer
from training.speech_text import clean
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.decoder import Decoder
from voice_agent.engine.ngram import TOKEN_OFFSET, NGram

DIGITS = 3  # of log10: a probability is then right to 0.1 %


@dataclass(slots=True)
class Order:
    """The n-grams of one length, sorted by prefix and last token.

    Attributes:
        prefix: row, one order lower, of what comes before the last token.
        suffix: row, one order lower, without the first token.
        last: the last token.
        count: how often it was seen.
        p: probability of the last token after the others.
        back: back-off weight, as a context.
        kept: False where it was pruned.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    last: np.ndarray
    count: np.ndarray
    p: np.ndarray
    back: np.ndarray
    kept: np.ndarray


def counted(lines: Iterable[Sequence[int]], tokens: int, order: int) -> list[Order]:
    """Count n-grams of every length; single tokens are rows by id, then `<s>` and `</s>`.

    Args:
        lines: of token ids.
        tokens: size of the vocabulary.
        order: tokens of the longest n-gram.
    """
    start, end = tokens, tokens + 1
    text = np.concatenate([np.array([start, *line, end], np.int64) for line in lines])
    rows, orders = text, [_singles(text, tokens)]
    for _ in range(1, order):
        # A row of the order below ends at each position; -1 where none does.
        before = np.where(text == start, -1, np.concatenate(([-1], rows[:-1])))
        if not (here := before >= 0).any():
            break
        keys, first, inverse, count = np.unique(
            before[here] * (tokens + 2) + text[here],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        orders.append(
            Order(
                prefix=keys // (tokens + 2),
                suffix=rows[here][first],
                last=keys % (tokens + 2),
                count=count,
                p=np.zeros(len(keys)),
                back=np.ones(len(keys)),
                kept=np.ones(len(keys), bool),
            )
        )
        rows = np.full(len(text), -1)
        rows[here] = inverse
    return orders


def _singles(text: np.ndarray, tokens: int) -> Order:
    n = tokens + 2
    none = np.zeros(n, np.int64)
    count = np.bincount(text, minlength=n)
    ones = np.ones(n)
    return Order(none, none, np.arange(n), count, np.zeros(n), ones, np.ones(n, bool))


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off a count of 0, 1, 2 and more: Chen and Goodman's equation 26."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3):  # too little text to tell
        return np.array([0.0, 0.5, 0.75, 0.9])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, 0.0, [0.0, 1.0, 2.0, 3.0])


def estimate(orders: list[Order], tokens: int) -> None:
    """Fill in probabilities and back-off weights."""
    begun = np.arange(tokens + 2) == tokens  # rows that begin with <s>
    for number, order in enumerate(orders):
        if number:
            begun = begun[order.prefix]
        if number + 1 < len(orders):
            longer = np.bincount(orders[number + 1].suffix, minlength=len(order.last))
            # Nothing stands before <s>, so what begins with it keeps its own count.
            adjusted = np.where(begun, order.count, longer)
        else:
            adjusted = order.count.copy()
        contexts = 1 if not number else len(orders[number - 1].last)
        if not number:
            adjusted[tokens] = 0  # <s> is given, never said
        off = discounts(adjusted)[np.minimum(adjusted, 3)]
        total = np.bincount(order.prefix, adjusted, contexts)
        total[total == 0] = 1.0  # contexts of nothing
        back = np.bincount(order.prefix, off, contexts) / total
        if number:
            lower = orders[number - 1]
            lower.back = np.where(np.bincount(order.prefix, minlength=contexts) > 0, back, 1.0)
            under = lower.p[order.suffix]
        else:
            under = np.where(begun, 0.0, 1.0 / (tokens + 1))
        order.p = (adjusted - off) / total[order.prefix] + back[order.prefix] * under


def losses(orders: list[Order], number: int) -> np.ndarray:
    """Growth of perplexity, as a part of it, without each n-gram of one length: equation 5."""
    order, lower = orders[number], orders[number - 1]
    contexts, under = len(lower.last), lower.p[order.suffix]
    # What a context leaves to shorter ones, and what those say of it; then without this n-gram.
    left = 1 - np.bincount(order.prefix, order.p, contexts)[order.prefix]
    left_under = 1 - np.bincount(order.prefix, under, contexts)[order.prefix]
    back = np.maximum(left, 1e-12) / np.maximum(left_under, 1e-12)
    without = np.maximum(left + order.p, 1e-12) / np.maximum(left_under + under, 1e-12)
    change = order.p * (np.log(under * without) - np.log(order.p))
    change += np.maximum(left, 0) * (np.log(without) - np.log(back))
    said = orders[0].count.sum() - orders[0].count[-2]  # <s> is not
    return np.asarray(np.expm1(-change * lower.count[order.prefix] / said))


def prune(orders: list[Order], threshold: float) -> None:
    """Drop n-grams without which perplexity grows by less than this part of it."""
    for number in range(len(orders) - 1, 0, -1):
        order = orders[number]
        order.kept = losses(orders, number) >= threshold
        if number + 1 < len(orders):
            longer = orders[number + 1]
            order.kept[longer.prefix[longer.kept]] = True
            order.kept[longer.suffix[longer.kept]] = True
    _back_off(orders)


def _back_off(orders: list[Order]) -> None:
    """Set back-off weights so that with what is kept all after a context sums to one."""
    for number in range(1, len(orders)):
        order, lower = orders[number], orders[number - 1]
        contexts, kept = len(lower.last), order.kept
        under = lower.p[order.suffix]
        left = 1 - np.bincount(order.prefix[kept], order.p[kept], contexts)
        left_under = 1 - np.bincount(order.prefix[kept], under[kept], contexts)
        used = np.bincount(order.prefix[kept], minlength=contexts) > 0
        lower.back = np.where(used, np.maximum(left, 1e-9) / np.maximum(left_under, 1e-9), 1.0)
        # From here on what was dropped has the probability that the file gives it.
        order.p = np.where(kept, order.p, lower.back[order.prefix] * under)


def write_arpa(path: Path, orders: list[Order], tokens: int, digits: int = DIGITS) -> int:
    """Write what is kept; the same model gives the same bytes.

    Returns:
        How many n-grams that is.
    """
    orders = [order for order in orders if order.kept.any()]
    names = [chr(token + TOKEN_OFFSET) for token in range(tokens)] + ["<s>", "</s>"]
    counts = [int(order.kept.sum()) for order in orders]
    with path.open("wb") as raw, _packed(path, raw) as file:

        def put(text: str) -> None:
            file.write(text.encode())

        put("\\data\\\n")
        put("".join(f"ngram {n}={count}\n" for n, count in enumerate(counts, 1)))
        written = [""]
        for number, order in enumerate(orders):
            put(f"\n\\{number + 1}-grams:\n")
            logs = np.log10(np.clip(order.p, 1e-99, 1.0))
            backs = np.log10(np.maximum(order.back, 1e-99))
            words = [""] * len(order.last)
            for row in np.flatnonzero(order.kept).tolist():
                name = names[order.last[row]]
                words[row] = f"{written[order.prefix[row]]} {name}" if number else name
                line = f"{_short(logs[row], digits)}\t{words[row]}"
                if (back := _short(backs[row], digits)) != "0":
                    line += f"\t{back}"
                put(line + "\n")
            written = words
        put("\n\\end\\\n")
    return sum(counts)


def _short(log: float, digits: int) -> str:
    """A number without the zeros that say nothing."""
    text = f"{log:.{digits}f}"
    return text.rstrip("0").rstrip(".") if float(text) else "0"


def _packed(path: Path, raw: io.BufferedWriter) -> io.BufferedIOBase:
    if path.suffix != ".gz":
        return raw
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9)


def perplexity(lm: NGram, lines: Iterable[Sequence[int]]) -> float:
    """Per token, over lines of token ids; what follows the last token of a line is not asked."""
    total, said = 0.0, 0
    for line in lines:
        state = lm.start
        for token in line:
            total += float(lm.scores(state)[token])
            state = lm.after(state, token)
        said += len(line)
    return math.exp(-total / max(said, 1))


@torch.inference_mode()
def own_perplexity(decoder: Decoder, lines: Sequence[Sequence[int]]) -> float:
    """Per token, of what a recogniser expects of texts by itself; see `engine.fusion`.

    Where it is no higher than a language model's, that one has little to add.
    """
    said = np.array([len(line) for line in lines])
    tokens = torch.zeros(len(lines), int(said.max()), dtype=torch.long)
    for row, line in enumerate(lines):
        tokens[row, : len(line)] = torch.tensor(line, dtype=torch.long)
    h, c, pred = (state.expand(len(lines), *state.shape) for state in decoder.start)
    total = 0.0
    for at, column in enumerate(tokens.T):
        logs = decoder.joint(pred)[:, : decoder.config.blank].log_softmax(-1)
        spoken = logs.gather(1, column[:, None])[:, 0]
        total += float(spoken[torch.from_numpy(said > at)].double().sum())
        h, c, pred = decoder.predict(decoder.embed[column], h, c)
    return math.exp(-total / max(int(said.sum()), 1))


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="a sentence a line")
    parser.add_argument("--model", type=Path, required=True, help=".nemo, for its tokenizer")
    parser.add_argument("--order", type=int, default=6, help="tokens of the longest n-gram")
    parser.add_argument("--prune", type=float, default=0.0, help="growth of perplexity, as 3e-7")
    parser.add_argument("--held-out", type=int, default=200, help="keep every Nth line for a test")
    parser.add_argument("--out", type=Path, required=True, help=".arpa or .arpa.gz")
    args = parser.parse_args()

    tokenizer = read_tokenizer(args.model)
    encode, tokens = tokenizer.encode, tokenizer.vocab_size()
    texts = [c for path in args.text for line in path.open() if (c := clean(line.strip()))]
    test, learned = texts[:: args.held_out], list(texts)
    del learned[:: args.held_out]
    orders = counted(encode(learned), tokens, args.order)
    estimate(orders, tokens)
    if args.prune:
        prune(orders, args.prune)
    ngrams = write_arpa(args.out, orders, tokens)
    lm = NGram(args.out, tokens)
    checkpoint = read_nemo(args.model, name=args.model.name)
    weights = {name: tensor.float() for name, tensor in checkpoint.weights.items()}
    own = own_perplexity(Decoder(weights, checkpoint.config.decoder), encode(test))
    print(
        f"{args.out.name}: {ngrams:,} n-grams, {args.out.stat().st_size / 2**20:.1f} MiB, "
        f"perplexity {perplexity(lm, encode(test)):.1f} a token of {len(test):,} lines kept out; "
        f"{args.model.name} by itself {own:.1f}"
    )


if __name__ == "__main__":
    main()

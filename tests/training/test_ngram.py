"""The token n-gram's training: it adds up to one, is what Kneser-Ney says, and grows small."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.arpa import Naive, words
from tests.support.checkpoints import random_nemo
from training import ngram
from training.ngram import (
    counted,
    discounts,
    estimate,
    losses,
    own_perplexity,
    perplexity,
    prune,
    write_arpa,
)
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.decoder import Decoder
from voice_agent.engine.ngram import NGram

TOKENS, ORDER = 6, 4


def lines(seed: int = 0, count: int = 300) -> list[list[int]]:
    """Lines of a language in which tokens 0 to 4 come in runs that go upwards; 5 is never said."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        token, line = rng.randrange(5), []
        while len(line) < 12 and rng.random() < 0.85:
            line.append(token)
            token = (token + 1) % 5 if rng.random() < 0.7 else rng.randrange(5)
        found.append(line)
    return found


def trained(path, threshold: float = 0.0, digits: int = 7, text=None) -> NGram:
    orders = counted(text or lines(), TOKENS, ORDER)
    estimate(orders, TOKENS)
    if threshold:
        prune(orders, threshold)
    write_arpa(path, orders, TOKENS, digits)
    return NGram(path, TOKENS)


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 3e-3], ids=["whole", "pruned", "all but gone"])
def test_what_may_follow_a_context_adds_up_to_one(tmp_path, threshold):
    path = tmp_path / "lm.arpa"
    trained(path, threshold)
    naive = Naive(path)
    assert naive.p["<s>",] == -99
    said = [*words(tuple(range(TOKENS))), "</s>"]
    contexts = {context for context in naive.p if context[-1] != "</s>"}
    # Contexts that it lists, and those that it backs off from.
    others = {(a, b, c) for a in ("<s>", *said[:-1]) for b in said[:-1] for c in said[:-1]}
    for context in {(), *contexts, *others}:
        total = sum(10 ** naive.log10(context, word) for word in said)
        assert total == pytest.approx(1.0, abs=1e-5), context


def test_the_whole_model_is_what_the_formulas_of_kneser_and_ney_give(tmp_path):
    """The same from dictionaries, as Chen and Goodman write it."""
    text = lines()
    counts: list[Counter] = [Counter() for _ in range(ORDER + 1)]
    for line in text:
        whole = (*words((-1, *line)), "</s>")
        for n in range(1, ORDER + 1):
            counts[n].update(whole[i : i + n] for i in range(len(whole) - n + 1))
    adjusted: list[Counter] = [Counter(), *(Counter() for _ in range(ORDER))]
    for n in range(1, ORDER + 1):
        for gram, count in counts[n].items():
            if n == ORDER or gram[0] == "<s>":
                adjusted[n][gram] = count
            else:
                adjusted[n][gram] = len({g[0] for g in counts[n + 1] if g[1:] == gram})
    del adjusted[1]["<s>",]
    off = [discounts(np.array(list(c.values()) or [0])) for c in adjusted]
    after: list[defaultdict] = [defaultdict(dict) for _ in range(ORDER + 1)]
    for n in range(1, ORDER + 1):
        for gram, count in adjusted[n].items():
            after[n][gram[:-1]][gram[-1]] = count

    def p(context, word):
        under = p(context[1:], word) if context else 1 / (TOKENS + 1)
        n = len(context) + 1
        seen = after[n].get(context)
        if not seen:
            return under
        less = [off[n][min(c, 3)] for c in seen.values()]
        count = seen.get(word, 0)
        return (count - off[n][min(count, 3)] + sum(less) * under) / sum(seen.values())

    path = tmp_path / "lm.arpa.gz"
    trained(path)
    naive = Naive(path)
    assert len(naive.p) > 200
    for gram, log in naive.p.items():
        if gram != ("<s>",):
            assert log == pytest.approx(math.log10(p(gram[:-1], gram[-1])), abs=1e-6), gram


def test_pruning_takes_what_is_needed_least_and_leaves_no_ngram_without_its_parts(tmp_path):
    held_out, found = lines(seed=1), []
    for threshold in (0.0, 1e-5, 1e-4, 1e-3):
        path = tmp_path / f"{threshold}.arpa"
        lm = trained(path, threshold)
        naive = Naive(path)
        for gram in naive.p:
            assert len(gram) == 1 or (gram[1:] in naive.p and gram[:-1] in naive.p)
        found.append((len(naive.p), perplexity(lm, held_out)))
    sizes, perplexities = zip(*found, strict=True)
    assert list(sizes) == sorted(set(sizes), reverse=True) and sizes[-1] < sizes[0] / 4
    # Chance is 6: there are so many tokens.
    assert max(perplexities) < 1.25 * min(perplexities) < 4.5


def test_the_loss_of_an_ngram_is_the_divergence_of_a_model_without_it(tmp_path):
    """Of ten, each dropped alone: both files asked for all that may follow its context."""
    whole = tmp_path / "whole.arpa"
    trained(whole, digits=12)
    before, said = Naive(whole), [*words(tuple(range(TOKENS))), "</s>"]
    names = [*said[:-1], "<s>", "</s>"]
    for row in range(0, 200, 20):
        orders = counted(lines(), TOKENS, ORDER)
        estimate(orders, TOKENS)
        loss = losses(orders, ORDER - 1)[row]
        orders[-1].kept[row] = False
        ngram._back_off(orders)
        write_arpa(tmp_path / "less.arpa", orders, TOKENS, digits=12)
        after = Naive(tmp_path / "less.arpa")
        ((*context, word),) = before.p.keys() - after.p.keys()
        assert word == names[orders[-1].last[row]]
        seen = orders[-2].count[orders[-1].prefix[row]] / sum(len(line) + 1 for line in lines())
        logs = [(before.log10(tuple(context), w), after.log10(tuple(context), w)) for w in said]
        divergence = sum(10**was * (was - now) * math.log(10) for was, now in logs)
        assert loss == pytest.approx(math.expm1(seen * divergence), rel=1e-3, abs=1e-9)


def test_little_text_makes_a_model_too(tmp_path):
    lm = trained(tmp_path / "lm.arpa", text=[[1, 2]])
    assert lm.order == 4
    assert lm.scores(lm.start).argmax() == 1 and lm.scores((-1, 1)).argmax() == 2


def test_the_same_text_gives_the_same_bytes(tmp_path):
    one, two = tmp_path / "one.arpa.gz", tmp_path / "two.arpa.gz"
    trained(one), trained(two)
    assert one.read_bytes() == two.read_bytes()


def test_the_command_trains_on_a_models_own_tokens(tmp_path, monkeypatch, capsys):
    from training.nemo_file import read_tokenizer
    from voice_agent.models import HERE

    text = tmp_path / "text.txt"
    text.write_text("Turn on the lights.\nturn off the lights\n1984\nturn on the radio\n" * 3)
    out = tmp_path / "lm.arpa.gz"
    command = ["", "--text", str(text), "--model", str(HERE / "tiny-en.nemo"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--held-out", "9"])
    ngram.main()
    assert "lm.arpa.gz: " in capsys.readouterr().out
    tokenizer = read_tokenizer(HERE / "tiny-en.nemo")
    lm = NGram(out, tokenizer.vocab_size())
    likely, not_so = tokenizer.encode(["turn off the radio", "radio the off turn"])
    assert perplexity(lm, [likely]) < perplexity(lm, [not_so])


def test_what_a_recogniser_expects_by_itself_is_its_joint_where_nothing_is_heard(tmp_path):
    made, path = random_nemo(tmp_path)
    decoder = Decoder(read_nemo(path).weights, read_nemo(path).config.decoder)
    text = [[3, 1, 4, 1, 5], [9], [], [2, 6, 5]]
    total = 0.0
    for line in text:
        told = F.pad(torch.tensor([line], dtype=torch.long), (1, 0), value=decoder.config.blank)
        with torch.inference_mode():
            out = made.decoder.predict(told, add_sos=False)[0]  # NeMo's own
            logits = made.joint.joint_net(made.joint.pred(out))[0, :-1, :-1]
        total -= float(logits.log_softmax(-1)[range(len(line)), line].sum())
    assert own_perplexity(decoder, text) == pytest.approx(math.exp(total / 9), rel=1e-4)

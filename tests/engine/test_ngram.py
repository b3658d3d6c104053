"""The n-gram model: what it reads against a naive twin, and files that it refuses."""

from __future__ import annotations

import gzip
import itertools
import math

import numpy as np
import pytest

from tests.support.arpa import ARPA, Naive, words
from voice_agent.engine.errors import LanguageModelError, ModelNotFound
from voice_agent.engine.fusion import check_vocabulary
from voice_agent.engine.ngram import NGram

TOKENS = 4
A, B, C = map(chr, (100, 101, 102))


@pytest.fixture
def file(tmp_path):
    def write(text: str = ARPA, name: str = "lm.arpa"):
        path = tmp_path / name
        raw = text.encode("utf-8", "surrogateescape")
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz", "gzipped all the same.gz"])
def test_every_text_has_the_probability_that_the_definition_of_back_off_gives(file, name):
    path = file(name=name)
    lm, naive = NGram(path, TOKENS), Naive(file())
    naive.p[words((3,))] = naive.p["<unk>",]
    assert lm.order == 3
    for length in range(5):
        for text in itertools.product(range(TOKENS), repeat=length):
            state = lm.start
            for token in text:
                state = lm.after(state, token)
            assert len(state) < lm.order and hash(state) is not None
            want = [naive.log10(("<s>", *words(text)), word) for word in words(tuple(range(4)))]
            np.testing.assert_allclose(lm.scores(state), np.array(want) * math.log(10), rtol=1e-5)


def test_a_token_that_nothing_is_said_of_is_all_but_impossible(file):
    lm = NGram(file(ARPA.replace("ngram 1=6", "ngram 1=5").replace("-1.5\t<unk>\n", "")), TOKENS)
    scores = lm.scores(())
    assert np.isfinite(scores).all() and scores[3] < -200 < scores[:3].min()


def test_tokens_that_are_spaces_to_python_are_tokens(file):
    """chr(133) and chr(160) end lines and part words in many a reader."""
    nel, nbsp = chr(133), chr(160)
    head, ngrams = ARPA.split("\n\n", 1)
    ngrams, end = ngrams.split("\\end", 1)
    for old, new in ((f"\t{A}", f"\t{nel}"), (f" {A}", f" {nel}"), (B, nbsp)):
        ngrams = ngrams.replace(old, new)
    text = f"{head}\n\n{ngrams}\\end{end}".replace("\n", "\r\n")
    lm, plain = NGram(file(text), 64), NGram(file(), 64)
    assert lm.after((33,), 60) == (33, 60)
    assert lm.scores((33,))[60] == plain.scores((0,))[1]


@pytest.mark.parametrize(
    "text, says",
    [
        ("hello\nworld\n", r"is no ARPA file: it begins with 'hello'"),
        ("", r"is no ARPA file: it begins with ''"),
        ("\x1f\udc80\udcff", r"nor any text"),
        (ARPA.replace("ngram 2=6", "ngram 2=many"), r"line 3: not a count"),
        (ARPA.replace("ngram 2=6", "ngram 3=6"), r"line 3: counts of n-grams go"),
        (ARPA.replace("ngram 2=6", "ngram 2=5"), r"line \d+: \\3-grams: was to come, not '-0.9"),
        (ARPA.replace("ngram 2=6", "ngram 2=7"), r"line 21: not a 2-gram of tokens.*: ''"),
        (ARPA.replace("ngram 3=3", "ngram 3=30"), r"cut among the 3-grams"),
        (ARPA.replace("\n\\end\\\n", ""), r"it is cut"),
        (ARPA.replace("-0.5\t", "half\t"), r"line 11: not a 1-gram of tokens.*'half"),
        (ARPA.replace("-0.5\t", "0.5\t"), r"line 11: not a 1-gram"),
        (ARPA.replace("-0.4\n", "nan\n"), r"line 11: not a 1-gram"),
        (ARPA.replace(f"{A} {C}", f"{A} hello"), r"line 18: not a 2-gram of tokens.*hello"),
        (ARPA.replace(f"{A} {C}\t", f"{A}\t"), r"line 18: not a 2-gram of tokens"),
        (ARPA.replace(f"{B} {B}", f"{A} {B}"), r"the n-gram 0 1 twice"),
        (ARPA.replace("<s>", C), r"has no <s>"),
    ],
)
def test_a_damaged_file_says_where(file, text, says):
    with pytest.raises(LanguageModelError, match=rf"lm\.arpa: .*{says}"):
        NGram(file(text), TOKENS)


def test_an_ngram_without_its_context_is_refused(file):
    text = ARPA.replace(f"{A} {C} {B}", f"{C} {C} {B}")
    with pytest.raises(LanguageModelError, match="the n-gram 2 2 1 without the n-gram before"):
        NGram(file(text), TOKENS)


def test_a_file_that_cannot_be_read_is_named(file, tmp_path):
    with pytest.raises(ModelNotFound, match="no such language model"):
        NGram(tmp_path / "none.arpa", TOKENS)
    with pytest.raises(LanguageModelError, match="cannot be read"):
        NGram(tmp_path, TOKENS)
    path = file(name="lm.arpa.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LanguageModelError, match="cannot be read"):
        NGram(path, TOKENS)


def test_tokens_outside_the_vocabulary_are_named(file):
    with pytest.raises(LanguageModelError, match=r"the token 2 \('f'\).* vocabulary ends at 1"):
        NGram(file(), 2)


def test_a_model_of_another_tokenizer_of_as_many_tokens_is_told_by_how_lines_begin(file):
    lm = NGram(file(), TOKENS)
    check_vocabulary(lm, "lm.arpa", (" a", "b", " c", " d"), "mine")
    with pytest.raises(LanguageModelError, match="other tokens than mine's, by which 80 % of"):
        check_vocabulary(lm, "lm.arpa", ("a", " b", " c", " d"), "mine")

"""Kannada text: what is spoken, what is held out, how it is spelled in pieces."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from training.kannada_text import LETTER, KannadaText, is_held_out, normalised, train_tokens


@pytest.fixture
def folder(tmp_path):
    words = [a + b for a in "ಕಗಚಜತದನಪಬಮಯರಲವಸಹ" for b in ("ಾಲು", "ಿರಿ", "ೂರು", "ೆಲೆ", "ೋಟ")]
    (tmp_path / "words.txt").write_text("\n".join(words))
    lines = [" ".join(words[i : i + 3]) for i in range(0, 60, 3)]
    (tmp_path / "sentences.txt").write_text("\n".join(lines))
    (tmp_path / "numbers.txt").write_text("ಒಂದು\nಎರಡು")
    return tmp_path


def test_training_never_says_a_held_out_word(folder):
    text = KannadaText.read(folder)
    assert text.held_words and text.held_phrases
    r = random.Random(0)
    said = {w for _ in range(2000) for w in text.sentence(r).split()}
    assert not said & set(text.held_words)


def test_a_held_out_sentence_has_a_word_that_training_never_said(folder):
    text, r = KannadaText.read(folder), random.Random(1)
    for _ in range(200):
        assert any(is_held_out(w) for w in text.sentence(r, held_out=True).split())


def test_the_same_draw_gives_the_same_sentence(folder):
    text = KannadaText.read(folder)
    once, again = ([text.sentence(random.Random(f"7/{i}")) for i in range(50)] for _ in range(2))
    assert once == again


def test_templates_alone_are_text_enough_for_a_smoke_test():
    text, r = KannadaText(), random.Random(2)
    for _ in range(200):
        assert re.fullmatch(f"({LETTER}| )+", text.sentence(r))


def test_text_is_composed_and_without_joiners():
    assert normalised(" ಡೇವನ್\u200dಪೋರ್ಟ್  ಕ\u0cc6\u0cd6 ") == unicodedata.normalize("NFC", "ಡೇವನ್ಪೋರ್ಟ್ ಕೈ")


def test_absent_text_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m training\.kannada_text"):
        KannadaText.read(tmp_path)


def test_the_pieces_spell_any_sentence(folder, tmp_path):
    import sentencepiece

    from training.tiny_kn import all_letters

    train_tokens(all_letters() * 2, tmp_path / "tokens.model")
    tokens = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokens.model"))
    assert tokens.get_piece_size() == 256
    text, r = KannadaText.read(folder), random.Random(3)
    for _ in range(100):
        sentence = text.sentence(r)
        assert tokens.decode(tokens.encode(sentence)) == sentence

"""Foreign accents: one other language's sounds for English ones, all of them in one voice.

`training.casual` draws habits one by one; who has learnt English late has many at once, and which
ones go together depends on the first language. The rules are what phonetics books list (Swan and
Smith, "Learner English"); they work on eSpeak NG's phonemes for Kokoro, and on CMU's phones for
what is put together from people's own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

SHARE = 0.3  # of the utterances
_KEPT = 0.85  # of an accent's rules, each speaker's own choice

_UNVOICED = [("b\\b", "p"), ("d\\b", "t"), ("ɡ\\b", "k"), ("v\\b", "f"), ("z\\b", "s")]
_PURE = [("oʊ", "oː"), ("eɪ", "eː")]  # one vowel for two
_IPA: dict[str, list[tuple[str, str]]] = {
    "german": [
        *_UNVOICED,
        *_PURE,
        ("dʒ\\b", "tʃ"),
        ("w", "v"),
        ("θ", "s"),
        ("ð", "z"),
        ("æ", "ɛ"),
        ("ʌ", "a"),
        ("ɹ", "ʁ"),
    ],
    "indian": [
        *_PURE,
        ("[wv]", "ʋ"),
        ("t(?!ʃ)", "ʈ"),
        ("d(?!ʒ)", "ɖ"),
        ("θ", "t"),
        ("ð", "d"),
        ("ɚ", "ər"),
        ("ɜː", "ɜr"),
        ("ɹ", "r"),
        ("æ", "ɛ"),
        ("ɔː", "ɑː"),
        ("z", "dʒ"),
    ],
    "spanish": [
        *_PURE,
        ("\\bs(?=[ptkmnl])", "ɛs"),
        ("(?<![aeɔ])ɪ", "i"),
        ("ʊ(?!ː)", "u"),
        ("æ|ʌ", "a"),
        ("z", "s"),
        ("v", "b"),
        ("ð", "d"),
        ("θ", "t"),
        ("ɹ", "r"),
        ("ɚ", "ɛr"),
        ("h", "x"),
        ("dʒ", "j"),
        ("(?<!t)ʃ", "tʃ"),
        ("m\\b", "n"),
    ],
    "french": [
        *_PURE,
        ("h", ""),
        ("θ", "s"),
        ("ð", "z"),
        ("(?<![aeɔ])ɪ", "i"),
        ("tʃ", "ʃ"),
        ("dʒ", "ʒ"),
        ("æ", "a"),
        ("ʌ", "ə"),
        ("ɹ", "ʁ"),
        ("ɜː|ɚ", "ɜʁ"),
    ],
    "slavic": [
        *_UNVOICED,
        *_PURE,
        ("w", "v"),
        ("θ", "s"),
        ("ð", "z"),
        ("h", "x"),
        ("(?<![aeɔ])ɪ", "i"),
        ("æ", "ɛ"),
        ("ʌ", "a"),
        ("ɜː|ɚ", "ɛr"),
        ("ɹ", "r"),
        ("ŋ\\b", "nk"),
    ],
    "east asian": [
        ("ɹ", "r"),
        ("(?<=[aeiouɑɔəɛɪʊː])l", "r"),
        ("θ", "s"),
        ("ð", "d"),
        ("v", "b"),
        ("f", "ɸ"),
        ("(?<![aeɔ])ɪ", "i"),
        ("æ", "ɛ"),
        ("ɜː|ɚ", "ɑː"),
        ("(?<=[bdɡkpst])\\b(?= )", "u"),
    ],
    "african": [
        *_PURE,
        ("θ", "t"),
        ("ð", "d"),
        ("(?<![aeɔ])ɪ", "i"),
        ("ɜː|ʌ", "ɔ"),
        ("ɚ", "a"),
        ("ə", "a"),
        ("æ", "a"),
        ("(?<=[nslkp])[td]\\b", ""),
    ],
    "scottish": [*_PURE, ("ɹ", "r"), ("ɚ", "ɛr"), ("ɜː", "ɛr"), ("ɔː|ɑː", "ɔ"), ("æ", "a")],
}
_UNVOICED_PHONES = {"b": "p", "d": "t", "g": "k", "v": "f", "z": "s", "jh": "ch"}
_TENSE = {"ih": "iy", "uh": "uw", "ae": "eh", "ah": "aa"}
# Of the same accents what can be said in CMU's phones; a space parts two for one.
_PHONES: dict[str, dict[str, str]] = {
    "german": {"w": "v", "th": "s", "dh": "z", "ae": "eh"},
    "indian": {"w": "v", "th": "t", "dh": "d", "ae": "eh", "ao": "aa"},
    "spanish": {**_TENSE, "z": "s", "v": "b", "th": "t", "dh": "d", "sh": "ch"},
    "french": {**_TENSE, "hh": "", "th": "s", "dh": "z", "ch": "sh", "jh": "zh"},
    "slavic": {**_TENSE, "w": "v", "th": "s", "dh": "z", "er": "eh r"},
    "east asian": {**_TENSE, "th": "s", "dh": "d", "v": "b", "r": "l", "er": "aa"},
    "african": {"th": "t", "dh": "d", "ih": "iy", "ah": "ao", "er": "ao"},
}


def foreign(phonemes: str, r: random.Random) -> str:
    """Return a line of phonemes as somebody with an accent might say it; most have none.

    Args:
        phonemes: IPA of eSpeak NG, a space between words; there are as many words afterwards.
        r: draws whether, which accent, and what of it.
    """
    if r.random() >= SHARE:
        return phonemes
    for pattern, said in _IPA[r.choice(sorted(_IPA))]:
        if r.random() < _KEPT:
            phonemes = re.sub(pattern, said, phonemes)
    return phonemes


def foreign_words(words: Sequence[Sequence[str]], r: random.Random) -> list[list[str]]:
    """Return words' phones of CMU's set as somebody with an accent might say them.

    A word that would lose all of its phones keeps them.
    """
    if r.random() >= SHARE:
        return [list(word) for word in words]
    name = r.choice(sorted(_PHONES))
    habits = {phone: said for phone, said in _PHONES[name].items() if r.random() < _KEPT}
    hard_ends = name in ("german", "slavic") and r.random() < _KEPT
    changed = []
    for word in words:
        said = " ".join(habits.get(phone, phone) for phone in word).split() or list(word)
        if hard_ends:
            said[-1:] = [_UNVOICED_PHONES.get(phone, phone) for phone in said[-1:]]
        changed.append(said)
    return changed

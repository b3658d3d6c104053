"""People are less careful than a dictionary: other vowels, swallowed sounds, short function words.

Works on eSpeak NG's phonemes of English. Each utterance gets habits of its own, which it keeps.
"""

from __future__ import annotations

import random
import re

# What an accent may make of a vowel or a consonant, wherever it occurs.
_ACCENTS = [
    ("ɔː", "ɑː"),
    ("ɑː", "ɔː"),
    ("ɑː", "a"),
    ("æ", "ɛ"),
    ("æ", "a"),
    ("ɛ", "æ"),
    ("ɛ", "ɪ"),
    ("(?<![aeɔ])ɪ", "i"),
    ("(?<![aeɔ])ɪ", "ə"),
    ("ʌ", "ə"),
    ("ʌ", "ɐ"),
    ("oʊ", "o"),
    ("oʊ", "əʊ"),
    ("eɪ", "e"),
    ("aɪ", "ɑː"),
    ("aʊ", "æʊ"),
    ("uː", "ʊ"),
    ("iː", "i"),
    ("ɜː", "ɜ"),
    ("ɚ", "ə"),
    ("ɾ", "t"),
    ("t(?=ə|ɚ|i)", "ɾ"),
    ("ɹ(?=[ bdfɡklmnpstvwzʃθ]|$)", ""),
    ("ð", "d"),
    ("θ", "t"),
]
# What is said in passing.
_SWALLOWED = [
    (r"\bænd\b", "ən"),
    (r"\bænd\b", "ənd"),
    (r"\bhˌ?([ɪɜ])", r"\1"),
    (r"\bhæd\b", "əd"),
    (r"\bhæv\b", "əv"),
    (r"\bfɔːɹ\b", "fɚ"),
    (r"\bʌv\b", "əv"),
    (r"\bʌv\b", "ə"),
    (r"\bjuː\b", "jə"),
    (r"\bwʌz\b", "wəz"),
    (r"\bɐ", "ə"),
    (r"ɪŋ\b", "ɪn"),
    (r"(?<=[nsflkp])[td]\b(?= [^aeiouæɑɐɔəɛɪʌʊ])", ""),
    (r"(?<=[bdfklmnpstvz])ə(?=[lnɹ])", ""),
    (r"ᵻ", "ə"),
]


def casual(phonemes: str, r: random.Random) -> str:
    """Return a line of phonemes as somebody might say it, with as many words as it has.

    Args:
        phonemes: IPA, a space between words.
        r: draws the habits, and who has none.
    """
    for habits, share in ((_ACCENTS, r.choice([0.0, 0.0, 0.08, 0.2])), (_SWALLOWED, r.random())):
        for pattern, said in habits:
            if r.random() < 0.7 * share:
                phonemes = re.sub(pattern, said, phonemes)
    return phonemes

"""Whether a call was what it should be: the words came, and a spoken reply came.

What was heard is compared with what the clip says by word error rate: (substitutions + deletions
+ insertions) / words of the clip, punctuation and case aside. A small model mishears, so the
bound is wide; what the model's rate is on more than one clip, `voice-agent bench wer` measures.
"""

from __future__ import annotations

import unicodedata

from voice_agent.demo.call import Heard
from voice_agent.demo.clip import Clip

WER_BOUND = 0.4
"""Word error rate that a call must stay below. Half of the words of the clip that we know are
"it was the", over and over: who hears nothing else is at 0.5."""

REPLY_WANTED_S = 0.3
"""Seconds of the agent's voice that make a reply."""


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; vowel signs are part of an Indic word."""
    lower = text.lower().replace("\u2019", "'")
    return "".join(c if _belongs_to_a_word(c) else " " for c in lower).split()


def _belongs_to_a_word(char: str) -> bool:
    return char == "'" or unicodedata.category(char)[0] in "LMN"


def word_error_rate(expected: str, heard: str) -> float:
    """Edit distance in words, by the number of words that were expected.

    Args:
        expected: what was said; at least one word.
        heard: what was transcribed.

    Returns:
        0 for the same words; above 1 where much was invented.
    """
    wanted, got = words(expected), words(heard)
    distances = list(range(len(got) + 1))  # from the wanted words so far to got[:j]
    for i, word in enumerate(wanted, start=1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(got, start=1):
            replaced = diagonal + (word != other)
            diagonal = distances[j]
            distances[j] = min(replaced, distances[j] + 1, distances[j - 1] + 1)
    return distances[-1] / len(wanted)


def complaints(clip: Clip, heard: Heard) -> list[str]:
    """What was wrong with a call.

    Args:
        clip: what was said.
        heard: what came of it.

    Returns:
        A sentence for each thing; empty where the call was as it should be.
    """
    found = []
    text = " ".join(final.text for final in heard.finals)
    if not words(text):
        found.append("no words were recognised")
    elif clip.text is not None:
        rate = word_error_rate(clip.text, text)
        if rate >= WER_BOUND:
            found.append(f"the word error rate is {rate:.0%}, wanted below {WER_BOUND:.0%}")
    if heard.voiced_s < REPLY_WANTED_S:
        found.append(
            "no spoken reply came"
            if heard.voiced_s == 0
            else f"the spoken reply was only {heard.voiced_s:.2f} s long"
        )
    return found

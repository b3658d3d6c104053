"""Whether a call was what it should be: the words came, and a spoken reply came.

What was heard is compared with what the clip says, punctuation and case aside, by two numbers:
the word error rate, (substitutions + deletions + insertions) / words of the clip, and the share of
the clip's different words that were heard at all. The embedded model mishears strangers, so both
bounds are wide: they tell a pipeline that works from one that does not. How good a model is on
more than one clip, `voice-agent bench wer` measures.
"""

from __future__ import annotations

import unicodedata

from voice_agent.demo.call import Heard
from voice_agent.demo.clip import Clip

WER_BOUND = 0.55
"""Word error rate that a call must stay below. Whoever invents words is at 1 and above."""

HEARD_BOUND = 1 / 2
"""Share of the clip's different words that must be heard. Half of the words of the clip that we
know are "it was the", over and over; whoever hears nothing else has heard 3 of its 16."""

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


def heard_share(expected: str, heard: str) -> float:
    """Share of the different words of a text that were heard, wherever.

    Args:
        expected: what was said; at least one word.
        heard: what was transcribed.
    """
    wanted = set(words(expected))
    return len(wanted & set(words(heard))) / len(wanted)


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
        share = heard_share(clip.text, text)
        if share < HEARD_BOUND:
            found.append(
                f"{share:.0%} of the clip's different words were heard, wanted {HEARD_BOUND:.0%}"
            )
    if heard.voiced_s < REPLY_WANTED_S:
        found.append(
            "no spoken reply came"
            if heard.voiced_s == 0
            else f"the spoken reply was only {heard.voiced_s:.2f} s long"
        )
    return found

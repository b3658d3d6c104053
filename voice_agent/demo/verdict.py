"""Whether a call was what it should be: the words came, and a spoken reply came.

Words are compared loosely, since a small model mishears: of the words that the clip says, in
order, the share that was heard must reach `WORDS_WANTED`. That a wrong transcript fails is
tested; what the model's word error rate is, `voice-agent bench wer` measures.
"""

from __future__ import annotations

import difflib
import re

from voice_agent.demo.call import Heard
from voice_agent.demo.clip import Clip

WORDS_WANTED = 0.5
"""Share of the clip's words that must have been heard, in order."""

REPLY_WANTED_S = 0.3
"""Seconds of the agent's voice that make a reply."""


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def share_heard(expected: str, heard: str) -> float:
    """Share of the expected words that were heard, in order.

    Args:
        expected: what was said; at least one word.
        heard: what was transcribed.

    Returns:
        0 to 1. Words that were heard besides do not count against it.
    """
    wanted = words(expected)
    match = difflib.SequenceMatcher(None, wanted, words(heard), autojunk=False)
    return sum(block.size for block in match.get_matching_blocks()) / len(wanted)


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
        share = share_heard(clip.text, text)
        if share < WORDS_WANTED:
            found.append(
                f"only {share:.0%} of the clip's words were recognised, wanted {WORDS_WANTED:.0%}"
            )
    if heard.voiced_s < REPLY_WANTED_S:
        found.append(
            "no spoken reply came"
            if heard.voiced_s == 0
            else f"the spoken reply was only {heard.voiced_s:.2f} s long"
        )
    return found

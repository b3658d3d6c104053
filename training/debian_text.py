"""English sentences out of Debian's packages, for the voices to speak.

wordnet-base    examples and glosses of WordNet's `data.*` files (WordNet's own free licence)
fortunes        short prose, quotations (free, see the package)
bible-kjv       prints the verses of bible-kjv-text (public domain)
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

PACKAGES = ("wordnet-base", "fortunes", "fortunes-min", "bible-kjv", "bible-kjv-text")


def wordnet(folder: Path) -> list[str]:
    """Return the example sentences of WordNet's `data.*` files, and what else a gloss says."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(errors="replace").splitlines():
            gloss = line.partition("|")[2]
            found += re.findall(r'"([^"]{8,200})"', gloss)
            found += re.split(r"[;:]", re.sub(r'"[^"]*"|\([^)]*\)', ";", gloss))
    return [" ".join(text.split()) for text in found if text.strip()]


def fortunes(folder: Path) -> list[str]:
    """Return the sentences of the package `fortunes`, without whom they are by."""
    found = []
    for path in sorted(folder.glob("*.u8")):
        for text in re.split(r"^%$", path.resolve().read_text(errors="replace"), flags=re.M):
            said = " ".join(re.sub(r"(?s)\n\s*--.*", "", text).split())
            found += re.split(r"(?<=[.!?])\s+", said)
    return [text for text in found if text]


def bible(root: Path) -> list[str]:
    """Return the verses that the program `bible` under this root prints, and their parts."""
    said = subprocess.run(
        [str((root / "usr/bin/bible").resolve()), "-f", "gen1:1-rev22:21"],
        cwd=root / "usr/lib",  # where it finds its data
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verses = [line.partition(" ")[2] for line in said.splitlines()]
    return [part.strip() for verse in verses for part in re.split(r"[:;.?!]", verse) if part]


def sentences(root: Path) -> list[str]:
    """Return all of them, in an order that is always the same.

    Args:
        root: where the `PACKAGES` were unpacked.
    """
    share = root / "usr/share"
    return wordnet(share / "wordnet") + fortunes(share / "games/fortunes") + bible(root)

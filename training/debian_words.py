"""Word lists and translated sentences out of Debian packages: the free text of many languages.

    aspell-LL       word lists, `LL.cwl.gz`, which `prezip-bin` of the package aspell reads
    *-l10n-LL       translations of programs, gettext `.mo`
    iso-codes       names of countries and languages, gettext `.mo`

`fetch` downloads with apt-get and unpacks beside the system; nothing is installed.
"""

from __future__ import annotations

import gettext
import gzip
import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def fetch(packages: Iterable[str], folder: Path) -> None:
    """Download Debian packages and unpack them under `folder`.

    Raises:
        RuntimeError: apt-get or dpkg is missing, or a package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as where:
        for package in packages:
            command = ["apt-get", "download", package]
            try:
                done = subprocess.run(command, cwd=where, capture_output=True, text=True)
            except FileNotFoundError as missing:
                raise RuntimeError("Debian packages need a Debian system with apt-get") from missing
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        for deb in sorted(Path(where).glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)


def aspell_words(root: Path, language: str) -> list[str]:
    """Return the words of an unpacked `aspell-LL`, NFC, without affix flags, in its order."""
    path = root / "usr/share/aspell" / f"{language}.cwl.gz"
    raw = subprocess.run(
        [str(root / "usr/bin/prezip-bin"), "-d"],
        input=gzip.decompress(path.read_bytes()),
        capture_output=True,
        check=True,
    ).stdout
    words = (unicodedata.normalize("NFC", w.split("/")[0].strip()) for w in raw.decode().split())
    return list(dict.fromkeys(w for w in words if w))


def translated_sentences(root: Path, language: str, letters: str) -> list[str]:
    """Return phrases of 3 to 14 words from the gettext catalogues under `root`.

    Args:
        root: where packages were unpacked.
        language: folder name of the catalogues.
        letters: a regular expression's character class for one letter of the script; phrases
            with anything else are left out.
    """
    word = re.compile(f"{letters}+")
    found = set()
    for path in sorted(root.glob(f"**/{language}/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for text in catalogue.values():
            if not isinstance(text, str):
                continue
            text = unicodedata.normalize("NFC", re.sub("[\u200c\u200d]", "", text))
            for phrase in re.split(r"[.\n!?:;,]", text):
                phrase = re.sub(r"\(.*?\)|<.*?>|[~_&%$]\w*", " ", phrase)
                words = phrase.split()
                if 3 <= len(words) <= 14 and all(word.fullmatch(w) for w in words):
                    found.add(" ".join(words))
    return sorted(found)

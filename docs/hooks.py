"""Pages that are not written twice: the models' cards and the repository's own documents.

mkdocs calls the functions named `on_...`. A card is a page below `models/`, in the place of
`models/*` in the navigation; what stands at the root of the repository becomes a page, whose links
are made to fit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "voice_agent" / "models"
DOCUMENTS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the cards in the navigation."""
    config.nav = _with_cards(config.nav)
    return config


def _with_cards(nav: Any) -> Any:
    if isinstance(nav, dict):
        return {title: _with_cards(below) for title, below in nav.items()}
    if not isinstance(nav, list):
        return nav
    at = nav.index("models/*") if "models/*" in nav else None
    if at is not None:
        return [*nav[:at], *(f"models/{card.name}" for card in _cards()), *nav[at + 1 :]]
    return [_with_cards(below) for below in nav]


def _cards() -> list[Path]:
    return sorted(CARDS.glob("*.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that come from outside of `docs/`."""
    pages = {f"models/{card.name}": card.read_text() for card in _cards()}
    for name in DOCUMENTS:
        pages[name.lower()] = _from_docs((ROOT / name).read_text())
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _from_docs(text: str) -> str:
    """Links as they are seen from `docs/`; what has no page there is named without one."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^]]+)\]\((?!https?:|#)(?![\w/-]+\.md)[^)]*\)", r"\1", text)

"""`mkdocs build --strict`: every link, anchor, include and docstring of the site is in order."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT

for module in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(module, reason="the site is built with the extra 'docs'")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


class Sources(HTMLParser):
    """Where a page gets its scripts, styles, fonts and pictures from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.found.append(given.get("href") or "")


def test_it_builds_without_a_warning_and_has_the_cards(site):
    cards = [card.stem for card in (ROOT / "voice_agent" / "models").glob("*.md")]
    assert cards
    assert all((site / "models" / f"{card}.html").is_file() for card in cards)


def test_the_api_is_there(site):
    page = (site / "api" / "engine.html").read_text()
    assert 'id="voice_agent.engine.loading.load_recognizer"' in page
    assert 'id="voice_agent.engine.recognizer.Stream.feed"' in page


def test_nothing_comes_from_another_server(site):
    for page in site.rglob("*.html"):
        foreign = [s for s in Sources(page.read_text()).found if s.startswith(("http", "//"))]
        assert not foreign, page

"""`mkdocs build --strict`: every link, anchor, include and docstring of the site is in order."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT

for module in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(module, reason="the site is built with the extra 'docs'")

UNDOCUMENTED = {"Event", "SYSTEMS"}  # a union, and a dict, of what is there


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


@pytest.mark.parametrize("package", ["alternatives", "engine", "processors", "services"])
def test_every_public_name_is_in_the_api(site, package):
    public = importlib.import_module(f"voice_agent.{package}").__all__
    _, _, _, _, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    objects = {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}
    documented = {name.rpartition(".")[2] for name in objects if name.startswith("voice_agent.")}
    assert {*public} - documented - UNDOCUMENTED == set()


def test_nothing_comes_from_another_server(site):
    for page in site.rglob("*.html"):
        foreign = [s for s in Sources(page.read_text()).found if s.startswith(("http", "//"))]
        assert not foreign, page

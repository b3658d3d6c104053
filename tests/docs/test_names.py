"""What the pages name is there under that name, and nothing that should be named is missing."""

from __future__ import annotations

import re

import pytest
import typer.main

from tests.docs.conftest import PAGES, ROOT, name_of
from voice_agent.bench.app import app as bench
from voice_agent.cli.app import app
from voice_agent.config import Settings
from voice_agent.models import KNOWN

DOCS = ROOT / "docs"
GROUPS = {
    name: set(field.annotation.model_fields)
    for name, field in Settings.model_fields.items()
    if hasattr(field.annotation, "model_fields")
}
SETTING = re.compile(rf"`({'|'.join(GROUPS)})\.(?!(?:md|json|png)\b)([a-z_]+)")


def commands(application: typer.Typer) -> set[str]:
    return set(typer.main.get_command(application).commands)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_setting_exists(page):
    named = SETTING.findall(page.read_text())
    assert [f"{group}.{key}" for group, key in named if key not in GROUPS[group]] == []


def test_every_model_that_is_known_by_name_is_on_the_models_page():
    page = (DOCS / "models.md").read_text()
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


def test_every_benchmark_is_on_the_benchmarks_page():
    page = (DOCS / "benchmarks.md").read_text()
    assert [name for name in commands(bench) if f"voice-agent bench {name}" not in page] == []


def test_every_command_is_somewhere():
    pages = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    assert [name for name in commands(app) if not re.search(rf"voice-agent {name}\b", pages)] == []


def test_every_example_is_on_the_page_about_bots():
    page = (DOCS / "embedding.md").read_text()
    assert [p.name for p in (ROOT / "examples").glob("*.py") if p.name not in page] == []


def test_every_example_is_run_by_a_test():
    tests = "".join(
        p.read_text() for p in (ROOT / "tests").rglob("*.py") if p.parent.name != "docs"
    )
    names = [path.stem for path in (ROOT / "examples").glob("*.py")]
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", tests)] == []


def test_the_pipecat_that_was_tested_is_the_pinned_one():
    page = (DOCS / "pipecat-integration.md").read_text()
    pinned = re.search(r"^pipecat-ai==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert f"Tested with Pipecat {pinned}." in page

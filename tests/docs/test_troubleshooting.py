"""The troubleshooting page names what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.checks import PAGE, shown, table

PACKAGE = Path(__file__).parents[2] / "voice_agent"
QUOTED = re.search(r"<!-- sentences -->(.*?)<!-- /sentences -->", PAGE.read_text(), re.S)[1]


@pytest.fixture(scope="module")
def literals() -> str:
    """The package's source, strings that stand beside each other joined."""
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", source)


@pytest.mark.parametrize("sentence", re.findall(r"^\| `(.+?)` \|", QUOTED, re.M))
def test_a_sentence_is_one_that_the_program_says(sentence, literals):
    assert sentence in literals


def test_the_table_is_what_doctor_says():
    assert shown() == table(), "write it again: python -m tests.docs.checks"

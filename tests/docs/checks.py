"""The troubleshooting page's table of what `doctor` says, from machines that have the problem.

python -m tests.docs.checks    # writes it again
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.doctor.test_checks import PROBLEMS
from voice_agent.doctor import CHECKS, examine

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
_PLACE = re.compile(r"(?<=<!-- checks -->\n).*?(?=<!-- /checks -->)", re.S)


def table() -> str:
    """A row for each problem that the tests know, in the order of the checks."""
    order = [name for name, _, _ in CHECKS]
    rows = []
    for check, level, _, _, machine in PROBLEMS.values():
        profile = "cpu" if machine.arch == "x86_64" and not machine.gpus else "spark"
        finding = {f.check: f for f in examine(machine, profile)}[check]
        rows.append((order.index(check), check, level, finding.says, finding.mend))
    head = "| check | | says, for instance | what mends it |\n|---|---|---|---|\n"
    rows.sort(key=lambda row: row[0])
    return head + "".join(
        f"| `{check}` | {level} | {_cell(says)} | {_cell(mend)} |\n"
        for _, check, level, says, mend in rows
    )


def shown() -> str:
    """What the page has."""
    found = _PLACE.search(PAGE.read_text())
    assert found is not None, f"{PAGE} has no place for the table"
    return found[0]


def _cell(text: str) -> str:
    for character in "\\|<*_":
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    PAGE.write_text(_PLACE.sub(lambda _: table(), PAGE.read_text()))

"""The tables of docs/gate.md, from what was recorded under benchmarks/results/.

    python -m benchmarks.gate_tables docs/gate.md    # writes them again

Recorded by the commands that stand above the tables, with `--out benchmarks/results/gate.json` or
`--out benchmarks/results/lid-people`, `…/lid-espeak`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voice_agent.bench import gate, lid
from voice_agent.bench.gate_thresholds import Decided, best
from voice_agent.engine.gate_policy import GateSettings

RESULTS = Path(__file__).parent / "results"
PEOPLE, MADE = "lid-people", "lid-espeak"
DEFAULT = GateSettings().default


def recorded(name: str) -> dict[str, Any]:
    """A run as it was recorded."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def cost() -> str:
    """What `bench gate` told."""
    report = recorded("gate.json")
    return f"```sh\n{report['command']}\n```\n\n{gate.markdown(report)}\n"


def accuracy(name: str) -> str:
    """What `bench lid` told of the identifiers."""
    report = recorded(f"{name}/lid.json")
    clips = ", ".join(f"{number} {code}" for code, number in sorted(report["clips"].items()))
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    table = lid.table([lid.Row(**row) for row in report["rows"]])
    return f"```sh\n{report['command']}\n```\n\n{table}\n\nClips: {clips} ({machine}).\n"


def thresholds() -> str:
    """What both runs of `bench lid --thresholds` found, a line for each setting that was tried."""
    people, made = (
        [Decided(**row) for row in recorded(f"{name}/lid.json")["decisions"]]
        for name in (PEOPLE, MADE)
    )
    chosen = best([*people, *made], DEFAULT)
    lines = [
        "| threshold | final | hysteresis | window | confirmations | English diverted wrongly | "
        "other languages diverted | espeak-ng's Kannada found | of a change of language |",
        "|---" * 9 + "|",
    ]
    for settings in dict.fromkeys(row.settings for row in people):
        cells = [
            _share(people, settings, "en", "strayed"),
            _share(people, settings, "other", "strayed"),
            _share(made, settings, "kn", "right"),
            _share(made, settings, "en>kn", "right"),
        ]
        row = [*(f"{value:.2g}" for value in settings), *cells]
        if chosen is not None and settings == chosen.settings:
            row = [f"**{cell}**" for cell in row]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _share(rows: list[Decided], settings: tuple[float, ...], group: str, what: str) -> str:
    (row,) = (r for r in rows if r.settings == settings and r.group == group)
    return f"{100 * getattr(row, what) / row.segments:.1f} % of {row.segments}"


BLOCKS: dict[str, Callable[[], str]] = {
    "cost": cost,
    "people": lambda: accuracy(PEOPLE),
    "made": lambda: accuracy(MADE),
    "thresholds": thresholds,
}


def place(mark: str) -> re.Pattern[str]:
    """What stands between two marks."""
    return re.compile(rf"(?<=<!-- {mark} -->\n).*?(?=<!-- /{mark} -->)", re.S)


def main(file: str) -> None:
    """Write the page's tables again, and put the curves beside it."""
    path = Path(file)
    text = path.read_text(encoding="utf-8")
    for mark, write in BLOCKS.items():
        if not place(mark).search(text):
            raise SystemExit(f"{file} has no <!-- {mark} --> ... <!-- /{mark} --> to write between")
        written = write()
        text = place(mark).sub(lambda _, written=written: f"\n{written}\n", text)
    path.write_text(text, encoding="utf-8")
    curves = RESULTS / PEOPLE / "lid.png"
    if curves.is_file():  # it is not kept with the figures
        shutil.copy(curves, path.parent / "images" / f"{PEOPLE}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.gate_tables docs/gate.md")
    main(sys.argv[1])

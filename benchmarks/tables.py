"""The tables of docs/benchmarks.md, from what was recorded under benchmarks/results/.

    python -m benchmarks.tables docs/benchmarks.md    # writes them again

Each recorded run is a file NAME.json of `voice-agent bench engine`, `bench server` or `bench
calls`. A run on a GPU is shown with its times. Of a run on a CPU only ratios are: how many times
its floor a step took, how many times ours another system's, how many calls a core carried and what
share of it went where, since its times say more of the machine than of the program.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from voice_agent.bench.calls import Row as Call
from voice_agent.bench.calls import most
from voice_agent.bench.engine_rows import (
    OURS,
    StepRow,
    ours_beside,
    paced_table,
    read_steps,
    table,
)
from voice_agent.bench.server import Row
from voice_agent.bench.server_report import table as server_table

RESULTS = Path(__file__).parent / "results"
PLACE = re.compile(r"(?<=<!-- engine -->\n).*?(?=<!-- /engine -->)", re.S)
SERVER_PLACE = re.compile(r"(?<=<!-- server -->\n).*?(?=<!-- /server -->)", re.S)
CALLS_PLACE = re.compile(r"(?<=<!-- calls -->\n).*?(?=<!-- /calls -->)", re.S)
NO_GPU = "No run on a GPU is recorded yet, so no time of one is shown.\n"


def _reports(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that was recorded, by name."""
    for file in sorted(folder.glob("*.json")):
        yield file.stem, json.loads(file.read_text(encoding="utf-8"))


def recorded(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Reports of `bench engine` by name, those of a GPU first."""
    found = [
        (name, report)
        for name, report in _reports(folder)
        if {"conditions", "ceilings", "steps"} <= report.keys()
    ]
    return dict(sorted(found, key=lambda item: "gpu" not in item[1]["conditions"]))


def recorded_servers(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Reports of `bench server` on a GPU, by name."""
    return {
        name: report
        for name, report in _reports(folder)
        if "rows" in report and "gpu" in report.get("conditions", {})
    }


def server_page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """What each recorded run of `bench server` measured, with its command."""
    parts = []
    for name, report in reports.items():
        c, rows = report["conditions"], [Row(**row) for row in report["rows"]]
        parts.append(f"\n**{c['model']}, random weights**, on {c['gpu']}, {c['cpu']}:\n")
        parts.append(server_table(sorted(rows, key=lambda row: row.clients)) + "\n")
        held = max((row.clients for row in rows if row.holds(c["final_p99_ms"])), default=0)
        holds = f"{held:,} clients hold a final p99 of {c['final_p99_ms']:g} ms"
        versions = f"Python {c['python']}, torch {c['torch']}, {c['front_ends']} front-ends"
        parts.append(f"{holds}. {versions}; `benchmarks/results/{name}.json`:\n")
        parts.append(f"```sh\n{c['command']}\n```\n")
    return "\n".join(parts)


def recorded_calls(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Reports of `bench calls`, by name."""
    return {
        name: report
        for name, report in _reports(folder)
        if "parts" in next(iter(report.get("rows", ())), {})
    }


def calls_page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """What each recorded run of `bench calls` measured, with its command."""
    parts = []
    for name, report in reports.items():
        c, rows = report["conditions"], [Call(**row) for row in report["rows"]]
        parts.append(f"\n**{c['model']}, the server on one core of {c['cpu']}**:\n")
        names = sorted(
            {p for row in rows for p in row.parts}, key=lambda p: (-_share(rows[0], p), p)
        )
        head = ["over", "calls", "turns answered", "cores", "carried", *names]
        parts += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in rows:
            cells = [row.over, row.calls, f"{row.answered} of {row.asked}", f"{row.cores:.2f}"]
            cells += ["yes" if row.carried else "no"]
            cells += [f"{100 * _share(row, part):.0f} %" for part in names]
            parts.append(f"| {' | '.join(map(str, cells))} |")
        parts += ["", *(f"- {line}" for line in most(rows, one_core=c["one core"]))]
        parts.append(
            f"\nPython {c['python']}, torch {c['torch']}; commit {_commit(c)}; "
            f"`benchmarks/results/{name}.json`:\n"
        )
        parts.append(f"```sh\n{c['command']}\n```\n")
    return "\n".join(parts)


def _share(row: Call, part: str) -> float:
    """Of the server's time."""
    return row.parts.get(part, 0.0) / sum(row.parts.values())


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """All that stands between the page's two marks."""
    gpu = [section(name, r) for name, r in reports.items() if "gpu" in r["conditions"]]
    cpu = [section(name, r) for name, r in reports.items() if "gpu" not in r["conditions"]]
    return "\n" + "\n".join([*(gpu or [NO_GPU]), *cpu])


def section(name: str, report: Mapping[str, Any]) -> str:
    """One run: what it was, its tables, its command."""
    c, rows = report["conditions"], read_steps(report["steps"])
    gpu = "gpu" in c
    what = f"{c['model']}, {c['precision']}, right context {c['right']}"
    parts = [f"**{what}**, on {c['gpu'] if gpu else 'a CPU'}:\n"]
    if rows:
        parts.append((table(rows) if gpu else ratios(rows)) + "\n")
    if report["paced"] and gpu:
        parts.append(paced_table(report["paced"]) + "\n")
    if report["capacity"] and gpu:
        parts.append(capacity(report["capacity"]) + "\n")
    parts += [f"- {what}: {why}" for what, why in report["problems"].items()]
    if report["problems"]:
        parts.append("")
    machine = [c["gpu"], f"driver {c['driver']}", f"CUDA {c['cuda']}"] if gpu else [c["cpu"]]
    machine += [f"torch {c['torch']}"]
    machine += [f"load before it {c['load']}"] if "load" in c else []
    machine += [f"{p} {c[p]}" for p in ("triton", "nemo-toolkit", "transformers") if p in c]
    parts.append(f"{', '.join(machine)}; commit {_commit(c)}; `benchmarks/results/{name}.json`:\n")
    parts.append(f"```sh\n{c['command']}\n```\n")
    return "\n".join(parts)


def _commit(conditions: Mapping[str, Any]) -> str:
    """The tree that ran: a commit in short, and whether it had changes."""
    commit, plus, changes = conditions["commit"].partition("+")
    return commit[:12] + plus + changes


def ratios(rows: list[StepRow]) -> str:
    """A CPU's rows without their times."""
    lines = [
        "| system | batch | p50 × its floor | p99 / p50 | × ours | tokens a frame | wrong tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r.batch, r.system != OURS, r.system)):
        ours = ours_beside(rows, row)
        beside = "1" if row.system == OURS else f"{row.p50_ms / ours.p50_ms:.1f}" if ours else "-"
        lines.append(
            f"| {row.system} | {row.batch:,} | {row.p50_ms / row.floor_ms:.1f} | "
            f"{row.p99_ms / row.p50_ms:.1f} | {beside} | {row.tokens_a_frame:.2f} | "
            f"{row.wrong_tokens} of {row.tokens_compared} |"
        )
    return "\n".join(lines)


def capacity(found: Mapping[str, Any]) -> str:
    """What the search for the largest number found."""
    text = f"Capacity: {found['holds']:,} streams held p99 lag ≤ {found['max_lag_ms']:g} ms"
    text += f", {found['fails']:,} did not" if found["fails"] else ""
    return text + ("." if found["complete"] else "; the search ran out of time.")


def main(file: str) -> None:
    """Write the page's tables again."""
    path = Path(file)
    text = path.read_text(encoding="utf-8")
    for mark, place, written in (
        ("engine", PLACE, page(recorded())),
        ("calls", CALLS_PLACE, calls_page(recorded_calls())),
        ("server", SERVER_PLACE, server_page(recorded_servers())),
    ):
        if not place.search(text):
            raise SystemExit(f"{file} has no <!-- {mark} --> ... <!-- /{mark} --> to write between")
        text = place.sub(lambda _, written=written: written, text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.tables docs/benchmarks.md")
    main(sys.argv[1])

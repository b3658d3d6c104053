"""Rows of `bench server` as a table, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voice_agent.bench.server import Row


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("clients", "refused", "failed", "unanswered", "final ms (p50/p95/p99)",
            "first partial ms", "lag ms", "callers late ms", "late chunks", "cores",
            "callers' cores", "MB", "GPU MB", "GPU busy")  # fmt: skip
    lines = [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        cells = (
            f"{row.clients}", f"{row.refused}", f"{row.failed}", f"{row.unanswered}",
            _three(row.final_ms), _three(row.partial_ms), _three(row.lag_ms),
            _three(row.slip_ms) + (" (!)" if row.callers_late else ""), f"{row.late_chunks:.0f}",
            f"{row.cores:.2f}" + _shares(row.by_process), f"{row.callers_cores:.2f}",
            f"{row.memory_mb:.0f}", "-" if row.gpu_mb is None else f"{row.gpu_mb:.0f}",
            "-" if row.gpu_busy is None else f"{row.gpu_busy:.0%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if any(row.callers_late for row in rows):
        lines.append("(!) the callers' machine was late itself; use more --processes or cores")
    return "\n".join(lines)


def _shares(by_process: dict[str, float]) -> str:
    """The engine's cores, and those of its busiest front-end."""
    front_ends = [cores for name, cores in by_process.items() if name != "engine"]
    if not front_ends:
        return ""
    return f" (engine {by_process.get('engine', 0.0):.2f}, front-ends ≤ {max(front_ends):.2f})"


def _three(values: tuple[float, float, float] | None) -> str:
    return "-" if values is None else "/".join(f"{v:.0f}" for v in values)


def write(out: Path, rows: Sequence[Row], conditions: dict[str, Any]) -> None:
    """Write `server.json`, and `server.png` where matplotlib is installed, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
    (out / "server.json").write_text(json.dumps(report, indent=2) + "\n")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f"{out}: no plot, for matplotlib is not installed")
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(rows, key=lambda row: row.clients)
    for name, times in (("final", "final_ms"), ("lag of partials", "lag_ms")):
        for label, i in (("p50", 0), ("p99", 2)):
            points = [(r.clients, getattr(r, times)[i]) for r in ordered if getattr(r, times)]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=f"{name}, {label}")
    axes.set_xlabel("clients at once")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "server.png", dpi=120)

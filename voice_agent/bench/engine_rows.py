"""Rows of the engine's benchmark, and what is said about them: JSON, a table, a plot.

A row carries its conditions. What failed its comparison has no row; it stands among the problems,
by name and with the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS = "voice-agent"


@dataclass(frozen=True, slots=True)
class StepRow:
    """One system's step at one batch.

    Attributes:
        system: "voice-agent", "nemo", "transformers" or "sherpa-onnx".
        includes: which parts of the step its time holds.
        machine: chip, driver and versions: read, never typed.
        commit: of this repository.
        model: checkpoint or shape.
        dtype: of the encoder, with 8-bit options.
        right: right context in encoder frames.
        chunk_ms: audio a step.
        batch: lanes, all in step.
        steps: that were timed, after warm-up.
        p50_ms: median of a step.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        features_ms: of these, where the parts can be run alone; None elsewhere.
        encoder_ms: likewise.
        decoder_ms: likewise.
        bytes_floor_ms: least bytes over the copy bandwidth measured in this run.
        flop_floor_ms: least operations over the matrix rate measured in this run.
        tokens_a_frame: emitted while it was timed.
        tokens_compared: with the fp32 engine's on the CPU, on short random audio, in each lane up
            to the first difference.
        wrong_tokens: of these; one a lane at most.
    """

    system: str
    includes: str
    machine: str
    commit: str
    model: str
    dtype: str
    right: int
    chunk_ms: int
    batch: int
    steps: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    features_ms: float | None
    encoder_ms: float | None
    decoder_ms: float | None
    bytes_floor_ms: float
    flop_floor_ms: float
    tokens_a_frame: float
    tokens_compared: int
    wrong_tokens: int

    @property
    def floor_ms(self) -> float:
        """The larger floor: what no implementation in this precision is much faster than."""
        return max(self.bytes_floor_ms, self.flop_floor_ms)

    @property
    def token_error(self) -> float:
        """Share of the tokens compared that are wrong."""
        return self.wrong_tokens / max(1, self.tokens_compared)


@dataclass(slots=True)
class Report:
    """All of one run, written after every row.

    Attributes:
        conditions: machine, versions, commit, command and settings.
        ceilings: measured in this run.
        startup: by system: seconds until ready, bytes on the device.
        steps: rows.
        paced: what streams at real-time pace saw, one entry a number of streams.
        capacity: what the search for the largest number found; None where none was made.
        problems: what was left out, and why.
        out: folder of `engine.json` and `engine.png`; None writes nothing.
    """

    conditions: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    startup: dict[str, Any] = field(default_factory=dict)
    steps: list[StepRow] = field(default_factory=list)
    paced: list[dict[str, Any]] = field(default_factory=list)
    capacity: dict[str, Any] | None = None
    problems: dict[str, str] = field(default_factory=dict)
    out: Path | None = None

    def save(self) -> None:
        """Write what there is so far; whole or not at all."""
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        content = {
            "conditions": dict(self.conditions),
            "ceilings": dict(self.ceilings),
            "startup": self.startup,
            "steps": [asdict(row) for row in self.steps],
            "paced": self.paced,
            "capacity": self.capacity,
            "problems": self.problems,
        }
        new = self.out / "engine.json.new"
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        new.replace(self.out / "engine.json")


def read_steps(steps: Sequence[Mapping[str, Any]]) -> list[StepRow]:
    """Rows of a JSON report."""
    return [StepRow(**row) for row in steps]


HEAD = (
    "| system | batch | p50 ms | p95 | p99 | features | encoder | decoder | floor ms: bytes / FLOP "
    "| × floor | tokens a frame | wrong tokens | × ours |"
)


def table(rows: Sequence[StepRow]) -> str:
    """Rows as Markdown, by batch; the last column is a system's median over ours."""
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for row in sorted(rows, key=lambda r: (r.right, r.batch, r.system != OURS, r.system)):
        lines.append("| " + " | ".join(_cells(row, ours_beside(rows, row))) + " |")
    return "\n".join(lines)


def paced_table(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """Paced runs as Markdown."""
    lines = [
        "| streams | phases | s | lag ms p50 / p95 / p99 / max | missed | final ms p50 / p99 "
        "| cores | GPU GiB | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        lags = " / ".join(_ms(o[f"lag_{p}_ms"]) for p in ("p50", "p95", "p99", "max"))
        finals = " / ".join(_ms(o[f"final_{p}_ms"]) for p in ("p50", "p99"))
        gpu = f"{o['gpu_bytes'] / 2**30:.1f}" if o["gpu_bytes"] else "-"
        state = "yes" if o["holds"] else "no" if o["valid"] else "not valid"
        lines.append(
            f"| {o['streams']:,} | {o['phases']} | {o['seconds']:.0f} | {lags} | {o['misses']} of "
            f"{o['chunks']:,} | {finals} | {o['cpu_cores']:.1f} | {gpu} | {state} |"
        )
    return "\n".join(lines)


def ours_beside(rows: Sequence[StepRow], row: StepRow) -> StepRow | None:
    """Our row at the same batch and right context."""
    same = (r for r in rows if (r.system, r.batch, r.right) == (OURS, row.batch, row.right))
    return next(same, None)


def _cells(row: StepRow, ours: StepRow | None) -> list[str]:
    return [
        row.system, f"{row.batch:,}",
        *(_ms(x) for x in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(_ms(x) for x in (row.features_ms, row.encoder_ms, row.decoder_ms)),
        f"{_ms(row.bytes_floor_ms)} / {_ms(row.flop_floor_ms)}",
        f"{row.p50_ms / row.floor_ms:.1f}", f"{row.tokens_a_frame:.2f}",
        f"{row.wrong_tokens} of {row.tokens_compared}",
        "1" if row.system == OURS else f"{row.p50_ms / ours.p50_ms:.1f}" if ours else "-",
    ]  # fmt: skip


def _ms(value: float | None) -> str:
    """Milliseconds with three figures."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(file: Path, rows: Sequence[StepRow], title: str) -> None:
    """Time of a step by batch: every system, the floor, and the chunk that it must fit into."""
    if not rows:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for system in sorted({r.system for r in rows}, key=lambda s: (s != OURS, s)):
        of = sorted((r for r in rows if r.system == system), key=lambda r: r.batch)
        batches = [r.batch for r in of]
        (line,) = axes.plot(batches, [r.p50_ms for r in of], marker="o", label=system)
        axes.fill_between(
            batches, [r.p50_ms for r in of], [r.p99_ms for r in of], alpha=0.2,
            color=line.get_color(),
        )  # fmt: skip
    floor = sorted({(r.batch, r.floor_ms) for r in rows if r.system == OURS})
    axes.plot(*zip(*floor, strict=True), "k--", label="floor") if floor else None
    axes.axhline(rows[0].chunk_ms, color="grey", linewidth=1, label="the chunk's audio")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("streams in step")
    axes.set_ylabel("ms a step (line: median, shade: to p99)")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)

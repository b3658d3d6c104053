"""`voice-agent bench server`: how many live clients one server holds, and how soon they read.

For each number of clients a server is started and called by processes of their own
(`voice_agent.bench.callers`), all speaking at real-time pace. A row says what they saw. A row in
which the callers themselves were late says so: its figures are of the callers' machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voice_agent.bench.corpus import DEFAULT

if TYPE_CHECKING:
    import numpy as np

CALLERS_LATE_S = 0.04
"""Half a chunk: callers who send later than that at p99 measure themselves."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of clients. Times are (p50, p95, p99) in ms, None where nothing came.

    Attributes:
        clients: that were asked to call.
        refused: that were turned away.
        failed: whose session ended with an error.
        final_ms: from the end of a turn's audio to its text.
        partial_ms: from a turn's first sample to its first text.
        lag_ms: from the sending of audio to a partial text that accounts for it.
        slip_ms: how late callers sent.
        cores: processor cores that the server used.
        memory_mb: resident memory of the server.
        gpu_mb: memory that torch held on a GPU; None without one.
        late_chunks: chunks that the engine finished later than they are long.
    """

    clients: int
    refused: int
    failed: int
    final_ms: tuple[float, float, float] | None
    partial_ms: tuple[float, float, float] | None
    lag_ms: tuple[float, float, float] | None
    slip_ms: tuple[float, float, float] | None
    cores: float
    memory_mb: float
    gpu_mb: float | None
    late_chunks: float

    @property
    def callers_late(self) -> bool:
        """Whether the callers' machine, rather than the server, was at its end."""
        return self.slip_ms is not None and self.slip_ms[2] > 1000 * CALLERS_LATE_S


def server(
    clients: Annotated[
        list[int], typer.Option("--clients", help="Clients at once; repeat for several.")
    ] = [1, 8],  # noqa: B006 - typer wants a list
    seconds: Annotated[float, typer.Option(help="That count, for each.")] = 30.0,
    processes: Annotated[int, typer.Option(help="That the clients are spread over.")] = 1,
    model: Annotated[str, typer.Option(help="Name, path or Hugging Face id.")] = "tiny-en",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    manifest: Annotated[
        Path, typer.Option(help="What is said.", show_default="48 s of reading")
    ] = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Folder for server.json and server.png.")] = None,
) -> None:
    """Latency, refusals and load of the transcription server under live clients."""
    from rich.console import Console

    from voice_agent.bench.corpus import read
    from voice_agent.bench.stt_report import machine

    console = Console()
    pcm = _joined([clip.pcm() for clip in read(manifest)])
    rows = []
    for count in clients:
        with console.status(f"{count} clients for {seconds:g} s"):
            rows.append(measure(count, pcm, seconds, processes, model=model, device=device))
    console.print(table(rows), markup=False, soft_wrap=True)
    conditions = {**machine(), "model": model, "device": device, "seconds": seconds,
                  "processes": processes}  # fmt: skip
    console.print("; ".join(f"{k} {v}" for k, v in conditions.items()), soft_wrap=True)
    if out is not None:
        write(out, rows, conditions)


def measure(
    clients: int, pcm: np.ndarray, seconds: float, processes: int, *, model: str, device: str
) -> Row:
    """Start a server, call it, and add up what was seen.

    Args:
        clients: at once.
        pcm: int16 (n,), 16 kHz: what is said.
        seconds: that count.
        processes: of callers.
        model: of the server.
        device: of the server.

    Raises:
        ServerFailed: it did not start or stop as it should.
    """
    from voice_agent.bench.callers import RAMP_S, TURN_S
    from voice_agent.bench.served import metrics, served

    settings = {"stt.model": model, "stt.device": device, "server.max_sessions": clients}
    shares = [clients // processes + (i < clients % processes) for i in range(processes)]
    with (
        tempfile.NamedTemporaryFile(suffix=".pcm") as audio,
        served(settings) as address,
        ThreadPoolExecutor(processes) as pool,
    ):
        audio.write(pcm.astype("<i2").tobytes())
        audio.flush()
        calls = [pool.submit(_call, address, audio.name, share, seconds) for share in shares]
        time.sleep(RAMP_S + TURN_S)
        before, began = metrics(address), time.monotonic()
        seen = [call.result() for call in calls]
        after, took_s = metrics(address), time.monotonic() - began
    cpu = "process_cpu_seconds_total"
    late = "voice_agent_engine_late_total"
    return Row(
        clients=clients,
        refused=sum(s["refused"] for s in seen),
        failed=sum(s["failed"] for s in seen),
        final_ms=_percentiles([x for s in seen for x in s["final_s"]]),
        partial_ms=_percentiles([x for s in seen for x in s["partial_s"]]),
        lag_ms=_percentiles([x for s in seen for x in s["lag_s"]]),
        slip_ms=_percentiles([x for s in seen for x in s["slip_s"]]),
        cores=(after[cpu] - before[cpu]) / took_s,
        memory_mb=after["process_resident_memory_bytes"] / 2**20,
        gpu_mb=_mb(after.get("voice_agent_gpu_memory_bytes")),
        late_chunks=after.get(late, 0.0) - before.get(late, 0.0),
    )


def _call(address: str, audio: str, callers: int, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "voice_agent.bench.callers", address, audio,
         "--callers", str(callers), "--seconds", str(seconds)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def _joined(clips: Sequence[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.rint(np.concatenate(clips) * 32767).astype(np.int16)


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float] | None:
    import numpy as np

    if not seconds:
        return None
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    return float(p50), float(p95), float(p99)


def _mb(size: float | None) -> float | None:
    return None if size is None else size / 2**20


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("clients", "refused", "failed", "final ms", "first partial ms", "lag ms",
            "callers late ms", "late chunks", "cores", "MB", "GPU MB")  # fmt: skip
    lines = [
        f"| {' | '.join(head)} |  (p50/p95/p99)",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        cells = (
            f"{row.clients}", f"{row.refused}", f"{row.failed}", _three(row.final_ms),
            _three(row.partial_ms), _three(row.lag_ms),
            _three(row.slip_ms) + (" (!)" if row.callers_late else ""), f"{row.late_chunks:.0f}",
            f"{row.cores:.2f}", f"{row.memory_mb:.0f}",
            "-" if row.gpu_mb is None else f"{row.gpu_mb:.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if any(row.callers_late for row in rows):
        lines.append("(!) the callers' machine was late itself; use more --processes or cores")
    return "\n".join(lines)


def _three(values: tuple[float, float, float] | None) -> str:
    return "-" if values is None else "/".join(f"{v:.0f}" for v in values)


def write(out: Path, rows: Sequence[Row], conditions: dict[str, Any]) -> None:
    """Write `server.json` and `server.png` into a folder."""
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    report = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
    (out / "server.json").write_text(json.dumps(report, indent=2) + "\n")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, times in (("final", "final_ms"), ("lag of partials", "lag_ms")):
        for label, i in (("p50", 0), ("p99", 2)):
            points = [(r.clients, getattr(r, times)[i]) for r in rows if getattr(r, times)]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=f"{name}, {label}")
    axes.set_xlabel("clients at once")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "server.png", dpi=120)

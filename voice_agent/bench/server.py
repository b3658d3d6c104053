"""`voice-agent bench server`: how many live clients one server holds, and how soon they read.

For each number of clients a server is started and called by processes of their own
(`voice_agent.bench.callers`), all speaking at real-time pace. A row says what they saw. A row in
which the callers themselves were late says so: its figures are of the callers' machine.

`--find-capacity` looks for the most clients whose finals come within a limit: it doubles until
one does not hold, and then halves the distance. What was measured on the way are the rows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voice_agent.bench.corpus import DEFAULT
from voice_agent.bench.server_report import table, write

if TYPE_CHECKING:
    import numpy as np

CALLERS_LATE_S = 0.04
"""Half a chunk: callers who send later than that at p99 measure themselves."""
CALLERS_A_PROCESS = 500
_CUT_QUERY = "endpointing=300"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of clients. Times are (p50, p95, p99) in ms, None where nothing came.

    Attributes:
        clients: that were asked to call.
        refused: that were turned away.
        failed: whose session ended with an error.
        unanswered: turns without a text when the caller hung up.
        final_ms: from the end of a turn's audio to its text.
        partial_ms: from a turn's first sample to its first text.
        lag_ms: from the sending of audio to a partial text that accounts for it.
        slip_ms: how late callers sent.
        cores: processor cores that the server used.
        by_process: the same, by process, where there are several.
        callers_cores: that the callers used.
        memory_mb: resident memory of the server.
        gpu_mb: memory that torch held on a GPU; None without one.
        gpu_busy: share of the time in which the GPU computed; None where nobody tells.
        late_chunks: chunks that the engine finished later than they are long.
    """

    clients: int
    refused: int
    failed: int
    unanswered: int
    final_ms: tuple[float, float, float] | None
    partial_ms: tuple[float, float, float] | None
    lag_ms: tuple[float, float, float] | None
    slip_ms: tuple[float, float, float] | None
    cores: float
    callers_cores: float
    memory_mb: float
    gpu_mb: float | None
    gpu_busy: float | None
    late_chunks: float
    by_process: dict[str, float] = field(default_factory=dict)

    @property
    def callers_late(self) -> bool:
        """Whether the callers' machine, rather than the server, was at its end."""
        return self.slip_ms is not None and self.slip_ms[2] > 1000 * CALLERS_LATE_S

    def holds(self, final_p99_ms: float) -> bool:
        """Whether everybody was served, in time."""
        lost = self.refused or self.failed or self.unanswered
        return not lost and self.final_ms is not None and self.final_ms[2] <= final_p99_ms


@dataclass(frozen=True, slots=True)
class Plan:
    """What all rows have in common.

    Attributes:
        model: of the server; a shape's name with `shaped`.
        shaped: random weights.
        device: of the server.
        front_ends: processes; 0 for one that does everything.
        seconds: that count.
        processes: of callers; None for as many as the callers need.
        cut: let the server's VAD listen as well.
    """

    model: str
    shaped: bool
    device: str
    front_ends: int
    seconds: float
    processes: int | None
    cut: bool


def server(
    clients: Annotated[
        list[int], typer.Option("--clients", help="Clients at once; repeat for several.")
    ] = [1, 8],  # noqa: B006 - typer wants a list
    seconds: Annotated[float, typer.Option(help="That count, for each.")] = 30.0,
    processes: Annotated[
        int | None,
        typer.Option(help="That the clients are spread over.", show_default="1 for 500 clients"),
    ] = None,
    front_ends: Annotated[
        int, typer.Option(help="Front-end processes of the server; 0 for none beside the engine.")
    ] = 0,
    model: Annotated[str, typer.Option(help="Name, path or Hugging Face id.")] = "tiny-en",
    shape: Annotated[
        str | None,
        typer.Option(help="Instead of a model: random weights of this shape, e.g. nemotron-0.6b."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    cut: Annotated[
        bool, typer.Option("--vad", help="Let the server's VAD listen to every client, too.")
    ] = False,
    find_capacity: Annotated[
        bool,
        typer.Option(help="Find the most clients that hold, from the first --clients upwards."),
    ] = False,
    final_p99_ms: Annotated[float, typer.Option(help="What has to hold, for that.")] = 150.0,
    at_most_s: Annotated[
        float, typer.Option(help="Begin no further row of that search after so long.")
    ] = 3600.0,
    manifest: Annotated[
        Path | None, typer.Option(help="What is said.", show_default="48 s of reading")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for server.json and server.png.")] = None,
) -> None:
    """Latency, refusals and load of the transcription server under live clients."""
    from rich.console import Console

    from voice_agent.bench.provenance import command, commit, source
    from voice_agent.bench.stt_report import machine

    console = Console()
    pcm = _speech(manifest, noise=shape is not None)
    plan = Plan(shape or model, shape is not None, device, front_ends, seconds, processes, cut)
    rows: list[Row] = []
    conditions = {**machine(), **_gpu(), **asdict(plan), "final_p99_ms": final_p99_ms}
    conditions |= {"commit": commit(), "source": source(), "command": command()}

    def row(count: int) -> Row:
        with console.status(f"{count} clients for {seconds:g} s"):
            rows.append(measure(count, pcm, plan))
        console.print(table(rows[-1:]), markup=False, soft_wrap=True)
        if out is not None:  # after each, as a search is long
            write(out, rows, conditions)
        return rows[-1]

    began = time.monotonic()
    if find_capacity:
        most = capacity(
            lambda n: row(n).holds(final_p99_ms),
            clients[0],
            more_time=lambda: time.monotonic() - began < at_most_s,
        )
        conditions["capacity"] = most
        console.print(f"{most} clients hold a final p99 of {final_p99_ms:g} ms")
    else:
        for count in clients:
            row(count)
    console.print(table(rows), markup=False, soft_wrap=True)
    console.print("; ".join(f"{k} {v}" for k, v in conditions.items()), soft_wrap=True)
    if out is not None:
        write(out, rows, conditions)


def capacity(
    holds: Callable[[int], bool], first: int, *, more_time: Callable[[], bool] = lambda: True
) -> int:
    """The most clients that hold, to an eighth.

    Args:
        holds: measures a number of clients.
        first: to begin with.
        more_time: whether to measure another one.

    Returns:
        The largest number that held; 0 where none did.
    """
    good, bad = 0, 0
    count = first
    while more_time() and count > 0:
        if holds(count):
            good = count
            count = 2 * good if not bad else (good + bad) // 2
        else:
            bad = count
            count = (good + bad) // 2
        if bad and bad - good <= max(1, good // 8):
            break
    return good


def measure(clients: int, pcm: np.ndarray, plan: Plan) -> Row:
    """Start a server, call it, and add up what was seen.

    Args:
        clients: at once.
        pcm: int16 (n,), 16 kHz: what is said.
        plan: of all rows.

    Raises:
        ServerFailed: it did not start or stop as it should.
    """
    from voice_agent.bench.callers import TURN_S, Seen, ramp_s
    from voice_agent.bench.served import samples, served

    settings: dict[str, object] = {
        "stt.model": plan.model,
        "stt.device": plan.device,
        "server.max_sessions": clients,
        "server.front_ends": plan.front_ends,
        "server.transcription_only": True,
    }
    processes = plan.processes or -(-clients // CALLERS_A_PROCESS)
    shares = [clients // processes + (i < clients % processes) for i in range(processes)]
    with (
        tempfile.TemporaryDirectory() as folder,
        served(settings, shaped=plan.shaped) as address,
        ThreadPoolExecutor(processes) as pool,
    ):
        audio = Path(folder, "audio.pcm")
        audio.write_bytes(pcm.astype("<i2").tobytes())
        calls = [
            pool.submit(_call, address, audio, Path(folder, f"{i}.npz"), share, clients, i, plan)
            for i, share in enumerate(shares)
        ]
        time.sleep(ramp_s(clients) + TURN_S + _START_S)
        with _GpuMeter() as gpu:
            before, began = samples(address), time.monotonic()
            time.sleep(max(1.0, plan.seconds - 2 * _START_S))
            after, took_s = samples(address), time.monotonic() - began
        for call in calls:
            call.result()
        seen = [Seen.read(Path(folder, f"{i}.npz")) for i in range(processes)]
    cpu = _by_process(after, "process_cpu_seconds_total")
    cpu_before = _by_process(before, "process_cpu_seconds_total")
    by_process = {name: (value - cpu_before.get(name, 0.0)) / took_s for name, value in cpu.items()}
    late = "voice_agent_engine_late_total"
    return Row(
        clients=clients,
        refused=sum(s.refused for s in seen),
        failed=sum(s.failed for s in seen),
        unanswered=sum(s.unanswered for s in seen),
        final_ms=_percentiles([x for s in seen for x in s.final_s]),
        partial_ms=_percentiles([x for s in seen for x in s.partial_s]),
        lag_ms=_percentiles([x for s in seen for x in s.lag_s]),
        slip_ms=_percentiles([x for s in seen for x in s.slip_s]),
        cores=sum(by_process.values()),
        callers_cores=sum(s.cpu_s for s in seen) / (ramp_s(clients) + TURN_S + plan.seconds),
        memory_mb=sum(_by_process(after, "process_resident_memory_bytes").values()) / 2**20,
        gpu_mb=_mb(after.get("voice_agent_gpu_memory_bytes")),
        gpu_busy=gpu.busy,
        late_chunks=after.get(late, 0.0) - before.get(late, 0.0),
        by_process=by_process if len(by_process) > 1 else {},
    )


_START_S = 1.0  # that callers' processes need to import what they need


def _call(
    address: str, audio: Path, out: Path, callers: int, of: int, seed: int, plan: Plan
) -> None:
    query = _CUT_QUERY if plan.cut else "endpointing=false"
    subprocess.run(
        [sys.executable, "-m", "voice_agent.bench.callers", address, str(audio), str(out),
         "--callers", str(callers), "--of", str(of), "--seconds", str(plan.seconds),
         "--seed", str(seed), "--query", query],
        check=True,
    )  # fmt: skip


class _GpuMeter:
    """Share of the time in which the first GPU computes, as `nvidia-smi` tells while it is used.

    Attributes:
        busy: 0 to 1; None where there is no GPU, or nobody who tells.
    """

    def __init__(self) -> None:
        self.busy: float | None = None

    def __enter__(self) -> _GpuMeter:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        try:
            self._asking: subprocess.Popen[str] | None = subprocess.Popen(
                [*command, "-l", "1"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        except OSError:
            self._asking = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is None:
            return
        self._asking.terminate()
        said = [line.strip() for line in self._asking.communicate()[0].splitlines()]
        shares = [int(line) / 100 for line in said if line.isdecimal()]
        self.busy = sum(shares) / len(shares) if shares else None


def _gpu() -> dict[str, str]:
    """The GPUs' names, where `nvidia-smi` tells."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"gpu": ", ".join(said.stdout.split("\n")).strip(", ")}


def _by_process(samples: dict[str, float], name: str) -> dict[str, float]:
    """Values of a metric by process; under "server" where there is only one."""
    if name in samples:
        return {"server": samples[name]}
    head = f'{name}{{process="'
    return {key[len(head) :].rstrip('"}'): v for key, v in samples.items() if key.startswith(head)}


def _speech(manifest: Path | None, *, noise: bool) -> np.ndarray:
    """What is said, int16 (n,): a corpus, or for random weights, which understand nothing, noise.

    The corpus that ships needs packages that a machine for benchmarks may lack.
    """
    import numpy as np

    if noise and manifest is None:
        t = np.arange(48 * 16_000) / 16_000
        loud = np.sin(2 * np.pi * 0.7 * t) ** 2 * 6_000
        return (
            (np.random.default_rng(0).standard_normal(t.size) * loud)
            .clip(-32768, 32767)
            .astype(np.int16)
        )
    from voice_agent.bench.corpus import read

    clips = [clip.pcm() for clip in read(manifest or DEFAULT)]
    return np.rint(np.concatenate(clips) * 32767).astype(np.int16)


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float] | None:
    import numpy as np

    if not seconds:
        return None
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    return float(p50), float(p95), float(p99)


def _mb(size: float | None) -> float | None:
    return None if size is None else size / 2**20

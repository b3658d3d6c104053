"""`voice-agent bench calls`: how many whole calls one core carries, and what the time goes to.

For each transport and number of calls a server is started, on one core unless told otherwise, and
called by processes on the others (`voice_agent.bench.agent_callers`): VAD, turn detection, STT,
the stand-in for a language model, and TTS, at real-time pace. A row says how soon the agent
answered and what the server used; the profile (`voice_agent.bench.profile`) says on what.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from voice_agent.demo.clip import Clip

OVERS = ["websocket", "webrtc"]
LATE_S = 2.0
"""An agent that answers later than that at p95 does not carry its calls."""
_FROM_S, _TO_S = 1.0, 2.95  # "It was the best of times" in the demo's recording


@dataclass(frozen=True, slots=True)
class Row:
    """One transport and number of calls.

    Attributes:
        over: transport.
        calls: at once.
        refused: calls that were turned away.
        failed: calls that broke.
        asked: turns.
        answered: of them, those that the agent answered before the next one began.
        answer_ms: from the end of a phrase to the agent's voice, (p50, p95, p99).
        cores: processor cores that the server used.
        memory_mb: resident memory of the server.
        parts: cores by what they did.
    """

    over: str
    calls: int
    refused: int
    failed: int
    asked: int
    answered: int
    answer_ms: tuple[float, float, float] | None
    cores: float
    memory_mb: float
    parts: dict[str, float]

    @property
    def carried(self) -> bool:
        """Whether every turn was answered, and soon."""
        return (
            not (self.refused or self.failed)
            and self.answer_ms is not None
            and self.answered == self.asked
            and self.answer_ms[1] <= 1000 * LATE_S
        )


def calls(
    at_once: Annotated[
        list[int], typer.Option("--calls", help="Calls at once; repeat for several.")
    ] = [1, 4],  # noqa: B006 - typer wants a list
    over: Annotated[list[str], typer.Option(help="websocket or webrtc; repeat for both.")] = OVERS,
    seconds: Annotated[float, typer.Option(help="That count, for each.")] = 30.0,
    processes: Annotated[int, typer.Option(help="That the callers are spread over.")] = 1,
    one_core: Annotated[
        bool, typer.Option(help="Keep the server on one core, and the callers off it.")
    ] = True,
    profile: Annotated[
        bool, typer.Option(help="Look at what the server's time goes to (py-spy).")
    ] = True,
    model: Annotated[str, typer.Option(help="Name, path or Hugging Face id.")] = "tiny-en",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    clip: Annotated[
        Path | None, typer.Option(help="A phrase to say.", show_default="two seconds of reading")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows as JSON.")] = None,
) -> None:
    """Whole calls (VAD, turns, STT, TTS) that one core carries, and what its time goes to."""
    from rich.console import Console

    from voice_agent.bench.provenance import command, commit
    from voice_agent.bench.stt_report import machine

    unknown = sorted(set(over) - set(OVERS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(OVERS)}")
    console = Console()
    said = phrase(clip)
    rows = []
    for transport in over:
        for count in at_once:
            with console.status(f"{count} calls over {transport} for {seconds:g} s"):
                rows.append(
                    measure(
                        transport,
                        count,
                        said,
                        seconds,
                        processes,
                        model=model,
                        device=device,
                        one_core=one_core,
                        profile=profile,
                    )  # fmt: skip
                )
    console.print(table(rows), markup=False, soft_wrap=True)
    console.print()
    if profile:
        console.print(profile_table(rows), markup=False, soft_wrap=True)
        console.print()
    for line in most(rows, one_core=one_core):
        console.print(line, markup=False, soft_wrap=True)
    conditions = {**machine(), "model": model, "device": device, "seconds": seconds,
                  "processes": processes, "one core": one_core, "phrase": said.name,
                  "commit": commit(), "command": command()}  # fmt: skip
    console.print("; ".join(f"{k} {v}" for k, v in conditions.items()), soft_wrap=True)
    if out is not None:
        report = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
        out.write_text(json.dumps(report, indent=2) + "\n")


def phrase(file: Path | None) -> Clip:
    """What callers say.

    Raises:
        DemoError: the recording of the extra `demo` is not installed.
    """
    from voice_agent.bench.corpus import DEFAULT, read
    from voice_agent.demo.clip import load_clip

    if file is not None:
        return load_clip(str(file))
    return load_clip(str(read(DEFAULT)[0].path), from_s=_FROM_S, to_s=_TO_S)


def measure(
    over: str,
    calls: int,
    said: Clip,
    seconds: float,
    processes: int,
    *,
    model: str,
    device: str,
    one_core: bool,
    profile: bool,
) -> Row:
    """Start a server, call it, and add up what was seen.

    Args:
        over: transport.
        calls: at once.
        said: in each turn.
        seconds: that count.
        processes: of callers.
        model: of the server.
        device: of the server.
        one_core: keep the server on one core, and callers off it.
        profile: look at what its time goes to.

    Raises:
        CannotProfile: nobody may look.
        ServerFailed: the server did not start, or did not stop as it should.
    """
    import numpy as np
    import soundfile

    from voice_agent.bench.agent_callers import RAMP_S
    from voice_agent.bench.profile import Profile
    from voice_agent.bench.served import metrics, started
    from voice_agent.demo.clip import CLIP_RATE

    cores = sorted(os.sched_getaffinity(0))
    one, others = {cores[0]}, set(cores[1:]) or {cores[0]}
    settings = {
        "stt.model": model,
        "stt.device": device,
        "server.max_sessions": calls + 1,
        "server.ice_servers": "[]",
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        audio = Path(folder) / "phrase.wav"
        soundfile.write(audio, said.pcm, CLIP_RATE)
        server = running.enter_context(started(settings, cores=one if one_core else None))
        groups = [len(range(i, calls, processes)) for i in range(min(processes, calls))]
        callers = [
            running.enter_context(_caller(server.address, audio, over, n, seconds)) for n in groups
        ]
        for caller in callers:
            if one_core:
                os.sched_setaffinity(caller.pid, others)
            _expect_ready(caller)
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        time.sleep(RAMP_S)
        sampled = Profile(server.pid, seconds, Path(folder) / "stacks") if profile else None
        before, began = metrics(server.address), time.monotonic()
        time.sleep(seconds)
        after, took_s = metrics(server.address), time.monotonic() - began
        shares = sampled.shares() if sampled is not None else {}
        seen = [json.loads(caller.communicate()[0]) for caller in callers]
    answers = [x for s in seen for x in s["answer_s"]]
    used = "process_cpu_seconds_total"
    cores_used = (after[used] - before[used]) / took_s
    return Row(
        over=over,
        calls=calls,
        refused=sum(s["refused"] for s in seen),
        failed=sum(s["failed"] for s in seen),
        asked=sum(s["asked"] for s in seen),
        answered=len(answers),
        answer_ms=tuple(1000 * np.percentile(answers, [50, 95, 99])) if answers else None,
        cores=cores_used,
        memory_mb=after["process_resident_memory_bytes"] / 2**20,
        parts={part: share * cores_used for part, share in sorted(shares.items())},
    )


def _caller(
    address: str, audio: Path, over: str, calls: int, seconds: float
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "voice_agent.bench.agent_callers", address, str(audio),
         "--over", over, "--calls", str(calls), "--seconds", str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _expect_ready(caller: subprocess.Popen[str]) -> None:
    assert caller.stdout is not None
    if caller.stdout.readline() != "ready\n":
        raise RuntimeError("a process of callers did not start; its errors are above")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("over", "calls", "answered", "voice to voice ms (p50/p95/p99)", "cores",
            "calls a core", "MB", "carried")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        times = "-" if row.answer_ms is None else "/".join(f"{v:.0f}" for v in row.answer_ms)
        a_core = f"{row.calls / row.cores:.1f}" if row.cores else "-"
        cells = (row.over, f"{row.calls}", f"{row.answered} of {row.asked}", times,
                 f"{row.cores:.2f}", a_core, f"{row.memory_mb:.0f}",
                 "yes" if row.carried else "no")  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def profile_table(rows: Sequence[Row]) -> str:
    """What the time goes to: milliseconds of a core, for each second of each call."""
    names = sorted(
        {part for row in rows for part in row.parts},
        key=lambda part: (-sum(row.parts.get(part, 0.0) / row.calls for row in rows), part),
    )
    head = ["ms of a core for a second of a call", *(f"{r.over}, {r.calls}" for r in rows)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in names:
        shares = (1000 * row.parts.get(name, 0.0) / row.calls for row in rows)
        lines.append(f"| {name} | {' | '.join(f'{share:.1f}' for share in shares)} |")
    return "\n".join(lines)


def most(rows: Sequence[Row], *, one_core: bool) -> list[str]:
    """For each transport, the most calls that were carried."""
    lines = []
    where = "one core" if one_core else "the server"
    for over in dict.fromkeys(row.over for row in rows):
        carried = [row.calls for row in rows if row.over == over and row.carried]
        too_many = [row.calls for row in rows if row.over == over and not row.carried]
        said = f"{max(carried)}" if carried else "none of the numbers asked for"
        beyond = f"; {min(too_many)} were too many" if too_many else "; more were not tried"
        lines.append(f"calls over {over} that {where} carried: {said}{beyond}")
    return lines

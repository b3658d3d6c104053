"""What a client costs the engine process, whatever the device: processor time by chunk.

    python -m voice_agent.bench.link --clients 500 --front-ends 2 --seconds 10

An engine process (the real host and scheduler over a device that only takes time) is fed by
front-end processes at the pace of speech, 80 ms every 80 ms, each client ending a turn every 4 s.
It runs once for each `--ways`, so that they compare in one run:

    rings    front-ends write audio into the engine's rings, which they share
    orders   they send it over the socket, as for a recogniser without rings

A row says how much processor time the engine process used for a chunk, by thread, and how soon
finals came. Processor time counts what ran, so it may be read on a busy machine; latency may not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHUNK_S = 0.08
TURN_CHUNKS = 50
_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Row:
    """One way, with so many clients.

    Attributes:
        way: "rings" or "orders".
        clients: at once.
        front_ends: processes that fed them.
        chunks: that the engine computed while it was looked at.
        batch: of them a step, on average.
        us_a_chunk: processor time of the engine process for each, in microseconds.
        engine_us: of that, the engine thread's.
        socket_us: of that, the socket's thread's.
        cores: that the engine process used.
        front_ends_us: processor time of the front-ends for a chunk.
        late: share of the chunks that came later than they are long.
        final_ms: (p50, p99) from the end of a turn to its final.
        feeders_late_ms: p99 of how late front-ends fed.
    """

    way: str
    clients: int
    front_ends: int
    chunks: int
    batch: float
    us_a_chunk: float
    engine_us: float
    socket_us: float
    cores: float
    front_ends_us: float
    late: float
    final_ms: tuple[float, float]
    feeders_late_ms: float

    def __str__(self) -> str:
        return (
            f"{self.way:>6}: {self.us_a_chunk:6.1f} us a chunk (engine thread "
            f"{self.engine_us:.1f}, socket {self.socket_us:.1f}), {self.cores:.2f} cores at "
            f"{self.clients} clients of {self.front_ends} front-ends; {self.batch:.0f} lanes a "
            f"step; front-ends {self.front_ends_us:.1f} us a chunk, late p99 "
            f"{self.feeders_late_ms:.0f} ms; finals p50 {self.final_ms[0]:.1f} p99 "
            f"{self.final_ms[1]:.1f} ms; {self.late:.1%} of the chunks late"
        )


def measure(way: str, given: argparse.Namespace) -> Row:
    """Start an engine and its front-ends, and look at them for a while."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "engine")
        engine = _start("engine", path, given, way, given.clients)
        try:
            assert engine.stdout is not None
            engine.stdout.readline()  # it listens
            shares = [
                given.clients // given.front_ends + (i < given.clients % given.front_ends)
                for i in range(given.front_ends)
            ]
            front_ends = [_start("front-end", path, given, way, share) for share in shares]
            for each in front_ends:
                assert each.stdout is not None
                each.stdout.readline()  # it feeds
            time.sleep(given.settle)
            before = _asked(engine)
            time.sleep(given.seconds)
            after = _asked(engine)
            fed: list[dict[str, Any]] = [
                json.loads(each.communicate("\n")[0]) for each in front_ends
            ]
        finally:
            engine.kill()
            engine.wait()
    used = {name: after["cpu"][name] - before["cpu"].get(name, 0) for name in after["cpu"]}
    engine_s = sum(s for name, s in used.items() if name.startswith("engine-"))
    chunks = after["chunks"] - before["chunks"]
    took_s = after["time"] - before["time"]
    finals = sorted(x for each in fed for x in each["finals"])
    return Row(
        way=way,
        clients=given.clients,
        front_ends=given.front_ends,
        chunks=chunks,
        batch=chunks / max(1, after["ticks"] - before["ticks"]),
        us_a_chunk=1e6 * sum(used.values()) / max(chunks, 1),
        engine_us=1e6 * engine_s / max(chunks, 1),
        socket_us=1e6 * (sum(used.values()) - engine_s) / max(chunks, 1),
        cores=sum(used.values()) / took_s,
        front_ends_us=1e6 * sum(e["cpu"] for e in fed) / max(1, sum(e["chunks"] for e in fed)),
        late=(after["late"] - before["late"]) / max(chunks, 1),
        final_ms=(1000 * _quantile(finals, 0.5), 1000 * _quantile(finals, 0.99)),
        feeders_late_ms=1000 * max(e["late_p99"] for e in fed),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _start(
    part: str, path: Path, given: argparse.Namespace, way: str, clients: int
) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", __spec__.name, "--part", part, "--path", str(path), "--ways", way,
        "--clients", str(clients), "--step-ms", str(given.step_ms), "--lane-us",
        str(given.lane_us), "--tokens", str(given.tokens), "--loop", given.loop,
        "--settle", str(given.settle),
    ]  # fmt: skip
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(engine: subprocess.Popen[str]) -> dict[str, Any]:
    assert engine.stdin is not None and engine.stdout is not None
    engine.stdin.write("\n")
    engine.stdin.flush()
    answer: dict[str, Any] = json.loads(engine.stdout.readline())
    return answer


# -- the engine process ------------------------------------------------------------------------


async def _engine(given: argparse.Namespace) -> None:
    from voice_agent.bench.hollow import HollowRecognizer
    from voice_agent.engine.interpreter import be_prompt
    from voice_agent.link.host import EngineHost
    from voice_agent.server.watch import watched

    hollow = HollowRecognizer(
        slots=given.clients, fixed_s=given.step_ms / 1000, lane_s=given.lane_us / 1e6,
        tokens_a_frame=given.tokens,
    )  # fmt: skip
    host = EngineHost(watched(hollow)[0])
    await host.listen(given.path)
    be_prompt()
    print("listening", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        stats = hollow.stats
        counts = {"chunks": stats.chunks, "ticks": stats.ticks, "late": stats.late}
        print(json.dumps({"time": time.monotonic(), "cpu": _cpu_s(), **counts}), flush=True)


def _cpu_s() -> dict[str, float]:
    """Seconds that each thread of this process has run, by its name."""
    import threading

    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name), "other")
        ran = int(task.joinpath("schedstat").read_text().split()[0]) / 1e9
        used[name] = used.get(name, 0.0) + ran
    return used


# -- a front-end process -----------------------------------------------------------------------


async def _front_end(given: argparse.Namespace) -> None:
    import numpy as np

    from voice_agent.engine.recognizer import Event, Final
    from voice_agent.link.client import EngineClient

    loop = asyncio.get_running_loop()
    client = EngineClient(given.path, rings=given.ways == "rings")
    await client.connect()
    finals: list[float] = []
    finished = [0.0] * given.clients

    def hearing(at: int) -> Any:
        def on_event(event: Event) -> None:
            if isinstance(event, Final):
                finals.append(time.monotonic() - finished[at])

        return on_event

    deliver = loop.call_soon
    streams = [client.open(hearing(i), deliver=deliver) for i in range(given.clients)]
    print("feeding", flush=True)
    told = loop.run_in_executor(None, sys.stdin.readline)
    pcm = (np.random.default_rng(0).standard_normal(1280) * 2000).astype(np.int16)
    phases = np.arange(given.clients) * CHUNK_S / max(1, given.clients)
    chunks, late = 0, []
    began, cpu, start = time.monotonic(), 0.0, 0
    for chunk in range(1 << 30):
        at = 0
        while at < given.clients and not told.done():
            now = time.monotonic() - began - chunk * CHUNK_S
            if phases[at] > now:
                await asyncio.sleep(max(_LOOK_S, phases[at] - now))
                continue
            late.append(now - phases[at])
            streams[at].feed(pcm)
            if (chunk + at) % TURN_CHUNKS == TURN_CHUNKS - 1:
                streams[at].finish()
                finished[at] = time.monotonic()
            at, chunks = at + 1, chunks + 1
        if chunk == round(given.settle / CHUNK_S):
            cpu, start = time.process_time(), chunks
            finals.clear()
            late.clear()
        if told.done():
            break
    used = time.process_time() - cpu
    print(json.dumps({"finals": finals, "cpu": used, "chunks": chunks - start,
                      "late_p99": _quantile(sorted(late), 0.99)}))  # fmt: skip


# -- the command -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each way, and print how they compare."""
    from voice_agent.engine.interpreter import SWITCH_S
    from voice_agent.server.listening import loop_factory

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--front-ends", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--settle", type=float, default=3.0,
        help="seconds before that: every ring is gone through once, so its pages are there",
    )  # fmt: skip
    parser.add_argument("--ways", default="orders,rings", help="to compare, in turn")
    parser.add_argument("--step-ms", type=float, default=8.0, help="of the device")
    parser.add_argument("--lane-us", type=float, default=0.0, help="of it, for each lane")
    parser.add_argument("--tokens", type=float, default=0.3, help="a frame; people speak 0.3")
    parser.add_argument("--loop", default="auto", help="asyncio, uvloop or auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.part:
        sys.setswitchinterval(SWITCH_S)  # as in the processes of a server
        run = {"engine": _engine, "front-end": _front_end}[given.part]
        with asyncio.Runner(loop_factory=loop_factory(given.loop)) as runner:
            runner.run(run(given))
        return
    rows = [measure(way, given) for way in given.ways.split(",")]
    for row in rows:
        print(json.dumps(asdict(row)) if given.json else row)
    if len(rows) > 1 and not given.json:
        ratio = rows[0].us_a_chunk / rows[-1].us_a_chunk
        print(f"{rows[-1].way} cost the engine process 1/{ratio:.1f} of {rows[0].way}")


if __name__ == "__main__":
    main()

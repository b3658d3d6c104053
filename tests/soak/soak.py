"""A server in a process of its own, good clients at real-time pace, and bad ones among them.

    python -m tests.soak --seconds 600 --clients 200 --connects 10000
    python -m tests.soak --front-ends 4      # the same, of a server of six processes

Before: one good client alone says what each should hear. After: every good client has heard just
that, and the server is as it was: no session or stream more, in none of its processes a task or
file descriptor more, none of them started again, and no error in its log.

Memory is looked at between rounds of the same load, when everybody has left and the server has
given back what it does not hold (`tests.soak.server`). The first rounds do not count: they touch
each slot's pages once, and fill caches. A line is fitted to the others, whose slope is printed and
limited, for each process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import websockets
from websockets.exceptions import InvalidStatus

from tests.soak.faults import CHUNK_S, FAULTS, RATE, SLOW_S, Fault, Target, chunks
from tests.soak.holding import holdings
from tests.soak.server import LOG, told_of
from voice_agent.bench.corpus import DEFAULT, read
from voice_agent.bench.served import samples as scrape
from voice_agent.bench.served import started
from voice_agent.client import ListenError
from voice_agent.wire import Results, parse_server

SETTLING_S = 60.0
_MIB = 1 << 20
SLOPE_LIMIT = _MIB  # bytes a minute
ROUND_S = 35.0
_ROUNDS = 14
"""That it takes to judge memory: 3.5 MiB, taken once, are no slope over the last ten of them."""
_SEGMENTS, _SEGMENT_S = 2, 2.0


@dataclass
class Report:
    """What came of it.

    Attributes:
        heard: transcripts of good clients that were as they should be.
        wrong: those that were not.
        refused: clients, good and bad, who were told that the server is full or late.
        connects: times that somebody connected and left.
        faults: bad clients, by what they did.
        unexpected: what the server answered them that it should not have.
        leaks: by what it is, before and after, where the server kept something.
        errors: lines of the server's log.
        late: chunks that the engine computed later than their own length, of all.
        memory: seconds under load so far and resident bytes, after each round, by process.
    """

    heard: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    connects: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    leaks: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    late: float = 0.0
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def slopes(self) -> dict[str, float]:
        """Bytes a minute by which memory grew, by process; empty for too few rounds."""
        return {
            name: slope(sizes[len(sizes) // 3 :])
            for name, sizes in self.memory.items()
            if len(sizes) >= _ROUNDS
        }

    @property
    def clean(self) -> bool:
        return bool(self.heard) and not (self.wrong or self.unexpected or self.leaks or self.errors)

    @property
    def grows(self) -> bool:
        return any(each >= SLOPE_LIMIT for each in self.slopes.values())


def voices(count: int) -> list[np.ndarray]:
    """Different stretches of somebody reading, int16, each as long as all segments."""
    read_aloud = np.concatenate([clip.pcm() for clip in read(DEFAULT)])
    n = round(_SEGMENTS * _SEGMENT_S * RATE)
    pieces = [read_aloud[i * n : (i + 1) * n] for i in range(count)]
    return [np.rint(piece * 32767).astype(np.int16) for piece in pieces]


async def good_client(target: Target, pcm: np.ndarray) -> list[str]:
    """Speak at real-time pace, finalise now and then; the finals' texts."""
    finals: list[str] = []
    async with websockets.connect(target.listen(endpointing="false")) as ws:
        started = time.monotonic()
        every = round(_SEGMENT_S / CHUNK_S)
        for i, piece in enumerate(chunks(pcm), start=1):
            await ws.send(piece)
            if i % every == 0:
                await ws.send('{"type": "Finalize"}')
            await asyncio.sleep(max(0.0, started + i * CHUNK_S - time.monotonic()))
        await ws.send('{"type": "CloseStream"}')
        async for text in ws:
            message = parse_server(str(text))
            if isinstance(message, Results) and message.is_final:
                finals.append(message.channel.alternatives[0].transcript)
    return finals


async def undisturbed(target: Target, pcm: np.ndarray) -> list[str]:
    """What a client hears who is alone, however busy the machine is otherwise."""
    while True:
        try:
            return await good_client(target, pcm)
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise
            await asyncio.sleep(1.0)


@asynccontextmanager
async def target(model: str, sessions: int, front_ends: int = 0) -> AsyncIterator[Target]:
    """`voice-agent serve` in a process of its own."""
    settings = {
        "stt.model": model,
        "server.max_sessions": sessions,
        "server.front_ends": front_ends,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        started(settings, program=["tests.soak.server", folder, "serve"]) as server,
    ):
        port = int(server.address.rpartition(":")[2])
        try:
            yield Target(port, server.pid, Path(folder), front_ends)
        finally:
            sys.stderr.write(told_of(Path(folder), LOG).read_text())


async def metrics(target: Target) -> dict[str, float]:
    """The server's metrics."""
    return await asyncio.to_thread(scrape, f"127.0.0.1:{target.port}")


USED = ("voice_agent_sessions", "voice_agent_engine_open_streams")
_RESTARTS = "voice_agent_process_restarts_total{"


async def settled(target: Target) -> dict[str, float]:
    """The server's metrics once nobody is there any more, or has been for too long."""
    deadline = time.monotonic() + SETTLING_S
    while True:
        now = await metrics(target)
        if not any(now[name] for name in USED) or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


async def kept(target: Target) -> dict[str, float]:
    """What may not have become more in the end."""
    now = await settled(target)
    of_all = {name: value for name, value in now.items() if name.startswith((*USED, _RESTARTS))}
    of_each: dict[str, float] = {}
    for process, holding in (await holdings(target)).items():
        of_each[f"tasks of the {process}"] = holding.tasks
        of_each[f"files of the {process}"] = holding.files
    return {**of_all, **of_each}


async def leaks(target: Target, before: dict[str, float]) -> dict[str, tuple[float, float]]:
    """What the server still has that it had not, once it has had time to let go."""
    deadline = time.monotonic() + SETTLING_S
    while True:
        after = await kept(target)
        more = {name: (before[name], now) for name, now in after.items() if now > before[name]}
        if not more or time.monotonic() > deadline:
            return more


async def soak(
    target: Target, *, seconds: float, clients: int, connects: int = 0, seed: int = 0
) -> Report:
    """Run good and bad clients for a while.

    Args:
        target: an idle server with room for all clients.
        seconds: that clients begin in, over all rounds.
        clients: good clients at a time; a quarter as many bad ones.
        connects: times that somebody connects and leaves at once, spread over the time.
        seed: of the order in which bad clients come.
    """
    report = Report()
    spoken = voices(4)
    expected = [await undisturbed(target, pcm) for pcm in spoken]
    if not all("".join(texts) for texts in expected):
        raise SystemExit("the model hears nothing in the test's audio; there is nothing to compare")
    # The first fault of each kind imports and opens what stays.
    await asyncio.gather(
        *(
            _fault(name, fault, target, random.Random(seed), report)
            for name, fault in FAULTS.items()
        )
    )
    before, counted = await kept(target), await metrics(target)
    rounds = max(1, int(seconds / ROUND_S))
    busy_s = 0.0
    for number in range(rounds):
        load = _Load(target, report, list(zip(spoken, expected, strict=True)), seed + number)
        began = time.monotonic()
        await load.run(seconds / rounds, clients, connects * (number + 1) // rounds)
        busy_s += time.monotonic() - began
        await settled(target)
        for process, holding in (await holdings(target)).items():
            report.memory.setdefault(process, []).append((busy_s, holding.resident))
    report.leaks = await leaks(target, before)
    log = told_of(target.folder, LOG).read_text()
    report.errors = re.findall(r"^.* (?:ERROR|CRITICAL) .*$", log, re.M)
    after = await metrics(target)
    late, chunks_of = "voice_agent_engine_late_total", "voice_agent_engine_chunks_total"
    report.late = (after[late] - counted[late]) / (after[chunks_of] - counted[chunks_of])
    return report


@dataclass
class _Load:
    """Everybody who comes in one round.

    Attributes:
        target: the server.
        report: of all rounds.
        speakers: what good clients say and should hear.
        seed: of the order in which bad clients come.
    """

    target: Target
    report: Report
    speakers: list[tuple[np.ndarray, list[str]]]
    seed: int
    end: float = 0.0

    async def run(self, seconds: float, clients: int, connects: int) -> None:
        """Let them come for so long, until so many have connected and left in all rounds."""
        self.end = time.monotonic() + seconds
        await asyncio.gather(
            *(self.good(i, i / clients * _SEGMENT_S) for i in range(clients)),
            *(self.bad(i) for i in range(max(1, clients // 4))),
            self.come_and_go(seconds, connects),
        )

    async def good(self, i: int, phase_s: float) -> None:
        await asyncio.sleep(phase_s)  # phases are spread, as callers' are
        pcm, expected = self.speakers[i % len(self.speakers)]
        while time.monotonic() < self.end:
            try:
                got = await good_client(self.target, pcm)
            except InvalidStatus as error:
                if error.response.status_code != 503:
                    raise
                self.report.refused += 1
                await asyncio.sleep(1.0)
                continue
            if got == expected:
                self.report.heard += 1
            else:
                self.report.wrong.append(f"{got} instead of {expected}")

    async def bad(self, i: int) -> None:
        rng = random.Random(self.seed * 1_000 + i)
        while time.monotonic() < self.end:
            left_s = self.end - time.monotonic()
            name = rng.choice([name for name in FAULTS if SLOW_S.get(name, 0.0) < left_s])
            await _fault(name, FAULTS[name], self.target, rng, self.report)

    async def come_and_go(self, seconds: float, connects: int) -> None:
        first, began = self.report.connects, time.monotonic()
        rng = random.Random(self.seed)
        while self.report.connects < connects:
            # As many as are due by now, a few at a time.
            part = min(1.0, (time.monotonic() - began) / (0.8 * seconds))
            if self.report.connects >= first + (connects - first) * part:
                await asyncio.sleep(0.05)
                continue
            n = min(8, connects - self.report.connects)
            await asyncio.gather(
                *(come_and_leave(self.target, rng.random() < 0.5) for _ in range(n))
            )
            self.report.connects += n


async def come_and_leave(target: Target, politely: bool) -> None:
    """Connect, and go away at once."""
    with suppress(InvalidStatus, OSError, TimeoutError):
        ws = await websockets.connect(target.listen())
        if politely:
            await ws.close()
        else:
            ws.transport.abort()


async def _fault(
    name: str, fault: Fault, target: Target, rng: random.Random, report: Report
) -> None:
    report.faults[name] += 1
    try:
        await asyncio.wait_for(fault(target, rng), 60)
    except AssertionError as error:
        report.unexpected.append(f"{name}: {error}")
    except (InvalidStatus, ListenError) as error:
        status = error.response.status_code if isinstance(error, InvalidStatus) else error.status
        if status == 503:
            report.refused += 1
        else:
            report.unexpected.append(f"{name}: {error}")
    except TimeoutError:
        report.unexpected.append(f"{name}: the server left it hanging for a minute")


def slope(memory: list[tuple[float, float]]) -> float:
    """Bytes a minute, by least squares."""
    times, sizes = np.array(memory).T
    return float(np.polyfit(times - times[0], sizes, 1)[0] * 60)


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak a server among good and bad clients.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--clients",
        type=int,
        default=12 * (os.cpu_count() or 1),
        help="good ones at a time; 12 a core, which tiny-en can carry, if not given",
    )
    parser.add_argument("--connects", type=int, default=10_000, help="and disconnects")
    parser.add_argument("--front-ends", type=int, default=0, help="0: one process does everything")
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    async def run() -> Report:
        sessions = 2 * given.clients + 20
        async with target(given.model, sessions, given.front_ends) as server:
            return await soak(
                server,
                seconds=given.seconds,
                clients=given.clients,
                connects=given.connects,
                seed=given.seed,
            )

    report = asyncio.run(run())
    slopes = report.slopes
    print(
        json.dumps(
            {
                "good clients": report.heard,
                "of them wrong": report.wrong[:5],
                "refused": report.refused,
                "connects and disconnects": report.connects,
                "bad clients": dict(report.faults),
                "unexpected": report.unexpected[:5],
                "leaks": report.leaks,
                "errors logged": report.errors[:5],
                "chunks computed late": round(report.late, 3),
                "memory after each round, MiB": {
                    name: " ".join(f"{size / _MIB:.1f}" for _, size in sizes)
                    for name, sizes in report.memory.items()
                },
                "memory, MiB a minute": {
                    name: round(each / _MIB, 3) for name, each in slopes.items()
                },
            },
            indent=2,
        )
    )
    if not slopes:
        print(f"memory needs {_ROUNDS * ROUND_S:g} s or more to be judged", file=sys.stderr)
    sys.exit(0 if report.clean and not report.grows else 1)

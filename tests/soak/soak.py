"""A server in a process of its own, good clients at real-time pace, and bad ones among them.

    python -m tests.soak --seconds 600 --clients 200 --connects 10000

Before: one good client alone says what each should hear. After: every good client has heard just
that, and the server is as it was: no session, stream, task or file descriptor more. Its memory
over the second half of the time is fitted with a line, whose slope is printed and limited.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import websockets
from websockets.exceptions import InvalidStatus

from tests.soak.faults import CHUNK_S, FAULTS, RATE, SLOW_S, Fault, Target, chunks
from voice_agent.bench.corpus import DEFAULT, read
from voice_agent.bench.served import metrics as scrape
from voice_agent.bench.served import served
from voice_agent.client import ListenError
from voice_agent.wire import Results, parse_server

SETTLING_S = 60.0
SLOPE_LIMIT = 1 << 20  # bytes a minute
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
        leaks: by metric, before and after, where the server kept something.
        slope: bytes a minute by which its memory grew.
    """

    heard: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    connects: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    leaks: dict[str, tuple[float, float]] = field(default_factory=dict)
    slope: float = 0.0

    @property
    def clean(self) -> bool:
        return bool(self.heard) and not (self.wrong or self.unexpected or self.leaks)


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
async def target(model: str, sessions: int) -> AsyncIterator[Target]:
    """`voice-agent serve` in a process of its own."""
    with served({"stt.model": model, "server.max_sessions": sessions}) as address:
        yield Target(int(address.rpartition(":")[2]))


async def metrics(target: Target) -> dict[str, float]:
    """The server's gauges."""
    return await asyncio.to_thread(scrape, f"127.0.0.1:{target.port}")


KEPT = (
    "voice_agent_sessions",
    "voice_agent_engine_open_streams",
    "voice_agent_tasks",
    "process_open_fds",
)


async def settled(target: Target) -> dict[str, float]:
    """The server's gauges once nobody is there any more, or has been for too long."""
    deadline = time.monotonic() + SETTLING_S
    while True:
        now = await metrics(target)
        if not now["voice_agent_sessions"] or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


async def leaks(target: Target, before: dict[str, float]) -> dict[str, tuple[float, float]]:
    """What the server still has that it had not, once it has had time to let go."""
    deadline = time.monotonic() + SETTLING_S
    while True:
        after = await settled(target)
        more = {name: (before[name], after[name]) for name in KEPT if after[name] > before[name]}
        if not more or time.monotonic() > deadline:
            return more
        await asyncio.sleep(0.5)


async def soak(
    target: Target, *, seconds: float, clients: int, connects: int = 0, seed: int = 0
) -> Report:
    """Run good and bad clients for a while.

    Args:
        target: an idle server with room for all clients.
        seconds: no client begins after this.
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
    before = await settled(target)
    end = time.monotonic() + seconds
    memory: list[tuple[float, float]] = []

    async def good(i: int) -> None:
        await asyncio.sleep(i / clients * _SEGMENT_S)  # phases are spread, as callers' are
        while time.monotonic() < end:
            which = i % len(spoken)
            try:
                got = await good_client(target, spoken[which])
            except InvalidStatus as error:
                if error.response.status_code != 503:
                    raise
                report.refused += 1
                await asyncio.sleep(1.0)
                continue
            if got == expected[which]:
                report.heard += 1
            else:
                report.wrong.append(f"{got} instead of {expected[which]}")

    async def bad(i: int) -> None:
        rng = random.Random(seed * 1_000 + i)
        while time.monotonic() < end:
            left_s = end - time.monotonic()
            name = rng.choice([name for name in FAULTS if SLOW_S.get(name, 0.0) < left_s])
            await _fault(name, FAULTS[name], target, rng, report)

    async def come_and_go() -> None:
        began = time.monotonic()
        rng = random.Random(seed)
        while report.connects < connects:
            # As many as are due by now, a few at a time.
            due = connects * min(1.0, (time.monotonic() - began) / (0.8 * seconds))
            if report.connects >= due:
                await asyncio.sleep(0.05)
                continue
            n = min(8, connects - report.connects)
            await asyncio.gather(*(come_and_leave(target, rng.random() < 0.5) for _ in range(n)))
            report.connects += n

    async def watch() -> None:
        while True:
            now = await metrics(target)
            memory.append((time.monotonic(), now["process_resident_memory_bytes"]))
            await asyncio.sleep(max(0.5, seconds / 200))

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        *(good(i) for i in range(clients)),
        *(bad(i) for i in range(max(1, clients // 4))),
        come_and_go(),
    )
    watching.cancel()
    report.leaks = await leaks(target, before)
    report.slope = slope(memory[len(memory) // 2 :])
    return report


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
    """Bytes a minute, by least squares; 0 for fewer than three samples."""
    if len(memory) < 3:
        return 0.0
    times, sizes = np.array(memory).T
    return float(np.polyfit(times - times[0], sizes, 1)[0] * 60)


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak a server among good and bad clients.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=100, help="good ones at a time")
    parser.add_argument("--connects", type=int, default=10_000, help="and disconnects")
    parser.add_argument("--model", default="tiny-en")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    async def run() -> Report:
        async with target(given.model, sessions=2 * given.clients + 20) as server:
            return await soak(
                server,
                seconds=given.seconds,
                clients=given.clients,
                connects=given.connects,
                seed=given.seed,
            )

    report = asyncio.run(run())
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
                "memory, MiB a minute": round(report.slope / (1 << 20), 3),
            },
            indent=2,
        )
    )
    sys.exit(0 if report.clean and report.slope < SLOPE_LIMIT else 1)

"""A recogniser that dies or sticks: who notices, who is told, how the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import websockets
from websockets.exceptions import InvalidStatus

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import eventually, speech
from voice_agent.config import Settings
from voice_agent.engine.errors import EngineClosed, EngineError
from voice_agent.engine.recognizer import Event, Failed, Final, Recognizer
from voice_agent.server.agent import Agent
from voice_agent.server.listening import bind
from voice_agent.server.serve import EXIT_STUCK, _serve
from voice_agent.server.sessions import SessionTable
from voice_agent.server.watch import HUNG, LATE, Gone, Pulse, WatchedRecognizer, gone, watched

SCRIPT = [(0.2, "hello")]


def open_stream(recognizer: Recognizer) -> tuple[object, list[Event]]:
    events: list[Event] = []
    return recognizer.open(events.append), events


async def test_a_debt_is_paid_by_its_final() -> None:
    gate = threading.Event()
    recognizer = WatchedRecognizer(ScriptedRecognizer(SCRIPT, gate=gate))
    stream, events = open_stream(recognizer)
    stream.finish()
    stream.finish()
    await eventually(lambda: recognizer.owes_s() > 0.05)
    gate.set()
    await eventually(lambda: recognizer.owes_s() == 0)
    assert sum(isinstance(e, Final) for e in events) == 2
    recognizer.close()


async def test_audio_that_comes_at_once_has_as_long_as_it_lasts() -> None:
    gate = threading.Event()
    recognizer = WatchedRecognizer(ScriptedRecognizer(SCRIPT, gate=gate))
    stream, _ = open_stream(recognizer)
    stream.feed(speech(3600.0))
    stream.finish()
    live, _ = open_stream(recognizer)
    live.feed(speech(0.1))
    await asyncio.sleep(0.1)  # it took as long as it lasts
    live.feed(speech(0.1))
    live.cancel()
    live.finish()
    await asyncio.sleep(0.05)
    assert 0.04 < recognizer.owes_s() < 60  # for the live one, which owes since its finish
    live.close()
    assert recognizer.owes_s() == 0
    gate.set()
    recognizer.close()


@pytest.mark.parametrize("end", ["close", "fail"])
async def test_nobody_waits_for_a_stream_that_is_over(end: str) -> None:
    gate = threading.Event()
    inner = ScriptedRecognizer(SCRIPT, gate=gate)
    recognizer = WatchedRecognizer(inner)
    stream, events = open_stream(recognizer)
    stream.finish()
    if end == "close":
        stream.close()
    else:
        inner.streams[0].deliver = lambda call: call()
        inner.streams[0].on_event(Failed(EngineError("this stream alone")))
    assert recognizer.owes_s() == 0 and recognizer.died is None
    gate.set()
    recognizer.close()


async def test_a_finish_that_raises_leaves_no_debt() -> None:
    recognizer = WatchedRecognizer(ScriptedRecognizer(SCRIPT))
    stream, _ = open_stream(recognizer)
    stream.inner.close()
    with pytest.raises(EngineError):
        stream.finish()
    assert recognizer.owes_s() == 0
    recognizer.close()


async def test_closing_is_no_death_but_dying_is() -> None:
    closed = WatchedRecognizer(ScriptedRecognizer(SCRIPT))
    _, events = open_stream(closed)
    closed.close()
    await eventually(lambda: bool(events))
    assert closed.died is None

    inner = ScriptedRecognizer(SCRIPT)
    dead = WatchedRecognizer(inner)
    inner.close()  # as its own thread would
    with pytest.raises(EngineClosed):
        dead.open(print)
    assert isinstance(dead.died, EngineClosed)


async def test_nobody_is_admitted_while_a_text_is_late_and_everybody_after() -> None:
    gate = threading.Event()
    recognizer = WatchedRecognizer(ScriptedRecognizer(SCRIPT, gate=gate))
    sessions = SessionTable(4)
    watching = asyncio.create_task(gone([recognizer], sessions, late_s=0.1, gone_s=60.0))
    stream, _ = open_stream(recognizer)
    stream.finish()
    await eventually(lambda: sessions.closed_because == LATE)
    gate.set()
    await eventually(lambda: sessions.closed_because is None)
    stream.inner.fail("the device fell off the bus")
    assert not watching.done()
    watching.cancel()
    recognizer.close()


async def test_one_that_decodes_whole_segments_is_never_late_but_may_be_stuck() -> None:
    inner = ScriptedRecognizer(SCRIPT, gate=threading.Event())
    inner.streaming = False
    recognizer = WatchedRecognizer(inner)
    sessions = SessionTable(4)
    stream, _ = open_stream(recognizer)
    stream.finish()
    told = await gone([recognizer], sessions, late_s=0.0, gone_s=0.5)
    assert told.stuck and "scripted has owed a text" in str(told)
    assert sessions.closed_because is None


class Heart:
    """`stats` of a recogniser whose thread beats until it is told not to."""

    def __init__(self) -> None:
        self.heartbeat = time.monotonic()
        self.stop = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self.stop.wait(0.02):
            self.heartbeat = time.monotonic()


def with_heart() -> tuple[WatchedRecognizer, Heart]:
    inner = ScriptedRecognizer(SCRIPT)
    heart = inner.stats = Heart()  # type: ignore[attr-defined]
    return WatchedRecognizer(inner), heart


async def test_a_heart_that_stops_closes_the_door_though_nothing_is_owed() -> None:
    recognizer, heart = with_heart()
    sessions = SessionTable(4)
    watching = asyncio.create_task(gone([recognizer], sessions, hung_s=0.5, deaf_s=2.0))
    await asyncio.sleep(1.0)
    assert sessions.closed_because is None and not watching.done()
    heart.stop.set()
    await eventually(lambda: sessions.closed_because == HUNG)
    assert recognizer.owes_s() == 0
    told = await asyncio.wait_for(watching, 20)
    assert told.stuck and "scripted has not answered for 2 s" in str(told)
    recognizer.close()


async def test_a_heart_that_beats_again_opens_the_door() -> None:
    recognizer, heart = with_heart()
    sessions = SessionTable(4)
    watching = asyncio.create_task(gone([recognizer], sessions, hung_s=0.3, deaf_s=60.0))
    heart.stop.set()
    await eventually(lambda: sessions.closed_because == HUNG)
    heart.heartbeat = time.monotonic()
    await eventually(lambda: sessions.closed_because is None)
    watching.cancel()
    recognizer.close()


async def test_the_door_that_a_drain_closed_stays_closed() -> None:
    recognizer, heart = with_heart()
    sessions = SessionTable(4)
    watching = asyncio.create_task(gone([recognizer], sessions, hung_s=0.3, deaf_s=1.5))
    sessions.close("the server is stopping")
    heart.stop.set()
    await asyncio.wait_for(watching, 20)
    assert sessions.closed_because == "the server is stopping"
    recognizer.close()


def test_time_in_which_nobody_looked_is_not_held_against_a_heart() -> None:
    recognizer, heart = with_heart()
    heart.stop.set()
    time.sleep(0.1)
    heart.heartbeat = 7.0
    pulse = Pulse(recognizer)
    assert pulse.still_s(0.0) == 0
    assert pulse.still_s(3_600.0) == 0.5  # the machine slept
    assert pulse.still_s(0.25) == 0.75
    heart.heartbeat = 8.0
    assert pulse.still_s(0.25) == 0
    recognizer.close()


async def test_a_gpu_without_memory_is_told_to_sessions_and_ends_the_server(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real engine: what its step raises ends its thread."""
    import torch

    from voice_agent import engine

    def load(_: Settings) -> Recognizer:
        recognizer = engine.load_recognizer(checkpoint, device="cpu", slots=2)

        def reset(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(recognizer._scheduler.runner, "reset", reset)
        return recognizer

    agent = Agent(Settings(), load=load)
    sock = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    serving = asyncio.create_task(_serve(agent, sock, lambda _: ready.set(), 1.0))
    await eventually(lambda: ready.is_set() or serving.done(), 60)
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}/v1/listen?encoding=linear16&sample_rate=16000"
    async with websockets.connect(url + "&endpointing=false") as ws:
        await ws.send(speech(1.0).tobytes())
        error = json.loads(await ws.recv())
        assert error["type"] == "Error" and "out of memory" in error["description"]
    with pytest.raises(Gone, match="out of memory.*the server ends"):
        await asyncio.wait_for(serving, 20)


async def test_the_parts_of_a_gate_are_watched() -> None:
    from tests.engine.gate_fixtures import LevelIdentifier
    from voice_agent.engine.gate import GatedRecognizer

    shared = ScriptedRecognizer(SCRIPT, name="both")
    gate = GatedRecognizer(
        {"en": ScriptedRecognizer(SCRIPT), "kn": shared, "hi": shared},
        LevelIdentifier(("en", "kn", "hi")),
    )
    same, parts = watched(gate)
    assert same is gate and sorted(p.name for p in parts) == ["both", "scripted"]
    assert gate.recognizers["kn"] is gate.recognizers["hi"]
    gate.close()


async def test_a_server_whose_recogniser_dies_tells_its_clients_and_ends() -> None:
    inner = ScriptedRecognizer(SCRIPT)
    agent = Agent(Settings(), load=lambda _: inner)
    sock = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    serving = asyncio.create_task(_serve(agent, sock, lambda _: ready.set(), 1.0))
    await eventually(lambda: ready.is_set() or serving.done())
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}/v1/listen?encoding=linear16&sample_rate=16000"
    async with websockets.connect(url) as ws:
        await ws.send(speech(0.2).tobytes())
        await eventually(lambda: bool(inner.streams))
        inner.close()
        error = json.loads(await ws.recv())
        assert error["type"] == "Error" and "was closed" in error["description"]
    with pytest.raises(Gone, match="the server ends"):
        await asyncio.wait_for(serving, 20)


HUNG_ENGINE = """
import sys, threading
from voice_agent import engine
from voice_agent.config import Settings
from voice_agent.server import watch
from voice_agent.server.listening import bind
from voice_agent.server.serve import serve

def load(_):
    recognizer = engine.load_recognizer(sys.argv[1], device="cpu", slots=2)
    recognizer._scheduler.runner.reset = lambda *_, **__: threading.Event().wait()
    return recognizer

sock = bind("127.0.0.1", 0)
watch.gone.__kwdefaults__["deaf_s"] = 6.0
ready = lambda _: print(sock.getsockname()[1], flush=True)
sys.exit(serve(Settings(), sock, on_ready=ready, load=load))
"""


def test_a_device_that_hangs_is_noticed_though_it_owes_nothing(checkpoint: str) -> None:
    """By the real engine: audio comes, no segment is finished, and the step never ends."""
    process = run_server(HUNG_ENGINE, checkpoint)
    assert process.stdout is not None
    port = int(process.stdout.readline())

    async def speak() -> list[dict]:
        url = f"ws://127.0.0.1:{port}/v1/listen?encoding=linear16&sample_rate=16000"
        told = []
        async with websockets.connect(url + "&endpointing=false") as ws:
            await ws.send(speech(0.5).tobytes())
            assert await asyncio.to_thread(not_ready, port) == HUNG
            with pytest.raises(InvalidStatus) as refused:
                await websockets.connect(url)
            assert refused.value.response.status_code == 503
            with contextlib.suppress(websockets.ConnectionClosed):
                async for text in ws:
                    told.append(json.loads(text))
        return told

    asyncio.run(asyncio.wait_for(speak(), 60))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == EXIT_STUCK and "has not answered for 6 s" in errors


def not_ready(port: int) -> str:
    """Ask /readyz until it says 503; why."""
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).close()
            time.sleep(0.1)
        except urllib.error.HTTPError as error:
            assert error.code == 503
            return str(json.load(error)["status"])


def run_server(code: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


STUCK = """
import sys, threading
from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import Settings
from voice_agent.server import watch
from voice_agent.server.listening import bind
from voice_agent.server.serve import serve

watch.gone.__kwdefaults__["gone_s"] = 0.5
sock = bind("127.0.0.1", 0)
ready = lambda _: print(sock.getsockname()[1], flush=True)
recognizer = ScriptedRecognizer([(0.2, "hello")], gate=threading.Event())
sys.exit(serve(Settings(), sock, on_ready=ready, load=lambda _: recognizer))
"""


def test_a_server_whose_recogniser_is_stuck_ends_all_the_same() -> None:
    process = run_server(STUCK)
    assert process.stdout is not None
    port = int(process.stdout.readline())

    async def speak() -> None:
        url = f"ws://127.0.0.1:{port}/v1/listen?encoding=linear16&sample_rate=16000"
        async with websockets.connect(url + "&endpointing=false") as ws:
            await ws.send(speech(0.5).tobytes())
            await ws.send('{"type": "Finalize"}')
            async for _ in ws:
                pass

    try:
        asyncio.run(asyncio.wait_for(speak(), 30))
    except websockets.ConnectionClosed:
        pass  # told by the close, or cut off by the end
    _, errors = process.communicate(timeout=30)
    assert process.returncode == EXIT_STUCK and "has owed a text" in errors

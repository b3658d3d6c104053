"""A front-end's slots are nobody's for as long as it can write into them, however long that is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.link.loud import Loud, alone, cutting, ended, noise, told
from tests.link.straggler import straggler
from tests.support.collect import Collector
from tests.support.serving import eventually
from voice_agent.engine.errors import EngineFull
from voice_agent.link.host import EngineHost
from voice_agent.link.parting import parted
from voice_agent.server.listening import loop_factory
from voice_agent.server.watch import WatchedRecognizer

CHUNK = 1280


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("then", ["it goes on", "it is killed"])
def test_a_stopped_front_end_that_was_cut_off_writes_into_nobodys_slot(
    tmp_path: Path, loop: str, then: str
) -> None:
    pytest.importorskip(loop)
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(_cut_off_while_stopped(tmp_path / "engine", loop, then))


async def _cut_off_while_stopped(path: Path, loop: str, then: str) -> None:
    recognizer = Loud(slots=1)
    host = EngineHost(WatchedRecognizer(recognizer))
    await host.listen(path)
    async with straggler(path, loop) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with cutting() as is_cut:
            host.unread_bytes = -1  # whatever it is told next is too much
            await is_cut.wait()
        said, audio = Collector(), noise(1, 60_000)
        rings = recognizer.scheduler.rings
        for _ in range(100):
            await asyncio.sleep(0.01)
            with pytest.raises(EngineFull):
                recognizer.open(said)
        written = int(rings.written[0])

        os.kill(process.pid, signal.SIGCONT if then == "it goes on" else signal.SIGKILL)
        await eventually(lambda: recognizer.stats.open_streams == 0)
        if then == "it goes on":
            assert process.stdout is not None
            assert await process.stdout.readline() == b"let go\n"
            assert rings.written[0] > written, "it did write, as long as the slot was its own"
        stream = recognizer.open(said)
        for at in range(0, len(audio), CHUNK):
            stream.feed(audio[at : at + CHUNK])
            await asyncio.sleep(0.001)  # whoever writes late has the time to
        stream.finish()
        assert told(await ended(said, 1)) == await alone(audio)
    await host.close()
    recognizer.close()


@pytest.mark.parametrize("unread", [b"", b"what the engine did not read", b"x" * 100_000])
async def test_a_front_end_has_parted_when_it_has_closed_its_end(unread: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, unread))
    with ours, theirs:
        parting = asyncio.create_task(parted(ours))
        await sending
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b"", "it is told"
        assert not parting.done()
        theirs.close()
        await parting


async def test_one_that_died_without_reading_has_parted() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        ours.send(b"unread")
        theirs.close()
        await parted(ours)

"""A front-end in a process of its own that writes into a ring, and is to be stopped (SIGSTOP).

    python -m tests.link.straggler SOCKET LOOP

It says "writes" once it does, goes on without a look at its connection until it has been continued
(SIGCONT), and for a while after that; and says "let go" when it has been told that the connection
is over.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.link.loud import noise
from voice_agent.engine.errors import EngineClosed
from voice_agent.link.client import EngineClient
from voice_agent.server.listening import loop_factory


@asynccontextmanager
async def straggler(path: Path, loop: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one on such an event loop; it is killed at the end."""
    command = [sys.executable, "-m", "tests.link.straggler", str(path), loop]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"writes\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def main() -> None:
    client = EngineClient(Path(sys.argv[1]))
    await client.connect()
    stream = await asyncio.to_thread(client.open, lambda event: None)
    continued = threading.Event()
    signal.signal(signal.SIGCONT, lambda *_: continued.set())
    piece = noise(9, 16)
    stream.feed(piece)
    print("writes", flush=True)
    while not continued.is_set():
        stream.feed(piece)
        time.sleep(0.001)  # noqa: ASYNC251 - its loop hangs
    for _ in range(100):
        stream.feed(piece)
        time.sleep(0.001)  # noqa: ASYNC251
    with suppress(EngineClosed):
        while True:
            stream.feed(piece)
            await asyncio.sleep(0.001)
    print("let go", flush=True)
    client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[2])) as runner:
        runner.run(main())

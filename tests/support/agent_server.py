"""A real server on a real port, whose recogniser says what it is told.

It runs on a thread of its own with its own event loop; clients reach it through sockets alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn

from tests.support.scripted import Script, ScriptedRecognizer
from voice_agent.config import Settings, load_settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.server.agent import Agent
from voice_agent.server.app import create_app
from voice_agent.server.listening import bind

SAID = "it was the best of times"
SCRIPT: Script = ((0.4, "it was"), (0.8, "it was the best"), (1.2, SAID))


class RunningServer:
    """A server, and what a test wants to know of it."""

    def __init__(self, settings: Settings, recognizer: Recognizer, port: int = 0) -> None:
        self.recognizer = recognizer
        self.agent = Agent(settings, load=lambda _: recognizer, connect_timeout_s=3.0)
        self.loop = asyncio.new_event_loop()
        self.sock = bind("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.ws_url = self.url.replace("http", "ws") + "/ws"
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                create_app(self.agent), log_config=None, ws_ping_interval=0.2, ws_ping_timeout=2.0
            )
        )
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        self.call(self.agent.load())
        eventually(lambda: self._uvicorn.started)
        self.idle_tasks = self.tasks()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._uvicorn.serve(sockets=[self.sock]))

    def call(self, coroutine: Coroutine[Any, Any, Any], limit_s: float = 30.0) -> Any:
        """Run a coroutine on the server's loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(limit_s)

    def tasks(self) -> set[str]:
        """Names of the coroutines that run on the server's loop, besides requests in flight."""
        for _ in range(100):
            with contextlib.suppress(RuntimeError):  # the set changed while it was read
                running = asyncio.all_tasks(self.loop)
                return {str(task.get_coro()) for task in running if not task.done()}
        raise AssertionError("the server's tasks never stood still")

    def left_behind(self) -> dict[str, Any]:
        """What an idle server should not have: sessions, recogniser streams, tasks."""
        found = {
            "sessions": len(self.agent.sessions),
            "streams": len(getattr(self.recognizer, "streams", ())),
            "tasks": sorted(self.tasks() - self.idle_tasks),
        }
        return {what: rest for what, rest in found.items() if rest}

    def assert_idle(self, limit_s: float = 10.0) -> None:
        """Wait until nothing of any client is left."""
        eventually(lambda: not self.left_behind(), limit_s, self.left_behind)

    def stop(self) -> None:
        """End what still runs, as a signal would."""
        self.call(self.agent.sessions.drain(5.0))
        self._uvicorn.should_exit = True
        self._thread.join(10)
        self.loop.close()


def eventually(
    condition: Callable[[], bool],
    limit_s: float = 10.0,
    otherwise: Callable[[], Any] = lambda: "it never came about",
) -> None:
    """Wait for something that another thread or process brings about."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


def scripted_server(script: Script = SCRIPT, **overrides: Any) -> RunningServer:
    """A server for two sessions, whose recogniser says what the script says."""
    settings = load_settings(overrides={"server.max_sessions": 2, "turn.smart": False, **overrides})
    return RunningServer(settings, ScriptedRecognizer(script, slots=settings.slots))

"""The engine process: one recogniser, on a Unix socket for the front-ends.

    load        on a thread; what a person can mend is told and ends the process
    serve       `voice_agent.link.host`
    beat        every quarter of a second: alive, and whether the device is
    died        the recogniser's thread has ended: so does the process, and the supervisor starts
                another
    SIGTERM     or the end of the supervisor: exit code 0

The device is stuck where its thread has shown no heartbeat for `STUCK_S`, or a text has been owed
for that long and no step was computed meanwhile. An engine that is late, but computes, is not
stuck: it is overloaded. Time in which the process could not run for want of a processor does not
count, and neither does what it computes on processors, up to `GONE_S`
(`voice_agent.server.processor_time`).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from voice_agent.engine.interpreter import be_prompt
from voice_agent.engine.recognizer import Recognizer
from voice_agent.link.host import EngineHost
from voice_agent.processes.control import (
    BEAT_EVERY_S,
    Beat,
    Broken,
    Control,
    Ready,
    Task,
    task_and_control,
)
from voice_agent.server.processor_time import ProcessorTime, Spent
from voice_agent.server.watch import GONE_S, Pulse, WatchedRecognizer, watched

STUCK_S = 1.25
EXIT_BROKEN = 70


def main() -> None:
    """Run the process."""
    from voice_agent.cli import logs
    from voice_agent.server.listening import loop_factory

    task, control = task_and_control()
    log = task.settings.log
    logs.set_up(task.verbose, level=log.level, as_json=log.format == "json")
    factory = loop_factory(task.settings.server.event_loop)
    code = asyncio.Runner(loop_factory=factory).run(_run(task, control))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a device that is stuck or a thread that loads would keep an exit waiting


def load(task: Task) -> Recognizer:
    """Load what the task names. Blocks."""
    module, _, name = task.load.partition(":")
    recognizer: Recognizer = getattr(importlib.import_module(module), name)(task.settings)
    return recognizer


async def _run(task: Task, control: Control) -> int:
    from voice_agent.cli.errors import sentence
    from voice_agent.server.agent import on_daemon_thread

    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    told = asyncio.create_task(ends.wait())
    orphaned = asyncio.create_task(control.supervisor_gone())
    loading = asyncio.create_task(on_daemon_thread(partial(load, task)))
    await asyncio.wait({told, orphaned, loading}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        return 0
    if (error := loading.exception()) is not None:
        told_as = sentence(error)
        control.say(Broken(told_as or repr(error), mendable=told_as is not None))
        return EXIT_BROKEN
    recognizer, parts = watched(loading.result())
    be_prompt()  # the engine's thread does not wait for the interpreter, whatever the socket's does
    host = EngineHost(recognizer)
    await host.listen(task.engine_socket)
    control.say(Ready(about_of(recognizer)))
    watching = asyncio.create_task(_watch(control, recognizer, parts))
    await asyncio.wait({told, orphaned, watching}, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        await asyncio.sleep(BEAT_EVERY_S)  # what streams have to be told is on its way
        control.say(Broken(watching.result(), mendable=False))
        return EXIT_BROKEN
    await host.close()
    return 0


def about_of(recognizer: Recognizer) -> dict[str, Any]:
    """What the supervisor says of a recogniser."""
    return {
        "name": recognizer.name,
        "device": str(getattr(recognizer, "device", "an unnamed device")),
        "languages": list(recognizer.languages),
        "streaming": recognizer.streaming,
    }


async def _watch(
    control: Control, recognizer: Recognizer, parts: Sequence[WatchedRecognizer]
) -> str:
    """Beat until a part of the recogniser has died; return of what."""
    vitals = Vitals(recognizer, parts, time.monotonic())
    spending = ProcessorTime()
    while True:
        for part in parts:
            if part.died is not None:
                return str(part.died)
        control.say(Beat(vitals.stuck(time.monotonic(), spending.look())))
        await asyncio.sleep(BEAT_EVERY_S)


class Vitals:
    """Whether the device still computes. Time is an argument."""

    def __init__(
        self, recognizer: Recognizer, parts: Sequence[WatchedRecognizer], now: float
    ) -> None:
        """Watch these.

        Args:
            recognizer: whose `stats` tell steps.
            parts: whose heartbeats and debts are known.
            now: a monotonic clock's time.
        """
        self._recognizer = recognizer
        self._on_processors = not any("cuda" in str(getattr(p, "device", "")) for p in parts)
        # Of each part: what is held against it, and what even a long computation does not excuse.
        self._pulses = [(part, Pulse(part), Pulse(part)) for part in parts]
        self._ticks: int | None = None
        self._looked = now
        self._idle_s = self._busy_s = 0.0  # without a step, counted in the same two ways

    def stuck(self, now: float, spent: Spent) -> str | None:
        """Why it is stuck, or None where it is not.

        Args:
            now: a monotonic clock's time.
            spent: what the process did since it was asked last.
        """
        since_s, self._looked = min(now - self._looked, 2 * BEAT_EVERY_S), now
        free_s = spent.held_against(since_s, computing=self._on_processors)
        busy_s = spent.held_against(since_s, computing=False)
        stats: Any = getattr(self._recognizer, "stats", None)
        ticks = getattr(stats, "ticks", None)
        if ticks != self._ticks:
            self._ticks = ticks
            self._idle_s = self._busy_s = 0.0
        else:
            self._idle_s += free_s
            self._busy_s += busy_s
        for part, free, busy in self._pulses:
            still_s = free.still_s(free_s)
            if still_s > STUCK_S or (still_s := busy.still_s(busy_s)) > GONE_S:
                return f"{part.name} has not answered for {still_s:.1f} s"
            owes_s = part.owes_s()
            if ticks is not None and part.streaming:
                late = min(owes_s, self._idle_s) > STUCK_S or min(owes_s, self._busy_s) > GONE_S
            else:  # it tells no steps, and one that decodes whole segments may take its time
                late = owes_s > GONE_S
            if late:
                return f"{part.name} has owed a text for {owes_s:.1f} s and computes nothing"
        return None


if __name__ == "__main__":
    main()

"""A pool without threads: calls run on the event loop, and those that must wait step aside.

Sessions that forward their audio to another process compute next to nothing, and handing each
message to a thread and back would cost more than it does. Here each call runs at once, as a
greenlet; `wait` and a VAD's score suspend that greenlet, and the loop goes on. So a call reads as
it does on a thread, and holds no lock where it waits.

    begin(call)     run it now, on the loop's thread; from another thread, soon
    wait(future)    in a call: come back when it is done
    new_vad()       a stream's VAD. Windows of all streams that wait go to the model in one run,
                    on a thread of its own, which lets the loop go on

A session's calls may wait in the middle; `voice_agent.server.serial` keeps them in order.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet

from voice_agent import vad
from voice_agent.transcribe.segments import Score

MAX_WINDOWS = 128
"""Windows in one run of the VAD's model: about 10 ms of a core."""


class LoopPool(Executor):
    """See the module docstring. Made on the event loop; the loop's thread is the only one."""

    def __init__(self) -> None:
        """Make a pool of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._main = getcurrent()
        self._ears = ThreadPoolExecutor(1, thread_name_prefix="vad")
        self._waiting: list[tuple[vad.Memory, greenlet]] = []
        self._listening = False
        self._down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call; see the module docstring and `concurrent.futures.Executor.submit`."""
        done: Future[Any] = Future()

        def call() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(result)

        self.begin(call)
        return done

    def begin(self, call: Callable[..., object], *args: Any) -> None:
        """Run a call whose result nobody asks for; see the module docstring.

        Raises:
            RuntimeError: after `shutdown`.
        """
        if self._down:
            raise RuntimeError("cannot run calls after shutdown")
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._run, call, *args)
        elif getcurrent() is not self._main:  # a call that begins another does not wait for it
            self._loop.call_soon(self._run, call, *args)
        else:
            self._run(call, *args)

    def _run(self, call: Callable[..., object], *args: Any) -> None:
        greenlet(call, self._main).switch(*args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those that wait are not resumed."""
        self._down = True
        self._waiting.clear()
        self._ears.shutdown(wait=False, cancel_futures=True)

    def in_call(self) -> bool:
        """Whether this is one of the pool's calls, which may wait."""
        return threading.get_ident() == self._thread and getcurrent() is not self._main

    def wait(self, future: Future[Any]) -> bool:
        """Suspend this call until a future is done.

        Returns:
            False, at once, where this is none of the pool's calls.
        """
        if not self.in_call():
            return False
        me = getcurrent()

        def resume(_: Future[Any]) -> None:
            self._loop.call_soon_threadsafe(me.switch)

        if not future.done():
            future.add_done_callback(resume)
            self._main.switch()
        return True

    def new_vad(self) -> Score:
        """A stream's VAD; see `vad.Vad`."""
        memory = vad.Memory()

        def score(window: np.ndarray) -> float:
            memory.hear(window)
            if not self.in_call():  # a thread of its own may wait for the model itself
                return vad.judge([memory])[0]
            self._waiting.append((memory, getcurrent()))
            self._listen()
            probability = self._main.switch()
            if isinstance(probability, BaseException):
                raise probability
            return float(probability)

        return score

    def _listen(self) -> None:
        """Give the model what waits, unless it is busy: what comes meanwhile is the next run."""
        if self._listening or self._down or not self._waiting:
            return
        self._listening = True
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self._down:
            return
        batch, self._waiting = self._waiting[:MAX_WINDOWS], self._waiting[MAX_WINDOWS:]
        run = self._ears.submit(vad.judge, [memory for memory, _ in batch])
        run.add_done_callback(
            lambda _: self._loop.call_soon_threadsafe(self._heard, [g for _, g in batch], run)
        )

    def _heard(self, calls: list[greenlet], run: Future[list[float]]) -> None:
        self._listening = False
        error = run.exception()
        answers: list[Any] = [error] * len(calls) if error is not None else run.result()
        for call, answer in zip(calls, answers, strict=True):
            call.switch(answer)
        self._listen()

"""Calls of one session, one at a time and in order, on a pool's threads.

The pool is shared by all sessions; a session takes at most one of its threads, and gives it back
after a few calls, so that a busy one does not starve the others. Calls see the context variables
of whoever made the queue: log lines carry the session.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

_AT_ONCE = 16  # calls of one session before it queues up again


class Serial:
    """See the module docstring. `post` may be called from any thread."""

    def __init__(
        self,
        pool: Executor,
        *,
        after: Callable[[], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        """Make an empty queue.

        Args:
            pool: where calls run.
            after: called on the same thread after each batch of calls.
            crashed: told what a call or `after` raised; later calls still run.
        """
        # A pool without threads makes no futures that nobody asks for.
        self._begin: Callable[..., object] = getattr(pool, "begin", pool.submit)
        self._after = after
        self._crashed = crashed
        self._context = contextvars.copy_context()
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._running = False

    def post(self, call: Callable[[], None]) -> None:
        """Run this after everything that was posted before."""
        with self._lock:
            self._calls.append(call)
            if self._running:
                return
            self._running = True
        self._submit()

    def _submit(self) -> None:
        try:
            # A copy: the call before may not have left its own yet.
            self._begin(self._context.copy().run, self._run)
        except RuntimeError:  # the pool is shut down: its sessions are closed
            with self._lock:
                self._calls.clear()

    def _run(self) -> None:
        for _ in range(_AT_ONCE):
            with self._lock:
                if not self._calls:
                    break
                call = self._calls.popleft()
            self._guard(call)
        self._guard(self._after)
        with self._lock:
            self._running = bool(self._calls)
            if not self._running:
                return
        self._submit()

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._crashed(error)

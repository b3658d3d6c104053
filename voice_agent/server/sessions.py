"""Who is talking to the server: admission, tracking and the end of every session.

    admit()  -> Session     a slot is taken, or Refused says why not: before any other work
    start()                 the session's call runs as a task; its slot is free when it ends
    drain()                 nobody new; those who talk may finish; then they are cut off

Knows no HTTP, WebRTC or Pipecat: a call is anything with `run` and `end`. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from loguru import logger

RETRY_AFTER_S = 5.0
"""Seconds after which a refused client may ask again."""

SESSION_HEADER = "X-Session-Id"
"""Of every answer that begins a session: its id, as logs and traces have it."""

_CANCEL_LIMIT_S = 5.0
"""Seconds that a session which is cut off may spend on tidying up."""


class Refused(Exception):
    """The server takes no new session just now; the message says why.

    Attributes:
        retry_after_s: whole seconds after which asking again is reasonable.
    """

    def __init__(self, reason: str, retry_after_s: float = RETRY_AFTER_S) -> None:
        self.retry_after_s = math.ceil(retry_after_s)
        super().__init__(f"{reason}; retry in {self.retry_after_s} s")


class Call(Protocol):
    """A conversation, whatever it runs over."""

    async def run(self) -> None:
        """Hold the conversation; return when it is over. Cancellation cuts it off."""
        ...

    async def end(self) -> None:
        """Ask for the end: what the agent is saying is still said, then `run` returns."""
        ...


class Session:
    """One admitted client, who holds a slot until `release`.

    Attributes:
        id: for logs and traces; its client is told it, too.
        kind: "webrtc" or "websocket".
    """

    def __init__(self, table: SessionTable, kind: str) -> None:
        self.id = str(uuid.uuid4())
        self.kind = kind
        self.call: Call | None = None
        self.task: asyncio.Task[None] | None = None
        self._table = table
        self._over = ExitStack()

    def logged(self) -> AbstractContextManager[object]:
        """While the block runs, and in tasks that it starts, log lines carry the session's id."""
        return logger.contextualize(session=self.id)

    def when_over(self, callback: Callable[[], object]) -> None:
        """Have something else given back when the slot is; the last one first."""
        self._over.callback(callback)

    def release(self) -> None:
        """Give the slot back. Idempotent; `SessionTable.start` does it for calls that ran."""
        self._table._forget(self)
        self._over.close()


def session_header(session_id: str) -> tuple[bytes, bytes]:
    """The header by which a client learns what logs and traces call its session."""
    return SESSION_HEADER.lower().encode(), session_id.encode()


class SessionTable:
    """All sessions of one server.

    Attributes:
        limit: how many sessions there may be at once.
    """

    def __init__(self, limit: int, *, closed_because: str | None = None) -> None:
        """Make an empty table.

        Args:
            limit: sessions at once.
            closed_because: reason for refusing everybody until `open` is called.
        """
        self.limit = limit
        self._closed_because = closed_because
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def closed_because(self) -> str | None:
        """Why nobody is admitted at all; None while there is only the limit."""
        return self._closed_because

    def open(self) -> None:
        """Admit sessions from now on."""
        self._closed_because = None

    def close(self, reason: str) -> None:
        """Refuse everybody from now on; sessions that run go on."""
        self._closed_because = reason

    def check(self) -> None:
        """Raise what `admit` would raise, without taking a slot.

        Raises:
            Refused: loading, draining or full.
        """
        if self._closed_because is not None:
            raise Refused(self._closed_because)
        if len(self._sessions) >= self.limit:
            raise Refused(f"all {self.limit} sessions are taken")

    def admit(self, kind: str) -> Session:
        """Take a slot.

        Args:
            kind: "webrtc" or "websocket", for logs.

        Raises:
            Refused: loading, draining or full.
        """
        self.check()
        session = Session(self, kind)
        self._sessions[session.id] = session
        return session

    def start(self, session: Session, call: Call) -> asyncio.Task[None]:
        """Run an admitted session's call; its slot is free when the call is over.

        Args:
            session: what `admit` returned.
            call: the conversation.

        Returns:
            The call's task. It never raises but `CancelledError`: a failed call is logged.
        """
        session.call = call
        with session.logged():
            session.task = asyncio.create_task(
                self._run(session, call), name=f"session-{session.id}"
            )
        # Not in `_run`: a task that is cancelled before its first step runs no `finally`.
        session.task.add_done_callback(lambda _: session.release())
        return session.task

    async def _run(self, session: Session, call: Call) -> None:
        logger.info(f"session ({session.kind}) begins, {len(self)}/{self.limit} taken")
        try:
            await call.run()
        except Exception:
            logger.exception(f"session ({session.kind}) failed")
        finally:
            logger.info(f"session ({session.kind}) is over")

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)

    async def drain(self, limit_s: float, reason: str = "the server is stopping") -> int:
        """Admit nobody, let every session end, and cut off those that take too long.

        Args:
            limit_s: seconds that sessions have to finish what the agent is saying.
            reason: what those who still ask are told.

        Returns:
            How many sessions had to be cut off.
        """
        self.close(reason)
        running = [s for s in self._sessions.values() if s.call is not None and s.task is not None]
        if not running:
            return 0
        logger.info(f"{len(running)} sessions have {limit_s:g} s to end")
        tasks = {s.task for s in running if s.task is not None}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*(self._end(s) for s in running))
                await asyncio.wait(tasks)
        late = {task for task in tasks if not task.done()}
        for task in late:
            task.cancel()
        if late:
            logger.warning(f"{len(late)} sessions did not end within {limit_s:g} s and are cut off")
            await asyncio.wait(late, timeout=_CANCEL_LIMIT_S)
        return len(late)

    async def _end(self, session: Session) -> None:
        assert session.call is not None
        try:
            await session.call.end()
        except Exception:
            with session.logged():
                logger.exception("session could not be ended gently")

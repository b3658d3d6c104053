"""A wait that takes too long ends as a timeout; everything else goes through untouched."""

from __future__ import annotations

import asyncio

import pytest

from voice_agent.server.silence import Silence


async def receive(silence: Silence, queue: asyncio.Queue[int]) -> int | None:
    """The next number; None for a silence that was too long."""
    silence.begins()
    try:
        number = await queue.get()
    except asyncio.CancelledError:
        if not silence.was_too_long():
            raise
        return None
    silence.ends()
    return number


async def test_messages_in_time_come_through_and_silence_is_noticed_again_and_again() -> None:
    silence = Silence(lambda: 0.1)
    queue: asyncio.Queue[int] = asyncio.Queue()
    for n in range(5):
        queue.put_nowait(n)
        assert await receive(silence, queue) == n
    for _ in range(2):
        assert await receive(silence, queue) is None
    queue.put_nowait(7)
    assert await receive(silence, queue) == 7
    await asyncio.sleep(0.3)  # between two waits there is no limit


async def test_the_limit_may_become_shorter_while_one_waits() -> None:
    limits = iter([30.0, 0.0])
    silence = Silence(lambda: next(limits, 0.0))
    async with asyncio.timeout(10):
        assert await receive(silence, asyncio.Queue()) is None


async def test_a_cancellation_from_elsewhere_is_not_taken_for_silence() -> None:
    async def wait() -> int | None:
        return await receive(Silence(lambda: 30.0), asyncio.Queue())

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

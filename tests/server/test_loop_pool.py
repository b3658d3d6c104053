"""Calls on the event loop that may wait, and a VAD that listens to many streams at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from tests.support.serving import eventually
from voice_agent import vad
from voice_agent.server.loop_pool import LoopPool
from voice_agent.server.serial import Serial
from voice_agent.vad import Vad


def windows(streams: int, each: int = 12) -> np.ndarray:
    """Noise and tones, float32 (streams, each, 512)."""
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((streams, each, 512)).astype(np.float32) * 0.1
    sound[::2] *= np.sin(np.arange(512, dtype=np.float32) / 7)
    return sound


async def test_many_streams_hear_what_each_would_hear_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = []
    judge = vad.judge

    def watched(memories: list[vad.Memory]) -> list[float]:
        batches.append(len(memories))
        assert threading.current_thread().name.startswith("vad"), "not on the event loop"
        return judge(memories)

    monkeypatch.setattr("voice_agent.server.loop_pool.vad.judge", watched)
    pool, sound = LoopPool(), windows(20)

    def listen(i: int) -> list[float]:
        score = pool.new_vad()
        return [score(window) for window in sound[i]]

    heard = await asyncio.gather(*(asyncio.wrap_future(pool.submit(listen, i)) for i in range(20)))
    assert max(batches) > 1 and sum(batches) == 20 * 12
    monkeypatch.undo()
    for i in range(20):
        alone = Vad()
        assert heard[i] == pytest.approx([alone(window) for window in sound[i]], abs=1e-5)
    pool.shutdown()


async def test_a_vad_on_another_thread_computes_there() -> None:
    pool, sound = LoopPool(), windows(1, 2)
    score, alone = pool.new_vad(), Vad()
    heard = await asyncio.to_thread(lambda: [score(window) for window in sound[0]])
    assert heard == pytest.approx([alone(window) for window in sound[0]], abs=1e-5)
    pool.shutdown()


async def test_a_model_that_is_not_there_fails_the_call_and_not_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vad, "_PLACES", ())
    vad.session.cache_clear()
    pool = LoopPool()
    score = pool.new_vad()
    with pytest.raises(vad.NoVad, match="install pipecat-ai or silero-vad"):
        await asyncio.wrap_future(pool.submit(score, np.zeros(512, np.float32)))
    pool.shutdown()


async def test_a_call_that_waits_lets_the_loop_and_other_calls_go_on() -> None:
    pool, answer, order = LoopPool(), Future[int](), []

    def waits() -> int:
        assert pool.in_call()
        order.append("waits")
        assert pool.wait(answer)
        order.append("goes on")
        return answer.result()

    waiting = pool.submit(waits)
    pool.begin(order.append, "other")
    await asyncio.to_thread(answer.set_result, 42)
    assert await asyncio.wrap_future(waiting) == 42
    assert order == ["waits", "other", "goes on"]
    assert not pool.in_call() and not pool.wait(Future()), "only a call can wait"
    pool.shutdown()


async def test_a_sessions_calls_stay_in_order_though_one_waits() -> None:
    pool, answer, done = LoopPool(), Future[None](), []
    serial = Serial(pool, after=lambda: done.append("after"), crashed=lambda e: done.append(e))
    serial.post(lambda: (pool.wait(answer), done.append(1)))
    serial.post(lambda: done.append(2))
    await asyncio.to_thread(serial.post, lambda: done.append(3))
    await asyncio.sleep(0.05)
    assert done == []
    answer.set_result(None)
    await eventually(lambda: done[-1:] == ["after"])
    assert done == [1, 2, 3, "after"]
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(int)

"""Admission, tracking and draining, with calls that do what the test says."""

import asyncio

import pytest

from voice_agent.server.sessions import Refused, SessionTable


class ScriptedCall:
    """A call that is over when `over` is set, and sets it itself if it is asked to end."""

    def __init__(self, obedient: bool = True) -> None:
        self.over = asyncio.Event()
        self.obedient = obedient
        self.cut_off = False

    async def run(self) -> None:
        try:
            await self.over.wait()
        except asyncio.CancelledError:
            self.cut_off = True
            raise

    async def end(self) -> None:
        if self.obedient:
            self.over.set()


class FailingCall(ScriptedCall):
    async def run(self) -> None:
        raise RuntimeError("a defect")


async def test_the_limit_is_kept_and_a_slot_is_free_when_its_call_is_over():
    table = SessionTable(limit=2)
    first, second = ScriptedCall(), ScriptedCall()
    task = table.start(table.admit("webrtc"), first)
    table.start(table.admit("websocket"), second)
    with pytest.raises(Refused, match="all 2 sessions are taken; retry in 5 s"):
        table.admit("webrtc")

    first.over.set()
    await task
    assert len(table) == 1
    table.admit("webrtc").release()
    await table.drain(1)


async def test_a_slot_is_taken_from_admission_on_even_before_the_call_runs():
    table = SessionTable(limit=1)
    session = table.admit("webrtc")
    with pytest.raises(Refused):
        table.check()
    session.release()
    session.release()
    table.check()
    assert len(table) == 0


async def test_nobody_is_admitted_before_open_and_after_close():
    table = SessionTable(limit=1, closed_because="the model is loading")
    with pytest.raises(Refused, match="the model is loading"):
        table.admit("webrtc")
    table.open()
    table.check()
    table.close("the server is stopping")
    with pytest.raises(Refused, match="the server is stopping"):
        table.admit("webrtc")


async def test_a_failing_call_gives_its_slot_back_and_harms_nobody():
    table = SessionTable(limit=1)
    await table.start(table.admit("webrtc"), FailingCall())
    assert len(table) == 0


async def test_a_call_cancelled_before_its_first_step_gives_its_slot_back():
    table = SessionTable(limit=1)
    task = table.start(table.admit("webrtc"), ScriptedCall())
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert len(table) == 0


async def test_draining_lets_calls_end():
    table = SessionTable(limit=3)
    calls = [ScriptedCall(), ScriptedCall()]
    for call in calls:
        table.start(table.admit("webrtc"), call)
    await asyncio.sleep(0)
    assert await table.drain(limit_s=60) == 0
    assert len(table) == 0
    assert not any(call.cut_off for call in calls)
    with pytest.raises(Refused, match="the server is stopping"):
        table.admit("webrtc")


async def test_draining_cuts_off_who_does_not_end():
    table = SessionTable(limit=3)
    stubborn, obedient = ScriptedCall(obedient=False), ScriptedCall()
    for call in (stubborn, obedient):
        table.start(table.admit("webrtc"), call)
    await asyncio.sleep(0)
    assert await table.drain(limit_s=0.05) == 1
    assert stubborn.cut_off and not obedient.cut_off
    assert len(table) == 0


async def test_draining_an_empty_table_takes_no_time():
    assert await SessionTable(limit=1).drain(limit_s=3600) == 0


def test_what_a_session_holds_is_given_back_once_with_its_slot():
    table = SessionTable(limit=1)
    session = table.admit("webrtc")
    given_back = []
    session.when_over(lambda: given_back.append(len(table)))
    session.release()
    session.release()
    assert given_back == [0]

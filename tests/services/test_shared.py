"""One load a process for each model and device."""

import asyncio
import threading

import pytest

from tests.support.scripted import ScriptedRecognizer
from voice_agent.services import shared
from voice_agent.services.shared import share


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(shared, "_loads", {})


async def test_whoever_asks_while_it_loads_gets_the_same():
    loads = []

    def load():
        loads.append(threading.current_thread())
        return ScriptedRecognizer()

    found = await asyncio.gather(*(share("a", load) for _ in range(5)))
    found.append(await share("a", load))
    assert len(set(map(id, found))) == 1
    (thread,) = loads
    assert thread is not threading.main_thread(), "the event loop went on"
    assert thread.daemon, "who stops the process does not wait for a download"


async def test_another_key_is_another_recogniser_and_they_load_one_after_the_other():
    busy = threading.Lock()

    def load():
        assert busy.acquire(blocking=False)
        try:
            threading.Event().wait(0.05)
            return ScriptedRecognizer()
        finally:
            busy.release()

    one, other = await asyncio.gather(share("a", load), share("b", load))
    assert one is not other


async def test_a_load_that_fails_is_told_to_everybody_and_tried_again():
    def fail():
        raise OSError("the disk is full")

    failures = await asyncio.gather(*(share("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in failures] == ["the disk is full"] * 3
    assert isinstance(await share("a", ScriptedRecognizer), ScriptedRecognizer)


async def test_who_gives_up_waiting_does_not_stop_the_load_for_the_others():
    going_on = threading.Event()

    def load():
        going_on.wait()
        return ScriptedRecognizer()

    hasty, patient = (asyncio.create_task(share("a", load)) for _ in range(2))
    await asyncio.sleep(0)
    hasty.cancel()
    going_on.set()
    assert isinstance(await patient, ScriptedRecognizer)
    assert hasty.cancelled()

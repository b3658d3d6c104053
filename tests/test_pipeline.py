"""One call through the whole pipeline, as `build_worker` makes it, on a transport in memory.

The caller is espeak-ng, so that Silero hears speech where there is some; the recogniser says what
it is told.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from pipecat.workers.runner import WorkerRunner

from tests.support.scripted import ScriptedRecognizer
from tests.support.transport import Wire
from tests.support.voice import speech
from voice_agent import alternatives, engine
from voice_agent.config import ConfigError, Settings, load_settings
from voice_agent.pipeline import build_worker, load_recognizer, load_shared_recognizer
from voice_agent.services import NemotronSTTService
from voice_agent.services.espeak_ng import espeak_ng

SCRIPT = [(0.4, "it was"), (0.8, "it was the best")]
FAST = {"turn.smart": False, "turn.pause_s": 0.2}


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    """Two seconds of a caller's voice, then one of silence."""
    return np.concatenate([speech(), np.zeros(16_000, np.int16)])


class Call:
    """A call that runs: its wire, its worker, the task of its runner."""

    def __init__(self, wire, worker, running) -> None:
        self.wire, self.worker, self.running = wire, worker, running

    async def over(self, limit_s: float = 10.0) -> None:
        await asyncio.wait_for(asyncio.shield(self.running), limit_s)


@contextlib.asynccontextmanager
async def call(recognizer, **settings) -> AsyncIterator[Call]:
    wire = Wire()
    stt = settings.pop("stt", None)
    worker = await build_worker(wire, load_settings(overrides=FAST | settings), recognizer, stt=stt)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(_worker, _frame):
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await asyncio.wait_for(started.wait(), 20)
    await wire.connect()
    try:
        yield Call(wire, worker, running)
    finally:
        await worker.cancel()
        await running


def finals(wire: Wire) -> list[dict]:
    return wire.told("server-message", type="caption", final=True)


def answers(wire: Wire) -> list[str]:
    """The agent's sentences."""
    return [data["text"] for data in wire.told("bot-tts-text")]


async def test_a_call_from_greeting_to_answer(said):
    async with call(ScriptedRecognizer(SCRIPT), greeting="Hello there.") as it:
        await it.wire.until(lambda: answers(it.wire) == ["Hello there."])
        await it.wire.say(said)
        await it.wire.until(
            lambda: answers(it.wire) == ["Hello there.", "You said: it was the best."]
        )
        await it.wire.until(lambda: it.wire.told("bot-stopped-speaking"))
    wire = it.wire
    assert wire.rate == 24_000
    assert wire.voice_s() > 1
    # The prebuilt page of 1.3 reads the first kind, clients of RTVI 2.2 the second.
    for kind in ("user-transcription", "user-input"):
        captions = [(d["text"], d["final"]) for d in wire.told(kind)]
        assert captions == [
            ("it was", False),
            ("it was the best", False),
            ("it was the best", True),
        ]
    (caption,) = finals(wire)
    assert (caption["language"], len(caption["words"])) == ("en", 4)
    assert wire.told("user-llm-text") == [{"text": "it was the best"}]


async def test_smart_turn_ends_the_turn_too(said):
    async with call(ScriptedRecognizer(SCRIPT), **{"turn.smart": True}) as it:
        await it.wire.say(np.concatenate([said, np.zeros(48_000, np.int16)]))
        await it.wire.until(lambda: answers(it.wire) == ["You said: it was the best."])


async def test_kannada_is_answered_in_kannada_by_a_kannada_voice(monkeypatch, said):
    voices = []
    speak = type(espeak_ng()).speak

    def spy(self, text, voice, **rest):
        voices.append((text, voice))
        return speak(self, text, voice, **rest)

    monkeypatch.setattr(type(espeak_ng()), "speak", spy)
    recognizer = ScriptedRecognizer([(0.4, "ನಮಸ್ಕಾರ")], speaks="kn")
    async with call(recognizer, greeting="Hello.") as it:
        await it.wire.say(said)
        await it.wire.until(lambda: len(answers(it.wire)) == 2)
    assert voices == [("Hello.", "en"), ("ನೀವು ಹೇಳಿದ್ದು: ನಮಸ್ಕಾರ.", "kn")]
    assert finals(it.wire)[0]["language"] == "kn"


async def test_speech_cuts_the_agent_off(said):
    long = " ".join(["and so on and so forth"] * 30)  # most of a minute
    recognizer = ScriptedRecognizer([(0.4, long)], [(0.4, "stop")])
    async with call(recognizer) as it:
        await it.wire.say(said)
        await it.wire.until(lambda: it.wire.voice_s() > 0.5)
        await it.wire.say(said)
        await it.wire.until(lambda: answers(it.wire)[-1:] == ["You said: stop."])
        assert it.wire.told("bot-stopped-speaking")
        assert it.wire.voice_s() < 10
    assert [caption["text"] for caption in finals(it.wire)] == [long, "stop"]


async def test_a_recogniser_that_fails_ends_the_call():
    recognizer = ScriptedRecognizer(SCRIPT)
    async with call(recognizer) as it:
        recognizer.opened[0].fail()
        await it.over()
    assert recognizer.streams == []


async def test_a_full_recogniser_ends_the_call():
    async with call(ScriptedRecognizer(slots=0)) as it:
        await it.over()


async def test_the_call_ends_when_its_client_leaves(said):
    recognizer = ScriptedRecognizer(SCRIPT)
    async with call(recognizer) as it:
        await it.wire.say(said[:8000])
        await it.wire.disconnect()
        await it.over()
    assert recognizer.streams == []


async def test_a_call_in_which_nobody_speaks_ends():
    async with call(ScriptedRecognizer(), **{"server.idle_timeout_s": 0.3}) as it:
        await it.over()


async def test_calls_share_one_recogniser(said):
    recognizer = ScriptedRecognizer(SCRIPT, slots=2)
    async with call(recognizer) as one, call(recognizer) as other:
        await asyncio.gather(one.wire.say(said), other.wire.say(said))
        for it in (one, other):
            await it.wire.until(lambda wire=it.wire: finals(wire))
    assert recognizer.streams == []


async def test_another_stt_service_may_take_the_place_of_ours(said):
    mine = ScriptedRecognizer([(0.4, "mine")])
    stt = NemotronSTTService(recognizer=mine)
    async with call(ScriptedRecognizer(SCRIPT), stt=stt) as it:
        await it.wire.say(said)
        await it.wire.until(lambda: finals(it.wire))
    assert finals(it.wire)[0]["text"] == "mine"


async def test_what_cannot_be_built_is_said_before_the_call():
    settings = load_settings(overrides={"tts.voices": {"en": "nobody"}})
    with pytest.raises(ConfigError, match="espeak-ng has no voice 'nobody'"):
        await build_worker(Wire(), settings, ScriptedRecognizer())


# Which recogniser


@pytest.fixture
def loads(monkeypatch):
    """What would have been loaded, and with which choices."""
    made: list[tuple] = []

    def ours(model, **choices):
        made.append((model, choices))
        return ScriptedRecognizer(SCRIPT, name=model)

    def theirs(name, choice):
        made.append((name, choice))
        return ScriptedRecognizer(SCRIPT, name=name)

    monkeypatch.setattr(engine, "load_recognizer", ours)
    monkeypatch.setattr(alternatives, "load", theirs)
    monkeypatch.setattr("voice_agent.services.shared._loads", {})
    return made


async def test_every_call_of_the_process_shares_one_load(loads):
    settings = load_settings(overrides={"stt.right_context": 6, "server.max_sessions": 3})
    found = await asyncio.gather(*(load_shared_recognizer(settings) for _ in range(5)))
    assert len(set(map(id, found))) == 1
    assert loads == [("tiny-en", {"device": "auto", "right_context": 6, "slots": 3})]


async def test_a_language_model_is_loaded_with_the_model(loads):
    chosen = {"stt.final_pass": "search", "stt.language_model": "lm.arpa"}
    settings = [load_settings(overrides=chosen), Settings()]
    fused, plain = [await load_shared_recognizer(each) for each in settings]
    assert fused is not plain and fused is await load_shared_recognizer(settings[0])
    assert [loaded.get("language_model") for _, loaded in loads] == [Path("lm.arpa"), None]


async def test_another_system_is_loaded_by_its_name_and_with_its_own_default_model(loads):
    settings = load_settings(
        overrides={
            "stt": {"name": "deepgram", "url": "ws://localhost:1", "api_key": "k"},
            "server.max_sessions": 3,
        }
    )
    recognizer = await load_shared_recognizer(settings)
    assert recognizer is await load_shared_recognizer(settings)
    ((name, choice),) = loads
    assert name == "deepgram"
    assert (choice.model, choice.url, choice.api_key) == (None, "ws://localhost:1", "k")
    assert (choice.language, choice.slots) == ("en", 3)


async def test_another_systems_recogniser_transcribes_the_call(loads, said):
    settings = {"stt.name": "faster-whisper"}
    recognizer = load_recognizer(load_settings(overrides=settings))
    async with call(recognizer, **settings) as it:
        await it.wire.say(said)
        await it.wire.until(lambda: finals(it.wire))
    assert finals(it.wire)[0]["text"] == "it was the best"

"""Two-language calls over real WebRTC: aiortc, Opus, the whole server, tiny-kn and tiny-lid.

English is a scripted recogniser's, so that what the test is about (who writes which segment) does
not hang on what a small English model hears.
"""

from __future__ import annotations

import asyncio
import importlib.util
import urllib.request
from pathlib import Path

import pytest

from tests.support.agent_server import RunningServer
from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import load_settings
from voice_agent.engine.gate import GatedRecognizer, GateSettings
from voice_agent.engine.indic_conformer import load_indic_conformer
from voice_agent.engine.lid import load_language_identifier

ENGLISH = [(0.4, "good"), (0.9, "good morning")]
KANNADA = range(0x0C80, 0x0D00)


def load_example():
    path = Path(__file__).parents[2] / "examples" / "bilingual_call.py"
    spec = importlib.util.spec_from_file_location("bilingual_call", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture(scope="module")
def running():
    gate = GatedRecognizer(
        {
            "en": ScriptedRecognizer(ENGLISH, name="scripted-en"),
            "kn": load_indic_conformer("tiny-kn", device="cpu"),
        },
        load_language_identifier("embedded"),
        settings=GateSettings(patience_s=5.0),  # the test machine may be busy
    )
    overrides = {"gate.enabled": True, "turn.smart": False, "server.max_sessions": 2}
    server = RunningServer(load_settings(overrides=overrides), gate)
    yield server
    server.stop()
    gate.close()


@pytest.fixture
def server(running):
    yield running
    running.assert_idle()


def finals(messages):
    return [m for m in messages if m["type"] == "caption" and m["final"]]


def sentences(messages):
    return " ".join(m["text"] for m in messages if m["type"] == "agent")


def in_kannada_script(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and all(ord(c) in KANNADA for c in letters)


async def test_english_and_kannada_finals_come_in_order_each_once_with_their_decisions(server):
    messages = await example.call(server.url)
    assert [m["language"] for m in finals(messages)] == ["en", "kn", "en"]
    first, second, third = (m["text"] for m in finals(messages))
    assert first == third == "good morning"
    assert in_kannada_script(second)
    decided = [m for m in messages if m["type"] == "language"]
    assert {m["language"]: m["recognizer"] for m in decided} == {
        "en": "scripted-en",
        "kn": "tiny-kn",
    }
    assert [m["language"] for m in decided if m["reason"] == "final"] == ["en", "kn", "en"]
    metrics = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"{server.url}/metrics").read()
    )
    counted = [
        line
        for line in metrics.decode().splitlines()
        if line.startswith("voice_agent_gate_decisions")
    ]
    assert any('language="kn"' in line and 'recognizer="tiny-kn"' in line for line in counted)


async def test_two_callers_at_once_speak_different_languages(server):
    english, kannada = await asyncio.gather(
        example.call(server.url, example.PHRASES[:1]),
        example.call(server.url, example.PHRASES[1:2]),
    )
    assert [m["language"] for m in finals(english)] == ["en"]
    assert [m["language"] for m in finals(kannada)] == ["kn"]
    # What is heard is answered, and in its language.
    assert "You said: good morning" in sentences(english)
    assert in_kannada_script(sentences(kannada))

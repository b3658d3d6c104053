"""The language gate in real Pipecat pipelines, over recognisers that say what they are told."""

from __future__ import annotations

import numpy as np
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.tests.utils import SleepFrame
from pipecat.transcriptions.language import Language

from tests.engine.gate_fixtures import LEVELS, LevelIdentifier
from tests.support.frames import CHUNK, RATE, of_type, run, started, stopped
from tests.support.scripted import ScriptedRecognizer
from voice_agent.engine.gate import GatedRecognizer, GateSettings
from voice_agent.processors.language_gate import LanguageGate

ENGLISH = [(0.3, "good"), (0.6, "good morning"), (1.2, "good morning all")]
KANNADA = [(0.4, "ಶುಭೋ"), (0.9, "ಶುಭೋದಯ")]


@pytest.fixture
def gated():
    gates = []

    def make(*, languages=("en", "kn"), identifier=None, slots=8, **settings):
        made = GatedRecognizer(
            {
                "en": ScriptedRecognizer(ENGLISH, name="rec-en"),
                "kn": ScriptedRecognizer(KANNADA, name="rec-kn", languages=["kn"], slots=slots),
            },
            identifier or LevelIdentifier(),
            settings=GateSettings(**settings),
        )
        gates.append(made)
        return made

    yield make
    for gate in gates:
        gate.close()


def said(language: str, seconds: float):
    """One VAD segment, at a pace at which the identifier keeps up."""
    samples = np.full(round(seconds * RATE), round(LEVELS[language] * 32768), np.int16)
    pieces = [samples[i : i + CHUNK] for i in range(0, samples.size, CHUNK)]
    frames = [InputAudioRawFrame(piece.tobytes(), RATE, 1) for piece in pieces]
    paced = [f for frame in frames for f in (frame, SleepFrame(0.01))]
    return [started(), *paced, stopped()]


def messages(frames):
    return [f.data for f in of_type(frames, RTVIServerMessageFrame)]


def finals(frames):
    return [(f.text, f.language, f.finalized) for f in of_type(frames, TranscriptionFrame)]


async def test_two_languages_give_finals_in_order_each_once_in_its_language(gated):
    stt = LanguageGate(recognizer=gated(), ttfs_p99_latency=1.0)
    down, _ = await run(
        stt, said("en", 1.5), SleepFrame(0.2), said("kn", 1.5), SleepFrame(0.2), said("en", 1.5)
    )
    assert finals(down) == [
        ("good morning all", Language.EN, True),
        ("ಶುಭೋದಯ", Language.KN, True),
        ("good morning all", Language.EN, True),
    ]


async def test_no_interim_is_in_the_wrong_language_after_the_decision(gated):
    stt = LanguageGate(recognizer=gated(), ttfs_p99_latency=1.0)
    down, _ = await run(stt, said("kn", 1.5))
    kinds = (InterimTranscriptionFrame, RTVIServerMessageFrame)
    seen = of_type(down, *kinds)
    first = next(i for i, f in enumerate(seen) if isinstance(f, RTVIServerMessageFrame))
    before = [f for f in seen[:first] if isinstance(f, InterimTranscriptionFrame)]
    after = [f for f in seen[first:] if isinstance(f, InterimTranscriptionFrame)]
    assert {f.language for f in before} == {None}
    assert after and {f.language for f in after} == {Language.KN}
    assert all(f.text in "ಶುಭೋದಯ" for f in after)


async def test_held_partials_are_never_seen_in_the_wrong_language(gated):
    stt = LanguageGate(recognizer=gated(partials="hold"), ttfs_p99_latency=1.0)
    down, _ = await run(stt, said("kn", 1.5))
    interims = of_type(down, InterimTranscriptionFrame)
    assert interims and {f.language for f in interims} == {Language.KN}


async def test_the_client_is_told_every_decision(gated):
    stt = LanguageGate(recognizer=gated(), ttfs_p99_latency=1.0)
    down, _ = await run(stt, said("kn", 1.5))
    first, last = messages(down)
    assert first == {
        "type": "language",
        "language": "kn",
        "posterior": pytest.approx(1.0),
        "speech_s": pytest.approx(0.5, abs=0.3),
        "reason": "evidence",
        "recognizer": "rec-kn",
        "reversed": False,
    }
    assert last["reason"] == "final" and last["speech_s"] == pytest.approx(1.5, abs=0.1)


async def test_a_trouble_is_told_and_the_call_goes_on(gated):
    recognizer = gated(slots=0)
    stt = LanguageGate(recognizer=recognizer, ttfs_p99_latency=1.0)
    heard = []

    @stt.event_handler("on_gate_trouble")
    async def on_gate_trouble(_stt, trouble):
        heard.append(trouble.problem)

    down, up = await run(stt, said("kn", 1.5))
    told = [m for m in messages(down) if m["type"] == "gate_trouble"]
    assert told and "rec-kn cannot take over (all 0 slots" in told[0]["problem"]
    assert heard == [m["problem"] for m in told]
    assert finals(down) == [("good morning all", Language.EN, True)]
    assert of_type(up, ErrorFrame) == []


async def test_an_event_handler_gets_the_decisions(gated):
    stt = LanguageGate(recognizer=gated(), ttfs_p99_latency=1.0)
    decided = []

    @stt.event_handler("on_language_decided")
    async def on_language_decided(_stt, decision):
        decided.append(decision.language)

    await run(stt, said("en", 1.5), SleepFrame(0.1))
    assert decided == ["en", "en"]


@pytest.mark.parametrize("sound", ["noise", "silence"])
async def test_what_is_no_speech_decides_nothing(gated, sound):
    stt = LanguageGate(recognizer=gated(), ttfs_p99_latency=1.0)
    down, _ = await run(stt, said(sound, 1.5))
    assert messages(down) == []


async def test_a_language_in_the_settings_switches_the_gate_off(gated):
    settings = LanguageGate.Settings(language="kn")
    stt = LanguageGate(recognizer=gated(), settings=settings, ttfs_p99_latency=1.0)
    down, _ = await run(stt, said("en", 1.5))
    assert finals(down) == [("ಶುಭೋದಯ", Language.KN, True)]
    assert messages(down) == []


async def test_any_recognisers_and_identifier_make_a_gate():
    parts = {
        "hi": ScriptedRecognizer([(0.4, "namaste")], name="rec-hi", languages=["hi"]),
        "en": ScriptedRecognizer(ENGLISH, name="rec-en"),
    }
    stt = LanguageGate(models=parts, identifier=LevelIdentifier(("en", "hi")))
    down, _ = await run(stt, said("hi", 1.5), SleepFrame(0.2), said("en", 1.5))
    assert [(text, language) for text, language, _ in finals(down)] == [
        ("namaste", Language.HI),
        ("good morning all", Language.EN),
    ]
    for part in parts.values():
        part.close()


async def test_parts_that_cannot_be_loaded_end_the_call_with_a_sentence():
    stt = LanguageGate(models={"en": "no-such.nemo", "kn": "tiny-kn"}, ttfs_p99_latency=1.0)
    _, up = await run(stt, SleepFrame(0.1))
    errors = of_type(up, ErrorFrame)
    assert any("no-such.nemo: there is no such file" in e.error for e in errors)
    assert not stt.is_usable

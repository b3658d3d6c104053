"""The gate as a recogniser, on threads, on an event loop, and on the shipped models."""

from __future__ import annotations

import asyncio
import random
import threading

import numpy as np
import pytest

from tests.engine.gate_fixtures import LevelIdentifier, ManualRecognizer, speech
from tests.engine.indic_fixtures import WordASecond
from tests.support.collect import Collector
from training.kannada_speech import kannada_voice, speak
from voice_agent.engine.errors import EngineClosed
from voice_agent.engine.gate import GatedRecognizer, GateSettings, GateTrouble, LanguageDecided
from voice_agent.engine.indic_conformer import IndicConformerRecognizer, load_indic_conformer
from voice_agent.engine.lid import load_language_identifier
from voice_agent.engine.recognizer import Failed, Final, Recognizer, Stream, StreamOptions


@pytest.fixture
def recognizers():
    return {"en": ManualRecognizer("en"), "kn": IndicConformerRecognizer(WordASecond(), name="kn")}


@pytest.fixture
def gate(recognizers):
    made = GatedRecognizer(recognizers, LevelIdentifier())
    yield made
    made.close()


def test_it_is_a_recognizer(gate):
    assert isinstance(gate, Recognizer)
    assert isinstance(gate.open(Collector()), Stream)
    assert gate.languages == ("en", "kn")
    assert gate.name == "rec-en + kn by levels"


def test_the_default_language_may_be_any(recognizers):
    gate = GatedRecognizer(recognizers, LevelIdentifier(), default="kn")
    assert gate.languages == gate.settings.languages == ("kn", "en")
    gate.close()


@pytest.mark.parametrize(
    ("languages", "named", "default", "says"),
    [
        (("en",), ("en", "kn"), "en", "two or more"),
        (("en", "kn"), ("en", "kn"), "hi", "default language 'hi' has no recogniser"),
        (("en", "kn"), ("en", "hi"), "en", "levels cannot tell kn: it names en, hi, other"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(languages, named, default, says):
    parts = {code: ManualRecognizer(code) for code in languages}
    with pytest.raises(ValueError, match=says):
        GatedRecognizer(parts, LevelIdentifier(named), default=default)


def test_a_language_that_the_caller_names_is_not_gated(gate, recognizers):
    heard = Collector()
    stream = gate.open(heard, options=StreamOptions(language="kn-IN"))
    stream.feed(speech("en", 2.0))
    stream.finish()
    assert heard.final().language == "kn"
    assert not recognizers["en"].opened
    with pytest.raises(ValueError, match="writes en, kn, not 'fr'"):
        gate.open(heard, options=StreamOptions(language="fr"))


def test_look_ahead_is_the_default_recognisers_and_no_hindrance_to_the_other(gate, recognizers):
    heard = Collector()
    stream = gate.open(heard, options=StreamOptions(right_context=6, extra={"boost": 1}))
    stream.feed(speech("kn", 2.0))
    stream.finish()
    assert heard.final().language == "kn"
    options = recognizers["en"].opened[0].options
    assert (options.right_context, options.extra, options.language) == (6, {"boost": 1}, "en")


def test_two_callers_at_once_in_different_languages(gate, recognizers):
    one, other = Collector(), Collector()
    english, kannada = gate.open(one), gate.open(other)
    for _ in range(25):
        english.feed(speech("en", 0.08))
        kannada.feed(speech("kn", 0.08))
    english.finish()
    kannada.finish()
    recognizers["en"].opened[0].final()
    assert one.final().language == "en"
    assert other.final().language == "kn"
    assert {e.language for e in one.events if isinstance(e, LanguageDecided)} == {"en"}
    assert {e.language for e in other.events if isinstance(e, LanguageDecided)} == {"kn"}


def test_observers_get_what_every_stream_decides(gate):
    observed = []
    gate.observers.append(observed.append)
    for _ in range(2):
        heard = Collector()
        stream = gate.open(heard)
        stream.feed(speech("kn", 1.0))
        stream.finish()
        heard.final()
    assert [e.language for e in observed if e.reason == "final"] == ["kn", "kn"]


def test_on_an_event_loop_every_event_comes_on_the_loop_in_order(gate):
    async def call():
        loop = asyncio.get_running_loop()
        events, done = [], asyncio.Event()

        def heard(event):
            events.append((event, threading.current_thread()))
            if isinstance(event, Final):
                done.set()

        stream = gate.open(heard, deliver=loop.call_soon_threadsafe)
        for _ in range(20):
            stream.feed(speech("kn", 0.08))
            await asyncio.sleep(0.001)
        stream.finish()
        await asyncio.wait_for(done.wait(), 30)
        stream.close()
        return events

    events = asyncio.run(call())
    assert {thread for _, thread in events} == {threading.main_thread()}
    kinds = [type(e) for e, _ in events]
    assert kinds[0] is LanguageDecided and kinds[-1] is Final
    assert all(getattr(e, "language", "kn") == "kn" for e, _ in events)


def test_a_decision_after_the_loop_is_gone_harms_nobody(gate):
    async def call():
        stream = gate.open(print, deliver=asyncio.get_running_loop().call_soon_threadsafe)
        return stream

    stream = asyncio.run(call())
    stream.feed(speech("kn", 1.0))
    heard = Collector()
    other = gate.open(heard)
    other.feed(speech("kn", 1.0))
    other.finish()
    assert heard.final().language == "kn"


def test_an_identifier_that_hangs_leaves_the_caller_with_the_default_language(recognizers):
    asked, release = threading.Event(), threading.Event()

    class Hanging(LevelIdentifier):
        def identify(self, pcm):
            asked.set()
            release.wait()
            return super().identify(pcm)

    gate = GatedRecognizer(recognizers, Hanging(), settings=GateSettings(patience_s=0.01))
    heard = Collector()
    stream = gate.open(heard)
    stream.feed(speech("kn", 1.0))
    assert asked.wait(30)
    stream.finish()
    recognizers["en"].opened[0].final()
    assert heard.final().language == "en"
    assert [type(e) for e in heard.events] == [GateTrouble, Final]
    release.set()
    gate.close()


def test_closing_it_fails_its_streams(recognizers):
    recognizers["en"] = IndicConformerRecognizer(WordASecond(), name="en", language="hi")
    gate = GatedRecognizer(recognizers, LevelIdentifier(), default="kn")
    heard = Collector()
    stream = gate.open(heard)
    gate.close()
    assert isinstance(heard.end(), Failed)
    with pytest.raises(EngineClosed):
        stream.feed(speech("kn", 0.1))


# -- the shipped models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said():
    """Sentences of eSpeak's, by language, with the silence around them that a VAD leaves."""
    engine = kannada_voice()

    def say(language: str, text: str) -> np.ndarray:
        audio, _ = speak(engine, text, random.Random(3), ("",), language)
        return np.concatenate([np.zeros(8000, np.int16), audio, np.zeros(3200, np.int16)])

    return {
        "kn": say("kn", "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ"),
        "en": say("en", "good morning, I would like to book a table for two people this evening"),
    }


def test_tiny_lid_sends_kannada_to_tiny_kn_and_leaves_english_alone(said):
    jiwer = pytest.importorskip("jiwer")
    english = ManualRecognizer("en")
    gate = GatedRecognizer(
        {"en": english, "kn": load_indic_conformer("tiny-kn", device="cpu")},
        load_language_identifier("embedded"),
    )
    heard = Collector()
    stream = gate.open(heard)
    for language in ("en", "kn", "en"):
        for start in range(0, len(said[language]), 1280):
            stream.feed(said[language][start : start + 1280])
        stream.finish()
    while english.opened[0].final():
        pass
    first, second, third = (heard.final() for _ in range(3))
    gate.close()
    assert [f.language for f in (first, second, third)] == ["en", "kn", "en"]
    assert first.text == third.text == f"en {len(said['en'])}"
    wanted = "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ"
    assert jiwer.cer(wanted, second.text) < 0.4

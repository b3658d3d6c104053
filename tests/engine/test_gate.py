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
from tests.support.scripted import ScriptedRecognizer
from training.kannada_speech import kannada_voice, speak
from voice_agent.engine.errors import EngineClosed, ModelNotFound
from voice_agent.engine.gate import (
    GatedRecognizer,
    GateSettings,
    GateTrouble,
    LanguageDecided,
    load_gate,
)
from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.indic_conformer import IndicConformerRecognizer, load_indic_conformer
from voice_agent.engine.lid import load_language_identifier
from voice_agent.engine.recognizer import (
    Failed,
    Final,
    Recognizer,
    Stream,
    StreamOptions,
    deliver_here,
)


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


def test_many_callers_on_threads_of_their_own_lose_nothing_and_mix_nothing_up():
    parts = {
        "en": ScriptedRecognizer([(0.1, "one"), (0.6, "one two")], slots=16, name="rec-en"),
        "kn": ScriptedRecognizer([(0.6, "ಒಂದು")], slots=240, name="rec-kn", languages=["kn"]),
    }
    gate = GatedRecognizer(parts, LevelIdentifier(), settings=GateSettings(patience_s=30.0))
    spoken = {"en": speech("en", 0.7), "kn": speech("kn", 0.7)}
    wrong = []

    def caller(seed: int) -> None:
        draw, heard = random.Random(seed), Collector()
        stream = gate.open(heard)
        said = [draw.choice(("en", "kn")) for _ in range(15)]
        for language in said:
            for start in range(0, len(spoken[language]), 1280):
                stream.feed(spoken[language][start : start + 1280])
            stream.finish()
        finals = [(f.language, f.text) for f in (heard.final(30) for _ in said)]
        texts = {"en": "one two", "kn": "ಒಂದು"}
        if finals != [(language, texts[language]) for language in said]:
            wrong.append((said, finals))
        stream.close()

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in callers)
    assert wrong == []
    assert not any(part.streams for part in parts.values()), "every slot is given back"
    gate.close()


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
    ((kind, total),) = (
        (kind, total) for kind, total in gate.tally.decisions().items() if kind.reason == "final"
    )
    assert (kind.language, kind.recognizer, kind.reversed) == ("kn", "kn", False)
    assert (total.count, total.posterior, total.speech_s) == (2, pytest.approx(2.0), 2.0)
    assert gate.tally.troubles() == 0


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
    assert gate.tally.troubles() == 1
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


def test_load_gate_loads_parts_by_name_and_takes_those_that_are_loaded():
    english = ManualRecognizer("en")
    gate = load_gate({"en": english, "kn": "tiny-kn"}, device="cpu")
    assert gate.name == "rec-en + tiny-kn by tiny-lid"
    assert gate.default == "en" and gate.recognizers["en"] is english
    gate.close()


@pytest.mark.parametrize(
    ("models", "identifier", "error", "says"),
    [
        ({"en": "none.nemo", "kn": "tiny-kn"}, "embedded", ModelNotFound, "no such file"),
        ({"kn": "tiny-kn", "hi": "tiny-kn"}, "embedded", ValueError, "writes kn, not 'hi'"),
        ({"kn": "tiny-kn"}, "embedded", ValueError, "two or more"),
        ({"kn": "tiny-kn"}, "guess", ModelNotFound, "choose embedded"),
        ({}, "embedded", ValueError, "has no recogniser"),
    ],
)
def test_load_gate_names_what_does_not_fit(models, identifier, error, says):
    with pytest.raises(error, match=says):
        load_gate(models, identifier=identifier, device="cpu")


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


class Listener:
    """A gated stream by tiny-lid that hears as fast as it is fed, without a thread."""

    def __init__(self):
        self.recognizers = {code: ManualRecognizer(code) for code in ("en", "kn")}
        self.ear = Ear(load_language_identifier("embedded"))
        self.events = []
        self.stream = GatedStream(
            self.recognizers,
            GateSettings(patience_s=60.0),
            self.ear,
            self.events.append,
            deliver=deliver_here,
            options=StreamOptions(),
            observe=lambda _: None,
        )

    def hear(self, pcm):
        for start in range(0, len(pcm), 1280):
            self.stream.feed(pcm[start : start + 1280])
            while self.ear.answer():
                pass

    def end(self):
        self.stream.finish()
        while self.ear.answer():
            pass
        for recognizer in self.recognizers.values():
            for stream in list(recognizer.streams):
                stream.final()
        return [e for e in self.events if isinstance(e, LanguageDecided)]


SOUNDS = {
    "silence": np.zeros(48_000, np.float32),
    "hiss": np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32),
    "melody": np.concatenate(
        [
            np.sin(2 * np.pi * hz * np.arange(8000) / 16_000) * np.exp(-np.arange(8000) / 5000)
            for hz in (262, 294, 330, 349, 392, 440)
        ]
    ).astype(np.float32),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_tiny_lid_decides_nothing_about_what_is_no_speech(sound):
    listener = Listener()
    listener.hear(SOUNDS[sound])
    assert listener.end() == []
    assert not listener.recognizers["kn"].opened


def test_a_segment_of_a_third_of_a_second_goes_by_the_callers_past(said):
    listener = Listener()
    short = said["kn"][8000 : 8000 + 4800]
    listener.hear(short)
    first = listener.end()
    assert [d.reason for d in first] in ([], ["final"]), "there is no past to go by"
    for _ in range(2):
        listener.hear(said["kn"])
        listener.end()
    listener.hear(short)
    assert listener.end()[-1].language == "kn"


def test_a_segment_that_switches_language_in_the_middle_is_followed(said):
    listener = Listener()
    listener.hear(said["en"][:-3200])
    listener.hear(np.concatenate([said["kn"][8000:-3200]] * 2))
    decided = listener.end()
    assert [d.language for d in decided][:2] == ["en", "kn"]
    assert decided[1].reason == "recheck" and decided[1].reversed

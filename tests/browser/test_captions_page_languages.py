"""The page and the whole language gate, over English and Kannada that are really spoken.

A person speaks the English and espeak-ng the Kannada; tiny-lid tells them apart, tiny-en
and tiny-kn write them. Which words these small models hear is not what this is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from tests.support.agent_server import RunningServer
from tests.support.voice import speech
from voice_agent.config import load_settings
from voice_agent.demo.clip import CLIP_RATE, Clip, load_clip
from voice_agent.engine.gate import GateSettings, load_gate

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")

from tests.browser.captions_page import CaptionsPage  # noqa: E402

KANNADA = "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು, ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ."
LETTERS = {
    "en": re.compile(r"\b(it|was|the|best|of|times?)\b"),
    "kn": re.compile(r"[\u0c80-\u0cff]{3}"),
}
PAUSE_S = 8.0  # in which the first answer is spoken


@pytest.fixture
def server() -> Iterator[RunningServer]:
    gate = load_gate(
        {"en": "tiny-en", "kn": "tiny-kn"},
        device="cpu",
        settings=GateSettings(patience_s=5.0),  # the test machine may be busy
    )
    overrides = {"gate.enabled": True, "turn.smart": False, "server.max_sessions": 1}
    server = RunningServer(load_settings(overrides=overrides), gate)
    yield server
    server.stop()
    gate.close()


@pytest.fixture(scope="module")
def english_then_kannada(clip, tmp_path_factory) -> Clip:
    path = tmp_path_factory.mktemp("kannada") / "kannada.wav"
    with ThreadPoolExecutor(1) as pool:  # this thread has the browser's event loop
        soundfile.write(path, pool.submit(speech, KANNADA, "kn").result(), 16_000)
    pause = np.zeros(round(PAUSE_S * CLIP_RATE), np.int16)
    return replace(clip, pcm=np.concatenate([clip.pcm, pause, load_clip(str(path)).pcm]))


def test_each_language_that_is_spoken_has_its_badge_its_letters_and_its_answer(
    server, browse, english_then_kannada, microphone
):
    sound = microphone(english_then_kannada)
    caller = CaptionsPage(browse(server.url, microphone=sound).page)
    caller.talk()
    for code, language in (("en", "English"), ("kn", "Kannada")):
        mine = caller.see("You", LETTERS[code])
        playwright.expect(mine.locator(".badge")).to_have_text(language)
        playwright.expect(mine.locator(".words")).to_have_attribute("lang", code)
        caller.see("Agent", LETTERS[code])
    assert caller.serious_faults() == []
    caller.hang_up()
    server.assert_idle()

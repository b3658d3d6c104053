"""LLM and TTS from settings: what is built, what is changed with the language, what is refused."""

import http.server
import importlib.util
import json
import threading

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    LLMContextFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.transcriptions.language import Language

from tests.support.frames import of_type, run
from voice_agent.config import ConfigError, load_settings
from voice_agent.services import EchoLLMService, build_llm, build_tts
from voice_agent.services.espeak_ng import espeak_ng
from voice_agent.services.llm import llm_delta
from voice_agent.services.tts import tts_delta


def tts(**settings):
    return load_settings(overrides={"tts": settings}).tts


def llm(**settings):
    return load_settings(overrides={"llm": settings}).llm


def test_without_an_endpoint_the_stand_in_answers():
    assert isinstance(build_llm(llm()), EchoLLMService)
    assert llm_delta(llm(), Language.KN).language == "kn"


class Endpoint(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that says "fine" to everybody and remembers what it got."""

    asked: list[dict] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append({"path": self.path, **json.loads(body)})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        delta = {"role": "assistant", "content": "fine"}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "qwen"}
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *args):
        """Into no test's output."""


@pytest.fixture
def endpoint():
    Endpoint.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


async def test_an_endpoint_answers_and_is_told_the_language_of_the_caller(endpoint):
    settings = llm(url=endpoint, model="qwen", system_prompt="Be brief.")
    turn = LLMContextFrame(LLMContext([{"role": "user", "content": "hello"}]))
    again = LLMContextFrame(LLMContext([{"role": "user", "content": "namaskara"}]))
    switch = LLMUpdateSettingsFrame(delta=llm_delta(settings, Language.KN))
    down, up = await run(build_llm(settings), turn, switch, again)
    assert [frame.text for frame in of_type(down, LLMTextFrame)] == ["fine", "fine"]
    assert of_type(up, ErrorFrame) == []
    first, second = Endpoint.asked
    assert (first["path"], first["model"]) == ("/v1/chat/completions", "qwen")
    assert [m["content"] for m in first["messages"]] == ["Be brief.", "hello"]
    system = second["messages"][0]["content"]
    assert system.startswith("Be brief.") and "'kn'" in system


async def test_espeak_speaks_with_the_voice_and_the_rate_of_the_settings():
    service = build_tts(tts(voices={"kn": "kn+f2"}, rate=1.5), "kn")
    down, _ = await run(service, TTSSpeakFrame("12 34 56."))
    said = sum(f.num_frames / f.sample_rate for f in of_type(down, TTSAudioRawFrame))
    pieces = [piece async for piece in espeak_ng().speak("12 34 56.", "kn+f2", rate=1.5)]
    assert said == pytest.approx(sum(map(len, pieces)) / 2 / espeak_ng().sample_rate, rel=0.03)


@pytest.mark.parametrize(
    "voices, language, voice",
    [
        ({}, Language.KN, None),
        ({"kn": "kn+f2"}, Language.KN_IN, "kn+f2"),
        ({"kn": "kn+f2", "kn-IN": "kn+m3"}, Language.KN_IN, "kn+m3"),
        ({"kn": "kn+f2"}, Language.EN, None),
    ],
)
def test_a_language_takes_the_voice_that_was_named_for_it(voices, language, voice):
    """Or none, which gives back the one of the language: the last one's voice must not stay."""
    delta = tts_delta(tts(voices=voices), language)
    assert (delta.voice, delta.language) == (voice, str(language))


def test_a_language_without_a_voice_changes_nothing():
    assert tts_delta(tts(), Language.BN_IN) is not None
    assert tts_delta(tts(), Language.ZU) is None
    assert tts_delta(tts(name="kokoro"), Language.KN) is None
    assert tts_delta(tts(name="piper"), Language.HI) is None


def test_kokoro_and_magpie_have_voices_of_their_own():
    assert tts_delta(tts(name="kokoro"), Language.HI).voice == "hf_alpha"
    assert tts_delta(tts(name="nvidia"), Language.HI).language == "hi-IN"
    assert tts_delta(tts(name="nvidia"), Language.KN) is None


@pytest.mark.parametrize(
    "settings, language, says",
    [
        ({}, "tlh", "language is 'tlh', for which espeak-ng has no voice"),
        ({"voices": {"en": "zz"}}, "en", "tts.voices.en: espeak-ng has no voice 'zz'"),
    ],
)
def test_a_voice_that_does_not_exist_is_refused_before_the_call(settings, language, says):
    with pytest.raises(ConfigError, match=says):
        build_tts(tts(**settings), language)


@pytest.mark.parametrize(
    "name, module", [("kokoro", "kokoro_onnx"), ("piper", "piper"), ("nvidia", "riva")]
)
def test_a_package_that_is_missing_is_named_with_what_supplies_it(monkeypatch, name, module):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == module else found(n))
    with pytest.raises(ConfigError, match=rf"pip install 'pipecat-ai\[{name}\]'"):
        build_tts(tts(name=name))

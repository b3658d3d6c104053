"""espeak-ng: the library on its thread, and the Pipecat service over it."""

import asyncio
import subprocess
import sys
from contextlib import aclosing

import numpy as np
import pytest
from pipecat.frames.frames import (
    AggregatedTextFrame,
    ErrorFrame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.worker import PipelineParams
from pipecat.services.settings import TTSSettings
from pipecat.tests.utils import SleepFrame

from tests.support.frames import of_type, run
from voice_agent.services import EspeakTTSService
from voice_agent.services.espeak import language_to_espeak
from voice_agent.services.espeak_ng import SpeechError, espeak_ng

ENGLISH = "It was the best of times."
KANNADA = "ನೀವು ಹೇಳಿದ್ದು: ನಮಸ್ಕಾರ."
DIGITS = "12 34 56."
"""Each voice reads it in its own language, so its length tells which voice it was."""
Settings = EspeakTTSService.Settings


async def say(text: str, voice: str = "en", rate: float = 1.0) -> list[bytes]:
    return [piece async for piece in espeak_ng().speak(text, voice, rate=rate)]


def seconds(pieces: list[bytes]) -> float:
    return sum(map(len, pieces)) / 2 / espeak_ng().sample_rate


async def test_speech_comes_in_pieces_and_is_loud_enough():
    pieces = await say(ENGLISH)
    assert len(pieces) > 5
    samples = np.frombuffer(b"".join(pieces), np.int16)
    assert np.abs(samples.astype(int)).max() > 8000


async def test_voices_that_share_the_library_do_not_mix():
    alone = [seconds(await say(DIGITS, voice)) for voice in ("en", "kn")]
    crowd = await asyncio.gather(*(say(DIGITS, voice) for voice in ["en", "kn"] * 4))
    # Not to the sample: the library's breath is random.
    assert [seconds(said) for said in crowd] == pytest.approx(alone * 4, abs=0.01)
    assert alone[1] > alone[0] + 0.1


def test_another_user_of_the_library_in_the_process_does_not_touch_ours():
    """In a process of its own: with shared state it dies of a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", _TWO_USERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["spoke", "spoke"]


_TWO_USERS = """
import asyncio, ctypes, espeakng_loader
from voice_agent.services.espeak_ng import espeak_ng

async def say():
    print("spoke" if [piece async for piece in espeak_ng().speak("hello", "en")] else "silent")

asyncio.run(say())
other = ctypes.CDLL(espeakng_loader.get_library_path())
other.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
other.espeak_Terminate()
asyncio.run(say())
"""


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_closes_in_mid_speech_ends_it_quietly():
    async def leave() -> None:
        speech = espeak_ng().speak(" ".join([ENGLISH] * 200), "en")
        await anext(speech)
        held.append(speech)  # else its end would stop it in order

    held: list = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    asyncio.run(asyncio.wait_for(say(ENGLISH), timeout=5.0))


async def test_kannada_is_spoken():
    assert seconds(await say(KANNADA, "kn")) > 1


async def test_rate_is_relative_to_the_normal_one():
    assert seconds(await say(ENGLISH, rate=1.5)) < 0.8 * seconds(await say(ENGLISH))


async def test_who_stops_listening_stops_the_synthesis():
    novel = " ".join([ENGLISH] * 2000)
    async with aclosing(espeak_ng().speak(novel, "en")) as pieces:
        await anext(pieces)
    # The library's one thread is free at once; half an hour of speech would take it seconds.
    await asyncio.wait_for(say(ENGLISH), timeout=1.0)


@pytest.mark.parametrize("voice", ["zz", "en+nobody", ""])
async def test_a_voice_that_does_not_exist_is_named(voice):
    with pytest.raises(SpeechError, match=f"no voice '{voice}'".replace("+", r"\+")):
        await say("x", voice)


@pytest.mark.parametrize(
    "language, voice",
    [
        ("en", "en"),
        ("en-US", "en-us"),
        ("kn-IN", "kn"),
        ("hi", "hi"),
        ("zh-CN", "cmn"),
        ("qq", None),
    ],
)
def test_a_language_has_its_voice(language, voice):
    assert language_to_espeak(language) == voice


# The service


def audio_s(frames) -> float:
    return sum(f.num_frames / f.sample_rate for f in of_type(frames, TTSAudioRawFrame))


async def test_it_speaks_at_the_pipelines_rate_between_started_and_stopped():
    params = PipelineParams(audio_out_sample_rate=24_000)
    down, _ = await run(EspeakTTSService(), TTSSpeakFrame(ENGLISH), pipeline_params=params)
    assert {f.sample_rate for f in of_type(down, TTSAudioRawFrame)} == {24_000}
    assert audio_s(down) == pytest.approx(seconds(await say(ENGLISH)), rel=0.03)
    kinds = [type(f) for f in of_type(down, TTSStartedFrame, TTSAudioRawFrame, TTSStoppedFrame)]
    assert kinds[0] is TTSStartedFrame and kinds[-1] is TTSStoppedFrame
    assert kinds.count(TTSAudioRawFrame) > 5, "streamed, not in one piece"
    assert [f.text for f in of_type(down, TTSTextFrame)] == [ENGLISH]


async def test_its_voice_follows_the_language_and_the_next_sentence_has_it():
    to_kannada = TTSUpdateSettingsFrame(delta=TTSSettings(language="kn", voice=None))
    down, _ = await run(EspeakTTSService(), to_kannada, TTSSpeakFrame(DIGITS))
    assert audio_s(down) == pytest.approx(seconds(await say(DIGITS, "kn")), rel=0.03)


async def test_a_voice_that_is_named_goes_before_the_language():
    tts = EspeakTTSService(settings=Settings(voice="kn", language="en"))
    down, _ = await run(tts, TTSSpeakFrame(DIGITS))
    assert audio_s(down) == pytest.approx(seconds(await say(DIGITS, "kn")), rel=0.03)


async def test_an_interruption_cuts_it_short():
    """What was synthesised and not played is dropped, and it can speak again."""
    down, _ = await run(
        EspeakTTSService(),
        TTSSpeakFrame(" ".join([ENGLISH] * 500)),
        SleepFrame(0.05),
        InterruptionFrame(),
        SleepFrame(0.1),
        TTSSpeakFrame("Yes."),
    )
    (at,) = (i for i, frame in enumerate(down) if isinstance(frame, InterruptionFrame))
    assert audio_s(down[at:]) < 2
    assert [f.text for f in of_type(down[at:], TTSTextFrame)] == ["Yes."]


async def test_a_voice_that_does_not_exist_is_an_error_and_no_crash():
    tts = EspeakTTSService(settings=Settings(voice="zz"))
    down, up = await run(tts, TTSSpeakFrame(ENGLISH))
    assert any("espeak-ng has no voice 'zz'" in f.error for f in of_type(up, ErrorFrame))
    assert of_type(down, AggregatedTextFrame)

"""When a call is over. What is said on it, `tests/server/test_webrtc.py` tests."""

import numpy as np
import pytest
import soundfile

from tests.support.agent_server import RunningServer
from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import load_settings
from voice_agent.demo.call import place_call
from voice_agent.demo.clip import load_clip
from voice_agent.demo.errors import DemoError

BEST, WORST = "it was the best of times", "it was the worst of times"


@pytest.fixture(scope="module")
def server():
    """One that answers after each phrase, so that the caller interrupts the first answer."""
    settings = load_settings(overrides={"turn.smart": False, "turn.pause_s": 0.1})
    recognizer = ScriptedRecognizer([(0.4, BEST)], [(0.4, WORST)], slots=settings.slots)
    running = RunningServer(settings, recognizer)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def two_phrases(tmp_path_factory):
    moonshine = pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    speech, rate = soundfile.read(f"{moonshine.__path__[0]}/assets/two_cities.wav")
    short, long = speech[rate : round(2.95 * rate)], speech[rate : round(4.9 * rate)]
    file = tmp_path_factory.mktemp("clip") / "twice.wav"
    soundfile.write(file, np.concatenate((short, np.zeros(rate * 3 // 4), long)), rate)
    clip = load_clip(str(file), f"{BEST} {WORST}")
    assert len(clip.speech_ends_s) == 2
    return clip


async def test_a_call_lasts_until_its_last_phrase_is_answered(server, two_phrases):
    """Not until an answer to some phrase, after which there happens to be silence."""
    heard = await place_call(server.url, two_phrases)
    assert [final.text for final in heard.finals] == [BEST, WORST]
    assert heard.said[-1] == f"You said: {WORST}."
    assert len(heard.voice_to_voice_s) == len(heard.said)


async def test_a_server_that_is_not_there_is_told_with_its_address(two_phrases):
    with pytest.raises(DemoError, match="127.0.0.1:9/api/offer cannot be reached: .*refused"):
        await place_call("http://127.0.0.1:9", two_phrases)

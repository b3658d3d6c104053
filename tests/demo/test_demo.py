"""`voice-agent demo`, whole: a server process, a WebRTC call, a verdict."""

import pytest
import soundfile

from tests.support.voice import speech
from voice_agent.cli import main

moonshine = pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")

KANNADA = "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು, ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ."


def demo(*flags: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *flags])
    return int(ended.value.code or 0)


def test_a_model_that_hears_nonsense_fails_the_demo(checkpoint, tmp_path, capsys):
    speech, rate = soundfile.read(f"{moonshine.__path__[0]}/assets/two_cities.wav")
    soundfile.write(tmp_path / "best.wav", speech[rate : round(2.95 * rate)], rate)
    reply = tmp_path / "replies" / "reply.wav"
    code = demo(
        *("--model", checkpoint, "--clip", str(tmp_path / "best.wav")),
        *("--expect", "it was the best of times", "--reply", str(reply)),
    )
    shown = capsys.readouterr().out
    assert code == 1
    assert "starting a server" in shown and "is ready with" in shown
    assert "The call was not as it should be: the word error rate is " in shown
    assert f" in {reply}" in shown
    spoken, _ = soundfile.read(reply)
    assert abs(spoken).max() > 0.05, "it answers nonsense with nonsense, but aloud"


def test_a_model_of_another_language_is_demonstrated_in_it(tmp_path, capsys):
    soundfile.write(tmp_path / "kannada.wav", speech(KANNADA, "kn"), 16_000)
    flags = ("--model", "tiny-kn", "--language", "kn", "--clip", str(tmp_path / "kannada.wav"))
    assert demo(*flags, "--reply", str(tmp_path / "reply.wav")) == 0
    shown = capsys.readouterr().out
    assert "is ready with tiny-kn" in shown and "(kn, final " in shown


def test_the_embedded_model_passes_the_demo(tmp_path, capsys):
    assert demo("--reply", str(tmp_path / "reply.wav")) == 0
    shown = capsys.readouterr().out
    assert "(en, final " in shown and "(voice to voice " in shown
    assert "The call was as it should be." in shown
    assert soundfile.info(tmp_path / "reply.wav").duration > 0.3

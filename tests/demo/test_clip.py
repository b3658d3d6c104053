"""The clip that is played, and where its phrases end."""

import numpy as np
import pytest
import soundfile

from voice_agent.demo import clip as clips
from voice_agent.demo.clip import CLIP_RATE, known_clip, load_clip
from voice_agent.demo.errors import DemoError

moonshine = pytest.mark.skipif(
    clips.find_spec("moonshine_voice") is None, reason="its clip needs the extra 'demo'"
)


@moonshine
def test_the_known_clip_is_cut_in_pauses_and_has_its_text():
    clip = known_clip()
    assert clip.text is not None and clip.text.startswith("It was the best of times")
    assert clip.pcm.dtype == np.int16 and 15 < clip.seconds < 18
    edges = np.concatenate((clip.pcm[: CLIP_RATE // 10], clip.pcm[-CLIP_RATE // 10 :]))
    assert np.abs(edges).max() < 0.05 * np.abs(clip.pcm).max(), "both ends lie in a pause"


@moonshine
def test_phrases_end_where_the_speaker_pauses():
    clip = known_clip()
    ends = clip.speech_ends_s
    assert len(ends) >= 6, "eight phrases, with pauses between most of them"
    assert list(ends) == sorted(ends) and ends[-1] <= clip.seconds
    for end in ends:
        after = clip.pcm[round((end + 0.03) * CLIP_RATE) : round((end + 0.1) * CLIP_RATE)]
        assert np.abs(after).mean() < 0.2 * np.abs(clip.pcm).mean()


def test_the_end_of_speech_before_a_moment(tmp_path):
    clip = clips.Clip("c.wav", np.zeros(CLIP_RATE * 3, np.int16), None, (1.0, 2.5))
    assert [clip.speech_end_before(t) for t in (0.5, 1.0, 2.0, 9.0)] == [None, 1.0, 1.0, 2.5]


def test_silence_has_no_phrases(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    clip = load_clip(str(tmp_path / "silence.wav"))
    assert clip.speech_ends_s == () and clip.seconds == 1.0


def test_a_part_that_does_not_exist_is_refused(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(16000), 16000)
    with pytest.raises(DemoError, match="no audio between 5.0 s and 6.0 s"):
        load_clip(str(tmp_path / "short.wav"), from_s=5.0, to_s=6.0)


def test_a_missing_wheel_names_the_extra_and_the_way_around(monkeypatch):
    monkeypatch.setattr(clips, "find_spec", lambda name: None)
    with pytest.raises(DemoError, match=r"voice-agent\[demo\].*--clip"):
        known_clip()

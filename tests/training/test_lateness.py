"""When words come, after their sound."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import soxr

from training.lateness import aligned, late, measure, told
from voice_agent.bench.wer import transcribe_clip
from voice_agent.demo.clip import CLIP_RATE, known_clip
from voice_agent.engine import load_recognizer
from voice_agent.engine.recognizer import Final, Partial, StreamOptions


class Scripted:
    """Says after each chunk what it is told to."""

    def __init__(self, partials: list[str], final: str) -> None:
        self.partials, self.final = iter(partials), final
        self.fed: list[int] = []

    def record_lags(self, recorder) -> None:
        self.recorder = recorder

    def open(self, on_event, *, options):
        self.right, self.on_event = options.right_context, on_event
        return self

    def feed(self, pcm) -> None:
        self.fed.append(len(pcm))
        if len(pcm) == 1280 * (self.right + 1):
            if text := next(self.partials):
                self.on_event(Partial(text))
            self.recorder([0], [0.0], 0.0)

    def finish(self) -> None:
        self.on_event(Final(self.final))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("right", [0, 6])
def test_a_word_is_said_when_it_has_its_last_letter(right):
    recognizer = Scripted(["", "the", "", "the ca", "the cat s", ""], "the cat sat down")
    chunk = 0.08 * (right + 1)
    audio = np.zeros(6 * 1280 * (right + 1) + 800, np.float32)
    words = told(recognizer, audio, StreamOptions(right_context=right))
    moments = {"the": 2 * chunk, "cat": 5 * chunk}
    moments |= dict.fromkeys(("sat", "down"), 6 * chunk + 0.05)
    assert dict(words) == pytest.approx(moments)
    assert sum(recognizer.fed) == len(audio) and recognizer.closed
    assert recognizer.recorder is None


def test_only_words_that_are_heard_right_count():
    said = [("the", 0.30), ("cat", 0.62), ("sat", 1.00), ("down", 1.41)]
    heard = [("the", 0.4), ("hat", 0.8), ("sat", 1.12)]
    assert list(late(said, heard)) == pytest.approx([0.1, 0.12])
    assert list(late(said, [])) == []


def test_it_waits_for_a_real_engine_and_hears_what_it_says():
    pytest.importorskip("moonshine_voice", reason="the clip needs the extra 'demo'")
    pcm = known_clip().pcm[: 5 * CLIP_RATE].astype(np.float32) / 32768
    audio = soxr.resample(pcm, CLIP_RATE, 16_000)
    recognizer = load_recognizer("tiny-en", device="cpu")
    try:
        for final_pass in ("stream", "beam"):
            options = StreamOptions(right_context=1, final_pass=final_pass)
            heard = told(recognizer, audio, options)
            whole = transcribe_clip(recognizer, audio, options)
            assert [word for word, _ in heard] == whole.text.split() != []
            moments = [moment for _, moment in heard]
            assert moments == sorted(moments) and 0.5 < moments[0] < moments[-1] <= 5.0
    finally:
        recognizer.close()


def test_clips_are_transcribed_at_the_right_context_and_those_that_do_not_align_are_left_out(
    tmp_path, monkeypatch
):
    lines = []
    for name, text in (("one", "Yes, it is."), ("two", "No.")):
        soundfile.write(tmp_path / f"{name}.flac", np.zeros(32_000), 16_000)
        lines.append(json.dumps({"audio": f"{name}.flac", "text": text, "lang": "en"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    asked = []

    def aligner(audio: np.ndarray, text: str):
        if text == "no":
            return None
        return [], [("yes", 0, 8_000), ("it", 8_000, 16_000), ("is", 16_000, 24_000)]

    def hear(recognizer, audio, options):
        asked.append((recognizer, len(audio), options.right_context))
        return [("yes", 0.56), ("is", 1.68)]

    monkeypatch.setattr("training.lateness.told", hear)
    clips = aligned(aligner, tmp_path / "manifest.jsonl")
    found = measure("a recogniser", clips, StreamOptions(right_context=6))
    assert asked == [("a recogniser", 32_000, 6)]
    assert found == pytest.approx([0.06, 0.18])

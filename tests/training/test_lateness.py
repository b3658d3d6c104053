"""When words come, after their sound."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from training.lateness import aligned, known_at, late, measure
from voice_agent.engine.recognizer import Final, Word


@pytest.mark.parametrize(
    "end_s, right, wanted",
    [
        (0.08, 0, 0.08),
        (0.8, 0, 0.8),
        (0.08, 1, 0.16),
        (0.16, 1, 0.16),
        (0.24, 1, 0.32),
        (1.12, 13, 1.12),
        (1.2, 13, 2.24),
    ],
)
def test_a_word_is_said_when_the_chunk_of_its_last_token_has_been_heard(end_s, right, wanted):
    assert known_at(end_s, right) == pytest.approx(wanted)


def test_only_words_that_are_heard_right_count():
    said = [("the", 0.30), ("cat", 0.62), ("sat", 1.00), ("down", 1.41)]
    heard = [Word("the", 0.24, 0.4, 1.0), Word("hat", 0.5, 0.8, 1.0), Word("sat", 1.0, 1.12, 1.0)]
    assert list(late(said, heard, 0)) == pytest.approx([0.1, 0.12])
    assert list(late(said, heard, 1)) == pytest.approx([0.18, 0.12])
    assert list(late(said, [], 0)) == []


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

    def transcribe(recognizer, audio, options):
        asked.append((recognizer, len(audio), options.right_context))
        return Final("yes is", words=(Word("yes", 0.4, 0.56, 1.0), Word("is", 1.2, 1.68, 1.0)))

    monkeypatch.setattr("training.lateness.transcribe_clip", transcribe)
    clips = aligned(aligner, tmp_path / "manifest.jsonl")
    found = measure("a recogniser", clips, 6)
    assert asked == [("a recogniser", 32_000, 6)]
    assert found == pytest.approx([0.06, 0.18])

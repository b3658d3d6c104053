from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voice_agent.bench import app, wer
from voice_agent.engine.fusion import Weights
from voice_agent.engine.recognizer import Final


class Parrot:
    """Says what it is told, clip after clip, by the clip's length in samples."""

    right_contexts = (0, 13)

    def __init__(self, words):
        self.words = words

    def open(self, on_event, *, options):
        parrot = self

        class Stream:
            def feed(self, pcm):
                self.heard = parrot.words[len(pcm)]

            def finish(self):
                on_event(Final(self.heard if options.right_context else "nothing"))

            def close(self):
                pass

        return Stream()

    def close(self):
        pass


@pytest.fixture
def manifest(tmp_path):
    lines = [
        ("a", "Hello, World!", 1600, 16000, "en", "X via somewhere"),
        ("b", "it's two words", 2400, 48000, "en", "Y"),
        ("c", "ನಮಸ್ಕಾರ", 1600, 16000, "kn", "Z"),
    ]
    with (tmp_path / "manifest.jsonl").open("w") as out:
        for name, text, samples, rate, lang, source in lines:
            soundfile.write(tmp_path / f"{name}.flac", np.zeros(samples), rate)
            row = {"audio": f"{name}.flac", "text": text, "lang": lang, "source": source}
            out.write(json.dumps(row) + "\n")
    return tmp_path / "manifest.jsonl"


def test_errors_are_pooled_over_words_and_split_by_source(manifest, monkeypatch, capsys, tmp_path):
    parrot = Parrot({1600: "hello world", 800: "its two words more"})
    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *a, **k: parrot)
    rows = wer.run(manifest, "parrot", "cpu", None, False, "en", True, tmp_path / "out.json")
    rates = {(r.right_context, r.source): (r.words, r.wer) for r in rows}
    assert rates[13, "X"] == (2, 0.0)
    assert rates[13, "Y"] == (3, 2 / 3)
    assert rates[13, "all"] == (5, 2 / 5)
    assert rates[0, "all"] == (5, 1.0)
    assert "| 13 | stream | 2 | 5 | 40.0" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())) == len(rows)


def test_a_language_model_is_the_searchs_and_its_name_stands_in_the_rows(
    manifest, monkeypatch, capsys
):
    given = {}

    def load(model, **kwargs):
        given.update(kwargs)
        return Parrot({1600: "a", 800: "b"} | dict.fromkeys(range(100_000), "c"))

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    flags = ["--model", "parrot", "--right-context", "0", "--live", "0", "--search"]
    flags += ["--language-model", "lm.arpa.gz", "--fusion", "0.5", "0.25", "1"]
    ran = CliRunner().invoke(app, ["wer", "--manifest", str(manifest), *flags])
    assert ran.exit_code == 0, ran.output
    assert given["language_model"] == Path("lm.arpa.gz")
    assert given["fusion"] == Weights(lm=0.5, internal=0.25, bonus=1.0)
    assert "| 0 | full | 2 " in ran.output and "| 0 | search, lm.arpa.gz | 2 " in ran.output


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--language-model", "lm.arpa"], "add --search"),
        (["--search", "--fusion", "1", "1", "1"], "name one"),
    ],
)
def test_a_language_model_without_search_is_a_wrong_use(manifest, flags, says):
    ran = CliRunner().invoke(app, ["wer", "--manifest", str(manifest), *flags])
    assert ran.exit_code == 2 and says in " ".join(ran.output.replace("│", " ").split())


def test_time_to_final_is_measured_on_clips_played_at_their_pace(manifest, monkeypatch, capsys):
    fed = []

    class Patient(Parrot):
        """Takes 20 ms for a final, and notes what it is fed."""

        def open(self, on_event, *, options):
            class Stream:
                def feed(self, pcm):
                    fed.append(len(pcm))

                def finish(self):
                    time.sleep(0.02)
                    on_event(Final("a word"))

                def close(self):
                    pass

            return Stream()

    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *a, **k: Patient({}))
    rows = wer.run(manifest, "patient", "cpu", [0], True, "en", False, None, live=2)
    assert [r.final_pass for r in rows] == ["stream", "full"]
    assert all(r.final_p95_ms >= r.final_p50_ms >= 20 for r in rows)
    assert fed.count(wer.PIECE) >= 2 * (1600 // wer.PIECE)  # in pieces, as a microphone does
    assert "time to final" in capsys.readouterr().out


def test_each_row_is_of_what_the_model_does_where_nobody_says_and_the_others_are_beside_it(
    manifest, monkeypatch
):
    class Searching(Parrot):
        final_pass = "beam"

    parrot = Searching({1600: "hello world", 800: "its two words"})
    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *a, **k: parrot)
    rows = wer.run(manifest, "m", "cpu", None, True, "en", False, None, search=True)
    passes = [(row.right_context, row.final_pass) for row in rows]
    assert passes == [(0, "beam"), (13, "beam"), (0, "full"), (0, "stream"), (0, "search")]


def test_the_interval_holds_the_rate_and_narrows_with_more_clips():
    few = wer.interval([1, 0, 2, 0] * 2, [10] * 8)
    many = wer.interval([1, 0, 2, 0] * 200, [10] * 800)
    assert few[0] <= 0.075 <= few[1] and many[0] <= 0.075 <= many[1]
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize("content", ["not json", '{"text": "no audio"}', "[]"])
def test_a_manifest_that_is_none_names_the_line(tmp_path, content):
    (tmp_path / "m.jsonl").write_text(content)
    with pytest.raises(ValueError, match="line 1: not a manifest line"):
        wer.read_manifest(tmp_path / "m.jsonl", "en")

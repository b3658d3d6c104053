"""What a recorded figure says it came from."""

from __future__ import annotations

import pytest

from voice_agent.bench import provenance


@pytest.mark.parametrize(
    ("program", "words", "want"),
    [
        ("/opt/bin/voice-agent", ["bench", "engine"], "voice-agent bench engine"),
        ("/src/voice_agent/bench/__main__.py", ["engine"], "voice-agent bench engine"),
        ("/src/voice_agent/__main__.py", ["bench", "engine"], "voice-agent bench engine"),
        ("voice-agent", ["bench", "--batches", ""], "voice-agent bench --batches ''"),
        ("voice-agent", ["bench", "--out", "/home/me/out"], "voice-agent bench --out out"),
    ],
)
def test_a_command_can_be_given_again_and_names_no_folder(monkeypatch, program, words, want):
    monkeypatch.setattr("sys.argv", [program, *words])
    assert provenance.command() == want


def test_a_tree_that_was_sent_on_says_which_commit_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.commit() == "unknown"
    (tmp_path / "COMMIT").write_text("abc123\n")
    assert provenance.commit() == "abc123"


def test_a_digest_tells_one_source_from_another(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    (tmp_path / "voice_agent").mkdir()
    module = tmp_path / "voice_agent/module.py"
    module.write_text("A = 1\n")
    before = provenance.source()
    module.write_text("A = 2\n")
    assert provenance.source() != before

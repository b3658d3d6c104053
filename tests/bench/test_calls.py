"""`bench calls`: whole calls to a server of its own, and where that one's time went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from voice_agent.bench import agent_callers
from voice_agent.bench.agent_callers import Seen, _Answers, callers, talk
from voice_agent.bench.app import app
from voice_agent.bench.calls import Row, most, phrase, profile_table, table
from voice_agent.bench.profile import CannotProfile, Profile, shares
from voice_agent.demo.clip import CLIP_RATE, Clip
from voice_agent.demo.errors import DemoError


def test_both_transports_are_measured_and_the_time_is_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_callers, "RAMP_S", 0.5)
    out = tmp_path / "calls.json"
    ran = CliRunner().invoke(
        app, ["calls", "--calls", "1", "--seconds", "8", "--out", str(out)], catch_exceptions=False
    )
    assert ran.exit_code == 0, ran.output
    report = json.loads(out.read_text())
    assert [(row["over"], row["calls"]) for row in report["rows"]] == [
        ("websocket", 1),
        ("webrtc", 1),
    ]
    for row in report["rows"]:
        assert (row["refused"], row["failed"]) == (0, 0)
        assert row["asked"] >= 1 and row["answered"] >= 1 and row["answer_ms"][0] > 0
        assert 0 < row["cores"] <= 1.1, "kept on one core"
        parts = row["parts"]
        assert parts["STT"] > 0 and parts["pipeline"] > 0 and parts["VAD"] > 0
        assert sum(parts.values()) == pytest.approx(row["cores"])
    by = {row["over"]: row["parts"] for row in report["rows"]}
    assert by["webrtc"]["Opus, RTP, ICE"] > by["websocket"].get("Opus, RTP, ICE", 0.0)
    assert report["conditions"]["model"] == "tiny-en"
    assert (
        "voice to voice" in ran.output and "calls over webrtc that one core carried" in ran.output
    )


def test_a_transport_that_is_none_is_named() -> None:
    ran = CliRunner().invoke(app, ["calls", "--over", "pigeon"])
    assert ran.exit_code == 2 and "pigeon" in ran.output


async def test_a_server_that_is_not_there_is_a_failed_call() -> None:
    said = Clip("tone", np.ones(CLIP_RATE, np.int16), None, (0.5,))
    assert await callers("127.0.0.1:1", said, "websocket", 2, 0.0) == Seen(failed=2)
    assert await callers("127.0.0.1:1", said, "webrtc", 1, 0.0) == Seen(failed=1)


def test_an_answer_counts_once_and_only_before_the_next_phrase() -> None:
    said = talk(Clip("tone", np.ones(CLIP_RATE, np.int16), None, (0.5,)), 3, 4.0)
    seen = Seen()
    answers = _Answers(said, seen, from_s=1.0)  # the first turn is before all have begun
    assert said.clip.speech_ends_s == (0.5, 5.5, 10.5)
    for at_s in (0.2, 1.0, 6.5, 7.0, 10.2, 11.0):
        answers.heard(at_s)
    answers.over(14.0)
    assert seen.answer_s == [1.0, 0.5] and seen.asked == 1
    with pytest.raises(DemoError, match="no speech"):
        talk(Clip("still", np.zeros(10, np.int16), None, ()), 1, 1.0)


def row(over: str, calls: int, p95_ms: float, answered: int = 4) -> Row:
    return Row(
        over, calls, 0, 0, 4, answered, (900.0, p95_ms, p95_ms), 0.5, 300.0,
        {"STT": 0.1, "VAD": 0.4},
    )  # fmt: skip


def test_the_tables_say_what_was_carried_and_what_it_cost() -> None:
    rows = [row("webrtc", 2, 1_000.0), row("webrtc", 4, 5_000.0), row("websocket", 3, 900.0, 3)]
    first, second, third = table(rows).splitlines()[2:]
    assert first == "| webrtc | 2 | 4 of 4 | 900/1000/1000 | 0.50 | 4.0 | 300 | yes |"
    assert second.endswith("| no |") and third.endswith("| no |"), "late, and unanswered"
    assert profile_table(rows[:2]).splitlines()[2:] == [
        "| VAD | 200.0 | 100.0 |",
        "| STT | 50.0 | 25.0 |",
    ]
    webrtc, websocket = most(rows, one_core=True)
    assert webrtc == "calls over webrtc that one core carried: 2; 4 were too many"
    assert websocket.endswith("none of the numbers asked for; 3 were too many")


def test_the_default_phrase_is_a_man_reading() -> None:
    assert phrase(None).speech_ends_s


STACKS = """\
MainThread;<module> (/x/serve.py:3);run (/usr/asyncio/events.py:80);go (/s/pipecat/w.py:9) 6
MainThread;run (/usr/asyncio/events.py:80);put (/s/pipecat/p.py:9);recv (/s/aiortc/rtp.py:1) 3
thread (12): vad;_worker (/usr/concurrent/thread.py:4);run (/s/pipecat/audio/vad/silero.py:8) 1
thread (13): x;f (/usr/lib/threading.py:1) 2
"""


def test_a_stack_belongs_to_the_innermost_frame_that_is_known() -> None:
    assert shares(STACKS.splitlines()) == {
        "pipeline": 0.5,
        "Opus, RTP, ICE": 0.25,
        "VAD": pytest.approx(1 / 12),
        "other": pytest.approx(1 / 6),
    }
    assert shares([]) == {}


def test_what_keeps_a_bench_from_running_is_told_in_a_sentence() -> None:
    from voice_agent.bench.served import ServerFailed
    from voice_agent.cli.errors import sentence

    assert sentence(CannotProfile("nobody may look")) == "nobody may look"
    assert sentence(ServerFailed("it ended")) == "it ended"


def test_who_may_not_look_is_told_what_helps(tmp_path: Path) -> None:
    with pytest.raises(CannotProfile, match="SYS_PTRACE.*--no-profile"):
        Profile(2**22 + 1, 1.0, tmp_path / "stacks").shares()

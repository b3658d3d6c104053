"""What front-ends count together, and how often something may die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from voice_agent.processes.board import Board
from voice_agent.processes.control import Beat, Broken, Ready, line_of, report_of
from voice_agent.processes.handover import new_token, owner_of
from voice_agent.processes.patience import Patience


def test_every_process_sees_what_the_others_count(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 2, create=True)
    board.count_session(0, 3)
    with board.lock():
        board.hold(0, "alice", 2)
        board.hear("alice", 7, 30.0)
    other = (
        "import sys; from pathlib import Path; from voice_agent.processes.board import Board\n"
        "board = Board(Path(sys.argv[1]), 2)\n"
        "with board.lock():\n"
        "    board.count_session(1, 1); board.hold(1, 'alice', 1); board.hear('alice', 7, 12.0)\n"
        "    print(board.sessions, board.held('alice'), board.held('bob'))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", other, str(tmp_path / "board")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["4", "3", "0"]
    with board.lock():
        assert (board.sessions, board.held("alice")) == (4, 3)
        assert board.heard_s("alice", 7) == 42.0
        assert board.heard_s("alice", 8) == 0.0, "another day"
        board.hear("alice", 8, 1.0)
        assert board.heard_s("alice", 8) == 1.0


def test_a_front_end_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 2, create=True)
    board.started(1, 123, again=False)
    board.count_session(0, 3)
    board.count_session(1, 1)
    with board.lock():
        board.hold(0, "alice", 3)
    board.ended(1)
    board.started(1, 456, again=True)
    with board.lock():
        assert (board.sessions, board.held("alice")) == (1, 0)
    assert board.processes() == [
        ("engine", 0, 0), ("front-end-0", 456, 1), ("front-end-1", 0, 0)
    ]  # fmt: skip


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 1, create=True)
    killed = (
        "import os, sys; from pathlib import Path; from voice_agent.processes.board import Board\n"
        "with Board(Path(sys.argv[1]), 1).lock():\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "board")], check=False)
    with board.lock():
        board.count_session(0, 1)


def test_patience_grows_thin_and_comes_back() -> None:
    patience = Patience(deaths=3, within_s=60.0)
    assert patience.wait_s(0.0) == 0.1
    assert patience.wait_s(10.0) == 0.4
    assert patience.wait_s(65.0) == 0.4, "the first is forgotten"
    assert patience.wait_s(66.0) is None
    assert str(patience) == "3 times within 60 s"


def test_reports_survive_their_line() -> None:
    for report in (Ready({"name": "x"}), Beat("stuck"), Beat(), Broken("why\nso", True)):
        line = line_of(report)
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert report_of(line) == report


def test_a_token_names_the_front_end_that_made_it() -> None:
    def asks(query: str, kind: str = "websocket") -> int | None:
        return owner_of({"type": kind, "query_string": query.encode()})

    assert asks(f"resume={new_token(12)}&received=3") == 12
    for none in ("resume=true", "resume=", "", "resume=nobody", "resume=-1-x", "resume=99999-x"):
        assert asks(none) is None
    assert asks(f"resume={new_token(1)}", kind="http") is None
    assert new_token(3) != new_token(3)

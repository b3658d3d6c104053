"""Runs the command line, here or in a process of its own."""

import subprocess
import sys

import pytest

from voice_agent.cli import main


def run(*args: str) -> int:
    """Run a command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


def in_a_process(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "voice_agent.cli", *args], capture_output=True, text=True, **kwargs
    )

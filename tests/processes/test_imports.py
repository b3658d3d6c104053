"""What the processes of a transcription server import: no bot framework, and no torch but one."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pipecat", "aiortc", "av", "cv2", "torch", "transformers", "onnxruntime", "matplotlib")


def imported(modules: str) -> list[str]:
    """Which of the heavy packages importing these brings."""
    code = f"import sys; import {modules}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "modules",
    [
        "voice_agent.processes.front_end, voice_agent.server.transcription_app, voice_agent.vad",
        "voice_agent.processes.engine",
        "voice_agent.processes.supervisor",
        "voice_agent.server.serve, voice_agent.server.transcription_app",
        "voice_agent.bench.server, voice_agent.bench.callers",
    ],
)
def test_a_transcription_server_needs_no_bot_framework(modules: str) -> None:
    assert imported(modules) == []

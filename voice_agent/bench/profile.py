"""Where a server's processor time goes: VAD, turns, STT, TTS, Opus and RTP, the event loop.

`py-spy` looks at another process from outside, a hundred times a second, and counts the stacks of
threads that run. A stack belongs to the innermost of its frames that `PARTS` knows. Threads that
libraries start without Python are not seen.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

RATE = 100
"""Samples a second."""

PARTS: tuple[tuple[str, str], ...] = (
    ("pipecat/audio/vad/", "VAD"),
    ("pipecat/processors/audio/vad", "VAD"),
    ("voice_agent/vad", "VAD"),
    ("voice_agent/server/vad", "VAD"),
    ("pipecat/audio/turn/", "turn detection"),
    ("pipecat/turns/", "turn detection"),
    ("voice_agent/engine/", "STT"),
    ("voice_agent/services/recognizer_stt", "STT"),
    ("voice_agent/services/call_stream", "STT"),
    ("voice_agent/services/espeak", "TTS"),
    ("pipecat/services/tts", "TTS"),
    ("aiortc/", "Opus, RTP, ICE"),
    ("aioice/", "Opus, RTP, ICE"),
    ("pylibsrtp/", "Opus, RTP, ICE"),
    ("pipecat/transports/smallwebrtc", "Opus, RTP, ICE"),
    ("pipecat/audio/", "resampling, loudness"),
    ("soxr/", "resampling, loudness"),
    ("pipecat/serializers/", "websocket"),
    ("pipecat/transports/websocket", "websocket"),
    ("uvicorn/", "websocket"),
    ("websockets/", "websocket"),
    ("pipecat/", "pipeline"),
    ("voice_agent/", "pipeline"),
    ("/asyncio/", "event loop"),
)
"""A part of a file's path, and what its code does; the first that fits counts."""

_FRAME = re.compile(r"\((.*):\d+\)$")


class CannotProfile(RuntimeError):
    """py-spy is missing or may not look; the message says what helps."""


class Profile:
    """Samples of one process for some seconds."""

    def __init__(self, pid: int, seconds: float, file: Path) -> None:
        """Begin to sample.

        Args:
            pid: of the process.
            seconds: how long.
            file: where py-spy writes.

        Raises:
            CannotProfile: py-spy is not installed.
        """
        beside = Path(sysconfig.get_path("scripts")) / "py-spy"
        program = str(beside) if beside.exists() else shutil.which("py-spy")
        if program is None:
            raise CannotProfile("py-spy is not installed: pip install 'voice-agent[bench]'")
        self._file = file
        self._process = subprocess.Popen(
            [program, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds))),
             "--rate", str(RATE), "--format", "raw", "--full-filenames", "--nonblocking",
             "--output", str(file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def shares(self) -> dict[str, float]:
        """Wait for the end; each part's share of the samples, which add up to 1.

        Raises:
            CannotProfile: py-spy failed.
        """
        _, errors = self._process.communicate()
        if self._process.returncode != 0 or not self._file.exists():
            last = (errors.strip().splitlines() or ["no reason given"])[-1]
            raise CannotProfile(
                f"py-spy cannot look into the server ({last}); it needs root, or "
                "kernel.yama.ptrace_scope=0, or in a container the capability SYS_PTRACE; "
                "--no-profile does without"
            )
        return shares(self._file.read_text().splitlines())


def shares(lines: Iterable[str]) -> dict[str, float]:
    """What py-spy's collapsed stacks say.

    Args:
        lines: "outermost;...;innermost COUNT", a frame being "function (file:line)".

    Returns:
        Each part's share, 0 to 1; empty where there were no samples.
    """
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        found[part_of(stack)] += int(count)
    return {part: count / found.total() for part, count in found.items()}


def part_of(stack: str) -> str:
    """What a thread with this stack does."""
    for frame in reversed(stack.split(";")):
        named = _FRAME.search(frame)
        path = named[1].replace("\\", "/") if named is not None else ""
        for piece, part in PARTS:
            if piece in path:
                return part
    return "other"

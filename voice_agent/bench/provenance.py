"""What a recorded figure came from: the command, and the tree that ran."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def command() -> str:
    """How this run was asked for, as `voice-agent bench ...`, without this machine's folders."""
    words = arguments()
    if Path(sys.argv[0]).name == "__main__.py" and Path(sys.argv[0]).parent.name == "bench":
        words.insert(0, "bench")
    return shlex.join(["voice-agent", *words])


def arguments() -> list[str]:
    """The words after the program's name, without this machine's folders."""
    return [Path(word).name if word.startswith(("/", "~")) else word for word in sys.argv[1:]]


def commit() -> str:
    """Of the tree that runs: from a file `COMMIT` beside it, where the tree was sent on; by git."""
    noted = _ROOT / "COMMIT"
    if noted.is_file():
        return noted.read_text(encoding="utf-8").strip()
    git = ("git", "-C", str(_ROOT))
    asked = said_by(*git, "rev-parse", "HEAD")
    if not asked:
        return "unknown"
    return asked + ("+changes" if said_by(*git, "status", "--porcelain") else "")


def source() -> str:
    """A digest of the package's Python files, which says what ran whatever git says."""
    package = _ROOT / "voice_agent"
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def said_by(*words: str) -> str:
    """Another program's output; "" where it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

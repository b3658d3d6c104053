"""Ask pip whether everything in the image has a wheel for aarch64, without installing anything.

    python docker/check_aarch64.py [--python 3.12] [--loose PACKAGE ...] [EXTRA ...]

Environment markers are pip's weak point here: it evaluates `platform_machine` for the machine it
runs on, so a dependency that only aarch64 has is not seen. It compiles nothing: a package without
a wheel fails.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLIBC = range(17, 40)
"""Minor versions of the glibc 2.x that a wheel may name and Ubuntu 24.04 (2.39) satisfies."""

SOURCES = ("docopt", "openai-whisper")
"""Published as sources only; plain Python, so a wheel that is built here serves aarch64 too."""


def requirements(extras: list[str]) -> list[str]:
    """The project's own requirements with some of its extras, ONNX Runtime for the GPU."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, left = list(project["dependencies"]), list(extras)
    while left:
        for line in project["optional-dependencies"][left.pop()]:
            own = re.fullmatch(rf"{project['name']}\[(.*)\]", line)  # an extra of other extras
            if own is None:
                wanted.append(line)
            else:
                left += own[1].split(",")
    return ["onnxruntime-gpu>=1.29" if line.startswith("onnxruntime>") else line for line in wanted]


def constraints(loose: list[str]) -> str:
    """The pinned versions, without those that an extra cannot keep, as the Dockerfile's LOOSE."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    dropped = re.compile(rf"({'|'.join(map(re.escape, loose))})[<>=~!]") if loose else None
    return "\n".join(line for line in lines if dropped is None or not dropped.match(line)) + "\n"


def main() -> int:
    """Resolve, print what was found, and return pip's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--loose", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("extras", nargs="*")
    options = parser.parse_args()
    tags = [f"manylinux_2_{minor}_aarch64" for minor in GLIBC] + ["manylinux2014_aarch64"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pinned = Path(folder) / "constraints.txt"
        pinned.write_text(constraints(options.loose))
        pip = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, *SOURCES], check=True)
        command = [
            *pip, "install", "--find-links", folder, "--dry-run", "--ignore-installed", "--quiet",
            "--report", str(report), "--only-binary=:all:", "--implementation", "cp",
            "--python-version", options.python, "--target", folder,
            "-c", str(pinned),
            *(word for tag in tags for word in ("--platform", tag)),
            *requirements(options.extras),
        ]  # fmt: skip
        code = subprocess.run(command).returncode
        if code == 0:
            found = json.loads(report.read_text())["install"]
            names = sorted((x["metadata"]["name"], x["metadata"]["version"]) for x in found)
            print("\n".join(f"{name}=={version}" for name, version in names))
            print(f"{len(names)} packages have wheels for aarch64 and Python {options.python}")
    return code


if __name__ == "__main__":
    sys.exit(main())

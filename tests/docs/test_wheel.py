"""The wheel carries what the package reads, and works without the repository around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.docs.conftest import ROOT
from tests.support.voice import speech
from voice_agent.models import describe

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")
# What a listing does not have: bytecode, and what editors and system tools leave behind.
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")

WORKS = """
import sys, voice_agent
from voice_agent.bench.corpus import DEFAULT
from voice_agent.config import Settings
from voice_agent.models import locate
from voice_agent.server.agent import Agent
from voice_agent.server.app import create_app

assert voice_agent.__file__.startswith(sys.argv[1]), voice_agent.__file__
for model in sys.argv[2:]:
    locate(model)  # which compares checksums
create_app(Agent(Settings()))
assert DEFAULT.is_file()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the repository."""
    pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools 77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "voice_agent", source / "voice_agent", ignore=NOT_SOURCE)
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", folder, source],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """An environment that holds the wheel alone; what it depends on is this one's."""
    folder = wheel.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", folder, wheel],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_file_of_the_package_is_in_it(installed):
    listed = subprocess.run(
        ["git", "ls-files", "voice_agent"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so nobody knows what belongs to it")
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    assert "voice_agent/py.typed" in files
    assert [name for name in files if not (installed / name).is_file()] == []


def test_its_licence_is_in_it(installed):
    (folder,) = installed.glob("voice_agent-*.dist-info")
    assert (folder / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "License-Expression: BSD-2-Clause" in (folder / "METADATA").read_text()


def run(installed: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_works_from_another_directory(installed, tmp_path):
    embedded = [m.info.name for m in describe() if m.info.kind == "embedded" and m.path]
    assert embedded
    run(installed, tmp_path, "-c", WORKS, str(installed), *embedded)


def test_its_command_runs_there(installed, tmp_path):
    soundfile.write(tmp_path / "talk.wav", speech(), 16_000)
    command = str(installed / "bin" / "voice-agent")
    assert "transcribe" in run(installed, tmp_path, command, "--help")
    assert "tiny-en" in run(installed, tmp_path, command, "models")
    heard = run(installed, tmp_path, command, "transcribe", "talk.wav", "--device", "cpu")
    assert any(letter.isalpha() for letter in heard)

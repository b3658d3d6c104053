"""The wheel carries what the package reads, and works without the repository around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT
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
def unpacked(wheel) -> Path:
    folder = wheel.parent / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_file_of_the_package_is_in_it(unpacked):
    listed = subprocess.run(
        ["git", "ls-files", "voice_agent"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so nobody knows what belongs to it")
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    assert "voice_agent/py.typed" in files
    assert [name for name in files if not (unpacked / name).is_file()] == []


def test_its_licence_is_in_it(unpacked):
    (folder,) = unpacked.glob("voice_agent-*.dist-info")
    assert (folder / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "License-Expression: BSD-2-Clause" in (folder / "METADATA").read_text()


def run(unpacked: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_works_from_another_directory(unpacked, tmp_path):
    embedded = [m.info.name for m in describe() if m.info.kind == "embedded" and m.path]
    assert embedded
    run(unpacked, tmp_path, "-c", WORKS, str(unpacked), *embedded)


def test_its_command_runs_there(unpacked, tmp_path):
    assert "tiny-en" in run(unpacked, tmp_path, "-m", "voice_agent.cli", "models")

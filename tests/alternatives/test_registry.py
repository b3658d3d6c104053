"""The table of systems, and what it says where something is missing."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from loguru import logger

from voice_agent.alternatives import SYSTEMS, Choice, load, markdown, system
from voice_agent.alternatives import loading as loading_module
from voice_agent.alternatives.errors import MissingExtra, MissingKey, NoServer, UnknownSystem
from voice_agent.engine.errors import CorruptCheckpoint, EngineError, ModelNotFound

ROOT = Path(__file__).parents[2]

NAMES = {
    "nemotron", "indic-conformer", "faster-whisper", "openai-whisper", "whisper.cpp", "whisperx",
    "riva", "insanely-fast-whisper", "indic-whisper", "mms", "seamless-m4t", "vakyansh", "sarvam",
    "voxtral", "nemo-speech-cpp", "nemotron-transformers", "sherpa-onnx", "deepgram",
    "openai-realtime",
}  # fmt: skip
SERVERS = ("whisperx", "riva", "nemo-speech-cpp")
NOBODY = "http://127.0.0.1:9"  # the discard port


def test_every_system_that_was_asked_for_has_a_row():
    assert set(SYSTEMS) == NAMES


@pytest.mark.parametrize("row", SYSTEMS.values(), ids=SYSTEMS)
def test_a_row_names_functions_that_exist(row):
    for where in filter(None, (row.factory, row.vendor)):
        module, _, function = where.partition(":")
        made = getattr(importlib.import_module(f"voice_agent.alternatives.{module}"), function)
        assert next(iter(inspect.signature(made).parameters)) == "choice"


def test_the_rows_name_extras_of_this_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {row.extra for row in SYSTEMS.values() if row.extra is not None}
    assert named <= set(project["optional-dependencies"])


def test_importing_the_table_imports_nothing_heavy():
    heavy = ("torch", "transformers", "pipecat", "ctranslate2", "onnxruntime", "grpc")
    code = (
        "import sys, voice_agent.alternatives as a; a.markdown();"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_in_the_documentation_is_current():
    text = (ROOT / "docs" / "stt.md").read_text()
    assert markdown() in text, "write it again: python -m voice_agent.alternatives docs/stt.md"


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownSystem, match="did you mean faster-whisper"):
        system("faster-wisper")


def test_licences_that_forbid_commercial_use_are_said_in_the_table_and_when_selected():
    bound = {row.name for row in SYSTEMS.values() if not row.commercial}
    assert bound == {"mms", "seamless-m4t"}
    said = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING")
    try:
        for name in bound:
            with pytest.raises(ModelNotFound):
                load(name, Choice(model="no/such-model", device="cpu"))
    finally:
        logger.remove(sink)
    for name in bound:
        assert any(name in line and "forbids commercial use" in line for line in said)
        assert "no commercial use" in next(
            line for line in markdown().splitlines() if line.startswith(f"| `{name}`")
        )


PACKAGES = [
    ("faster-whisper", "faster_whisper"), ("openai-whisper", "whisper"),
    ("whisper.cpp", "pywhispercpp.model"), ("insanely-fast-whisper", "transformers"),
    ("mms", "transformers"), ("seamless-m4t", "transformers"), ("vakyansh", "transformers"),
    ("voxtral", "transformers"), ("nemotron-transformers", "transformers"),
    ("sherpa-onnx", "sherpa_onnx"), ("riva", "riva.client"), ("indic-whisper", "transformers"),
    ("sarvam", "sarvamai"), ("deepgram", "deepgram"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "module"), PACKAGES, ids=[n for n, _ in PACKAGES])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, module, monkeypatch):
    top = module.split(".")[0]
    monkeypatch.setitem(sys.modules, top, None)  # as Python does for "not installed"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'voice-agent\[") as raised:
        load(name, Choice(model="x", device="cpu"))
    assert SYSTEMS[name].extra in str(raised.value)


def test_a_package_that_is_broken_inside_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import a_package_that_it_lacks\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_it_lacks"):
        loading_module.need("x", "broken_inside", package="broken", extra="x")


@pytest.mark.parametrize("name", SERVERS)
def test_a_missing_server_is_named_with_the_command_that_starts_one(name):
    pytest.importorskip("riva.client" if name == "riva" else "httpx")
    with pytest.raises(NoServer, match="start one with `") as raised:
        load(name, Choice(url=NOBODY))
    assert "127.0.0.1:9" in str(raised.value)
    assert "--stt-url" in str(raised.value)


WEIGHTS = [
    ("nemotron", "huggingface.co"), ("indic-conformer", "hf download"),
    ("faster-whisper", 'download_model("no/such-model")'), ("openai-whisper", "available models"),
    ("whisper.cpp", "ggml"), ("insanely-fast-whisper", "hf download"),
    ("indic-whisper", "hf download"), ("mms", "hf download"), ("seamless-m4t", "hf download"),
    ("vakyansh", "hf download"), ("voxtral", "hf download"),
    ("nemotron-transformers", "hf download"), ("sherpa-onnx", "no encoder.onnx"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "advice"), WEIGHTS, ids=[n for n, _ in WEIGHTS])
def test_missing_weights_come_with_what_fetches_them(name, advice):
    try:
        with pytest.raises(ModelNotFound) as raised:
            load(name, Choice(model="no/such-model", device="cpu"))
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert advice in str(raised.value)
    assert "no/such-model" in str(raised.value)


KNOWN = [
    ("faster-whisper", "faster_whisper"), ("openai-whisper", "whisper"),
    ("whisper.cpp", "pywhispercpp"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "package"), KNOWN, ids=[n for n, _ in KNOWN])
def test_a_known_model_that_is_not_here_comes_with_the_command_that_fetches_it(
    name, package, tmp_path
):
    """In a process of its own, whose caches are empty and whose network is gone."""
    pytest.importorskip(package)
    code = (
        "import socket, voice_agent.alternatives as a\n"
        "def gone(*args, **options): raise OSError('no network')\n"
        "socket.getaddrinfo = gone\n"
        "try:\n"
        f"    a.load({name!r}, a.Choice(model='tiny', device='cpu'))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", **home},
    )  # fmt: skip
    assert done.stdout.startswith("ModelNotFound tiny: "), done.stderr
    command = re.search(r"run `python -c '(.*)'` on a machine with network", done.stdout)
    assert command is not None
    assert '("tiny")' in command[1]
    compile(command[1], "the command", "exec")


def test_a_name_that_faster_whisper_does_not_know_is_told_with_those_that_it_knows():
    pytest.importorskip("faster_whisper")
    with pytest.raises(ModelNotFound, match=r"smal: neither .* small\.en"):
        load("faster-whisper", Choice(model="smal", device="cpu"))


@pytest.mark.parametrize("name", ["insanely-fast-whisper", "mms", "faster-whisper"])
def test_a_folder_that_is_there_and_holds_no_model_is_not_called_missing(name, tmp_path):
    try:
        with pytest.raises(EngineError) as raised:
            load(name, Choice(model=str(tmp_path), device="cpu"))
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert isinstance(raised.value, CorruptCheckpoint)
    assert "cannot be loaded" in str(raised.value)


@pytest.mark.parametrize("name", ["indic-whisper", "sherpa-onnx"])
def test_a_system_without_a_default_model_says_where_models_are(name):
    try:
        with pytest.raises(ModelNotFound, match=r"github\.com"):
            load(name)
    except MissingExtra as missing:
        pytest.skip(str(missing))


HOSTED = [
    ("sarvam", "SARVAM_API_KEY"), ("deepgram", "DEEPGRAM_API_KEY"),
    ("openai-realtime", "OPENAI_API_KEY"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "variable"), HOSTED)
def test_a_missing_key_is_named_with_its_variable(name, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    try:
        with pytest.raises(MissingKey, match=variable):
            load(name)
    except MissingExtra as missing:
        pytest.skip(str(missing))


def test_every_error_is_one_that_the_command_line_tells_in_a_sentence():
    for error in (MissingExtra, MissingKey, NoServer, UnknownSystem):
        assert issubclass(error, EngineError)

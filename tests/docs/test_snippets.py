"""What the pages show is run: Python blocks as they stand, commands as far as they parse.

A page's Python blocks are one program, run in one namespace; a ```text block behind one is what it
prints. "tiny-en" stands for a small random checkpoint here, which hears nonsense, but hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import shlex

import pytest
import soundfile
import typer.main

from tests.docs.conftest import PAGES, ROOT, Block, blocks, name_of
from tests.support.voice import speech
from voice_agent.bench.app import app as bench
from voice_agent.cli.app import app
from voice_agent.config import load_settings

ELSEWHERE = {
    "docs/protocol.md": "tests/server/test_protocol_docs.py runs them against a server",
    "docs/stt.md": "it loads other projects' weights and calls their services",
}
SHOWN = {name_of(page): [*blocks(page)] for page in PAGES}
COMMANDS = [
    (f"{block.page}:{block.line}", line.partition("  #")[0].strip())
    for page in PAGES
    for block in blocks(page)
    if block.language == "sh"
    for line in block.code.replace("\\\n", " ").splitlines()
]
SETTINGS = [
    pytest.param(block, id=f"{page}:{block.line}")
    for page, shown in SHOWN.items()
    for block in shown
    if block.language == "toml" and page != "docs/protocol.md"  # that one is a file of keys
]
PATHS = re.compile(r"`((?:docs|docker|examples|tests|training|benchmarks|voice_agent)/[\w./-]+)`")


def is_python(page: str) -> bool:
    return any(block.language == "python" for block in SHOWN[page])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recording, as a reader would have one."""
    soundfile.write(tmp_path / "talk.wav", speech(), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted({*filter(is_python, SHOWN)} - {*ELSEWHERE}))
def test_python_blocks_run_and_print_what_is_shown(page, folder, checkpoint):
    namespace: dict[str, object] = {"__name__": "docs"}
    shown = SHOWN[page]
    for block, after in zip(shown, [*shown[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = run(block, namespace, checkpoint)
        if after is not None and after.language == "text":
            assert printed == after.code, f"{page}:{block.line}"


def run(block: Block, namespace: dict[str, object], checkpoint: str) -> str:
    code = block.code.replace('"tiny-en"', repr(checkpoint))
    program = compile("\n" * block.line + code, ROOT / block.page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, namespace)
        main = namespace.pop("main", None)
        if main is not None:
            asyncio.run(main())
    return printed.getvalue()


def test_pages_that_are_run_elsewhere_exist():
    assert {*ELSEWHERE} <= {*SHOWN}


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, id=f"{at} {c}") for at, c in COMMANDS if c.startswith("voice-agent ")],
)
def test_a_command_parses(command):
    _, name, *rest = shlex.split(command)
    commands = typer.main.get_command(app).commands
    if name == "bench":
        name, *rest = rest
        commands = typer.main.get_command(bench).commands
    commands[name].make_context(name, rest)


@pytest.mark.parametrize("block", SETTINGS)
def test_a_settings_file_is_one(block, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(block.code)
    load_settings(file)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_file_that_is_named_is_there(page):
    named = PATHS.findall(page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []

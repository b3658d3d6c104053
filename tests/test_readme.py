"""What the README shows is what runs: its snippets are the examples, and its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main

from voice_agent.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"<!-- (examples/\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_two_examples_are_shown():
    assert [path for path, _ in SNIPPETS] == [
        "examples/listen.py",
        "examples/embed_in_pipecat_bot.py",
    ]


@pytest.mark.parametrize("path, shown", SNIPPETS, ids=[path for path, _ in SNIPPETS])
def test_a_snippet_is_its_example_verbatim(path, shown):
    assert shown == (ROOT / path).read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("voice-agent")])
def test_a_command_parses(command):
    _, name, *rest = shlex.split(command)
    commands = typer.main.get_command(app).commands
    commands[name].make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_a_make_target_exists(command):
    assert (
        subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:|#)([^)#]+)", README))
def test_a_link_leads_somewhere(link):
    assert (ROOT / link).exists()

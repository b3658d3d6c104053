"""What the package imports is what it asks to be installed with: nothing comes by chance.

A module that another dependency happens to bring is there until that one no longer needs it.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {
    "ctranslate2": "faster-whisper",
    "faster_whisper": "faster-whisper",
    "grpc": "riva",
    "jiwer": "bench",
    "matplotlib": "bench",
    "nemo": "nemo",
    "omegaconf": "nemo",
    "onnx": "training",
    "transformers": "transformers",
    "opentelemetry": "tracing",
    "picows": "bench",
    "sherpa_onnx": "sherpa-onnx",
    "triton": "dev",
    "uvloop": "scale",
    "whisper_normalizer": "bench",
}
"""Modules of extras; each is imported where it is used, so that the rest works without it."""

BROUGHT = {
    "ctranslate2": "faster-whisper",
    "grpc": "nvidia-riva-client",
    "omegaconf": "nemo-toolkit",
}
"""Modules that are there only to talk to the package that brings them."""

APART = {
    "picows": {"voice_agent.bench.callers"},
    "triton": {
        f"voice_agent.engine.kernels.{path.stem}"
        for path in (ROOT / "voice_agent/engine/kernels").glob("[!_]*.py")
    },
}
"""Modules that cannot be without such a package: who needs one of them imports it when it does. On
a GPU Triton comes with PyTorch; elsewhere it is there to test the kernels."""

LATE = {f"voice_agent.engine.{name}" for name in ("fused", "graphs", "tiles")}
"""These need the kernels, and are themselves imported where a GPU is used."""


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a piece of code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def at_import(tree: ast.Module) -> Iterator[str]:
    """Those that it imports when it is itself imported."""
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from imported(statement)


TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for path in (ROOT / "voice_agent").rglob("*.py")
}
FOREIGN = sorted(
    {name.partition(".")[0] for tree in TREES.values() for name in imported(tree)}
    - {*sys.stdlib_module_names, "voice_agent"}
)
DISTRIBUTIONS = packages_distributions()


def names(requirements: list[str]) -> set[str]:
    """The packages that are asked for, as the index writes them."""
    return {normal(re.match(r"[\w.-]+", text)[0]) for text in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(module: str) -> set[str]:
    """What installs a module."""
    if module in BROUGHT:
        return {BROUGHT[module]}
    return {normal(name) for name in DISTRIBUTIONS.get(module, [module])}


@pytest.mark.parametrize("module", [m for m in FOREIGN if m not in OPTIONAL])
def test_a_module_of_the_core_is_a_dependency(module):
    assert packages(module) & names(PROJECT["dependencies"])


@pytest.mark.parametrize("module", [m for m in FOREIGN if m in OPTIONAL])
def test_another_is_in_its_extra(module):
    assert packages(module) & names(PROJECT["optional-dependencies"][OPTIONAL[module]])


def test_what_is_optional_is_still_imported():
    assert {*OPTIONAL} <= {*FOREIGN}


@pytest.mark.parametrize("file", sorted(TREES))
def test_nothing_optional_is_imported_before_it_is_used(file):
    name = file.removesuffix(".py").replace("/", ".")
    first = list(at_import(TREES[file]))
    packages_first = {module.partition(".")[0] for module in first}
    assert not packages_first & {m for m in OPTIONAL if name not in APART.get(m, ())}
    apart = set().union(*APART.values(), LATE)
    if name not in apart:
        assert not apart & {*first}

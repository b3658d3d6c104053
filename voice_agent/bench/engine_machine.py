"""What a run's figures hold for: read from the machine and the tree, never typed."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from voice_agent.bench.provenance import command, commit, said_by, source

if TYPE_CHECKING:
    import torch

_PACKAGES = ("numpy", "triton", "torchao", "nemo-toolkit", "transformers", "sherpa-onnx")


def conditions(device: torch.device) -> dict[str, str]:
    """Chip, driver, versions, commit and command."""
    import torch

    from voice_agent.bench.stt_report import machine

    found = machine()
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found["gpu"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
        found["driver"] = _driver() or found.get("driver", "unknown")
        found["cuda"] = torch.version.cuda or "none"
    else:
        found["threads"] = str(torch.get_num_threads())
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    # Who else was at work: a busy machine measures its other programs, too.
    found["load"] = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    found["commit"] = commit()
    found["source"] = source()
    found["command"] = command()
    return found


def chip(found: dict[str, str]) -> str:
    """In a few words, for a row."""
    if "gpu" in found:
        return f"{found['gpu']}, driver {found['driver']}, torch {found['torch']}"
    return f"{found['cpu']}, {found['threads']} threads, torch {found['torch']}"


def _driver() -> str:
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said_by(*query).split("\n")[0]

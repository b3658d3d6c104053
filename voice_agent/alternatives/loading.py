"""What every adapter needs while it loads: its package, its weights, its device, its server."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voice_agent.alternatives.errors import MissingExtra
from voice_agent.engine.errors import CorruptCheckpoint, EngineError, ModelNotFound
from voice_agent.engine.loading import pick_device


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user may say about a system.

    Attributes:
        model: a name, folder or Hugging Face id that the system knows; None for its default.
        device: "auto", "cpu", "cuda" or "cuda:N", for systems that compute in this process.
        language: BCP-47 code of the speech where the system wants it when it loads (the adapter
            of `mms`); a stream's own language counts for the others.
        url: address of the system's server; None for its default.
        api_key: key of a hosted service; None for the vendor's own variable.
        slots: streams at once.
    """

    model: str | None = None
    device: str = "auto"
    language: str | None = None
    url: str | None = None
    api_key: str | None = None
    slots: int = 8


def need(system: str, module: str, *, package: str, extra: str) -> Any:
    """Import a package that only this system uses.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there but lacks one of its own is a broken install, not a missing one.
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtra(system, package, extra) from error


def torch_device(choice: Choice) -> str:
    """The torch device of this choice, by name.

    Raises:
        EngineError: CUDA was asked for and torch cannot use it.
    """
    return str(pick_device(choice.device))


@contextmanager
def weights(model: str, command: str) -> Iterator[None]:
    """Turn a library's "cannot find the weights" into one sentence.

    Args:
        model: what was asked for.
        command: fetches it, on a machine with network.

    Raises:
        ModelNotFound: no such file, repository or network.
        CorruptCheckpoint: a folder or file that is there, and that the library cannot load.
        EngineError: they do not fit into memory.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except EngineError:
        raise
    except GatedRepoError as error:
        raise ModelNotFound(
            model,
            "the repository is gated: accept its licence on huggingface.co, then `hf auth login` "
            f"and `{command}`",
        ) from error
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise EngineError(f"{model} does not fit; choose a smaller model") from error
        if Path(model).exists():  # so it was found; what the library says of it is the matter
            raise CorruptCheckpoint(model, f"cannot be loaded: {error}") from error
        if not isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError):
            raise
        raise ModelNotFound(
            model,
            f"not found here, and the network does not give it either; run `{command}` on a "
            "machine with network, or give a folder that holds it",
        ) from error

"""Where models are: embedded in the package, on disk, or in the Hugging Face cache.

The embedded ones are small, trained by us (see the cards beside the files), and checked against
`SHA256SUMS` when they are located. Everything else is the user's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound

HERE = Path(__file__).parent
SUMS = HERE / "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model that we know by name.

    Attributes:
        name: what to write after `--model`.
        kind: "embedded" or "hub".
        file: file (embedded: beside this module; hub: in the repository).
        languages: BCP-47 codes.
        summary: one line.
    """

    name: str
    kind: str
    file: str
    languages: tuple[str, ...]
    summary: str


KNOWN = {
    info.name: info
    for info in (
        ModelInfo(
            "tiny-en",
            "embedded",
            "tiny-en.nemo",
            ("en",),
            "cache-aware FastConformer-RNNT, ~10 M parameters; for demonstrations and tests",
        ),
        ModelInfo(
            "nvidia/nemotron-speech-streaming-en-0.6b",
            "hub",
            "nemotron-speech-streaming-en-0.6b.nemo",
            ("en",),
            "NVIDIA Nemotron Speech, 0.6 B parameters, 80 ms to 1.12 s chunks",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint on disk."""

    path: Path
    languages: tuple[str, ...]


def locate(model: str) -> Located:
    """Find a checkpoint.

    An embedded model's name, an existing path, or a Hugging Face id "owner/name", which is taken
    from the local cache if it is there and downloaded otherwise.

    Raises:
        ModelNotFound: none of these; the message says what to do.
        CorruptCheckpoint: an embedded file differs from its checksum.
    """
    info = KNOWN.get(model)
    if info and info.kind == "embedded":
        return Located(_embedded(info), info.languages)
    path = Path(model).expanduser()
    if path.exists():
        if path.is_dir():
            files = sorted(path.glob("*.nemo"))
            if len(files) != 1:
                raise ModelNotFound(
                    model, f"the folder holds {len(files)} .nemo files, expected one"
                )
            path = files[0]
        return Located(path, info.languages if info else ())
    if model.count("/") == 1 and not model.endswith(".nemo") and not model.startswith((".", "/")):
        return Located(_from_hub(model, info), info.languages if info else ())
    known = ", ".join(KNOWN)
    raise ModelNotFound(
        model,
        "there is no such file, and it is not a model that is known by name "
        f"({known}); give a path to a .nemo file or a Hugging Face id (owner/name)",
    )


def _embedded(info: ModelInfo) -> Path:
    path = HERE / info.file
    if not path.is_file():
        raise ModelNotFound(info.name, f"{path} is missing; reinstall the package")
    expected = checksums().get(info.file)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected != actual:
        raise CorruptCheckpoint(
            info.name, f"{path} is damaged (its SHA-256 differs); reinstall the package"
        )
    return path


def checksums() -> dict[str, str]:
    """SHA-256 by file name of what the package embeds."""
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    return {name: digest for digest, name in (line.split() for line in lines if line)}


def _from_hub(model: str, info: ModelInfo | None) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    file = info.file if info else f"{model.split('/')[1]}.nemo"
    try:
        return Path(hf_hub_download(model, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        if info is None:
            found = [f for f in list_repo_files(model) if f.endswith(".nemo")]
            if len(found) != 1:
                raise ModelNotFound(
                    model, f"the repository holds {len(found)} .nemo files, expected one"
                )
            file = found[0]
        return Path(hf_hub_download(model, file))
    except GatedRepoError as error:
        raise ModelNotFound(
            model,
            "the repository is gated: accept its licence on huggingface.co, then `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            model, "no such repository on huggingface.co (private ones need `hf auth login`)"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            model,
            "not in the local Hugging Face cache, and huggingface.co cannot be reached; on a "
            f"machine with network run `hf download {model}`, or give --model a path to the "
            ".nemo file",
        ) from error


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A known model and where it is here; `path` is None where it is not."""

    info: ModelInfo
    path: Path | None
    how_to_get: str


def describe() -> list[ModelStatus]:
    """Every model known by name, whether it is here, and how to get it. No network."""
    return [_status(info) for info in KNOWN.values()]


def _status(info: ModelInfo) -> ModelStatus:
    if info.kind == "embedded":
        path = HERE / info.file
        return ModelStatus(info, path if path.is_file() else None, "comes with the package")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.name, info.file)
    return ModelStatus(
        info, Path(cached) if isinstance(cached, str) else None, f"hf download {info.name}"
    )

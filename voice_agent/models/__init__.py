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
        file: file or folder (embedded: beside this module; hub: in the repository).
        languages: BCP-47 codes.
        summary: one line.
        identifies: whether it tells languages apart, rather than transcribe.
    """

    name: str
    kind: str
    file: str
    languages: tuple[str, ...]
    summary: str
    identifies: bool = False


INDIC = (
    *("as", "bn", "brx", "doi", "gu", "hi", "kn", "kok", "ks", "mai", "ml"),
    *("mni", "mr", "ne", "or", "pa", "sa", "sat", "sd", "ta", "te", "ur"),
)

KNOWN = {
    info.name: info
    for info in (
        ModelInfo(
            "tiny-en",
            "embedded",
            "tiny-en.nemo",
            ("en",),
            "cache-aware FastConformer-RNNT, 12 M parameters; for demonstrations and tests",
        ),
        ModelInfo(
            "tiny-kn",
            "embedded",
            "tiny-kn",
            ("kn",),
            "Kannada in IndicConformer's layout; hears espeak-ng, and people hardly: for tests",
        ),
        ModelInfo(
            "tiny-lid",
            "embedded",
            "tiny-lid.onnx",
            ("en", "kn"),
            "tells English, Kannada and all else apart, for the language gate; writes nothing",
            identifies=True,
        ),
        ModelInfo(
            "nvidia/nemotron-speech-streaming-en-0.6b",
            "hub",
            "nemotron-speech-streaming-en-0.6b.nemo",
            ("en",),
            "NVIDIA Nemotron Speech, 0.6 B parameters, 80 ms to 1.12 s chunks",
        ),
        ModelInfo(
            "nvidia/nemotron-3.5-asr-streaming-0.6b",
            "hub",
            "model.safetensors",
            (),
            "NVIDIA Nemotron 3.5, 40 locales by prompt or by ear (not Kannada), 0.6 B parameters",
        ),
        ModelInfo(
            "ai4bharat/indic-conformer-600m-multilingual",
            "hub",
            "assets/encoder.onnx",
            INDIC,
            "IndicConformer, 22 languages of India, 0.6 B parameters; gated: accept its licence",
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
        return Located(_in_folder(model, path), info.languages if info else ())
    if model.count("/") == 1 and not model.endswith(".nemo") and not model.startswith((".", "/")):
        return Located(_from_hub(model, info), info.languages if info else ())
    known = ", ".join(KNOWN)
    raise ModelNotFound(
        model,
        "there is no such file, and it is not a model that is known by name "
        f"({known}); give a .nemo file, a Hugging Face directory or a Hugging Face id (owner/name)",
    )


def _in_folder(model: str, path: Path) -> Path:
    """A file is itself; a folder is a Hugging Face directory or holds one `.nemo` file."""
    if not path.is_dir():
        return path
    if (path / "config.json").is_file() and list(path.glob("model*.safetensors*")):
        return path
    files = sorted(path.glob("*.nemo"))
    if len(files) != 1:
        raise ModelNotFound(
            model,
            f"the folder holds no Hugging Face checkpoint and {len(files)} .nemo files, expected 1",
        )
    return files[0]


def _embedded(info: ModelInfo) -> Path:
    whole = HERE / info.file
    expected = {
        name: digest
        for name, digest in checksums().items()
        if name == info.file or name.startswith(f"{info.file}/")
    }
    for name in expected or (info.file,):
        path = HERE / name
        if not path.is_file():
            raise ModelNotFound(info.name, f"{path} is missing; reinstall the package")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected.get(name):
            raise CorruptCheckpoint(
                info.name, f"{path} is damaged (its SHA-256 differs); reinstall the package"
            )
    return whole


def checksums() -> dict[str, str]:
    """SHA-256 by file name of what the package embeds."""
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    return {name: digest for digest, name in (line.split() for line in lines if line)}


def _from_hub(model: str, info: ModelInfo | None) -> Path:
    from huggingface_hub import hf_hub_download, model_info, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return _in_folder(model, Path(snapshot_download(model, local_files_only=True)))
    except (LocalEntryNotFoundError, ModelNotFound):
        pass  # not cached, or not all that is needed
    try:
        files = model_info(model).siblings or []
        nemo = [file.rfilename for file in files if file.rfilename.endswith(".nemo")]
        if info and info.file in nemo:
            nemo = [info.file]
        if len(nemo) == 1:
            return Path(hf_hub_download(model, nemo[0]))
        folder = snapshot_download(model, allow_patterns=["*.json", "model*.safetensors"])
        return _in_folder(model, Path(folder))
    except GatedRepoError as error:
        raise ModelNotFound(
            model,
            "the repository is gated: accept its licence on huggingface.co, then `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            model, "no such repository on huggingface.co (private ones need `hf auth login`)"
        ) from error
    except Exception as error:
        known = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError)
        if not (known or _is_of_the_network(error)):
            raise
        raise ModelNotFound(
            model,
            "not in the local Hugging Face cache, and huggingface.co cannot be reached; on a "
            f"machine with network run `hf download {model}`, or give --model a path",
        ) from error


def _is_of_the_network(error: Exception) -> bool:
    """Whether an HTTP client raised it; which one that is hangs on the hub's version."""
    raised_by = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(raised_by & {"httpx", "httpx2", "requests"})


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
        return ModelStatus(info, path if path.exists() else None, "comes with the package")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(info.name, info.file)
    return ModelStatus(
        info, Path(cached) if isinstance(cached, str) else None, f"hf download {info.name}"
    )

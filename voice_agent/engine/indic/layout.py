"""The files of an IndicConformer directory: found, checked, read.

The layout is that of `ai4bharat/indic-conformer-600m-multilingual`:

    config.json                 BLANK_ID, SOS, RNNT_MAX_SYMBOLS, PRED_RNN_LAYERS, …
    assets/preprocessor.ts      TorchScript: audio to features
    assets/encoder.onnx         its weights lie beside it, a file each
    assets/ctc_decoder.onnx
    assets/rnnt_decoder.onnx, joint_enc.onnx, joint_pred.onnx, joint_pre_net.onnx,
        joint_post_net_LL.onnx  for RNNT alone, one of the last a language
    assets/vocab.json           language: its 256 pieces (and a blank)
    assets/language_masks.json  language: which columns of the CTC scores are its own

A directory with fewer languages (ours has one) reads the same. `assets/` may also be given
itself. Sizes are taken from the files, none from here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.hub import snapshot

Decoding = Literal["ctc", "rnnt"]
HUB_ID = "ai4bharat/indic-conformer-600m-multilingual"
EMBEDDED = "tiny-kn"

_COMMON = ("preprocessor.ts", "encoder.onnx", "vocab.json")
_CTC = ("ctc_decoder.onnx", "language_masks.json")
_RNNT = ("rnnt_decoder.onnx", "joint_enc.onnx", "joint_pred.onnx", "joint_pre_net.onnx")


@dataclass(frozen=True, slots=True)
class Layout:
    """A directory that has been checked.

    Attributes:
        name: what it was asked for by.
        assets: the folder of the files.
        vocab: pieces of each language, without the blank; "▁" begins a word.
        columns: columns of the CTC scores of each language, the blank's last; int64.
        sos: token that starts the RNNT prediction network.
        max_symbols: tokens a frame at most, in RNNT.
        state_shape: layers and width of the prediction network's state.
    """

    name: str
    assets: Path
    vocab: dict[str, tuple[str, ...]]
    columns: dict[str, np.ndarray]
    sos: int
    max_symbols: int
    state_shape: tuple[int, int]

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages, in the file's order."""
        return tuple(self.vocab)

    def blank(self, language: str) -> int:
        """The blank's number among a language's tokens: it comes after its pieces."""
        return len(self.vocab[language])

    def file(self, name: str) -> Path:
        """Path of one of the assets."""
        return self.assets / name


def is_layout(model: str) -> bool:
    """Whether a name is a model in this layout; `find` then finds it, or says what is missing."""
    if model == EMBEDDED or model.lower().startswith("ai4bharat/indic-conformer-"):
        return True
    folder = Path(model).expanduser()
    own = ("encoder.onnx", "language_masks.json")
    return any((place / name).is_file() for place in (folder, folder / "assets") for name in own)


def find(model: str) -> Path:
    """The directory of a model.

    Args:
        model: "tiny-kn", a directory, or a Hugging Face id, which is looked for in the local
            cache and downloaded if it is not there.

    Raises:
        ModelNotFound: none of these; the message says what to do.
        CorruptCheckpoint: an embedded file differs from its checksum.
    """
    if model == EMBEDDED:
        from voice_agent.models import locate

        return locate(model).path
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return _from_hub(model)
    raise ModelNotFound(
        model,
        "no such directory; give --model a directory with IndicConformer's files, the "
        f"Hugging Face id {HUB_ID}, or {EMBEDDED}",
    )


def _from_hub(model: str) -> Path:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return snapshot(model, ["config.json", "assets/*"])
    except GatedRepoError as error:
        raise ModelNotFound(
            model,
            f"the repository is gated: accept its licence at https://huggingface.co/{model}, "
            "then log in with `hf auth login` or set HF_TOKEN; or download it elsewhere and "
            "give --model the directory",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            model,
            "no such repository on huggingface.co; a gated or private one needs `hf auth login` "
            "or HF_TOKEN",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            model,
            "not in the local Hugging Face cache, and huggingface.co cannot be reached; run "
            f"`hf download {model}` on a machine with network and give --model the "
            f"directory, or use {EMBEDDED}, which comes with the package",
        ) from error


def read(model: str, folder: Path, decoding: Decoding = "ctc") -> Layout:
    """Check a directory's files and read its tables.

    Args:
        model: name for messages.
        folder: the directory, or its `assets`.
        decoding: which decoder's files must be there.

    Raises:
        ModelNotFound: files are missing; all are named.
        CorruptCheckpoint: a table that is not JSON.
        UnsupportedCheckpoint: tables that do not fit each other.
    """
    assets = folder / "assets" if (folder / "assets").is_dir() else folder
    _require(model, assets, (*_COMMON, *(_CTC if decoding == "ctc" else _RNNT)))
    vocab = {
        language: tuple(pieces[:256])
        for language, pieces in _json(model, assets / "vocab.json").items()
    }
    if decoding == "rnnt":
        _require(model, assets, tuple(f"joint_post_net_{language}.onnx" for language in vocab))
    columns = {}
    if decoding == "ctc":
        masks = _json(model, assets / "language_masks.json")
        for language, pieces in vocab.items():
            if language not in masks:
                raise UnsupportedCheckpoint(model, f"language_masks.json lacks {language!r}")
            own = np.flatnonzero(np.asarray(masks[language], dtype=bool)).astype(np.int64)
            if len(own) != len(pieces) + 1:
                raise UnsupportedCheckpoint(
                    model,
                    f"{language!r} has {len(pieces)} pieces in vocab.json and {len(own)} columns "
                    "in language_masks.json, expected one more (the blank)",
                )
            columns[language] = own
    settings = {}
    for place in (assets.parent / "config.json", assets / "config.json"):
        if place.is_file():
            settings = _json(model, place)
            break
    return Layout(
        name=model,
        assets=assets,
        vocab=vocab,
        columns=columns,
        sos=int(settings.get("SOS", sum(map(len, vocab.values())))),
        max_symbols=int(settings.get("RNNT_MAX_SYMBOLS", 10)),
        state_shape=(
            int(settings.get("PRED_RNN_LAYERS", 2)),
            int(settings.get("PRED_RNN_HIDDEN_DIM", 640)),
        ),
    )


def _require(model: str, assets: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (assets / name).is_file()]
    if missing:
        raise ModelNotFound(
            model,
            f"{assets} lacks {', '.join(missing)}; download all of the repository again "
            f"(`hf download {HUB_ID}`) or point --model at a complete directory",
        )


def _json(model: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptCheckpoint(model, f"{path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CorruptCheckpoint(model, f"{path} holds no JSON object")
    return value

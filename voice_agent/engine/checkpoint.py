"""Read a `.nemo` file without NeMo.

A `.nemo` file is a tar, plain or gzipped: `model_config.yaml`, `model_weights.ckpt` (a torch
state dict) and the tokenizer's files under hashed names, as `nemo.core.connectors
.save_restore_connector` writes them. Nothing is unpacked to disk, and pickles are refused
(`weights_only=True`), so that a checkpoint from a stranger can do no more than be wrong.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from voice_agent.engine.config import ModelConfig
from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.text import Tokenizer

if TYPE_CHECKING:
    import torch

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        name: what it was asked for by.
        config: the parts that the engine computes with.
        raw_config: the whole `model_config.yaml`.
        weights: state dict under NeMo's parameter names, on the CPU.
        tokenizer: its tokens' surfaces; None for random weights without one.
    """

    name: str
    config: ModelConfig
    raw_config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    tokenizer: Tokenizer | None


def read_nemo(path: Path, name: str | None = None, *, strict: bool = True) -> Checkpoint:
    """Read a `.nemo` file.

    Args:
        path: the file.
        name: how to call it in messages; its path where None.
        strict: refuse what our own engine does not compute; False for the NeMo backend.

    Raises:
        ModelNotFound: no such file.
        CorruptCheckpoint: not a tar, truncated, or a member is missing or damaged.
        UnsupportedCheckpoint: of a class or shape that the engine does not serve.
    """
    import pickle
    import zlib

    import torch
    import yaml

    name = name or str(path)
    if not path.is_file():
        raise ModelNotFound(name, "there is no such file")
    try:
        with tarfile.open(path, "r:*") as tar:
            members = _members(tar, name)
            raw = yaml.safe_load(_bytes(tar, members, CONFIG_NAME, name))
            if not isinstance(raw, dict):
                raise CorruptCheckpoint(name, f"{CONFIG_NAME} is not a mapping")
            config = ModelConfig.read(name, raw, strict)
            pieces = _bytes(tar, members, _tokenizer_member(raw, members, name), name)
            tokenizer = Tokenizer.from_sentencepiece(pieces, tags=config.prompt is not None)
            weights_file = tar.extractfile(_member(members, WEIGHTS_NAME, name))
            if weights_file is None:
                raise CorruptCheckpoint(name, f"{WEIGHTS_NAME} is not a file")
            weights = torch.load(weights_file, map_location="cpu", weights_only=True)
    except (tarfile.TarError, EOFError, zlib.error, yaml.YAMLError) as error:
        raise CorruptCheckpoint(name, f"not a readable .nemo file ({error})") from error
    except pickle.UnpicklingError as error:
        raise CorruptCheckpoint(
            name, f"{WEIGHTS_NAME} holds something other than tensors ({error})"
        ) from error
    except RuntimeError as error:
        raise CorruptCheckpoint(name, f"a member of it is damaged ({error})") from error
    if (embed := weights.get("decoder.prediction.embed.weight")) is not None:
        embed[-1] = 0  # NeMo starts decoding from zeros, whatever the row of blank holds
    return Checkpoint(name, config, raw, weights, tokenizer)


def _members(tar: tarfile.TarFile, name: str) -> dict[str, tarfile.TarInfo]:
    """Members by file name. Names that leave the archive are a sign of tampering: refuse."""
    members = {}
    for info in tar.getmembers():
        path = PurePosixPath(info.name)
        if path.is_absolute() or ".." in path.parts:
            raise CorruptCheckpoint(name, f"the member {info.name!r} points outside the archive")
        if info.isfile():
            members[path.name] = info
    return members


def _member(members: dict[str, tarfile.TarInfo], wanted: str, name: str) -> tarfile.TarInfo:
    try:
        return members[wanted]
    except KeyError:
        raise CorruptCheckpoint(name, f"{wanted} is missing from the archive") from None


def _bytes(
    tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], wanted: str, name: str
) -> bytes:
    file = tar.extractfile(_member(members, wanted, name))
    if file is None:
        raise CorruptCheckpoint(name, f"{wanted} is not a file")
    return file.read()


def _tokenizer_member(raw: Mapping[str, Any], members: Mapping[str, Any], name: str) -> str:
    """The sentencepiece model: named by the config, or the one member that is one."""
    tokenizer = raw.get("tokenizer") or {}
    kind = tokenizer.get("type")
    if kind not in ("bpe", None):
        raise UnsupportedCheckpoint(
            name, f"tokenizer.type = {kind!r} is not served (known: 'bpe', a sentencepiece model)"
        )
    stated = str(tokenizer.get("model_path") or "").removeprefix("nemo:")
    if PurePosixPath(stated).name in members:
        return PurePosixPath(stated).name
    found = [m for m in members if m.endswith("tokenizer.model")]
    if len(found) != 1:
        raise CorruptCheckpoint(name, f"expected one tokenizer.model, found {len(found)}")
    return found[0]

"""AI4Bharat's `.nemo` hybrids (`indicconformer_stt_kn_hybrid_ctc_rnnt_large`) without NeMo.

Their configs ask for AI4Bharat's own fork of NeMo (a tokenizer of type `multilingual`, heads with
`multisoftmax`), which no released NeMo opens. We read the encoder, the CTC head and the
tokenizers, and compute with PyTorch; the RNNT head is left alone.

The CTC head's columns are 256 pieces a language, in the config's order, and a blank at the end; a
file with one language has 257.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.indic.decode import Token, ctc_tokens

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_FEATURES = {
    "features": 80,
    "n_fft": 512,
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "normalize": "per_feature",
    "sample_rate": 16000,
}


class NemoBackend:
    """A Conformer and its CTC head out of a `.nemo` file; see `backend.Backend`."""

    def __init__(self, path: Path, *, name: str, device: str = "auto", language: str | None = None):
        """Read the file.

        Args:
            path: the `.nemo` file.
            name: how to call it in messages.
            device: "auto", "cpu", "cuda" or "cuda:N".
            language: of a file whose config names no language.

        Raises:
            ModelNotFound: no such file.
            CorruptCheckpoint: not a `.nemo` file, or damaged.
            UnsupportedCheckpoint: parts of a kind or shape that we do not serve.
        """
        import torch

        from voice_agent.engine.indic.conformer import Conformer, ConformerConfig, CtcHead
        from voice_agent.engine.indic.features import LogMel
        from voice_agent.engine.loading import pick_device

        config, weights, tokenizers = _read(path, name)
        _check_features(config.get("preprocessor") or {}, name)
        shape = ConformerConfig.from_nemo(config.get("encoder") or {}, name)
        encoder = Conformer(shape)
        head_weights = _below("ctc_decoder.", weights) or _below("decoder.", weights)
        if "decoder_layers.0.weight" not in head_weights:
            raise UnsupportedCheckpoint(name, "it has no CTC head")
        columns = len(head_weights["decoder_layers.0.weight"])
        head = CtcHead(shape.d_model, columns)
        encoder_weights = _below("encoder.", weights)
        encoder_weights = {k: v for k, v in encoder_weights.items() if not k.startswith("pos_enc")}
        try:
            encoder.load_state_dict(encoder_weights)
            head.load_state_dict(head_weights)
        except RuntimeError as error:
            raise UnsupportedCheckpoint(
                name, f"its weights do not fit its config ({str(error)[:300]})"
            ) from error
        self.pieces = {
            (code or language or "kn"): _pieces(model, name) for code, model in tokenizers.items()
        }
        total = sum(map(len, self.pieces.values()))
        if columns != total + 1:
            raise UnsupportedCheckpoint(
                name, f"its CTC head has {columns} columns for {total} pieces and a blank"
            )
        self._columns, start = {}, 0
        for code, pieces in self.pieces.items():
            own = np.arange(start, start + len(pieces))
            self._columns[code] = np.append(own, total)
            start += len(pieces)
        where = pick_device(device)
        self.device = str(where)
        self.frame_s = 0.01 * shape.subsampling_factor
        self._torch, self._where = torch, where
        self._features = LogMel().to(where).eval()
        self._encoder, self._head = encoder.to(where).eval(), head.to(where).eval()

    def tokens(self, audio: Sequence[np.ndarray], languages: Sequence[str]) -> list[list[Token]]:
        """Decode a batch; see `Backend.tokens`."""
        torch = self._torch
        samples = torch.tensor([len(a) for a in audio], device=self._where)
        wave = torch.zeros(len(audio), int(samples.max()))
        for row, clip in zip(wave, audio, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        with torch.inference_mode():
            mel, frames = self._features(wave.to(self._where), samples)
            encoded, lengths = self._encoder(mel, frames)
            scores = self._head(encoded).float().cpu().numpy()
        return [
            ctc_tokens(row[: int(n)][:, self._columns[code]], len(self.pieces[code]))
            for row, n, code in zip(scores, lengths.tolist(), languages, strict=True)
        ]


def is_multilingual(path: Path) -> bool:
    """Whether a `.nemo` file is one of AI4Bharat's, by the tokenizer that their fork names."""
    import zlib

    import yaml

    try:
        with tarfile.open(path, "r:*") as tar:
            for info in tar:
                if PurePosixPath(info.name).name == CONFIG and info.isfile():
                    tokenizer = yaml.safe_load(_content(tar, info)).get("tokenizer") or {}
                    return bool(tokenizer.get("type") == "multilingual")
    except (OSError, tarfile.TarError, EOFError, zlib.error, yaml.YAMLError, AttributeError):
        pass  # whoever reads it next says what is wrong with it
    return False


def _read(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """The config, the state dict, and the SentencePiece model of each language ("" for one)."""
    import pickle
    import zlib

    import torch
    import yaml

    if not path.is_file():
        raise ModelNotFound(name, "there is no such file")
    try:
        with tarfile.open(path, "r:*") as tar:
            members: dict[str, tarfile.TarInfo] = {}
            for info in tar.getmembers():
                inside = PurePosixPath(info.name)
                if inside.is_absolute() or ".." in inside.parts:
                    raise CorruptCheckpoint(name, f"{info.name!r} points outside the archive")
                if info.isfile():
                    members[inside.name] = info
            missing = [m for m in (CONFIG, WEIGHTS) if m not in members]
            if missing:
                raise CorruptCheckpoint(name, f"{', '.join(missing)} is missing from the archive")
            config = yaml.safe_load(_content(tar, members[CONFIG]))
            stored = tar.extractfile(members[WEIGHTS])
            assert stored is not None  # a regular file, by `isfile`
            weights = torch.load(stored, map_location="cpu", weights_only=True)
            tokenizers = {
                code: _content(tar, _tokenizer(members, part, name))
                for code, part in _languages(config.get("tokenizer") or {}).items()
            }
    except (tarfile.TarError, EOFError, zlib.error, yaml.YAMLError) as error:
        raise CorruptCheckpoint(name, f"not a readable .nemo file ({error})") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise CorruptCheckpoint(name, f"{WEIGHTS} is damaged ({error})") from error
    return config, weights, tokenizers


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None  # a regular file, by `isfile`
    return file.read()


def _languages(tokenizer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tokenizer of each language: under `langs` (NeMo's `agg`) or beside `type`."""
    if tokenizer.get("type") not in ("agg", "multilingual"):
        return {"": tokenizer}
    parts = tokenizer.get("langs") or tokenizer
    return {code: part for code, part in parts.items() if isinstance(part, Mapping)}


def _tokenizer(
    members: Mapping[str, tarfile.TarInfo], part: Mapping[str, Any], name: str
) -> tarfile.TarInfo:
    stated = PurePosixPath(str(part.get("model_path") or "").removeprefix("nemo:")).name
    if stated in members:
        return members[stated]
    found = [m for m in members if m.endswith("tokenizer.model")]
    if len(found) != 1:
        raise CorruptCheckpoint(name, f"its config names the tokenizer {stated!r}, which is absent")
    return members[found[0]]


def _pieces(model: bytes, name: str) -> tuple[str, ...]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise CorruptCheckpoint(name, f"a tokenizer does not load ({error})") from error
    return tuple(processor.IdToPiece(i) for i in range(processor.GetPieceSize()))


def _below(prefix: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    # The head's num_batches_tracked and the like stay what they are: load_state_dict casts.
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _check_features(stated: Mapping[str, Any], name: str) -> None:
    wrong = [
        f"{key} {stated[key]!r}"
        for key, value in _FEATURES.items()
        if stated.get(key) is not None and stated[key] != value
    ]
    if wrong:
        raise UnsupportedCheckpoint(
            name, f"the offline Conformer's features do not serve {', '.join(wrong)}"
        )

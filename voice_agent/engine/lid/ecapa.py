"""ECAPA-TDNN trained on VoxLingua107: 107 languages, read from SpeechBrain's own files.

    hyperparams.yaml       sizes; other keys are its training's
    embedding_model.ckpt   the network up to the embedding
    classifier.ckpt        from there to the languages
    label_encoder.txt      'en: English' => 20

SpeechBrain itself is not needed: it wants torchaudio, which newer PyTorch no longer has, and runs
whatever the YAML names. Here that file is read, not run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.hub import snapshot
from voice_agent.engine.lid.base import LanguageScores, speech_seconds
from voice_agent.engine.recognizer import as_float32

if TYPE_CHECKING:
    from voice_agent.engine.lid.ecapa_net import EcapaConfig

DEFAULT = "speechbrain/lang-id-voxlingua107-ecapa"
SHORTEST = 4000  # samples; below, the network's own windows do not fit
CONFIG, LABELS = "hyperparams.yaml", "label_encoder.txt"
PARTS = ("embedding_model", "classifier")

# What decides how it computes, and the only value that is served. Absent it is SpeechBrain's
# default, which that is too, but for the norm's.
SERVED: dict[str, dict[str, Any]] = {
    "compute_features": {
        "deltas": False, "context": False, "sample_rate": 16000, "f_min": 0, "f_max": None,
        "n_fft": 400, "filter_shape": "triangular", "win_length": 25, "hop_length": 10,
    },
    "mean_var_norm": {"norm_type": "sentence", "std_norm": False},
    "embedding_model": {"global_context": True, "groups": [1, 1, 1, 1, 1], "activation": "ReLU"},
    "classifier": {"lin_blocks": 1, "activation": "LeakyReLU"},
}  # fmt: skip


class EcapaIdentifier:
    """SpeechBrain's classifier; labels are written "en: English", the code is what comes first."""

    def __init__(self, model: str | None = None, *, device: str = "auto") -> None:
        """Load a directory in SpeechBrain's layout, or a Hugging Face id.

        Raises:
            ModelNotFound: the model cannot be had, or lacks a file.
            CorruptCheckpoint: a file is damaged.
            UnsupportedCheckpoint: another network than the recipe VoxLingua107's.
        """
        import torch

        from voice_agent.engine.lid.ecapa_net import Ecapa
        from voice_agent.engine.loading import pick_device

        model = model or DEFAULT
        folder = _find(model)
        for name in (CONFIG, LABELS, *(f"{part}.ckpt" for part in PARTS)):
            if not (folder / name).is_file():
                raise ModelNotFound(model, f"{folder} has no {name}")
        labels = _labels(model, folder / LABELS)
        config = read_config(model, (folder / CONFIG).read_text(encoding="utf-8"))
        if len(labels) != config.classes:
            raise UnsupportedCheckpoint(
                model, f"{LABELS} has {len(labels)} labels for {config.classes} outputs"
            )
        self._device = pick_device(device)
        self._model = Ecapa(config).eval().requires_grad_(False)
        for part in PARTS:
            _load(model, folder / f"{part}.ckpt", self._model.get_submodule(part))
        self._model.to(self._device)
        self.languages = tuple(label.split(":")[0].strip() for label in labels)
        self.name = Path(model).name
        self._torch = torch

    def identify(self, pcm: np.ndarray) -> LanguageScores:
        """Score the audio so far; see `LanguageIdentifier.identify`."""
        audio = as_float32(pcm)
        speech_s = speech_seconds(audio)
        if len(audio) < SHORTEST:
            even = 1.0 / len(self.languages)
            return LanguageScores(dict.fromkeys(self.languages, even), speech_s)
        with self._torch.inference_mode():
            logits = self._model(self._torch.from_numpy(audio).to(self._device))
            chance = self._torch.softmax(logits, dim=0).cpu().tolist()
        return LanguageScores(dict(zip(self.languages, chance, strict=True)), speech_s)


def read_config(model: str, text: str) -> EcapaConfig:
    """`hyperparams.yaml` to what the network is made of.

    Args:
        model: its name, for messages.
        text: the file's. Tags such as `!new:` make no object here.

    Raises:
        CorruptCheckpoint: no YAML, or without a key that is needed.
        UnsupportedCheckpoint: a value that the network here does not have.
    """
    from voice_agent.engine.lid.ecapa_net import EcapaConfig

    try:
        raw = yaml.load(text, _Reader)  # noqa: S506 - a SafeLoader that knows no class
        sections = {name: _resolved(raw, raw[name] or {}) for name in SERVED}
        for name, served in SERVED.items():
            for key, value in served.items():
                default = None if name == "mean_var_norm" else value
                if (found := sections[name].get(key, default)) != value:
                    raise UnsupportedCheckpoint(
                        model, f"{name}.{key} = {found!r} is not served (only {value!r})"
                    )
        net, head = sections["embedding_model"], sections["classifier"]
        extra = {key: int(net[key]) for key in ("res2net_scale", "se_channels") if key in net}
        return EcapaConfig(
            n_mels=int(sections["compute_features"]["n_mels"]),
            channels=tuple(net["channels"]),
            kernel_sizes=tuple(net["kernel_sizes"]),
            dilations=tuple(net["dilations"]),
            attention_channels=int(net["attention_channels"]),
            lin_neurons=int(net["lin_neurons"]),
            hidden=int(head["lin_neurons"]),
            classes=int(head["out_neurons"]),
            **extra,
        )
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpoint(model, f"{CONFIG} cannot be read ({error!r})") from error


class _Reader(yaml.SafeLoader):
    """`!ref <key>` stays its text, `!name:torch.nn.ReLU` becomes "ReLU", `!new:…` its arguments."""


def _tagged(reader: _Reader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return reader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return reader.construct_sequence(node, deep=True)
    return node.value or tag.rpartition(".")[2]


_Reader.add_multi_constructor("!", _tagged)


def _resolved(raw: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """A section whose references are replaced by what they name."""
    named = {
        key: re.fullmatch(r"<(\w+)>", value) if isinstance(value, str) else None
        for key, value in section.items()
    }
    return {key: raw[ref[1]] if (ref := named[key]) else section[key] for key in section}


def _find(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelNotFound(model, "no such directory, and not a Hugging Face id (owner/name)")
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot(model, [CONFIG, LABELS, "*.ckpt"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            model,
            f"cannot be had ({str(error)[:120]}); run `hf download {DEFAULT}` on a machine "
            "with network and give the directory",
        ) from error


def _labels(model: str, file: Path) -> list[str]:
    """Labels by the number of their output."""
    try:
        rows = file.read_text(encoding="utf-8").partition("\n====")[0].splitlines()
        pairs = [row.rsplit(" => ", 1) for row in rows if row.strip()]
        table = {int(number): str(ast.literal_eval(label)) for label, number in pairs}
        return [table[number] for number in range(len(table))]
    except (ValueError, SyntaxError, KeyError) as error:
        raise CorruptCheckpoint(model, f"{file.name} cannot be read ({error!r})") from error


def _load(model: str, file: Path, part: Any) -> None:
    """Weights into a part; SpeechBrain wraps each layer once more than we do."""
    import torch

    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        wrapped = re.compile(r"\.(conv|norm|w)(?=\.\w+$)")
        part.load_state_dict({wrapped.sub("", name): value for name, value in stored.items()})
    except Exception as error:  # torch raises whatever pickle, zip and its own checks do
        raise CorruptCheckpoint(model, f"{file.name} does not load ({str(error)[:200]})") from error

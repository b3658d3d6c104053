"""NVIDIA's AmberNet (`langid_ambernet`, 107 languages) through NeMo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.lid.base import LanguageScores, speech_seconds
from voice_agent.engine.recognizer import as_float32

DEFAULT = "langid_ambernet"
SHORTEST = 4000  # samples below which the normalisation over time has nothing to work with


class AmberNetIdentifier:
    """A NeMo label model; its languages are the labels that its config names."""

    def __init__(self, model: str | None = None, *, device: str = "auto") -> None:
        """Load a `.nemo` file, or NVIDIA's own by name. NeMo alone takes 15 s to import.

        Raises:
            ModelNotFound: NeMo is not installed, or the model cannot be had.
            CorruptCheckpoint: the file is damaged.
            UnsupportedCheckpoint: a model without language labels.
        """
        model = model or DEFAULT
        try:
            from nemo.collections.asr.models import EncDecSpeakerLabelModel
        except ImportError as error:
            raise ModelNotFound(
                model, f"AmberNet needs NeMo ({error}); run `pip install 'voice-agent[nemo]'`"
            ) from error
        import torch

        from voice_agent.engine.loading import pick_device

        self._device = pick_device(device)
        self._model = self._open(EncDecSpeakerLabelModel, model)
        labels = (self._model.cfg.get("train_ds") or {}).get("labels")
        outputs = self._model.cfg.decoder.num_classes
        if not labels or len(labels) != outputs:
            raise UnsupportedCheckpoint(
                model, f"its config names {len(labels or [])} labels for {outputs} outputs"
            )
        self.name = Path(model).stem
        self.languages = tuple(str(label) for label in labels)
        self._model.eval()
        self._torch = torch

    def _open(self, kind: Any, model: str) -> Any:
        path = Path(model).expanduser()
        if path.is_file():
            try:
                return kind.restore_from(str(path), map_location=self._device)
            except Exception as error:  # NeMo raises whatever its parts do
                raise CorruptCheckpoint(
                    model, f"NeMo cannot open it ({str(error)[:200]})"
                ) from error
        if model.endswith(".nemo"):
            raise ModelNotFound(model, "no such file")
        try:
            return kind.from_pretrained(model, map_location=self._device)
        except Exception as error:  # likewise, the network's errors among them
            raise ModelNotFound(
                model,
                f"NeMo cannot download it ({str(error)[:120]}); download langid_ambernet from "
                "NVIDIA NGC and give the path of its .nemo file",
            ) from error

    def identify(self, pcm: np.ndarray) -> LanguageScores:
        """Score the audio so far; see `LanguageIdentifier.identify`."""
        audio = as_float32(pcm)
        speech_s = speech_seconds(audio)
        if len(audio) < SHORTEST:
            even = 1.0 / len(self.languages)
            return LanguageScores(dict.fromkeys(self.languages, even), speech_s)
        torch = self._torch
        with torch.inference_mode():
            signal = torch.from_numpy(audio)[None].to(self._device)
            length = torch.tensor([len(audio)], device=self._device)
            logits, _ = self._model.forward(input_signal=signal, input_signal_length=length)
            chance = torch.softmax(logits[0].float(), dim=0).cpu().tolist()
        return LanguageScores(dict(zip(self.languages, chance, strict=True)), speech_s)

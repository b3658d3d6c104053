"""SpeechBrain's ECAPA-TDNN trained on VoxLingua107: 107 languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound
from voice_agent.engine.lid.base import LanguageScores, speech_seconds
from voice_agent.engine.recognizer import as_float32

DEFAULT = "speechbrain/lang-id-voxlingua107-ecapa"
SHORTEST = 4000  # samples; below, the network's own windows do not fit


class EcapaIdentifier:
    """A SpeechBrain classifier; labels are written "en: English", the code is what comes first."""

    def __init__(self, model: str | None = None, *, device: str = "auto") -> None:
        """Load a directory in SpeechBrain's layout, or a Hugging Face id.

        Raises:
            ModelNotFound: SpeechBrain is not installed, or the model cannot be had.
            CorruptCheckpoint: SpeechBrain cannot open it.
        """
        model = model or DEFAULT
        try:
            from speechbrain.inference.classifiers import EncoderClassifier
        except (ImportError, OSError) as error:  # OSError: its torchaudio is not for this PyTorch
            raise ModelNotFound(
                model,
                f"ECAPA needs SpeechBrain, and a torchaudio for the PyTorch that is installed "
                f"({error}); run `pip install speechbrain`",
            ) from error
        import torch

        from voice_agent.engine.loading import pick_device

        folder = Path(model).expanduser()
        source = str(folder) if folder.is_dir() else model
        if not folder.is_dir() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
            raise ModelNotFound(model, "no such directory, and not a Hugging Face id (owner/name)")
        try:
            self._model = EncoderClassifier.from_hparams(
                source=source,
                savedir=source if folder.is_dir() else None,
                run_opts={"device": str(pick_device(device))},
            )
        except OSError as error:
            raise ModelNotFound(
                model,
                f"cannot be had ({str(error)[:120]}); run `hf download {DEFAULT}` on a machine "
                "with network and give the directory",
            ) from error
        except Exception as error:  # SpeechBrain runs a YAML of its own; anything may come
            raise CorruptCheckpoint(
                model, f"SpeechBrain cannot open it ({str(error)[:200]})"
            ) from error
        table = self._model.hparams.label_encoder.ind2lab
        self.languages = tuple(str(table[i]).split(":")[0].strip() for i in range(len(table)))
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
            scores = self._model.classify_batch(self._torch.from_numpy(audio)[None])[0]
        # The classifier ends in log-softmax; softmax of it is the identity, whatever it ends in.
        chance = self._torch.softmax(scores.reshape(-1).float(), dim=0).cpu().tolist()
        return LanguageScores(dict(zip(self.languages, chance, strict=True)), speech_s)

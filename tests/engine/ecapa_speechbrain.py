"""A miniature of the VoxLingua107 checkpoint, and what SpeechBrain makes of it.

    pip install --no-deps speechbrain hyperpyyaml 'ruamel.yaml<0.19' ruamel.yaml.clib
    python -m tests.engine.ecapa_speechbrain > tests/engine/ecapa_speechbrain.json

writes down SpeechBrain's version, the names and shapes of its tensors, and its posteriors of three
clips. So the layout and the answers that our reader is held to are SpeechBrain's own, on machines
without it too. The weights come from numpy's generator by name, and need no file.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

RECORDED = Path(__file__).with_suffix(".json")
LABELS = ("en: English", "hi: Hindi", "kn: Kannada", "ta: Tamil")

# The recipe's keys and order (recipes/VoxLingua107/lang_id), with few channels.
HYPERPARAMS = """
seed: 1988
__set_seed: !apply:torch.manual_seed [!ref <seed>]
pretrained_path: FOLDER
n_mels: 60
left_frames: 0
right_frames: 0
deltas: False
out_n_neurons: 4

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    left_frames: !ref <left_frames>
    right_frames: !ref <right_frames>
    deltas: !ref <deltas>

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 16

classifier: !new:speechbrain.lobes.models.Xvector.Classifier
    input_shape: [null, null, 16]
    activation: !name:torch.nn.LeakyReLU
    lin_blocks: 1
    lin_neurons: 12
    out_neurons: !ref <out_n_neurons>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
    mean_var_norm: !ref <mean_var_norm>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def clips() -> list[np.ndarray]:
    """Noise, the least that is heard, and a tone that fades by more than the features keep."""
    rng = np.random.default_rng(8)
    fading = np.sin(np.arange(20_000) / 9.0) * np.geomspace(0.5, 1e-6, 20_000)
    sounds = (rng.normal(0, 0.1, 32_000), rng.normal(0, 0.3, 4_000), fading)
    return [sound.astype(np.float32) for sound in sounds]


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """A tensor for this name, the same everywhere."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    # So that clips differ in their answers, and none is beyond doubt.
    spread = (0.005 if "out" in name else 2) / np.sqrt(np.prod(shape[1:])) if shape[1:] else 0.2
    values = rng.normal(0, spread, shape)
    if name.endswith(("running_var", "norm.weight")):
        values = 1.0 + np.abs(values)
    return torch.from_numpy(values.astype(np.float32))


def write(folder: Path, shapes: dict[str, dict[str, list[int]]]) -> None:
    """The files of a checkpoint: `shapes` of each part's tensors, by name."""
    text = HYPERPARAMS.replace("FOLDER", str(folder))
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    lines = [f"{label!r} => {number}" for number, label in enumerate(LABELS)]
    lines += ["=" * 16, "'starting_index' => 0"]
    (folder / "label_encoder.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for part, tensors in shapes.items():
        made = {name: weight(f"{part}.{name}", shape) for name, shape in tensors.items()}
        torch.save(made, folder / f"{part}.ckpt")


def record() -> dict[str, object]:
    """Ask SpeechBrain."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):  # it is imported everywhere, and used nowhere here
        sys.modules["torchaudio"] = MagicMock(__spec__=MagicMock(), __version__="2.11.0")
    import speechbrain
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.inference.classifiers import EncoderClassifier

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        parts = load_hyperpyyaml(HYPERPARAMS.replace("FOLDER", made))
        shapes = {
            part: {name: list(value.shape) for name, value in parts[part].state_dict().items()}
            for part in ("embedding_model", "classifier")
        }
        write(folder, shapes)
        model = EncoderClassifier.from_hparams(source=made, savedir=made)
        with torch.inference_mode():
            scores = [model.classify_batch(torch.from_numpy(clip)[None])[0] for clip in clips()]
        labels = model.hparams.label_encoder.ind2lab
    return {
        "speechbrain": speechbrain.__version__,
        "labels": [labels[number] for number in range(len(labels))],
        "shapes": shapes,
        "posteriors": [score.reshape(-1).exp().tolist() for score in scores],
    }


if __name__ == "__main__":
    lines = (f'"{key}": {json.dumps(value)}' for key, value in record().items())
    print("{\n" + ",\n".join(lines) + "\n}")

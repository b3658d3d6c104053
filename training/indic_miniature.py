"""Build a miniature of `ai4bharat/indic-conformer-600m-multilingual` in the same file layout.

    python -m training.indic_miniature --out DIR

Same files, names, inputs, outputs and masks: 22 languages of 256 pieces, 5,633 CTC columns, an
encoder whose weights lie beside it, and the RNNT networks with 22 heads. Only the widths are
small, and the weights are random: what it writes means nothing, but every stage can be compared
with the PyTorch modules that it came from.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from training.indic_export import CtcParts, RnntParts, write_layout
from voice_agent.engine.indic.conformer import Conformer, ConformerConfig, CtcHead
from voice_agent.engine.indic.features import LogMel

LANGUAGES = tuple("as bn brx doi gu hi kn kok ks mai ml mni mr ne or pa sa sat sd ta te ur".split())
FIRST_LETTER = {"bn": 0x985, "gu": 0xA85, "hi": 0x905, "kn": 0xC85, "ml": 0xD05, "ta": 0xB85}
PIECES = 256
SHAPE = ConformerConfig(
    n_layers=2,
    d_model=32,
    n_heads=4,
    subsampling="dw_striding",
    subsampling_factor=8,
    subsampling_conv_channels=8,
    conv_kernel_size=9,
    conv_norm_type="batch_norm",
)


class PredictionNetwork(nn.Module):
    """NeMo's `RNNTDecoder` as its export sees it: an embedding and an LSTM with its state."""

    def __init__(self, tokens: int, layers: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens + 1, width, padding_idx=tokens)
        self.lstm = nn.LSTM(width, width, layers)

    def forward(
        self, targets: Tensor, target_length: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Targets [B, U] and state [layers, B, width] to [B, width, U], lengths, next state."""
        embedded = self.embed(targets.long()).transpose(0, 1)
        out, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        return out.permute(1, 2, 0), target_length + 0, hidden, cell


@dataclasses.dataclass(frozen=True, slots=True)
class Miniature:
    """The modules that a directory was written from."""

    ctc: CtcParts
    rnnt: RnntParts
    vocab: dict[str, list[str]]


def pieces_of(language: str) -> list[str]:
    """256 made-up pieces in the language's script where its block is known, else Devanagari."""
    first = FIRST_LETTER.get(language, 0x905)
    letters = [chr(first + i) for i in range(50)]
    starts = [f"▁{letter}" for letter in letters]
    pairs = [a + b for a in letters[:11] for b in letters[11:26]]
    return ["<unk>", *letters, *starts, *pairs][:PIECES]


def build(seed: int = 0, shape: ConformerConfig = SHAPE, width: int = 24) -> Miniature:
    """Make the modules with random weights, their normalisation statistics random too."""
    torch.manual_seed(seed)
    total = PIECES * len(LANGUAGES)
    encoder = Conformer(shape)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ctc = CtcHead(shape.d_model, total + 1)
    # Random scores alone never favour the blank: without this, every frame would be a token.
    nn.init.normal_(ctc.decoder_layers[0].weight, std=0.6)
    posts = {language: nn.Linear(width, PIECES + 1) for language in LANGUAGES}
    for post in posts.values():
        nn.init.normal_(post.weight, std=1.0)
        nn.init.constant_(post.bias[-1:], 1.0)
    rnnt = RnntParts(
        PredictionNetwork(total, 2, width),
        nn.Linear(shape.d_model, width),
        nn.Linear(width, width),
        nn.ReLU(),
        posts,
        (2, width),
    )
    modules = [encoder, ctc, rnnt.decoder, rnnt.joint_enc, rnnt.joint_pred, *posts.values()]
    for module in modules:
        module.eval()
    vocab = {language: pieces_of(language) for language in LANGUAGES}
    return Miniature(CtcParts(LogMel().eval(), encoder, ctc), rnnt, vocab)


def write(miniature: Miniature, folder: Path) -> None:
    """Write a miniature's files."""
    write_layout(folder, miniature.ctc, miniature.vocab, rnnt=miniature.rnnt)


def main() -> None:
    """Write a miniature."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(build(args.seed), args.out)
    files = [p for p in args.out.rglob("*") if p.is_file()]
    print(f"{args.out}: {len(files)} files, {sum(p.stat().st_size for p in files) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

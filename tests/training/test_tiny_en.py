"""The recipe of tiny-en: its loss, its model beside NeMo's, and the whole run at toy size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.checkpoints import quiet_nemo, train_tokenizer
from training import rnnt_loss
from training.fastconformer import FastConformerRNNT, ModelShape, roomy
from training.mel import mel_bank
from training.nemo_file import write_nemo
from training.pool import MARGIN_S, Pool, write_shard
from training.speech_text import Script, clean, spell_number
from training.tiny_en import arguments, load_averaged

ROOT = Path(__file__).parents[2]
TOY = ModelShape(
    d_model=32,
    n_layers=2,
    n_heads=2,
    subsampling_conv_channels=8,
    pred_hidden=32,
    joint_hidden=32,
    vocab_size=64,
)


def naive_transducer(logits, targets, blank):
    """The sum over all paths of one utterance, node by node."""
    log_probs = logits.log_softmax(-1)
    length, nodes = log_probs.shape[:2]
    alpha = {(0, 0): torch.zeros((), dtype=logits.dtype)}
    for t in range(length):
        for u in range(nodes):
            ways = []
            if t:
                ways.append(alpha[t - 1, u] + log_probs[t - 1, u, blank])
            if u:
                ways.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]])
            if ways:
                alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alpha[length - 1, nodes - 1] + log_probs[length - 1, nodes - 1, blank])


def test_the_transducer_loss_and_its_gradient_equal_the_sum_over_all_paths():
    torch.manual_seed(0)
    frames, tokens, classes = torch.tensor([6, 4, 1]), torch.tensor([3, 2, 2]), 5
    logits = torch.randn(3, 6, 4, classes, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, classes - 1, (3, 3))
    naive = torch.stack(
        [
            naive_transducer(logits[i, :t, : u + 1], targets[i], classes - 1)
            for i, (t, u) in enumerate(zip(frames.tolist(), tokens.tolist(), strict=True))
        ]
    )
    wanted = torch.autograd.grad(naive.sum(), logits)[0]
    ours = rnnt_loss.rnnt_loss(logits, targets, frames, tokens, classes - 1)
    got = torch.autograd.grad(ours.sum(), logits)[0]
    torch.testing.assert_close(ours.double(), naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_kernels_pass_over_the_logits_as_plain_pytorch_does(dtype, near):
    rnnt_kernels = pytest.importorskip("training.rnnt_kernels")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton interprets
    logits = torch.randn(2, 3, 4, 24, device=device).to(dtype)
    labels, shares = torch.randint(0, 20, (2, 4), device=device), torch.rand(2, 2, 3, 4).to(device)
    made = []
    for passes in (rnnt_loss, rnnt_kernels):
        read = passes.read(logits, labels, 20)
        made.append((*read, passes.write(logits, labels, read[0], *shares, 20)))
    for one, other in zip(*made, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=near, atol=near)


def test_a_layer_with_room_for_more_classes_says_nothing_of_them():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(6, 21), 9.0 * torch.randn(5, 6)
    said = roomy(layer, x)
    assert said.shape == (5, 24)
    torch.testing.assert_close(said[:, :21], layer(x))
    torch.testing.assert_close(said.softmax(-1)[:, :21], layer(x).softmax(-1))
    assert not said.softmax(-1)[:, 21:].any()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A random model of the recipe's class, and its `.nemo` file."""
    folder = tmp_path_factory.mktemp("toy")
    torch.manual_seed(1)
    model = FastConformerRNNT(TOY).eval()
    write_nemo(folder / "toy.nemo", model, train_tokenizer(folder).read_bytes())
    return folder / "toy.nemo"


@pytest.mark.parametrize("right", [0, 1, 6, 13])
def test_nemo_opens_the_file_and_computes_the_same_frames(toy, right):
    """In the file weights are rounded, so the model is read back before it is compared."""
    from voice_agent.engine.checkpoint import read_nemo

    model_class = quiet_nemo(prompts=False)
    reference = model_class.restore_from(str(toy), map_location="cpu").eval()
    model = FastConformerRNNT(TOY).eval()
    weights = {k: v.float() for k, v in read_nemo(toy).weights.items()}
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("preprocessor")})

    reference.encoder.set_default_att_context_size([70, right])
    mel, frames = torch.randn(2, 80, 333), torch.tensor([333, 207])
    with torch.inference_mode():
        wanted, lengths = reference.encoder(audio_signal=mel, length=frames)
        got, ours, _ = model.encoder(mel, frames, right)
    assert ours.tolist() == lengths.tolist()
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(got[row, :length], wanted[row, :, :length].T, atol=1e-4, rtol=0)


def test_the_same_weights_give_the_same_bytes(toy, tmp_path):
    torch.manual_seed(1)
    model = FastConformerRNNT(TOY).eval()
    tokenizer = (toy.parent / "tokenizer.model").read_bytes()
    write_nemo(tmp_path / "again.nemo", model, tokenizer)
    assert (tmp_path / "again.nemo").read_bytes() == toy.read_bytes()


def test_batches_hold_utterances_of_like_length_in_the_shares_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    for voice in ("a", "b"):
        rows = [
            (np.zeros(int(16000 * s), np.int16), "x y z", f"{voice}/1")
            for s in rng.uniform(1, 9, 200)
        ]
        write_shard(tmp_path, voice, rows)
    pool = Pool(tmp_path, lambda text: [1] * len(text.split()), 2.0, torch.device("cpu"))
    pool.refresh()
    batches = pool.batches({"a": 0.8, "b": 0.2}, 60.0, rng)
    played = ["ab"[i in pool.by_group["b"]] for draw in batches for i in draw.rows]
    assert played.count("a") / len(played) == pytest.approx(0.8, abs=0.05)
    for draw in batches:
        seconds = pool.length[draw.rows] / draw.speeds / 16000 + MARGIN_S
        assert draw.seconds - 2 < seconds.min() and seconds.max() <= draw.seconds
        assert len(draw.rows) * draw.seconds <= 60


def test_text_that_is_dense_finds_room_for_its_tokens(tmp_path):
    write_shard(tmp_path, "0", [(np.zeros(32_000, np.int16), "x " * n, "a/1") for n in (3, 28)])
    pool = Pool(tmp_path, lambda text: [1] * len(text.split()), 1.0, torch.device("cpu"))
    pool.refresh()
    batches = pool.batches({"a": 1.0}, 8.0, np.random.default_rng(0), draw=40)
    assert {0, 1} == {int(row) for draw in batches for row in draw.rows}
    for draw in batches:
        targets, counts = pool.targets(draw.rows, draw.tokens)
        assert targets.shape == (len(draw.rows), draw.tokens) and counts.max() <= draw.tokens


def test_a_seed_fixes_the_script_and_every_line_is_plain_words():
    books = ["It was the best of times, it was the WORST of times;", "2 numbers are left out"]
    once, again = (Script(books, ["he ran - away"], 7) for _ in range(2))
    lines = [once.line() for _ in range(300)]
    assert lines == [again.line() for _ in range(300)]
    assert all(line == clean(line) != "" for line in lines)


@pytest.mark.parametrize(
    "number, words",
    [(0, "zero"), (21, "twenty one"), (1305, "one thousand three hundred five")],
)
def test_numbers_are_spelled(number, words):
    assert spell_number(number) == words


def test_the_mel_bank_of_training_is_the_engines(toy):
    from voice_agent.engine.checkpoint import read_nemo
    from voice_agent.engine.features import mel_filterbank

    wanted = mel_filterbank(read_nemo(toy).config.preprocessor)
    torch.testing.assert_close(torch.from_numpy(mel_bank(80)), wanted, atol=1e-7, rtol=1e-5)


def test_measuring_makes_the_folder_that_its_rows_go_to(monkeypatch, tmp_path):
    """Else minutes of measuring are lost at the last line."""
    from training import tiny_en, tiny_en_card

    monkeypatch.setattr(tiny_en_card, "evaluate", lambda model, clips, out: out.write_text("[]"))
    command = f"tiny_en --stage eval --work {tmp_path}/out/eval --speech {tmp_path}"
    monkeypatch.setattr(sys, "argv", command.split())
    tiny_en.main()
    assert (tmp_path / "out/eval/eval.json").read_text() == "[]"


def test_several_moments_of_a_run_are_exported_as_their_mean(tmp_path):
    models = [FastConformerRNNT(TOY) for _ in range(2)]
    files = [tmp_path / f"small-{index}.pt" for index in range(2)]
    for model, file in zip(models, files, strict=True):
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save(weights | {"ctc.bias": torch.zeros(3)}, file)
    args = arguments().parse_args(["--work", str(tmp_path), "--average", *map(str, files)])
    args.shape = TOY
    mean, (one, other) = load_averaged(args), models
    for name, tensor in mean.named_parameters():
        both = one.get_parameter(name), other.get_parameter(name)
        torch.testing.assert_close(tensor, sum(both) / 2)


def test_smoke_the_loss_falls_and_the_export_opens(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "training.tiny_en", "--smoke", "--work", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "opens" in done.stdout

"""What is decoded from the teacher's frames, and what of it reaches the student."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.whisper import random_whisper
from tests.training.test_student import OFF, TOY, WEIGHTS, a_batch
from training.measure import Clip, Evaluator
from training.mel import VOCAL_TRACTS
from training.pool import Pool, write_shard
from training.step import Step
from training.student import Batch, Recipe, Student
from training.subsampling import subsampled_length
from training.teacher import TeacherEars, WhisperEar
from training.tiny_en import has_ears


def taught_batch(size: int = 10) -> Batch:
    batch = a_batch()
    frames = int(subsampled_length(batch.frames).max())
    return replace(batch, heard=torch.randn(len(batch.frames), frames, 1, size))


def test_a_teachers_ears_are_late_by_some_frames_and_know_nothing_of_others():
    ears, heard = TeacherEars(10, 16, delays=(2, 4)).eval(), torch.randn(2, 12, 10)
    before = ears(heard, 14)
    assert before.shape == (2, 14, 16)
    other = heard.clone()
    other[0, 5] += 1.0
    moved = (ears(other, 14) - before).abs().amax(-1)
    assert moved.nonzero().tolist() == [[0, 7], [0, 9]]
    torch.testing.assert_close(ears(heard, 9), before[:, :9])
    for later in (3, torch.tensor(3.0)):
        torch.testing.assert_close(ears(heard, 14, later)[:, 3:], before[:, :11])


def test_the_noise_that_decoding_hears_is_not_in_what_the_student_is_taught():
    student = Student(TOY, 10).train()
    student.ears.noise = 0.5
    batch = taught_batch()
    dropouts = torch.nn.ModuleList(m for m in student.modules() if hasattr(m, "dropout"))
    for module in dropouts:
        module.dropout = 0.0

    def losses() -> dict[str, float]:
        return {name: float(loss) for name, loss in student.losses(batch, WEIGHTS, OFF).items()}

    one, other = losses(), losses()
    assert one["ears_ctc"] != other["ears_ctc"]
    for name in ("taught", "taught_ctc", "ears_follow"):
        assert one[name] == pytest.approx(other[name], rel=1e-5), name


@pytest.mark.parametrize(
    "name, reached",
    [
        ("ears_rnnt", {"ears", "decoder", "joint"}),
        ("ears_ctc", {"ears", "ctc"}),
        ("ears_follow", {"ears"}),
        ("taught", {"encoder"}),
        ("taught_ctc", {"encoder", "ctc"}),
    ],
)
def test_what_the_teachers_ears_teach_reaches_whom_it_is_meant_for(name, reached):
    torch.manual_seed(8)
    student = Student(TOY, 10)
    loss = student.losses(taught_batch(), WEIGHTS, OFF)[name]
    assert loss > 0
    parts = {
        "ears": student.ears,
        "ctc": student.ctc,
        "encoder": student.model.encoder,
        "decoder": student.model.decoder,
        "joint": student.model.joint,
    }
    for part, module in parts.items():
        grads = torch.autograd.grad(
            loss, list(module.parameters()), retain_graph=True, allow_unused=True
        )
        assert any(g is not None and bool(g.any()) for g in grads) == (part in reached), part


def test_teacher_and_student_hear_the_same_playing_by_the_same_vocal_tract(tmp_path):
    tone = 0.3 * torch.sin(2 * torch.pi * 1500 / 16_000 * torch.arange(16_000))[None]
    ear = WhisperEar(random_whisper(width=8, heads=2, layers=1, wide=2), torch.device("cpu"))
    rows = [(np.full(16_000, 999, np.int16), "x", "a/1")] * 4
    write_shard(tmp_path, "0", rows)
    pool = Pool(tmp_path, lambda text: [1], 0.01, torch.device("cpu"))
    pool.refresh()
    work = Step(TOY, Recipe(), pool, torch.device("cpu"), ear)
    bands = set()
    for tract in (0, 3, 100, VOCAL_TRACTS):
        mine, _ = work.mel(tone, torch.tensor([16_000]), torch.tensor([tract]))
        spectrum = torch.stft(tone, 400, 160, window=ear.window, return_complex=True)
        theirs = ear.banks[tract] @ spectrum.abs().square()
        bands.add(int(mine[0, :, 50].argmax()))
        assert abs(int(theirs[0, :, 50].argmax()) - int(mine[0, :, 50].argmax())) <= 1
    assert len(bands) > 2

    heard = []
    mel = work.mel
    work.mel = lambda wave, samples, warp: heard.append((wave, warp)) or mel(wave, samples, warp)
    work.mel.banks = mel.banks
    work.ear = lambda wave, warp: heard.append((wave, warp)) or ear(wave, warp)
    rng = np.random.default_rng(4)
    draw = pool.batches({"a": 1.0}, 8.0, rng, draw=8)[0]
    batch = work.batch(work.drawn(draw, 1.0, rng), work.phase(1.0))
    (mine, by_mine), (theirs, by_theirs) = heard
    assert len(mine) == 2 * len(draw.rows) == len(batch.heard)
    assert torch.equal(mine, theirs) and torch.equal(by_mine, by_theirs) and by_mine.any()


def test_ears_that_have_learnt_nothing_yet_follow_the_student_and_teach_nobody():
    torch.manual_seed(9)
    student, batch = Student(TOY, 10), taught_batch()
    total = student.losses(batch, replace(WEIGHTS, ears=0.0), OFF)
    said = {name: float(total[name]) for name in total}
    wanted = 0.5 * (said["ctc"] + said["inner"]) + said["rnnt"] + 0.125 * said["lm"]
    wanted += 0.5 * said["phones"] + 0.25 * said["teacher"] + said["ears_follow"]
    assert said["total"] == pytest.approx(wanted, rel=1e-4)
    recipe = Recipe(ears=(0.2, 0.4))
    let_in = [ears_at(recipe, progress) for progress in (0.0, 0.2, 0.3, 0.4, 1.0)]
    assert let_in == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


def test_a_run_that_goes_on_with_ears_lets_them_in_at_once(tmp_path):
    for size in (0, 10):
        torch.save(Student(TOY, size).state_dict(), tmp_path / "small.pt")
        assert has_ears(tmp_path / "small.pt") == (size > 0)
    assert not has_ears(tmp_path / "graft.nemo")


def ears_at(recipe: Recipe, progress: float) -> float:
    work = Step.__new__(Step)
    work.recipe = recipe
    return float(work._weights(progress).ears)


def test_a_word_error_rate_by_ear_is_of_the_teachers_frames():
    torch.manual_seed(10)
    ear = WhisperEar(random_whisper(width=8, heads=2, layers=1, wide=2), torch.device("cpu"))
    student = Student(TOY, ear.output_size)
    rng = np.random.default_rng(3)
    clips = [
        Clip(0.1 * rng.standard_normal(n).astype(np.float32), "a b", source)
        for n, source in ((16_000, "ls"), (24_000, "sb"), (80_000, "ls"))
    ]
    said = []

    def decode(tokens: list[int]) -> str:
        said.append(tokens)
        return "a b" if len(said) % 2 else "a"

    evaluator = Evaluator(clips, decode, torch.device("cpu"))
    rates = evaluator.by_ear(student, ear, longest_s=3.0)
    assert rates == {"by ear, all (2)": 25.0, "by ear, ls (1)": 0.0}
    assert student.training and any(said)
    first, said[:] = list(said), []
    with torch.no_grad():
        for parameter in student.model.encoder.parameters():
            parameter.zero_()
    evaluator.by_ear(student, ear, longest_s=3.0)
    assert said == first

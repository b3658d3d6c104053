"""What tiny-en is held to at a training step, and how its utterances are played."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.checkpoints import train_tokenizer
from training.augment import Strength, borrow, mask_features, place, play
from training.fastconformer import FastConformerRNNT, ModelShape
from training.mel import LogMel, vocal_tract
from training.nemo_file import STEPS, rounded, write_nemo
from training.pool import PHONES, Pool, write_shard
from training.student import Batch, Recipe, Student, Weights, consistency
from training.subsampling import subsampled_length
from training.teacher import TeacherLoss, WithoutPlace
from training.trainer import Trainer

WEIGHTS = Weights(1.0, 0.5, 0.25, 0.0, 0.125, 0.5, 0.0, 4.0, 0.25)
TOY = ModelShape(
    d_model=16,
    n_layers=3,
    n_heads=2,
    subsampling_conv_channels=4,
    pred_hidden=16,
    joint_hidden=16,
    vocab_size=20,
)
OFF = torch.autocast("cpu", enabled=False)


def a_batch(rows: int = 4) -> Batch:
    torch.manual_seed(2)
    frames = torch.tensor([160, 120] * (rows // 2))
    lengths = subsampled_length(frames)
    counts = torch.tensor([5, 3] * (rows // 2))
    targets = torch.randint(0, 20, (rows, 5))
    mel = torch.randn(rows, 80, 160)
    phones = torch.randint(0, len(PHONES), (rows, int(lengths.max()), 2))
    right = torch.tensor([0, 13] * (rows // 2))
    return Batch(mel, frames, right, targets, counts, phones, None, torch.arange(rows), near=True)


def test_each_utterance_of_a_batch_may_have_its_own_right_context():
    torch.manual_seed(1)
    encoder = FastConformerRNNT(TOY).eval().encoder
    mel, frames = torch.randn(4, 80, 300), torch.tensor([300, 300, 211, 300])
    rights = [0, 1, 6, 13]
    mixed, _, _ = encoder(mel, frames, torch.tensor(rights))
    for row, right in enumerate(rights):
        alone, lengths, _ = encoder(mel, frames, right)
        until = int(lengths[row])
        torch.testing.assert_close(mixed[row, :until], alone[row, :until], atol=1e-5, rtol=0)


def test_the_ctc_of_all_heights_in_one_call_is_that_of_each():
    student, batch = Student(TOY, 0), a_batch()
    lengths = subsampled_length(batch.frames)
    logs = torch.randn(3, 4, int(lengths.max()), 21).log_softmax(-1)
    together = student._ctc(logs, lengths, batch)
    for height, got in zip(logs, together, strict=True):
        wanted = F.ctc_loss(height.transpose(0, 1), batch.targets, lengths, batch.counts, 20, "sum")
        torch.testing.assert_close(got, wanted / batch.counts.sum())


def test_the_views_distance_is_their_divergence_over_frames_that_hold_audio():
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 6, 5).log_softmax(-1)
    lengths = torch.tensor([6, 4, 1])
    wanted = sum(
        F.kl_div(a[row, :n], b[row, :n], reduction="sum", log_target=True)
        for a, b in ((one, other), (other, one))
        for row, n in enumerate(lengths)
    )
    both = torch.cat((one, other))
    torch.testing.assert_close(consistency(both, lengths.repeat(2)), wanted)
    assert consistency(torch.cat((one, one)), lengths.repeat(2)) == 0


@pytest.mark.parametrize("known", [True, False], ids=["phones", "no phone known"])
def test_every_loss_reaches_the_weights_and_none_is_lost_to_a_nan(known):
    student, batch = Student(TOY, 0), a_batch()
    if not known:
        batch = replace(batch, phones=torch.full_like(batch.phones, -100))
    losses = student.losses(batch, Weights(0.3, 0.5, 0.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0), OFF)
    assert {"ctc", "inner", "apart", "rnnt", "lm", "phones", "total"} == set(losses)
    losses["total"].backward()
    grads = [p.grad for p in student.model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    assert (losses["phones"] > 0) == known


def test_a_swinging_speed_goes_forward_and_keeps_the_length():
    length, speed, lead = torch.tensor([16_000]), torch.tensor([1.1]), torch.tensor([100])
    wobble = (torch.tensor([0.12]), torch.tensor([2.0]))
    grid = torch.arange(16_000)
    steady, swung = place(grid, speed, lead, length), place(grid, speed, lead, length, wobble)
    inside = (steady[0] > 0) & (steady[0] < 16_000)
    pace = torch.diff(swung[0][inside])
    assert 1.1 * 0.87 < pace.min() < 1.1 * 0.9 and 1.1 * 1.1 < pace.max() < 1.1 * 1.13
    torch.testing.assert_close(swung[0][~inside], steady[0][~inside])
    assert (steady - swung).abs()[0][inside][-1] < 2.0


def test_phones_are_found_where_their_sound_is_played(tmp_path):
    audio = np.repeat(np.array([1000, 2000], np.int16), 3200)
    told = [("aa", 3200), ("s", 6400)]
    write_shard(tmp_path, "0", [(audio[:3200], "x", "a/1"), (audio, "x", "a/1", told)])
    pool = Pool(tmp_path, lambda text: [1], 0.01, torch.device("cpu"))
    pool.refresh()
    assert pool.told == 1
    start, length = torch.from_numpy(pool.start), torch.from_numpy(pool.length)
    speed, lead = torch.tensor([1.0, 0.8]), torch.tensor([0, 800])
    wobble = (torch.tensor([0.1, 0.1]), torch.tensor([1.0, 1.0]))
    wave = play(pool.store, start, length, speed, lead, 10_000, wobble)
    moments = torch.arange(0, 10_000, 80) + 40
    phones = pool.phones_at(start, length, place(moments, speed, lead, length, wobble))
    assert (phones[0] == -100).all()  # the first utterance told none
    loud = (wave[1, moments] * 32768 / 1000).round()
    said = {PHONES.index("aa"): 1, PHONES.index("s"): 2, -100: 0}
    wrong = sum(said[int(p)] != int(v) for p, v in zip(phones[1], loud, strict=True))
    assert wrong <= 6  # a hop at each of the three edges


def test_made_up_vocal_tracts_keep_the_order_of_frequencies():
    hertz = np.linspace(0, 8000, 200)
    for seed in range(50):
        axis = vocal_tract(np.random.default_rng(seed))(hertz)
        assert axis[0] == 0 and axis[-1] == 8000 and (np.diff(axis) > 0).all()
    banks = LogMel(80, tracts=20).banks
    assert banks.shape[0] == 21 and torch.isfinite(banks).all() and (banks.sum(2) > 0).all()


def test_masks_hide_stretches_within_the_audio_only():
    torch.manual_seed(0)
    mel, frames = torch.rand(8, 80, 200) + 1.0, torch.tensor([200, 100] * 4)
    hidden = mask_features(mel, frames, Strength()) != mel
    assert not hidden[1::2, :, 100:].any()
    assert 0.05 < hidden[::2].float().mean() < 0.5


def test_what_is_borrowed_is_anothers_level_and_range_and_only_where_there_is_audio():
    torch.manual_seed(0)
    frames = torch.tensor([200, 120])
    mel = (
        torch.randn(2, 80, 200) * torch.tensor([1.0, 1.5])[:, None, None]
        - torch.tensor([2.0, 9.0])[:, None, None]
    )
    mel[1, :, 120:] = 0.0
    torch.testing.assert_close(borrow(mel, frames, 0.0), mel, atol=1e-5, rtol=0)
    changed = False
    for _ in range(8):
        got = borrow(mel, frames, 1.0)
        assert not got[1, :, 120:].any()
        for row, n in enumerate(frames.tolist()):
            was, now = mel[row, :, :n], got[row, :, :n]
            corr = torch.corrcoef(torch.stack((was[3], now[3])))[0, 1]
            assert corr == pytest.approx(1.0, abs=1e-4) and -10.0 < now.mean() < -1.0
            changed |= abs(float(now.mean() - was.mean())) > 1.0
    assert changed


def test_strength_and_weights_are_what_was_packed():
    strength = Strength().lighter(0.3)
    back = Strength.unpacked(strength.packed())
    assert float(back.borrow) == pytest.approx(strength.borrow)
    assert [float(x) for x in back.snr_db] == pytest.approx(strength.snr_db)
    assert int(back.time_masks) == strength.time_masks
    assert Weights.unpacked(WEIGHTS.packed()) == WEIGHTS


def assert_as_written(read: torch.Tensor, was: torch.Tensor) -> None:
    """A matrix comes back but for half a step of `nemo_file.rounded`; a vector as it was."""
    size = float(was.detach().square().mean().sqrt().clamp(min=1e-3))
    atol = 0.5 * 2**0.5 * size / STEPS if was.dim() > 1 else 0.0
    torch.testing.assert_close(read, was, rtol=6e-4, atol=atol)


def test_a_matrix_is_written_in_whole_steps_of_a_power_of_two():
    torch.manual_seed(2)
    for scale in (1e-2, 0.3, 5.0):
        was = scale * torch.randn(64, 64)
        read = rounded(was).float()
        step = read.abs()[read != 0].min().item()
        assert step == 2 ** round(np.log2(step)) and 0.7 < scale / STEPS / step < 1.45
        assert torch.equal(read, step * (read / step).round())
        assert_as_written(read, was)


def test_a_run_that_goes_on_learns_at_the_rates_it_is_given_now(tmp_path):
    pool = Pool(tmp_path, lambda text: [1, 2], 0.01, torch.device("cpu"))
    made = []
    for rate in (0.25, 0.5):
        recipe = Recipe(shares={"a": 1.0}, encoder_rate=rate)
        made.append(Trainer(TOY, recipe, pool, tmp_path / "run", torch.device("cpu")))
        made[-1].save()
    for trainer, rate in zip(made, (0.25, 0.5), strict=True):
        groups = trainer.optimizer.param_groups
        assert [group["share"] for group in groups] == [rate, rate, 1.0, 1.0]
        # Nothing is left out, and what is a vector does not decay.
        assert sum(len(group["params"]) for group in groups) == len(trainer.work.trained)
        for group in groups:
            decays = {parameter.dim() > 1 for parameter in group["params"]}
            assert decays == {group["weight_decay"] > 0}


def test_a_run_goes_on_from_anothers_small_file(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(rng.integers(-99, 99, 16_000).astype(np.int16), "x y", "a/1")] * 8
    write_shard(tmp_path / "pool", "0", rows)
    made = []
    for name in ("first", "second"):
        pool = Pool(tmp_path / "pool", lambda text: [1, 2], 0.01, torch.device("cpu"))
        pool.refresh()
        recipe = Recipe(shares={"a": 1.0}, warmup_s=0.01, warmup_steps=1)
        made.append(Trainer(TOY, recipe, pool, tmp_path / name, torch.device("cpu")))
    first, second = made
    draw = first.pool.batches({"a": 1.0}, 10.0, first.rng, draw=20)[0]
    first.train_step(draw, progress=0.5)
    first.save()
    second.begin_from(tmp_path / "first/small.pt")
    for one, other in zip(first.averaged.parameters(), second.averaged.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=1e-6)
    losses = second.train_step(draw, progress=0.5)
    assert torch.isfinite(losses["total"])

    tokenizer = train_tokenizer(tmp_path).read_bytes()
    write_nemo(tmp_path / "first.nemo", first.averaged, tokenizer)
    second.begin_from(tmp_path / "first.nemo")
    for one, other in zip(first.averaged.parameters(), second.averaged.parameters(), strict=True):
        assert_as_written(other, one)

    wider = replace(TOY, pred_hidden=24)
    third = Trainer(wider, recipe, pool, tmp_path / "third", torch.device("cpu"))
    fresh = third.student.model.joint.pred.weight.clone()
    third.begin_from(tmp_path / "first.nemo")
    both = third.averaged.encoder.parameters(), first.averaged.encoder.parameters()
    for other, one in zip(*both, strict=True):
        assert_as_written(other, one)
    assert torch.equal(third.averaged.joint.pred.weight, fresh)
    told = json.loads((tmp_path / "third/log.jsonl").read_text())
    assert (
        "model.joint.pred.weight" in told["anew"] and "model.joint.enc.weight" not in told["anew"]
    )


def test_what_a_run_that_goes_on_has_anew_learns_alone_at_first(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(rng.integers(-99, 99, 16_000).astype(np.int16), "x y", "a/1")] * 8
    write_shard(tmp_path / "pool", "0", rows)
    pool = Pool(tmp_path / "pool", lambda text: [1, 2], 0.01, torch.device("cpu"))
    pool.refresh()
    recipe = Recipe(shares={"a": 1.0}, warmup_s=1e-9, warmup_steps=1, alone_s=1000.0)
    made = [Trainer(TOY, recipe, pool, tmp_path / name, torch.device("cpu")) for name in "ab"]
    saved = {k: v for k, v in made[0].student.state_dict().items() if not k.startswith("ctc.")}
    torch.save(saved, tmp_path / "small.pt")
    trainer = made[1]
    trainer.begin_from(tmp_path / "small.pt")
    draw = pool.batches({"a": 1.0}, 10.0, rng, draw=20)[0]

    def moved(trainer: Trainer, seconds: float) -> set[str]:
        before = {k: v.clone() for k, v in trainer.student.named_parameters()}
        trainer.now = trainer.started + seconds
        trainer.train_step(draw, progress=0.5)
        after = dict(trainer.student.named_parameters())
        return {name for name, was in before.items() if not torch.equal(was, after[name])}

    assert moved(trainer, 10.0) == {"ctc.weight", "ctc.bias"}
    trainer.save()
    resumed = Trainer(TOY, recipe, pool, tmp_path / "b", torch.device("cpu"))
    assert moved(resumed, 20.0) == {"ctc.weight", "ctc.bias"}
    assert {"ctc.weight", "model.joint.enc.weight"} < moved(resumed, 2000.0)


def test_what_a_teacher_says_of_a_place_alone_is_not_asked_for():
    torch.manual_seed(5)
    said, at = torch.randn(1, 40, 2, 10), torch.randn(12, 2, 10)

    def ear(wave: torch.Tensor) -> torch.Tensor:  # says the first sample's word, and the place
        return 3.0 * said[0, wave[:, 0].mul(32768).long()][:, None] + at

    store = torch.arange(40).repeat_interleave(1280).to(torch.int16)
    place = WithoutPlace(2, 10, frames=12)
    assert not place.known
    place.learn(ear, store, windows=29, at_once=4)
    assert place.known
    heard = torch.stack([3.0 * said[0, :29] + at[i] for i in range(12)], 1)
    told = place(heard)
    torch.testing.assert_close(told, told[:, :1].expand_as(told), atol=1e-4, rtol=0)
    torch.testing.assert_close(told.mean(0), torch.zeros(12, 2, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(told.std((0, 1), correction=0), torch.ones(2, 10), atol=0.02, rtol=0)
    # A teacher that does not count asks for the same; another thing said does not.
    plain = WithoutPlace(2, 10, frames=12)
    plain.learn(lambda wave: ear(wave) - at, store, windows=29)
    loss, student, frames = TeacherLoss(6, 10), torch.randn(29, 12, 6), torch.full((29,), 12)
    want = loss(student, told[:, :, 0], frames)
    other = loss(student, plain(heard - at)[:, :, 0], frames)
    torch.testing.assert_close(other, want, atol=1e-4, rtol=0)
    assert abs(loss(student, told.flip(0)[:, :, 0], frames) - want) > 1e-3
    # and of one clip alone as much is said as of many
    torch.testing.assert_close(place(heard[3:4, :5]), told[3:4, :5])
    # nor does it matter how long the store is
    WithoutPlace(2, 10, frames=12).learn(ear, store.repeat(350), windows=7)
    with pytest.raises(ValueError, match="must hear 0 s"):
        WithoutPlace(2, 10, frames=12).learn(ear, store[: 1280 * 12 - 1])


@pytest.mark.parametrize("layers", [1, TOY.n_layers])
def test_every_layer_is_held_to_the_teachers_where_both_have_as_many(layers):
    torch.manual_seed(6)
    student, batch = Student(TOY, 10, layers).eval(), a_batch()
    frames = int(subsampled_length(batch.frames).max())
    heard = torch.randn(len(batch.frames), frames, layers, 10)

    def losses(heard):
        said = student.losses(replace(batch, heard=heard), WEIGHTS, OFF)
        return {name: float(said[name]) for name in ("teacher", "within") if name in said}

    before, other = losses(heard), heard.clone()
    assert ("within" in before) == (layers > 1)
    other[:, :, 0] = torch.randn_like(other[:, :, 0])
    after = losses(other)
    assert {name for name in before if before[name] != after[name]} == {
        "within" if layers > 1 else "teacher"
    }


def test_the_transducer_is_a_language_model_where_it_hears_nothing():
    torch.manual_seed(7)
    student, batch = Student(TOY, 0).eval(), a_batch()
    model, before = student.model, []
    optimizer = torch.optim.Adam([*model.decoder.parameters(), *model.joint.parameters()], 0.03)
    for _ in range(60):
        loss = student.losses(batch, WEIGHTS, OFF)["lm"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before.append(float(loss))
    assert before[-1] < 0.6 * before[0]
    history = F.pad(batch.targets, (1, 0), value=model.blank)[:, :-1]
    with torch.no_grad():
        said = model.joint.joint_net(model.joint.pred(model.decoder(history)[0]))
    tokens = torch.arange(batch.targets.shape[1]) < batch.counts[:, None]
    right = said[..., : model.blank].argmax(-1) == batch.targets
    assert right[tokens].float().mean() > 0.6

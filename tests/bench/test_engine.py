"""`bench engine` at the toy shape, on the CPU: what it measures is what it says."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.checkpoints import quiet_nemo
from voice_agent.bench.engine_audio import noise, samples_for, windows
from voice_agent.bench.engine_floor import Ceilings
from voice_agent.bench.engine_random import FRAMES, LANES, calibrated
from voice_agent.bench.engine_rows import Report
from voice_agent.bench.engine_run import Plan, Reference, Run
from voice_agent.bench.engine_systems import Ours, compare, edits
from voice_agent.bench.engine_transformers import Transformers, exact, hf_name
from voice_agent.bench.shapes import random_checkpoint
from voice_agent.cli import main
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import EngineError
from voice_agent.engine.hf import _rename

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made():
    """A calibrated toy and the tokens a frame that it said."""
    return calibrated(random_checkpoint("toy"), right=0)


@pytest.fixture(scope="module")
def reference(made):
    return Reference.of(made[0], 0, seed=1)


def run(*args: str) -> int:
    """Run a command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


def ours(checkpoint, **options) -> Ours:
    options = {"dtype": torch.float32, "slots": 16, "device": "cpu"} | options
    return Ours(checkpoint, **options)


def test_random_weights_emit_at_a_realistic_rate_and_many_tokens(made, reference):
    assert 0.2 < made[1] < 0.4
    assert reference.total > 20
    assert len({t for lane in reference.tokens for t in lane}) > 8


def test_the_plain_decoder_of_the_calibration_counts_what_the_engine_says(made):
    """On the calibration's own noise, token for token: its greedy loop is another one."""
    checkpoint, rate = made
    chunks = Chunks.of(checkpoint.config, 0)
    audio = noise(LANES, samples_for(chunks, FRAMES), np.random.default_rng(0))
    said = ours(checkpoint, slots=LANES).stream(iter(windows(audio, chunks, FRAMES)), 0)
    assert sum(said.counts) == sum(map(len, said.tokens)) == round(rate * LANES * FRAMES)


def test_the_rate_stays_what_it_is_however_old_a_segment_gets(made):
    """On other noise than the calibration's, over three times the past that attention sees."""
    checkpoint, steps = made[0], 240
    chunks = Chunks.of(checkpoint.config, 0)
    audio = noise(12, samples_for(chunks, steps), np.random.default_rng(5))
    said = ours(checkpoint).stream(iter(windows(audio, chunks, steps)), 0)
    quarters = np.array(said.counts).reshape(4, -1).mean(1) / 12
    assert (quarters > 0.2).all() and (quarters < 0.5).all()
    assert min(map(len, said.tokens)) > 10, "a lane that is silent"


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_tokens_are_equal_alone_and_among_strangers(made, reference, batch):
    compared, wrong = reference.compare(ours(made[0]), batch, 0)
    assert wrong == 0 and compared == reference.total


def test_a_broken_engine_fails_the_comparison(made, reference):
    weights = dict(made[0].weights)
    name = "encoder.layers.0.self_attn.linear_v.weight"
    weights[name] = weights[name].flip(0)
    broken = ours(replace(made[0], weights=weights))
    compared, wrong = reference.compare(broken, 16, 0)
    assert wrong > 0.05 * compared


def test_nemo_in_a_batch_says_the_same(made, reference):
    quiet_nemo(prompts=False)
    from voice_agent.bench.engine_nemo import Nemo

    nemo = Nemo(made[0], CPU, torch.float32)
    for batch in (8, 12):
        assert reference.compare(nemo, batch, 0) == (reference.total, 0)
    streamed = nemo.stream(iter(reference.windows), 0)
    assert len(streamed.step_s) == len(reference.windows) and min(streamed.step_s) > 0


def test_sherpa_streams_an_export_of_the_same_weights_and_is_not_held_to_tokens(made, reference):
    quiet_nemo(prompts=False)
    for module in ("onnx", "onnxruntime", "sherpa_onnx"):
        pytest.importorskip(module)
    from voice_agent.bench.engine_sherpa import Sherpa

    sherpa = Sherpa(made[0], CPU, torch.float32)
    streamed = sherpa.stream(iter(reference.windows), 0)
    assert len(streamed.step_s) == len(reference.windows) and min(streamed.step_s) > 0
    said = sum(map(len, streamed.tokens))
    assert 0.3 * reference.total < said < 3 * reference.total
    total, wrong = reference.compare(sherpa, 8, 0)
    assert total == reference.total
    assert 0 < wrong <= total + said


def test_edits_are_the_least_that_make_one_of_the_other():
    assert edits([1, 2, 3], [1, 2, 3]) == 0
    assert edits([1, 2, 3], [2, 3, 4]) == 2
    assert edits([], [5, 6]) == edits([5, 6], []) == 2


def test_transformers_says_the_same_alone_and_is_caught_where_it_ends_lanes_early(made):
    pytest.importorskip("transformers")
    checkpoint = exact(made[0])
    wanted = Reference.of(checkpoint, 0, seed=1)
    system = Transformers(checkpoint, CPU, torch.float32)
    assert wanted.compare(system, 1, 0) == (wanted.total, 0)
    streamed = system.stream(iter(wanted.windows[:, :1]), 0)
    assert len(streamed.step_s) == len(wanted.windows) and min(streamed.step_s) > 0
    many = system.stream(iter(wanted.windows), 0)
    assert compare(many.tokens, wanted.tokens)[1] > 0


@pytest.mark.parametrize("shape", ["toy", "nemotron-3.5"])
def test_names_for_transformers_are_the_inverse_of_the_readers(shape):
    from voice_agent.bench.shapes import model_config, weight_sizes
    from voice_agent.engine.config import ModelConfig

    names = list(weight_sizes(ModelConfig.read(shape, model_config(shape))))
    assert [_rename(hf_name(name)) for name in names] == names
    assert all(hf_name(n) != n for n in names if n.startswith(("joint", "prompt_kernel")))


def test_an_option_that_the_runner_does_not_have_is_refused_by_name(made):
    with pytest.raises(EngineError, match="--telepathy on: .* no option 'telepathy'"):
        ours(made[0], telepathy="on")


def test_a_row_below_float32_may_be_wrong_to_its_limit_and_float32_not_at_all():
    plan = Plan("toy", 0, "float32", CPU, (1,), 20)
    assert plan.exact
    assert not replace(plan, weights="int8").exact
    assert replace(plan, dtype="bfloat16", kv="int8").precision == "bfloat16, kv int8"


def test_the_command_prints_rows_and_keeps_them_with_their_conditions(tmp_path, capsys):
    arguments = ["--batches", "2,1", "--steps", "12", "--threads", "1", "--beside", "none"]
    code = run("bench", "engine", "--shape", "toy", *arguments, "--out", str(tmp_path))
    assert code == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "engine.json").read_text())
    assert [row["batch"] for row in saved["steps"]] == [2, 1]
    for row in saved["steps"]:
        assert row["wrong_tokens"] == 0 and row["tokens_compared"] > 0
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["features_ms"] < row["p50_ms"] and row["encoder_ms"] > 0
        assert row["machine"] and row["steps"] == 12
    assert {"torch", "commit", "source", "command", "threads"} <= saved["conditions"].keys()
    assert saved["ceilings"]["bytes_per_s"] > 0
    assert printed.count("| voice-agent |") == 2
    assert (tmp_path / "engine.png").stat().st_size > 1000


def test_without_time_nothing_is_measured_and_that_is_said(made, reference):
    plan = Plan("toy", 0, "float32", CPU, (1,), 20)
    report, told = Report({}, {}), []
    run = Run(plan, report, Ceilings(1e9, 1e9, 0, 0), "this machine", "abc", told.append)
    run.time_system(ours(made[0]), made[0], reference, [1, 8], time.monotonic())
    assert report.steps == [] and len(told) == 2
    assert "the time (--budget-s) was used up" in report.problems["voice-agent at batch 8"]


def test_a_comparison_that_takes_the_rest_of_the_time_leaves_nothing_to_be_timed(made, reference):
    class Slow(Ours):
        def stream(self, windows, right):
            windows = list(windows)
            assert windows, "transformers refuses to generate from nothing"
            time.sleep(0.1)
            return super().stream(windows, right)

    report = Report({}, {})
    plan = Plan("toy", 0, "float32", CPU, (8,), 20)
    run = Run(plan, report, Ceilings(1e9, 1e9, 0, 0), "this machine", "abc", lambda _: None)
    slow = Slow(made[0], slots=8, device="cpu", dtype=torch.float32)
    run.time_system(slow, made[0], reference, [8], time.monotonic() + 0.05)
    assert report.steps == []
    assert "comparing it took the rest" in report.problems["voice-agent at batch 8"]


def test_what_fails_its_comparison_has_no_row_and_a_problem(made, reference):
    class Babbler(Ours):
        name = "babbler"

        def stream(self, windows, right):
            out = super().stream(windows, right)
            return replace(out, tokens=[lane[1:] for lane in out.tokens])

    plan = Plan("toy", 0, "float32", CPU, (8,), 20)
    report = Report({}, {})
    run = Run(plan, report, Ceilings(1e9, 1e9, 0, 0), "this machine", "abc", lambda _: None)
    babbler = Babbler(made[0], slots=8, device="cpu", dtype=torch.float32)
    run.time_system(babbler, made[0], reference, [8], time.monotonic() + 60)
    assert report.steps == []
    assert "failed parity, no row" in report.problems["babbler at batch 8"]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "give --checkpoint or --shape"),
        (["--shape", "vast"], "shape 'vast' is unknown"),
        (["--shape", "toy", "--right", "5"], "--right 5"),
        (["--shape", "toy", "--batches", "1,x"], "whole numbers between commas"),
        (["--shape", "toy", "--batches", "0"], "one lane or more"),
        (["--shape", "toy", "--dtype", "int3"], "--dtype int3"),
        (["--shape", "toy", "--weights", "int3"], "--weights int3"),
        (["--shape", "toy", "--beside", "kaldi"], "--beside kaldi"),
        (["--shape", "toy", "--phases", "full moon"], "--phases full moon"),
    ],
)
def test_what_is_asked_wrongly_is_named(arguments, complaint, capsys):
    assert run("bench", "engine", *arguments) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert complaint in said

"""The stages that train on a machine with a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.pretend_cuda import PretendCuda
from tests.support.whisper import random_whisper
from tests.training.test_student import TOY
from training import rnnt_loss
from training.graphs import CaptureFailed
from training.pool import Pool, write_shard
from training.student import Recipe
from training.teacher import WhisperEar
from training.trainer import Trainer

SCRIPT = Path(__file__).parents[2] / "training/gpu_run.sh"


def source(name: str) -> str:
    """The function `name` of the script."""
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{name}() {{"))
    last = next(i for i in range(first, len(lines)) if lines[i] == "}")
    return "\n".join(lines[first : last + 1])


def begun(tmp_path: Path, *command: str) -> str:
    """What stands in the log of a command that was begun twice."""
    (tmp_path / "code").mkdir()
    script = f"set -eu\n{source('begin')}\n" + 2 * 'begin it "$@"\n'
    environment = os.environ | {"WORK": str(tmp_path), "LOGS": str(tmp_path)}
    said = subprocess.run(
        ["bash", "-c", script, "bash", *command], env=environment, capture_output=True, text=True
    )
    assert said.stdout == "began it\n", said.stderr
    log, end = tmp_path / "it.log", time.monotonic() + 30
    while time.monotonic() < end and "end" not in log.read_text() and "gave" not in log.read_text():
        time.sleep(0.05)
    return log.read_text()


def test_what_is_begun_twice_runs_once(tmp_path):
    assert begun(tmp_path, "echo", "the end") == "the end\n"


def test_what_fails_is_tried_again_and_told_which_try_it_is(tmp_path):
    log = begun(tmp_path, "bash", "-c", "echo seed {}101; test {} = 1 && echo the end")
    assert log.split("\n")[:4] == ["seed 0101", "try 0 ended with 1", "seed 1101", "the end"]


def test_what_always_fails_is_given_up(tmp_path):
    assert begun(tmp_path, "false").endswith("try 2 ended with 1\ngave up\n")


def test_what_is_ended_is_not_tried_again(tmp_path):
    (tmp_path / "code").mkdir()
    lasting = "begin it sleep 100; while ! [ -s $LOGS/it.pid ]; do sleep 0.05; done; end it\n"
    script = f"set -eu\n{source('begin')}\n{source('end')}\n{lasting}begin it echo again"
    environment = os.environ | {"WORK": str(tmp_path), "LOGS": str(tmp_path)}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=60)
    leader = int((tmp_path / "it.pid").read_text())
    end = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(leader, 0)
            time.sleep(0.05)
    assert (tmp_path / "it.log").read_text() == "ended\n"


@pytest.fixture
def pool(tmp_path):
    """Speech of one voice, its phones told."""
    rng = np.random.default_rng(0)
    said = ("x y", "a/1", [("aa", 8000), ("s", 16_000)])
    rows = [(rng.integers(-999, 999, 16_000).astype(np.int16), *said) for _ in range(12)]
    write_shard(tmp_path / "pool", "0", rows)
    return tmp_path / "pool"


def trainer(pool: Path, device: str = "cpu", ear: WhisperEar | None = None) -> Trainer:
    """A trainer of a toy on this pool."""
    device_ = torch.device(device)
    read = Pool(pool, lambda text: [1, 2], 0.01, device_)
    read.refresh()
    recipe = Recipe(shares={"a": 1.0}, seconds_per_batch=40.0, warmup_s=0.01, warmup_steps=1)
    return Trainer(TOY, recipe, read, pool.parent / "run", device_, ear)


def test_a_batch_and_its_losses_never_wait_for_the_device(pool, monkeypatch):
    # A kernel wants memory, which a pretended tensor has not.
    monkeypatch.setattr(rnnt_loss, "_passes", lambda logits: rnnt_loss)
    with PretendCuda() as cuda, torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
        weights = random_whisper(width=8, heads=2, layers=TOY.n_layers, wide=2)
        ear = WhisperEar(weights, torch.device("cuda:0"))
        student = trainer(pool, "cuda:0", ear)
        student.work._half = lambda: torch.autocast("cpu", enabled=False)
        work = student.work
        draw = student.pool.batches({"a": 1.0}, 10.0, student.rng, draw=40)[0]
        work.calibrate(work.drawn(draw, 0.0, student.rng).to(work.device))  # may wait
        played, phase = work.drawn(draw, 0.5, student.rng).to(work.device), work.phase(0.5)
        cuda.waits.clear()
        cuda.arrivals.clear()
        losses = work.losses(played, phase)
        every = {"ctc", "inner", "apart", "rnnt", "lm", "phones", "teacher", "within", "total"}
        every |= {"ears_ctc", "ears_rnnt", "ears_follow", "taught", "taught_ctc"}
        assert every == set(losses)
        # Nor does anything of the host's come in by itself: a graph would keep its first value.
        assert cuda.waits == [] and cuda.arrivals == []
        assert np.isfinite(float(losses["total"]))


def test_pretended_tensors_do_not_meet_those_of_the_cpu():
    with PretendCuda() as cuda:
        there = torch.ones(3, device="cuda:0")
        assert there.is_cuda and (there + there).is_cuda and cuda.waits == []
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        assert there.sum().item() == 3.0 and len(cuda.waits) == 1


def test_a_batch_that_does_not_fit_is_left_out_and_the_next_ones_are_smaller(pool, monkeypatch):
    student, sizes = trainer(pool), []
    plain = student.work.gradients

    def short_of_memory(played, phase):
        sizes.append(len(played.start))
        if len(sizes) < 3:
            raise torch.OutOfMemoryError
        return plain(played, phase)

    monkeypatch.setattr(student.work, "gradients", short_of_memory)
    student.run(time.time() + 600, max_steps=2)
    assert student.step == 2 and student.fitting == pytest.approx(0.64)
    assert sizes[0] > sizes[2]


def test_a_step_that_no_graph_can_hold_is_taken_without_and_that_is_said(pool):
    class Refusing:
        def ready(self, played, phase):
            return False

        def gradients(self, played, phase):
            raise CaptureFailed("there is an item() in it")

    student = trainer(pool)
    student.graphs = Refusing()
    student.run(time.time() + 600, max_steps=2)
    assert student.step == 2 and student.graphs is None
    assert '"without_graphs": "there is an item() in it"' in (student.out / "log.jsonl").read_text()


def test_a_run_that_left_only_its_small_file_can_be_exported(pool, tmp_path):
    import training.tiny_en as recipe

    student = trainer(pool)
    student.run(time.time() + 600, max_steps=1)
    arguments = recipe.arguments().parse_args(
        ["--work", str(tmp_path / "none"), "--warm", str(student.out / "small.pt")]
    )
    arguments.shape = TOY
    read = recipe.load_averaged(arguments)
    for one, other in zip(read.parameters(), student.averaged.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=1e-6)


def test_stages_need_no_package_of_ours_before_the_wheels_are_there(tmp_path):
    """`training.unpack` runs with Python alone."""
    program = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1))\n"
    program += "runpy.run_module('training.unpack', run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-c", program, str(SCRIPT.parents[1]), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--into" in done.stdout, done.stderr


def test_voices_take_their_gpus_in_turn_and_leave_in_time(tmp_path):
    """Two GPUs of their own, the third and the fourth, which they may keep for longer."""
    begun = "echo $1 at $CUDA_VISIBLE_DEVICES for $(echo $* | sed 's/.*minutes //; s/ .*//')"
    script = f"""set -eu
        begin() {{ {begun}; }}
        {source("voice")}
        voice kokoro-1 1 kokoro 1 cuda
        voice kokoro-2 2 kokoro 1 cuda
        voice flite 3 flite 1 cpu
        TRAINERS=3 VOICES_AT=0
        voice kokoro-1 1 kokoro 1 cuda"""
    (tmp_path / "began").write_text(str(int(time.time()) - 20))
    environment = os.environ | {
        "WORK": str(tmp_path),
        "IN": "in",
        "POOL": "pool",
        "PYTHON": "python",
    }
    environment |= {"TRAINERS": "2", "VOICES_AT": "2 3", "MINUTES": "30"}
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert said.stdout.split("\n")[:4] == [
        "kokoro-1 at 3 for 25",
        "kokoro-2 at 2 for 25",
        "flite at 2 for 25",
        "kokoro-1 at 0 for 19",
    ], said.stderr

"""Processes that train together: one step for all, whatever happens to one of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.test_student import TOY
from training.pool import Pool, write_shard
from training.ranks import Ranks
from training.student import Recipe
from training.trainer import Trainer

STEPS = 4


def together(work, folder: Path) -> list:
    """Run `work(rank, folder)` in two processes that know of each other; return what they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one, (work, folder, port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _one(rank: int, work, folder: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    torch.save(work(rank, folder), folder / f"{rank}.pt")


def _averages(rank: int, folder: Path) -> list:
    ranks = Ranks(torch.device("cpu"))
    layer, said = nn.Linear(2, 1), []
    for mine, counts in (
        ((1.0, 3.0), (True, True)),
        ((1.0, float("nan")), (True, True)),
        ((1.0, 3.0), (False, True)),
        ((1.0, 3.0), (False, False)),
    ):
        gradients = torch.tensor([0.0, mine[rank]])
        ranks.average(gradients, counts[rank])
        said.append(gradients.tolist())
    said.append(ranks.agreed(7.0 + rank))
    ranks.share_weights(layer)
    ranks.leave()
    return [said, layer.weight.data]


def test_gradients_are_the_mean_of_those_that_came_through(tmp_path):
    (one, weight), (other, shared) = together(_averages, tmp_path)
    assert one == other
    assert one == [[0, 2], [0, 1], [0, 3], [0, 0], 7.0]
    torch.testing.assert_close(weight, shared, rtol=0, atol=0)


def _trains(rank: int, folder: Path) -> dict:
    device = torch.device("cpu")
    pool = Pool(folder / "pool", lambda text: [1, 2], 0.02, device)
    recipe = Recipe(shares={"a": 1.0}, seconds_per_batch=20.0, warmup_s=0.01, warmup_steps=1)
    trainer = Trainer(TOY, recipe, pool, folder / "run", device, ranks=Ranks(device))
    plain, first = trainer.work.gradients, []

    def short_of_memory(played, phase):
        first.append(played.start[:4])
        if rank == 1 and trainer.step == 1:
            raise torch.OutOfMemoryError
        return plain(played, phase)

    trainer.work.gradients = short_of_memory
    trainer.run(deadline=0.0, max_steps=STEPS)
    trainer.ranks.leave()
    state = trainer.student.state_dict() | {"first": first[0]}
    return state | {"step": trainer.step, "fitting": trainer.fitting}


def test_all_take_the_same_steps_though_one_runs_out_of_memory(tmp_path):
    rng = np.random.default_rng(0)
    said = ("x y", "a/1", [("aa", 8000), ("s", 16_000)])
    rows = [(rng.integers(-999, 999, 16_000).astype(np.int16), *said) for _ in range(40)]
    write_shard(tmp_path / "pool", "0", rows)
    one, other = together(_trains, tmp_path)
    assert (one.pop("step"), other.pop("step")) == (STEPS, STEPS)
    assert (one.pop("fitting"), other.pop("fitting")) == (1.0, pytest.approx(0.8))
    assert not torch.equal(one.pop("first"), other.pop("first")), "both drew the same batch"
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)

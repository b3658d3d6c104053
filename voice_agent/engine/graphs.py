"""Captured steps: one CUDA graph for each (bucket of lanes, right context).

A replay computes as many lanes as its inputs say, up to the bucket; programs beyond them end at
once, so few buckets suffice and there are no padding lanes. First, steady and last chunks of a
segment are the same graph. Buckets are captured largest first, from one memory pool.

The decoder's part has a bounded number of rounds; where a lane needs more, a second small graph
goes on with it until none is busy. The host learns that from the results that it reads anyway.

Engine thread only. Where capture is not possible the same launches run one by one
(`capture=False`).
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

import numpy as np
import torch

from voice_agent.engine.emissions import Emissions
from voice_agent.engine.fused import FusedStep, Inputs
from voice_agent.engine.ticket import Captured, Ticket

log = logging.getLogger(__name__)

BUCKETS = (64, 256, 512, 1024, 2048)
_COUNTS = 2  # before the lanes' numbers: how many lanes there are, and whether PCM is float32
_TURNS = 2  # of host buffers: one is written while the device reads the other


def rounds_of(chunk: int, lanes: int) -> int:
    """Rounds of the decoder in a step: an even number, enough for nearly all of them.

    A round without work costs some 10 us. The more lanes, the longer the longest of them talks.

    Args:
        chunk: frames a lane.
        lanes: of the bucket.
    """
    rounds = chunk + chunk // 4 + (3 if lanes <= 64 else 5)
    return rounds + rounds % 2


def buckets_of(lanes: int) -> list[int]:
    """Buckets for up to `lanes` lanes, largest first."""
    return [lanes, *(bucket for bucket in reversed(BUCKETS) if bucket < lanes)]


class StepGraphs:
    """Static buffers and the graphs over them."""

    def __init__(
        self,
        step: FusedStep,
        *,
        lanes: dict[int, int],
        window: dict[int, int],
        device: torch.device,
        capture: bool,
    ) -> None:
        """Allocate, and capture all buckets.

        Args:
            step: what to capture.
            lanes: by right context: lanes a step, at most.
            window: by right context: samples a lane.
            device: of the step.
            capture: False to launch the kernels one by one.

        Raises:
            RuntimeError: the capture failed; nothing of this object is to be used then.
        """
        self.step = step
        self.lanes = lanes
        self.device = device
        self.on_gpu = device.type == "cuda"
        most = max(lanes.values())
        samples = max(lanes[right] * window[right] for right in lanes)
        self._pcm = torch.zeros(samples, dtype=torch.int16, device=device)
        self._floats = torch.zeros(samples, dtype=torch.float32, device=device)
        self._meta = torch.zeros(4 * most + _COUNTS, dtype=torch.int32, device=device)

        def pinned(*size: int, dtype: torch.dtype) -> list[torch.Tensor]:
            return [torch.zeros(size, dtype=dtype, pin_memory=self.on_gpu) for _ in range(_TURNS)]

        self._pcm_host = pinned(samples, dtype=torch.int16)
        self._floats_host = pinned(samples, dtype=torch.float32)
        self._meta_host = pinned(4 * most + _COUNTS, dtype=torch.int32)
        self._results_host = pinned(*step.decode.results.shape, dtype=torch.int32)
        self._turn = 0
        self._captured: dict[tuple[int, int], Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self.report = self._capture_all(window, capture)

    @torch.inference_mode()
    def _capture_all(self, window: dict[int, int], capture: bool) -> str:
        began, before = time.perf_counter(), self._allocated()
        todo = [(bucket, right) for right in self.lanes for bucket in buckets_of(self.lanes[right])]
        todo.sort(key=lambda pair: pair[0] * (pair[1] + 1), reverse=True)
        # A graph of an engine that is no more must not be freed in the midst of a capture.
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        try:
            for done, (bucket, right) in enumerate(todo, start=1):
                key = bucket, right
                self._captured[key] = self._prepare(bucket, right, window[right], capture)
                if capture:
                    log.info("captured %d of %d: %d lanes, right %d", done, len(todo), *key)
        finally:
            if collects:
                gc.enable()
        took, held = time.perf_counter() - began, self._allocated() - before
        what = "CUDA graphs" if capture else "shapes without graphs"
        return f"{len(todo)} {what} in {took:.1f} s, {held / 2**20:.0f} MiB of buffers"

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.on_gpu else 0

    def _prepare(self, bucket: int, right: int, window: int, capture: bool) -> Captured:
        meta = self._meta
        slots, pos, prompts, skip = meta[_COUNTS : _COUNTS + 4 * bucket].view(4, bucket)
        inputs = Inputs(
            pcm=self._pcm[: bucket * window].view(bucket, window),
            floats=self._floats[: bucket * window].view(bucket, window),
            is_float=meta[1:2],
            slots=slots,
            pos=pos,
            prompts=prompts,
            skip=skip,
            lanes=meta[:1],
        )
        rounds = rounds_of(right + 1, bucket)
        meta[:_COUNTS] = 0  # no lane: compiles and allocates without touching a slot
        encoded, projected = self.step.run(inputs, right, rounds)

        def step() -> None:
            self.step.run(inputs, right, rounds)

        def more() -> None:
            self.step.more_rounds(inputs, right, rounds, projected)

        more()
        if not capture:
            return Captured(inputs, step, more, encoded, projected)
        replay = [self._graph(work) for work in (step, more)]
        return Captured(inputs, replay[0], replay[1], encoded, projected)

    def _graph(self, work: Callable[[], object]) -> Callable[[], None]:
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay

    @torch.inference_mode()
    def parts(self, lanes: int, right: int) -> dict[str, Callable[[], None]]:
        """What a step consists of, each part alone over the inputs of the last step, to be timed.

        Args:
            lanes: that the last step had.
            right: its right context.
        """
        bucket = self._bucket(lanes, right)
        captured = self._captured[bucket, right]
        x, rounds = captured.inputs, rounds_of(right + 1, bucket)
        mel = self.step.mel(x, right)
        works: dict[str, Callable[[], object]] = {
            "features": lambda: self.step.mel(x, right),
            "encoder": lambda: self.step.encode(mel, x, right),
            "decoder": lambda: self.step.emit(captured.encoded, x, right, rounds),
        }
        if self._pool is None:
            return {name: _inferring(work) for name, work in works.items()}
        return {name: self._graph(work) for name, work in works.items()}

    def _bucket(self, lanes: int, right: int) -> int:
        return min(b for b, r in self._captured if r == right and b >= lanes)

    def staging(self, n: int, window: int) -> np.ndarray:
        """Pinned memory for the next step's PCM, int16, shape (n, window)."""
        return self._pcm_host[self._turn][: n * window].view(n, window).numpy()

    @torch.inference_mode()
    def launch(
        self,
        slots: np.ndarray,
        pos: np.ndarray,
        prompts: np.ndarray,
        hosted: list[int],
        pcm: np.ndarray,
        right: int,
    ) -> Ticket:
        """Send inputs and enqueue a step; the one before has been collected.

        Args:
            slots: shape (n,).
            pos: shape (n,).
            prompts: shape (n,).
            hosted: lanes whose decoding is left to the host.
            pcm: int16 (32768 for 1.0) or float32, shape (n, window); may be `staging`'s.
            right: right context of all lanes.
        """
        n, window = pcm.shape
        turn, self._turn = self._turn, (self._turn + 1) % _TURNS
        bucket = self._bucket(n, right)
        captured = self._captured[bucket, right]
        is_float = pcm.dtype != np.int16
        host = (self._floats_host if is_float else self._pcm_host)[turn][: n * window]
        staged = host.numpy().reshape(n, window)
        if pcm.ctypes.data != staged.ctypes.data:
            staged[:] = pcm
        (self._floats if is_float else self._pcm)[: n * window].copy_(host, non_blocking=True)
        size = _COUNTS + 4 * bucket
        meta = self._meta_host[turn].numpy()
        meta[:_COUNTS] = n, is_float
        lanes = meta[_COUNTS:size].reshape(4, bucket)[:, :n]
        lanes[:3] = slots, pos, prompts
        lanes[3] = 0
        lanes[3, hosted] = 1
        self._meta[:size].copy_(self._meta_host[turn][:size], non_blocking=True)
        captured.step()
        ticket = Ticket(n, right, hosted, captured, self._results_host[turn])
        self._fetch(ticket, max(64, n * (right + 1)))
        return ticket

    def _fetch(self, ticket: Ticket, tokens: int) -> None:
        assert ticket.results is not None
        ticket.fetched = min(tokens, len(ticket.results) - 1)
        rows = 1 + ticket.fetched
        ticket.results[:rows].copy_(self.step.decode.results[:rows], non_blocking=True)
        if self.on_gpu:
            ticket.event = torch.cuda.Event()
            ticket.event.record()

    @torch.inference_mode()
    def settle(self, ticket: Ticket) -> None:
        """Wait for a step; go on where the decoder was not done with a lane."""
        assert ticket.results is not None and ticket.captured is not None
        while not ticket.settled:
            if ticket.event is not None:
                ticket.event.synchronize()
            said, busy = ticket.results[0, :2].tolist()
            if busy:
                ticket.captured.more()
                self._fetch(ticket, ticket.fetched)
            elif said > ticket.fetched:
                self._fetch(ticket, said)
            else:
                ticket.settled = True

    def read(self, ticket: Ticket) -> Emissions:
        """What a settled step said; before the next but one is launched."""
        assert ticket.results is not None and ticket.settled
        rows = ticket.results[1 : 1 + int(ticket.results[0, 0])].numpy()
        rows = rows[np.argsort(rows[:, 0], kind="stable")]  # copies: the buffer is used again
        lanes, tokens, frames, probs = (np.ascontiguousarray(column) for column in rows.T)
        return Emissions(lanes, tokens, frames, probs.view(np.float32))

    def frames(self, ticket: Ticket) -> torch.Tensor:
        """Encoder frames of a step in the joint's space: (lanes, chunk, joint_hidden)."""
        assert ticket.captured is not None
        chunk = ticket.right + 1
        projected = ticket.captured.projected
        return projected[: ticket.lanes * chunk].view(ticket.lanes, chunk, -1)

    def slots(self, ticket: Ticket) -> torch.Tensor:
        """Slots of a step's lanes, on the device, int64, shape (lanes,)."""
        assert ticket.captured is not None
        return ticket.captured.inputs.slots[: ticket.lanes].long()


def _inferring(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            work()

    return run

"""Features, encoder and decoder as one step over the slot pool.

On a GPU with Triton a step is one CUDA graph of our kernels (`fused`, `graphs`). Elsewhere the same
function is computed operation by operation, on a CPU in float32 with as few of them as it takes
(`lean`); `EngineRunner.mode` says which. The plain modules are what both are tested against.

Engine thread only.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.decoder import Decoder
from voice_agent.engine.emissions import Emissions, Said
from voice_agent.engine.encoder import Encoder
from voice_agent.engine.errors import CorruptCheckpoint, EngineError, OutOfRange
from voice_agent.engine.features import LogMel
from voice_agent.engine.fusion import Fusion
from voice_agent.engine.hosted import Hosted, merged, of_lanes
from voice_agent.engine.kernels import reason_missing
from voice_agent.engine.lean import LeanEncoder
from voice_agent.engine.prompt import Prompt
from voice_agent.engine.slots import SlotPool
from voice_agent.engine.ticket import Ticket

if TYPE_CHECKING:
    from voice_agent.engine.graphs import StepGraphs

log = logging.getLogger(__name__)

MAX_BATCH = 8192
"""Frames that a step computes on a GPU, at most; lanes at right context 0."""
_SOME = 64  # lanes a step at any right context, at least


class EngineRunner:
    """The weights and the pool of one checkpoint on one device.

    Attributes:
        boosts: True: it can prefer phrases.
        mode: "graph" where a step is a CUDA graph, "eager" where its parts run one by one.
        reason: why it is eager; "" in mode "graph".
        report: what was captured, how long it took, and the memory it holds; "" if nothing was.
        max_batch: lanes a step, at most.
    """

    boosts = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        max_batch: int | None = None,
        weights: Literal["int8"] | None = None,
        kv: Literal["int8"] | None = None,
        graphs: bool = True,
        kernels: bool | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        """Put a checkpoint on a device.

        Args:
            checkpoint: read by `voice_agent.engine.checkpoint`.
            slots: streams that the pool holds.
            device: where to compute.
            dtype: of the encoder; features and decoder stay float32.
            threads: CPU threads of one operation; None leaves torch's own choice.
            max_batch: lanes a step, at most; None for `MAX_BATCH`.
            weights: "int8" keeps the encoder layers' matrices in 8 bits.
            kv: "int8" keeps K and V in 8 bits; needs the kernels.
            graphs: False to launch the kernels one by one.
            kernels: whether to compute with our kernels; None where they can run fast. False: with
                the plain modules, on a CPU too.
            fusion: a language model beside the searches.

        Raises:
            CorruptCheckpoint: a weight is missing or has the wrong shape.
            OutOfRange: float16 was asked for, and its largest number is too small.
            EngineError: 8 bits were asked for where they are not served.
        """
        self.device = torch.device(device)
        self.dtype = dtype
        self._threads = threads
        self.config = checkpoint.config
        self.max_batch = min(slots, max_batch or MAX_BATCH)
        on_gpu = self.device.type == "cuda"
        missing = reason_missing() if on_gpu else "the device is a CPU"
        lean = kernels is None and not on_gpu and dtype == torch.float32
        if kernels is None:
            kernels = missing is None
        if kv and not kernels:
            raise EngineError(f"8-bit K and V need the engine's GPU kernels: {missing}")
        try:
            self._load(checkpoint, slots, weights, kv, kernels)
            self.lean = LeanEncoder(self.encoder, self.pool) if lean else None
            self._prompts = np.zeros(slots, np.int32)
            self._hosted = Hosted(self.decoder, self.pool, fusion)
            self.graphs: StepGraphs | None = None
            self._flying: Ticket | None = None
            in_range = self._try_out()
        except KeyError as error:
            raise CorruptCheckpoint(checkpoint.name, f"the weight {error} is missing") from error
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CorruptCheckpoint(
                checkpoint.name, f"its weights do not fit its config ({error})"
            ) from error
        if not in_range:
            raise OutOfRange(
                checkpoint.name, f"its frames overflow in {dtype}; compute it in bfloat16"
            )
        self.mode, self.reason, self.report = "eager", missing or "", ""
        if kernels:
            self._capture(weights, graphs and on_gpu)
        if self.mode == "eager":
            _say_once(f"the engine computes step by step, without CUDA graphs: {self.reason}")

    def _load(
        self,
        checkpoint: Checkpoint,
        slots: int,
        weights: str | None,
        kv: str | None,
        kernels: bool,
    ) -> None:
        """Weights one by one straight to the device, in the dtype that they are computed in."""
        device, dtype = self.device, self.dtype
        floats = {k: v for k, v in checkpoint.weights.items() if v.is_floating_point()}
        encoder = {
            name.removeprefix("encoder."): tensor.to(device).to(dtype)
            for name, tensor in floats.items()
            if name.startswith("encoder.")
        }
        rest = {
            name: tensor.to(device, torch.float32)
            for name, tensor in floats.items()
            if not name.startswith("encoder.")
        }
        self.features = LogMel(self.config.preprocessor, device)
        self.encoder = Encoder(encoder, self.config.encoder)
        if weights == "int8" and not kernels:
            self.encoder.quantize()
        self.decoder = Decoder(rest, self.config.decoder)
        self.prompt = Prompt(rest, self.config.prompt) if self.config.prompt else None
        self.pool = SlotPool(
            self.config,
            slots,
            freq=self.encoder.subsampling.cached_freq,
            device=device,
            dtype=dtype,
            quantized=kv == "int8",
        )

    @torch.inference_mode()
    def _try_out(self) -> bool:
        """Step once, so that weights that do not fit show now and not in a call.

        Returns:
            Whether the loudest noise there is gives frames that are numbers.
        """
        if self.pool.k.dtype == torch.int8:
            return True
        right = self.config.encoder.right_contexts[0]
        loud = torch.rand(1, self._window(right), generator=torch.Generator().manual_seed(0))
        slot = torch.zeros(1, dtype=torch.int64, device=self.device)
        mel = self.features((2 * loud - 1).to(self.device))
        encoded = self.encode(mel, slot, slot, right)
        finite = bool(torch.isfinite(encoded).all())
        self._decode(encoded, np.zeros(1, np.int64), slot, slot)
        return finite

    def _window(self, right: int) -> int:
        return self.features.window_samples(self.config.encoder.chunk_frames(right))

    def _capture(self, weights: str | None, capture: bool) -> None:
        from voice_agent.engine.fused import FusedStep
        from voice_agent.engine.graphs import StepGraphs

        rights = self.config.encoder.right_contexts
        lanes = {
            right: min(self.pool.slots, max(_SOME, self.max_batch // (right + 1)))
            for right in rights
        }
        frames = max(lanes[right] * (right + 1) for right in rights)
        step = FusedStep(
            self.config,
            self.features,
            self.encoder,
            self.prompt,
            self.decoder,
            self.pool,
            capacity=max(lanes.values()),
            records=frames * self.config.decoder.max_symbols,
            quantized=weights == "int8",
        )
        window = {right: self._window(right) for right in rights}
        make = functools.partial(StepGraphs, step, lanes=lanes, window=window, device=self.device)
        if capture:
            try:
                self.graphs = make(capture=True)
                self.mode, self.reason = "graph", ""
            except (RuntimeError, torch.AcceleratorError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.reason = f"capturing failed ({str(error).splitlines()[0]})"
        else:
            self.reason = self.reason or "CUDA graphs were switched off"
        if self.graphs is None:
            self.graphs = make(capture=False)
        self.report = self.graphs.report
        log.info("%s", self.report)

    def reset(
        self, slot: int, language: str | None = None, boost: PhraseBoost | None = None
    ) -> None:
        """A new segment begins in `slot`; see `voice_agent.engine.scheduler.Runner.reset`.

        Nothing happens on the device: a step resets the slots of lanes at position 0.
        """
        if self._flying and self._flying.hosted:  # it may hear the segment before, in this slot
            self._land(self._flying)
        self._hosted.reset(slot, boost)
        if self.config.prompt:
            self._prompts[slot] = self.config.prompt.index(language)

    def search(self, slot: int, chunks: int | None) -> None:
        """Decode a segment by search; see `voice_agent.engine.device.Runner`."""
        self._hosted.search(slot, chunks)

    def rest(self, slot: int) -> Said:
        """What a search has not told of its segment; see `voice_agent.engine.device.Runner`."""
        return self._hosted.rest(slot)

    def staging(self, n: int, window: int) -> np.ndarray | None:
        """Where the next step's PCM is best written, int16 (n, window); None: anywhere."""
        return self.graphs.staging(n, window) if self.graphs else None

    def step(
        self,
        slots: Sequence[int] | np.ndarray,
        pos: Sequence[int] | np.ndarray,
        pcm: np.ndarray,
        right: int,
    ) -> Emissions:
        """Compute one chunk a lane; see `voice_agent.engine.scheduler.Runner.step`."""
        return self.collect(self.launch(slots, pos, pcm, right))

    def launch(
        self,
        slots: Sequence[int] | np.ndarray,
        pos: Sequence[int] | np.ndarray,
        pcm: np.ndarray,
        right: int,
    ) -> Ticket:
        """Enqueue a step and return; one may be under way, which is then waited for first."""
        slots, pos = np.asarray(slots, np.int64), np.asarray(pos, np.int64)
        if self.graphs is None:
            return Ticket(len(slots), right, emissions=self._plain_step(slots, pos, pcm, right))
        most = self.graphs.lanes[right]
        if self._flying:
            self._settle(self._flying, and_read=len(slots) > most)
        first, before = 0, []
        while len(slots) - first > most:  # a wide look-ahead takes fewer lanes a step
            part = slice(first, first + most)
            said = self.step(slots[part], pos[part], pcm[part], right)
            before.append(_shifted(said, first))
            first += most
        slots, pos = slots[first:], pos[first:]
        prompts, hosted = self._prompts[slots], self._hosted.lanes(slots)
        self._flying = self.graphs.launch(slots, pos, prompts, hosted, pcm[first:], right)
        self._flying.before, self._flying.first = before, first
        return self._flying

    def collect(self, ticket: Ticket) -> Emissions:
        """Wait for a step and read what was said."""
        if ticket.emissions is None:
            self._land(ticket)
        assert ticket.emissions is not None
        return ticket.emissions

    def _settle(self, ticket: Ticket, and_read: bool) -> None:
        """Have a step done, so that the next can be launched; what it said is read after that.

        Not where its frames are needed, whose place the next step's take, or where so many steps
        follow that its results would be written over (`and_read`).
        """
        assert self.graphs is not None
        if ticket.hosted or and_read:
            self._land(ticket)
        else:
            self.graphs.settle(ticket)
            self._flying = None

    @torch.inference_mode()
    def _land(self, ticket: Ticket) -> None:
        assert self.graphs is not None
        self.graphs.settle(ticket)
        said = self.graphs.read(ticket)
        if self._flying is ticket:
            self._flying = None
        if ticket.hosted:
            lanes = torch.tensor(ticket.hosted, device=self.device)
            frames, slots = self.graphs.frames(ticket)[lanes], self.graphs.slots(ticket)[lanes]
            said = merged([said, of_lanes(self._hosted.hear(frames, slots), ticket.hosted)])
        ticket.emissions = merged([*ticket.before, _shifted(said, ticket.first)])

    def parts(self, lanes: int, right: int) -> dict[str, Callable[[], None]]:
        """Features, encoder and decoder of the last step, each to be run alone and timed.

        Args:
            lanes: that the last step had.
            right: its right context.
        """
        if self.graphs is None:
            raise EngineError("the plain modules' step has no parts to be run alone")
        return self.graphs.parts(lanes, right)

    @torch.inference_mode()
    def _plain_step(
        self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int
    ) -> Emissions:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
            self._threads = None
        lanes = torch.from_numpy(slots).to(self.device)
        at = torch.from_numpy(pos).to(self.device)
        mel = self.features(torch.from_numpy(pcm).to(self.device))
        return self._decode(self.encode(mel, lanes, at, right), slots, lanes, at)

    def _decode(
        self, encoded: torch.Tensor, slots: np.ndarray, lanes: torch.Tensor, at: torch.Tensor
    ) -> Emissions:
        """What the plain decoder hears in encoder frames; `lanes` is `slots` on the device."""
        if self.prompt:
            prompts = torch.from_numpy(self._prompts[slots]).to(self.device)
            encoded = self.prompt(encoded.float(), prompts)
        first = at == 0
        if first.any():
            self.decoder.begin(self.pool, lanes, first)
        return self._hosted.hear(self.decoder.project(encoded), lanes)

    def encode(
        self, mel: torch.Tensor, slots: torch.Tensor, pos: torch.Tensor, right: int
    ) -> torch.Tensor:
        """Mel frames (n, 8·(right + 1), n_mels) to encoder frames (n, right + 1, d_model).

        Operation by operation, whatever `mode` is.
        """
        if self.lean is not None:
            return self.lean(mel, slots, pos, right)
        return self.encoder(mel.to(self.dtype), self.pool, slots, pos, right)


def _shifted(said: Emissions, lanes: int) -> Emissions:
    """The same of a part of a batch that begins at another lane."""
    if not lanes:
        return said
    return Emissions(said.lanes + np.int32(lanes), said.tokens, said.frames, said.probs)


@functools.cache
def _say_once(message: str) -> None:
    log.warning("%s", message)

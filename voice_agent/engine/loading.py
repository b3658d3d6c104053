"""From a model's name to a recogniser that is ready."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from voice_agent.engine.errors import EngineError, OutOfRange, UnsupportedCheckpoint

if TYPE_CHECKING:
    import torch

    from voice_agent.engine.checkpoint import Checkpoint
    from voice_agent.engine.fusion import Fusion, Weights
    from voice_agent.engine.indic_conformer import IndicConformerRecognizer
    from voice_agent.engine.nemotron import NemotronRecognizer
    from voice_agent.engine.scheduler import Runner

log = logging.getLogger(__name__)

Backend = Literal["engine", "nemo"]
Bits = Literal["int8"]
CPU_SLOTS = 64
CUDA_SLOTS = 256


def pick_device(device: str) -> torch.device:
    """The device to compute on.

    Args:
        device: "auto" for a CUDA GPU where torch can use one and the CPU otherwise, or a torch
            device by name.

    Raises:
        EngineError: CUDA was asked for and torch cannot use it.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise EngineError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if picked.type not in ("cpu", "cuda"):
        raise EngineError(f"device {device!r} is not served; use auto, cpu, cuda or cuda:N")
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            f"device {device!r}: this torch ({torch.__version__}) sees no CUDA GPU; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return picked


def load_recognizer(
    model: str = "tiny-en",
    *,
    device: str = "auto",
    right_context: int | None = None,
    slots: int | None = None,
    backend: Backend = "engine",
    dtype: str | None = None,
    weights: Bits | None = None,
    kv: Bits | None = None,
    language_model: str | Path | None = None,
    fusion: Weights | None = None,
) -> NemotronRecognizer | IndicConformerRecognizer:
    """Load a model and start its engine thread. Slow (seconds): not for an event loop.

    IndicConformer's models (the embedded `tiny-kn`, a directory in its layout, AI4Bharat's id and
    `.nemo` files) go to `load_indic_conformer`, which offers more to choose.

    Args:
        model: an embedded model's name, a `.nemo` file, a Hugging Face directory, or a Hugging
            Face id.
        device: "auto", "cpu", "cuda" or "cuda:N".
        right_context: default look-ahead in encoder frames; None takes the shortest that the
            checkpoint was trained for (80 ms chunks), or for a large model on a CPU the shortest
            that this machine keeps up with, which is measured and said.
        slots: streams at most; None for 64 on a CPU and 256 on a GPU.
        backend: "engine" is ours; "nemo" computes with NeMo itself, slowly, for comparison and
            for checkpoints that the engine refuses.
        dtype: of the encoder, "float32", "bfloat16" or "float16"; None for float32 on a CPU, and
            on a GPU for float16, or bfloat16 where a checkpoint's numbers are too large for that.
        weights: "int8" keeps the encoder's matrices in 8 bits.
        kv: "int8" keeps K and V in 8 bits; on a GPU.
        language_model: an ARPA file of the checkpoint's tokens, plain or gzipped
            (`voice_agent.engine.ngram`), for finals by search (`final_pass="search"`).
        fusion: how much it counts; None for the defaults of `voice_agent.engine.fusion.Weights`.

    Raises:
        ModelNotFound: no such model, or language model; the message says how to get it.
        LanguageModelError: the language model is damaged, or of other tokens.
        CorruptCheckpoint: the file is damaged.
        UnsupportedCheckpoint: a shape that the engine does not serve.
        OutOfRange: "float16" was asked for, and the checkpoint's numbers are too large.
        EngineError: the device cannot be used, or `backend` is not one for this model.
        ValueError: a right context that the checkpoint was not trained for.
    """
    import torch

    from voice_agent.engine.checkpoint import read_nemo
    from voice_agent.engine.hf import read_hf
    from voice_agent.engine.indic.layout import is_layout
    from voice_agent.engine.indic.nemo_file import is_multilingual
    from voice_agent.engine.nemotron import NemotronRecognizer
    from voice_agent.models import KNOWN, locate

    if model in KNOWN and KNOWN[model].identifies:
        raise UnsupportedCheckpoint(
            model, "it tells languages apart and writes none; the language gate asks it"
        )
    if is_layout(model):
        _refuse_engine_options(model, backend, dtype, weights, kv, language_model)
        return _indic_conformer(model, model, device, right_context, slots)
    where = pick_device(device)
    found = locate(model)
    if found.path.is_file() and is_multilingual(found.path):
        _refuse_engine_options(model, backend, dtype, weights, kv, language_model)
        return _indic_conformer(model, str(found.path), device, right_context, slots)
    slots = slots or (CUDA_SLOTS if where.type == "cuda" else CPU_SLOTS)
    try:
        if found.path.is_dir():
            checkpoint = read_hf(found.path, name=model)
        else:
            checkpoint = read_nemo(found.path, name=model, strict=backend != "nemo")
        lm = _fusion(language_model, fusion, checkpoint) if language_model is not None else None
        runner = _runner(backend, checkpoint, found.path, where, slots, dtype, weights, kv, lm)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise EngineError(
            f"{model} with {slots} slots does not fit into the memory of {where}; "
            "use fewer --slots or a smaller model"
        ) from error
    if right_context is None and where.type == "cpu" and not _small(checkpoint):
        right_context = _sustained(runner)
    return NemotronRecognizer(
        checkpoint,
        runner,
        slots=slots,
        device=str(where),
        right_context=right_context,
        languages=found.languages,
        # On a GPU a search is the host's, a stream at a time: for whoever asks for it.
        final_pass=checkpoint.config.final_pass if where.type == "cpu" else "stream",
    )


def _refuse_engine_options(name: str, backend: str, *given: str | Path | None) -> None:
    if backend != "engine" or any(given):
        raise EngineError(
            f"{name} is an IndicConformer: it takes neither a backend nor a dtype, weights or kv, "
            "nor a language_model"
        )


def _fusion(path: str | Path, weights: Weights | None, checkpoint: Checkpoint) -> Fusion:
    """Read a language model for a checkpoint."""
    from voice_agent.engine.fusion import Fusion, check_vocabulary
    from voice_agent.engine.ngram import NGram

    lm, tokenizer = NGram(path, checkpoint.config.decoder.vocab_size), checkpoint.tokenizer
    if tokenizer is not None:
        check_vocabulary(lm, str(path), tokenizer.surfaces, checkpoint.name)
    log.info("%s: %d n-grams up to %d tokens long", path, lm.ngrams, lm.order)
    return Fusion(lm, weights, tokenizer.tag_tokens() if tokenizer is not None else ())


def _indic_conformer(
    name: str,
    model: str,
    device: str,
    right_context: int | None,
    slots: int | None,
) -> IndicConformerRecognizer:
    from voice_agent.engine.indic_conformer import load_indic_conformer

    if right_context is not None:
        raise ValueError(f"{name} hears whole segments: it has no right_context")
    return load_indic_conformer(model, device=device, slots=slots or CPU_SLOTS)


def _runner(
    backend: str,
    checkpoint: Checkpoint,
    path: Path,
    device: torch.device,
    slots: int,
    dtype: str | None,
    weights: Bits | None,
    kv: Bits | None,
    fusion: Fusion | None = None,
) -> Runner:
    import torch

    if backend == "nemo":
        if path.is_dir():
            raise EngineError(f"backend 'nemo' reads .nemo files; {path} is a directory")
        if weights or kv:
            raise EngineError("backend 'nemo' computes in float32; 8 bits are the engine's own")
        if fusion:
            raise EngineError("backend 'nemo' decodes by itself; a language_model needs the engine")
        from voice_agent.engine.nemo import NemoRunner

        return NemoRunner(path, checkpoint.config, device=device)
    if backend != "engine":
        raise EngineError(f"backend {backend!r} is unknown; use engine or nemo")
    from voice_agent.engine.runner import EngineRunner

    kind = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    kind["float16"] = torch.float16
    if dtype not in kind:
        raise EngineError(f"dtype {dtype!r} is unknown; use float32, bfloat16 or float16")
    # One thread a step: a step of the small models is shorter than waking a second thread.
    threads = 1 if device.type == "cpu" and _small(checkpoint) else None

    def make(chosen: torch.dtype) -> EngineRunner:
        return EngineRunner(
            checkpoint, slots=slots, device=device, dtype=chosen, threads=threads,
            weights=weights, kv=kv, fusion=fusion,
        )  # fmt: skip

    if chosen := kind[dtype]:
        return make(chosen)
    if device.type != "cuda":
        return make(torch.float32)
    try:
        return make(torch.float16)
    except OutOfRange as error:
        log.warning("%s, as it is now", error)
        return make(torch.bfloat16)


def _small(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.encoder.d_model <= 512


def _sustained(runner: Runner) -> int | None:
    """The shortest right context that this CPU keeps up with; None leaves the shortest of all."""
    from voice_agent.engine.runner import EngineRunner
    from voice_agent.engine.sustain import smallest_sustained

    if not isinstance(runner, EngineRunner):
        return None
    right, why = smallest_sustained(runner)
    log.warning("%s; name a right_context to choose another", why)
    return right

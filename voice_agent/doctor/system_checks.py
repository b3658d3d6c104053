"""Checks of the other libraries and systems: what of them will run here, and where."""

from __future__ import annotations

from voice_agent.doctor.finding import GPU, Finding, check_of, version
from voice_agent.doctor.machine import Machine


@check_of("torchaudio")
def torchaudio(m: Machine) -> Finding | None:
    """Torchaudio is compiled against one PyTorch; its aarch64 wheels end at 2.11."""
    if "torchaudio" not in m.packages or m.torch is None:
        return None
    mine, theirs = m.packages["torchaudio"], m.torch.version
    if "torchaudio" in m.broken or version(mine)[:2] != version(theirs)[:2]:
        ends = "; its aarch64 wheels end at 2.11" if m.arch == "aarch64" else ""
        return Finding(
            "torchaudio",
            "warn",
            f"torchaudio {mine} does not fit PyTorch {theirs}"
            f"{ends}. Nothing here uses it: audio goes through soundfile",
            "pip uninstall torchaudio",
        )
    return None


@check_of("ctranslate2", GPU)
def ctranslate2(m: Machine) -> Finding | None:
    """faster-whisper on the GPU; PyPI's CTranslate2 for aarch64 has no CUDA."""
    if m.ctranslate2_gpus is None or not m.gpus:
        return None
    if m.ctranslate2_gpus:
        return Finding("ctranslate2", "ok", f"CTranslate2 sees {m.ctranslate2_gpus} GPU")
    if m.arch == "aarch64":
        return Finding(
            "ctranslate2",
            "warn",
            "CTranslate2's aarch64 wheels have no CUDA: faster-whisper runs on the CPU, in int8",
            "--stt insanely-fast-whisper, or build CTranslate2 with -DWITH_CUDA=ON",
        )
    return Finding(
        "ctranslate2",
        "warn",
        "CTranslate2 sees no GPU: faster-whisper runs on the CPU",
        "unset CUDA_VISIBLE_DEVICES; pip install --upgrade ctranslate2",
    )


@check_of("onnxruntime", GPU)
def onnxruntime(m: Machine) -> Finding | None:
    """IndicConformer on the GPU; onnxruntime-gpu has aarch64 wheels for CUDA 13 from 1.29."""
    if not m.gpus:
        return None
    if "CUDAExecutionProvider" in m.onnx_providers:
        return Finding("onnxruntime", "ok", "ONNX Runtime has its CUDA provider")
    both = {"onnxruntime", "onnxruntime-gpu"} <= set(m.packages)
    why = "the CPU package hides the GPU one" if both else "ONNX Runtime has no CUDA provider"
    return Finding(
        "onnxruntime",
        "warn",
        f"{why}: IndicConformer runs on the CPU",
        "pip uninstall -y onnxruntime && pip install --force-reinstall 'onnxruntime-gpu>=1.29'",
    )


@check_of("flash-attn", GPU)
def flash_attn(m: Machine) -> Finding | None:
    """flash-attn is source-only on aarch64, and not needed anywhere."""
    name = next((n for n in ("flash-attn", "flash_attn") if n in m.packages), None)
    if name is None:
        return Finding(
            "flash-attn",
            "ok",
            "flash-attn is absent and not needed: attention is PyTorch's SDPA or our own kernel",
        )
    if "flash-attn" in m.broken:
        return Finding(
            "flash-attn",
            "warn",
            f"flash-attn does not import ({m.broken['flash-attn']}), which breaks transformers",
            "pip uninstall flash-attn",
        )
    return None


@check_of("nemo")
def nemo(m: Machine) -> Finding | None:
    """NeMo: the reference, and the fallback for checkpoints that the engine does not know."""
    if "nemo_toolkit" in m.broken:
        return Finding(
            "nemo",
            "warn",
            f"NeMo does not import: {m.broken['nemo_toolkit']}. The "
            "engine reads checkpoints without it",
            "pip install --force-reinstall -c constraints.txt 'voice-agent[nemo]'",
        )
    if "nemo_toolkit" not in m.packages:
        return Finding("nemo", "note", "NeMo is not installed; the engine does not need it")
    return Finding("nemo", "ok", f"NeMo {m.packages['nemo_toolkit']}")


@check_of("whisper.cpp", GPU)
def whisper_cpp(m: Machine) -> Finding | None:
    """whisper.cpp's wheels are for CPUs; its sources build for 12.1."""
    if "pywhispercpp" not in m.packages or not m.gpus:
        return None
    major, minor = m.gpus[0].capability
    return Finding(
        "whisper.cpp",
        "note",
        "pywhispercpp's wheels compute on the CPU; whisper.cpp builds for this GPU",
        f"GGML_CUDA=1 CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES={major}{minor} pip install "
        "--no-binary :all: pywhispercpp",
    )


@check_of("containers", GPU)
def containers(m: Machine) -> Finding | None:
    """NIM, WhisperX and vLLM come as containers; NIM's matrix lists Parakeet for the Spark."""
    if m.docker or m.container:
        return None
    extra = (
        " (Parakeet CTC and RNNT are listed for DGX Spark)"
        if m.arch == "aarch64" and m.gpus
        else ""
    )
    return Finding(
        "containers",
        "note",
        f"no docker: NIM speech{extra}, WhisperX and vLLM, which "
        "come as containers, cannot be started here",
        "install Docker and the NVIDIA Container Toolkit",
    )

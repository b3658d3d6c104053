"""Checks of PyTorch and the GPU under it."""

from __future__ import annotations

from voice_agent.doctor.finding import GPU, Finding, check_of, natural_profile, runs, version
from voice_agent.doctor.machine import Machine

FIRST_DRIVER = {12: "525", 13: "580"}
"""The first Linux driver branch of each CUDA major version, from NVIDIA's release notes."""


@check_of("torch")
def torch_imports(m: Machine) -> Finding:
    """PyTorch is there and imports."""
    if m.torch is None:
        return Finding("torch", "fail", "PyTorch is not installed", "make setup")
    if m.torch.error:
        return Finding(
            "torch",
            "fail",
            f"PyTorch does not import: {m.torch.error}",
            "pip install --force-reinstall -c constraints.txt torch",
        )
    return Finding("torch", "ok", f"PyTorch {m.torch.version}")


@check_of("gpu", GPU)
def gpu(m: Machine) -> Finding:
    """There is a GPU with a driver."""
    if not m.gpus:
        return Finding(
            "gpu",
            "fail",
            "no NVIDIA GPU: the driver is not loaded, or there is none",
            "nvidia-smi tells which; --profile cpu runs without one",
        )
    g = m.gpus[0]
    own = f"{g.memory_gb:.0f} GB" if g.memory_gb else "memory shared with the CPU"
    return Finding(
        "gpu",
        "ok",
        f"{g.name}, compute capability {g.capability[0]}."
        f"{g.capability[1]}, {own}, driver {m.driver}",
    )


@check_of("spark", ("spark",))
def is_spark(m: Machine) -> Finding | None:
    """The spark profile is for GB10."""
    if m.arch == "aarch64" and m.gpus and m.gpus[0].capability == (12, 1):
        return None
    return Finding(
        "spark",
        "warn",
        "this is no DGX Spark (aarch64 with compute capability 12.1)",
        "voice-agent doctor --profile " + natural_profile(m),
    )


@check_of("torch-cuda", GPU)
def torch_has_cuda(m: Machine) -> Finding | None:
    """PyTorch was built for CUDA. On aarch64 PyPI's wheels are, from 2.11 on."""
    if m.torch is None or m.torch.error or not m.gpus or m.torch.cuda:
        return None
    says = f"PyTorch {m.torch.version} is a build for CPUs"
    if m.arch == "aarch64":
        says += "; PyPI's aarch64 wheels carry CUDA 13 from 2.11 on"
    return Finding(
        "torch-cuda", "fail", says, "pip install --force-reinstall 'torch>=2.12' (from PyPI)"
    )


@check_of("driver", GPU)
def driver(m: Machine) -> Finding | None:
    """The driver is new enough for PyTorch's CUDA."""
    if not (m.torch and m.torch.cuda and m.driver_cuda):
        return None
    wants, has = version(m.torch.cuda)[0], version(m.driver_cuda)[0]
    if has < wants:
        return Finding(
            "driver",
            "fail",
            f"PyTorch wants CUDA {wants}, and driver {m.driver} runs CUDA {m.driver_cuda} at most",
            f"install driver {FIRST_DRIVER.get(wants, 'a newer one')} or later",
        )
    return Finding(
        "driver", "ok", f"driver {m.driver} runs CUDA {m.driver_cuda}; PyTorch wants {m.torch.cuda}"
    )


@check_of("arch", GPU)
def arch(m: Machine) -> Finding | None:
    """PyTorch holds code that this GPU runs. sm_120 runs on 12.1; sm_90 does not."""
    if not (m.torch and m.torch.cuda and m.gpus):
        return None
    capability, archs = m.gpus[0].capability, " ".join(m.torch.archs)
    dotted = f"{capability[0]}.{capability[1]}"
    if not runs(m.torch.archs, capability):
        return Finding(
            "arch",
            "fail",
            f"PyTorch was compiled for {archs}, none of which runs on compute capability {dotted}",
            "pip install --force-reinstall 'torch>=2.12' (from PyPI)",
        )
    return Finding("arch", "ok", f"PyTorch ({archs}) has code for {dotted}")


@check_of("capability", GPU)
def true_capability(m: Machine) -> Finding | None:
    """Nothing lies about the GPU, as an old trick for the Spark did."""
    if not (m.torch and m.torch.capability and m.gpus):
        return None
    told, real = m.torch.capability, m.gpus[0].capability
    if told == real:
        return None
    return Finding(
        "capability",
        "fail",
        f"PyTorch reports compute capability {told[0]}.{told[1]}, "
        f"the driver {real[0]}.{real[1]}: something here overrides it, and kernels "
        "chosen by it will not run",
        "remove the patch of torch.cuda.get_device_capability (sitecustomize.py, a "
        "start-up script)",
    )


@check_of("torch-gpu", GPU)
def torch_sees_gpu(m: Machine) -> Finding | None:
    """PyTorch can use the GPU at all."""
    if not (m.torch and m.torch.cuda and m.gpus) or m.torch.available:
        return None
    where = " In a container: start it with --gpus all." if m.container else ""
    return Finding(
        "torch-gpu",
        "fail",
        "PyTorch has CUDA and the driver a GPU, and still it cannot use it." + where,
        "python -c 'import torch; torch.zeros(1).cuda()' says why",
    )


@check_of("nvrtc", GPU)
def nvrtc(m: Machine) -> Finding | None:
    """The run-time compiler knows the GPU: 12.1 from CUDA 13 on."""
    if not (m.torch and m.torch.nvrtc and m.gpus) or m.gpus[0].capability < (12, 1):
        return None
    if version(m.torch.nvrtc)[0] < 13:
        return Finding(
            "nvrtc",
            "warn",
            f"NVRTC {m.torch.nvrtc} does not know compute capability "
            "12.1: what PyTorch compiles at run time fails",
            "pip install --force-reinstall 'torch>=2.12' (from PyPI)",
        )
    return Finding("nvrtc", "ok", f"NVRTC {m.torch.nvrtc} knows this GPU")


@check_of("cudart", GPU)
def cudart(m: Machine) -> Finding | None:
    """One CUDA run-time, and the one that PyTorch wants."""
    if not (m.torch and m.torch.cuda):
        return None
    wants = version(m.torch.cuda)[0]
    others = [str(v) for v in m.cudarts if v != wants]
    if m.cudarts and wants not in m.cudarts:
        return Finding(
            "cudart",
            "fail",
            f"PyTorch wants libcudart.so.{wants}; here is only version {', '.join(others)}",
            "pip install --force-reinstall -c constraints.txt torch",
        )
    if others:
        return Finding(
            "cudart",
            "warn",
            f"libcudart {', '.join(others)} is here besides PyTorch's "
            f"{wants}: a library that was built for it loads, and fails on the GPU",
            "pip list | grep -i 'cu12\\|cu11' names its packages; uninstall them",
        )
    return None


@check_of("triton", GPU)
def triton(m: Machine) -> Finding | None:
    """The engine's kernels are Triton's."""
    if not m.gpus:
        return None
    if "triton" in m.broken:
        return Finding(
            "triton",
            "warn",
            f"Triton does not import ({m.broken['triton']}): "
            "the engine computes step by step, which is many times slower",
            "pip install --force-reinstall triton",
        )
    if "triton" not in m.packages:
        return Finding(
            "triton",
            "warn",
            "Triton is not installed: the engine computes step by step, many times slower",
            "pip install triton",
        )
    if not m.compiler:
        return Finding(
            "triton",
            "warn",
            "Triton compiles a small C file when it first meets a GPU, and there is no compiler",
            "apt-get install gcc libc6-dev python3-dev",
        )
    return Finding("triton", "ok", f"Triton {m.packages['triton']}")


@check_of("engine")
def engine(m: Machine) -> Finding | None:
    """The engine starts, and on a GPU its step is a captured graph."""
    if m.engine is None:
        return None
    e = m.engine
    if e.error:
        return Finding(
            "engine",
            "fail",
            f"the engine does not start with tiny-en: {e.error}",
            "voice-agent transcribe FILE --verbose shows where",
        )
    if e.mode == "graph":
        return Finding("engine", "ok", f"the engine replays CUDA graphs on {e.device}")
    says = f"the engine computes step by step on {e.device}: {e.reason}"
    if not m.gpus:
        return Finding("engine", "ok", says)
    return Finding("engine", "warn", says, "mend what torch or triton complain about above")

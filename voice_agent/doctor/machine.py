"""What is known of a machine. Facts only: judging them is for `voice_agent.doctor.checks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Capability = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as the driver describes it.

    Attributes:
        name: e.g. "NVIDIA GB10".
        capability: compute capability, e.g. (12, 1).
        memory_gb: its own memory; None where it shares the machine's.
    """

    name: str
    capability: Capability
    memory_gb: float | None


@dataclass(frozen=True, slots=True)
class Torch:
    """What PyTorch says of itself, in a process of its own.

    Attributes:
        version: e.g. "2.13.0+cu130".
        cuda: version that it was built for; None for a CPU build.
        archs: its compiled architectures, e.g. ("sm_90", "sm_120", "compute_120").
        available: whether it can use a GPU.
        capability: of the first GPU, as torch reports it.
        nvrtc: version of its run-time compiler.
        error: why it does not import.
    """

    version: str = ""
    cuda: str | None = None
    archs: tuple[str, ...] = ()
    available: bool = False
    capability: Capability | None = None
    nvrtc: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What this project's engine says of itself with the smallest model, in a process of its own.

    Attributes:
        device: where it computes.
        mode: "graph" or "eager" (`EngineRunner.mode`).
        reason: why it is eager.
        error: why it does not start.
    """

    device: str = ""
    mode: str = ""
    reason: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and the Python environment on it.

    Attributes:
        arch: "x86_64" or "aarch64".
        system: "Linux", "Darwin" or "Windows".
        python: version.
        cpus: logical processors that this process may use.
        cpu_flags: as the kernel names them.
        memory_gb: of the machine.
        disk_gb: free where models are kept.
        container: whether this is inside a container.
        gpus: as the driver describes them.
        driver: its version.
        driver_cuda: newest CUDA version that it runs.
        torch: PyTorch; None where it is not installed.
        engine: this project's; None where there is no PyTorch to try it with.
        packages: installed distributions that matter, name to version.
        broken: packages that are installed and do not import, name to error.
        ctranslate2_gpus: CUDA devices that CTranslate2 sees; None where it is not installed.
        onnx_providers: ONNX Runtime's execution providers.
        cudarts: major versions of the libcudart files that a process here can find.
        ports: TCP ports that are wanted, and whether each is free.
        addresses: whether there is an address that others can reach.
        stun: whether the STUN server answered; None where none was asked.
        hub: whether huggingface.co answers.
        cached: repositories in the model cache.
        espeak: whether the espeak-ng library loads.
        docker: whether a docker client is installed.
        compiler: whether there is a C compiler.
    """

    arch: str = "x86_64"
    system: str = "Linux"
    python: str = "3.12.0"
    cpus: int = 8
    cpu_flags: frozenset[str] = frozenset({"avx2"})
    memory_gb: float = 32.0
    disk_gb: float = 100.0
    container: bool = False
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    torch: Torch | None = field(default_factory=Torch)
    engine: Engine | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    ctranslate2_gpus: int | None = None
    onnx_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    cudarts: tuple[int, ...] = ()
    ports: Mapping[int, bool] = field(default_factory=dict)
    addresses: bool = True
    stun: bool | None = None
    hub: bool = True
    cached: tuple[str, ...] = ()
    espeak: bool = True
    docker: bool = True
    compiler: bool = True

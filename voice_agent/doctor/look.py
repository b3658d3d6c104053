"""Finds a machine's facts. Whatever cannot be found is left out, never guessed.

Libraries that may be broken are imported in processes of their own, side by side: a crash or a
hang there is a fact about them, and nothing stays loaded here.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

from voice_agent.doctor.machine import Engine, Gpu, Machine, Torch

IMPORT_S = 120.0
"""Seconds for an import; NeMo takes twenty on a slow disk."""

PACKAGES = (
    "torch", "torchaudio", "triton", "flash-attn", "flash_attn", "ctranslate2", "faster-whisper",
    "onnxruntime", "onnxruntime-gpu", "nemo_toolkit", "transformers", "pipecat-ai",
    "pywhispercpp", "sherpa-onnx",
)  # fmt: skip

_MODULES = {
    "torchaudio": "torchaudio",
    "triton": "triton",
    "flash-attn": "flash_attn",
    "nemo_toolkit": "nemo.collections.asr",
}

_ASK_TORCH = """
import json, torch
cuda = torch.version.cuda
able = torch.cuda.is_available()
nvrtc = None
if cuda:
    import ctypes
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        a, b = ctypes.c_int(), ctypes.c_int()
        if lib.nvrtcVersion(ctypes.byref(a), ctypes.byref(b)) == 0:
            nvrtc = f"{a.value}.{b.value}"
        break
print(json.dumps({"version": torch.__version__, "cuda": cuda, "available": able, "nvrtc": nvrtc,
    "archs": torch.cuda.get_arch_list() if cuda else [],
    "capability": list(torch.cuda.get_device_capability(0)) if able else None}))
"""
_ASK_ENGINE = """
import json, torch
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.runner import EngineRunner
from voice_agent.models import locate
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.float16 if device == "cuda" else torch.float32
tiny = read_nemo(locate("tiny-en").path)
runner = EngineRunner(tiny, slots=1, device=device, dtype=dtype)
print(json.dumps({"device": device, "mode": runner.mode, "reason": runner.reason}))
"""
_ASK_CT2 = "import ctranslate2; print(ctranslate2.get_cuda_device_count())"
_ASK_ONNX = "import json, onnxruntime as o; print(json.dumps(o.get_available_providers()))"
_ASK_ESPEAK = "import ctypes, espeakng_loader as e; ctypes.CDLL(e.get_library_path())"


def look(*, ports: Sequence[int] = (7860,), stun: str | None = None) -> Machine:
    """Find this machine's facts. Takes seconds.

    Args:
        ports: TCP ports that are wanted.
        stun: "host:port" of a STUN server to ask; None to ask none.
    """
    packages = _packages()
    gpus, driver, driver_cuda = _nvidia()
    with ThreadPoolExecutor() as pool:
        # What is installed at all is asked for by itself.
        torch = pool.submit(_torch) if "torch" in packages else None
        engine = pool.submit(_engine) if "torch" in packages else None
        broken = {
            name: pool.submit(_python, f"import {module}")
            for name, module in _MODULES.items()
            if name in packages
        }
        ct2 = pool.submit(_python, _ASK_CT2) if "ctranslate2" in packages else None
        onnx = pool.submit(_python, _ASK_ONNX)
        espeak = pool.submit(_python, _ASK_ESPEAK)
        hub = pool.submit(_connects, "huggingface.co", 443)
        answer = pool.submit(_stun, stun) if stun else None
        return Machine(
            arch={"arm64": "aarch64", "AMD64": "x86_64"}.get(
                platform.machine(), platform.machine()
            ),
            system=platform.system(),
            python=platform.python_version(),
            cpus=_cpus(),
            cpu_flags=_cpu_flags(),
            memory_gb=_memory_gb(),
            disk_gb=_disk_gb(),
            container=Path("/.dockerenv").exists() or "container" in os.environ,
            gpus=gpus,
            driver=driver,
            driver_cuda=driver_cuda,
            torch=torch.result() if torch else None,
            engine=engine.result() if engine else None,
            packages=packages,
            broken={n: e for n, f in broken.items() if (e := f.result()[1]) is not None},
            ctranslate2_gpus=_number(ct2.result()[0]) if ct2 else None,
            onnx_providers=tuple(json.loads(onnx.result()[0] or "[]")),
            cudarts=_cudarts(),
            ports={port: _free(port) for port in ports},
            addresses=_has_address(),
            stun=answer.result() if answer else None,
            hub=hub.result(),
            cached=_cached(),
            espeak=espeak.result()[1] is None,
            docker=shutil.which("docker") is not None,
            compiler=any(shutil.which(name) for name in ("cc", "gcc", "clang")),
        )


def _packages() -> dict[str, str]:
    wanted = {re.sub(r"[-_.]+", "-", name).lower(): name for name in PACKAGES}
    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in wanted:
            found[wanted[name]] = distribution.version
    return found


def _python(code: str) -> tuple[str, str | None]:
    """Run code in a process of its own.

    Returns:
        The last line that it printed, and what went wrong.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_S
        )
    except subprocess.TimeoutExpired:
        return "", f"it hangs for {IMPORT_S:.0f} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        return (lines[-1] if lines else ""), None
    if done.returncode < 0:
        return "", f"it crashes with signal {-done.returncode}"
    errors = done.stderr.strip().splitlines()
    return "", errors[-1] if errors else f"exit code {done.returncode}"


def _torch() -> Torch:
    said, error = _python(_ASK_TORCH)
    if error is not None:
        return Torch(error=error)
    facts = json.loads(said)
    capability = facts.pop("capability")
    archs = tuple(facts.pop("archs"))
    return Torch(archs=archs, capability=tuple(capability) if capability else None, **facts)


def _engine() -> Engine:
    """Start our engine; on a GPU that compiles its kernels the first time, for half a minute."""
    said, error = _python(_ASK_ENGINE)
    return Engine(error=error) if error is not None else Engine(**json.loads(said))


def _nvidia() -> tuple[tuple[Gpu, ...], str | None, str | None]:
    """GPUs, driver version, and the newest CUDA that the driver runs, from nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return (), None, None
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version",
             "--format=csv,noheader,nounits"]  # fmt: skip
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20)
        banner = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return (), None, None
    gpus, driver = parse_gpus(listed.stdout if listed.returncode == 0 else "")
    cuda = re.search(r"CUDA(?: \w+)? Version\s*:\s*([\d.]+)", banner.stdout)  # or "CUDA UMD"
    return gpus, driver, cuda[1] if cuda else None


def parse_gpus(listing: str) -> tuple[tuple[Gpu, ...], str | None]:
    """Read nvidia-smi's `name, compute_cap, memory.total, driver_version` lines.

    A GB10 shares the machine's memory, and nvidia-smi writes "[N/A]" for its own.
    """
    gpus, driver = [], None
    for line in listing.splitlines():
        parts = [part.strip() for part in line.split(",")]
        capability = re.fullmatch(r"(\d+)\.(\d+)", parts[1]) if len(parts) == 4 else None
        if capability is None:
            continue
        memory = float(parts[2]) / 1024 if parts[2].isdigit() else None
        gpus.append(Gpu(parts[0], (int(capability[1]), int(capability[2])), memory))
        driver = parts[3]
    return tuple(gpus), driver


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_flags() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def _memory_gb() -> float:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return 0.0
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, where it has one
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 1e9)
    return size


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _disk_gb() -> float:
    folder = _cache()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


def _cached() -> tuple[str, ...]:
    found = (p.name for p in _cache().glob("models--*"))
    return tuple(sorted(n.removeprefix("models--").replace("--", "/") for n in found))


def _cudarts() -> tuple[int, ...]:
    """Major versions of libcudart in wheels, in the linker's cache and on LD_LIBRARY_PATH."""
    names = [name for folder in sys.path
             for name in glob.glob(f"{folder}/nvidia/*/lib/libcudart.so.*")]  # fmt: skip
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if folder:
            names += glob.glob(f"{folder}/libcudart.so.*")
    if (ldconfig := shutil.which("ldconfig") or shutil.which("/sbin/ldconfig")) is not None:
        listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True)
        names += re.findall(r"libcudart\.so\.\d+", listed.stdout)
    majors = (re.search(r"libcudart\.so\.(\d+)", name) for name in names)
    return tuple(sorted({int(major[1]) for major in majors if major}))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _has_address() -> bool:
    """Whether there is a route out. Nothing is sent: a datagram socket only picks an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that is kept for documentation
        except OSError:
            return False
        return not probe.getsockname()[0].startswith("127.")


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except OSError:
        return False
    return True


def _stun(server: str) -> bool:
    """Ask a STUN server for our address (RFC 8489, a Binding request) and see if it answers."""
    host, _, port = server.rpartition(":")
    transaction = os.urandom(12)
    request = struct.pack("!HHI", 0x0001, 0, 0x2112A442) + transaction
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.sendto(request, (host or server, int(port) if host else 3478))
            answer, _ = probe.recvfrom(1024)
        except (OSError, ValueError):
            return False
    return answer[:2] == b"\x01\x01" and answer[8:20] == transaction


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None

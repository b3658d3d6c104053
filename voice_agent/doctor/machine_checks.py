"""Checks of the machine itself: processor, memory, network, disk, voice."""

from __future__ import annotations

from voice_agent.doctor.finding import Finding, check_of, version
from voice_agent.doctor.machine import Machine

STREAM_MB = 6.9
"""K and V of 70 past frames in bf16, in all 24 layers: one stream of the 0.6B model."""

MODELS = (("tiny-en", 0.01, 4), ("Nemotron 0.6B", 0.62, 2), ("IndicConformer 0.6B", 0.6, 4))
"""Name, billions of parameters, bytes of each on a GPU (a CPU takes 4)."""


@check_of("python")
def python(m: Machine) -> Finding:
    """Python 3.11 to 3.13."""
    if (3, 11) <= version(m.python)[:2] <= (3, 13):
        return Finding("python", "ok", f"Python {m.python}")
    return Finding(
        "python",
        "fail",
        f"Python {m.python}; 3.11 to 3.13 is needed",
        "make PYTHON=python3.12 setup",
    )


@check_of("cpu")
def cpu(m: Machine) -> Finding:
    """Vector instructions, without which a CPU does not keep up."""
    flags = m.cpu_flags & {"avx2", "avx512f", "avx512_vnni", "asimd", "asimddp", "i8mm", "bf16"}
    says = f"{m.arch}, {m.cpus} processors, {', '.join(sorted(flags)) or 'no vector instructions'}"
    if m.system == "Linux" and not flags & {"avx2", "asimd"}:
        return Finding("cpu", "warn", says + "; models will not keep up with speech")
    return Finding("cpu", "ok", says)


@check_of("memory")
def memory(m: Machine) -> Finding:
    """Memory for each model: parameters, plus 64 streams of the large one."""
    gpu = m.gpus[0] if m.gpus else None
    room = gpu.memory_gb if gpu and gpu.memory_gb else m.memory_gb
    where = "GPU memory" if gpu and gpu.memory_gb else "memory"
    small = [
        f"{name} (needs {need:.1f} GB)"
        for name, params, size in MODELS
        if (need := params * (size if gpu else 4) * 1.3 + (64 * STREAM_MB / 1024) * (params > 0.1))
        > room * 0.8
    ]
    if small:
        return Finding(
            "memory",
            "warn",
            f"{room:.0f} GB of {where} is too little for " + " and ".join(small),
            "--model tiny-en, or fewer --slots",
        )
    return Finding("memory", "ok", f"{room:.0f} GB of {where}: enough for every model")


@check_of("port")
def port(m: Machine) -> Finding | None:
    """The ports that the server and its neighbours want."""
    taken = [number for number, free in m.ports.items() if not free]
    if not m.ports:
        return None
    if taken:
        return Finding(
            "port",
            "warn",
            f"port {', '.join(map(str, taken))} is taken",
            "voice-agent serve --port 0",
        )
    return Finding("port", "ok", f"port {', '.join(map(str, m.ports))} is free")


@check_of("ice")
def ice(m: Machine) -> Finding:
    """Whether WebRTC media can reach callers."""
    if not m.addresses:
        return Finding(
            "ice",
            "warn",
            "only loopback addresses: calls work from this machine alone",
            "connect the machine to a network",
        )
    if m.stun is False:
        return Finding(
            "ice",
            "warn",
            "the STUN server does not answer: UDP is blocked, so callers outside need TURN",
            "docker compose -f docker/compose.yaml --profile turn up -d",
        )
    if m.container and m.stun is None:
        return Finding(
            "ice",
            "note",
            "in a container the host's addresses are hidden from WebRTC",
            "run it with --network host, or set server.ice_servers to a TURN server",
        )
    return Finding("ice", "ok", "callers on the same network can reach this machine")


@check_of("hub")
def hub(m: Machine) -> Finding:
    """Where weights come from."""
    if m.hub:
        return Finding("hub", "ok", "huggingface.co answers")
    if m.cached:
        return Finding(
            "hub", "note", f"huggingface.co does not answer; cached: {', '.join(m.cached)}"
        )
    return Finding(
        "hub",
        "warn",
        "huggingface.co does not answer and no model is cached: only the embedded models work",
        "hf download nvidia/nemotron-speech-streaming-en-0.6b on a machine with "
        "network, then copy ~/.cache/huggingface",
    )


@check_of("disk")
def disk(m: Machine) -> Finding:
    """Room for weights."""
    if m.disk_gb < 10:
        return Finding(
            "disk",
            "warn",
            f"{m.disk_gb:.0f} GB free where models are kept; the large ones take 10",
            "set HF_HOME to a larger disk",
        )
    return Finding("disk", "ok", f"{m.disk_gb:.0f} GB free where models are kept")


@check_of("espeak")
def espeak(m: Machine) -> Finding:
    """The embedded voice."""
    if m.espeak:
        return Finding("espeak", "ok", "espeak-ng loads")
    return Finding(
        "espeak",
        "warn",
        "espeak-ng does not load: the agent has no embedded voice",
        "pip install espeakng-loader",
    )

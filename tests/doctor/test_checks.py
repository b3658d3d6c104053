"""Every problem that we know of, on a machine that has it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from voice_agent.doctor import CHECKS, Gpu, Machine, Torch, examine
from voice_agent.doctor.command import can_run, report, report_json
from voice_agent.doctor.finding import natural_profile, runs
from voice_agent.doctor.machine import Engine

GB10 = Gpu("NVIDIA GB10", (12, 1), None)
GOOD_TORCH = Torch("2.13.0+cu130", "13.0", ("sm_80", "sm_90", "sm_100", "sm_120", "compute_120"),
                   True, (12, 1), "13.0")  # fmt: skip

SPARK = Machine(
    arch="aarch64", cpu_flags=frozenset({"asimd", "i8mm"}), cpus=20, memory_gb=128.0, gpus=(GB10,),
    driver="580.95.05", driver_cuda="13.0", torch=GOOD_TORCH, cudarts=(13,),
    packages={"torch": "2.13.0", "triton": "3.9.0", "onnxruntime-gpu": "1.32.0",
              "nemo_toolkit": "3.0.0"},
    onnx_providers=("CUDAExecutionProvider", "CPUExecutionProvider"), ports={7860: True},
)  # fmt: skip
LAPTOP = Machine(torch=Torch("2.13.0+cpu"), packages={"torch": "2.13.0", "nemo_toolkit": "3.0.0"})


def with_torch(**changes):
    return replace(SPARK, torch=replace(GOOD_TORCH, **changes))


def with_packages(**versions):
    names = {k.replace("_", "-"): v for k, v in versions.items()}
    return replace(SPARK, packages={**SPARK.packages, **names})


def test_a_spark_in_good_order_has_no_complaints():
    findings = examine(SPARK, "spark")
    assert {f.level for f in findings} == {"ok"}
    assert natural_profile(SPARK) == "spark"


def test_the_engine_says_whether_its_step_is_a_graph_and_why_not():
    spark = examine(replace(SPARK, engine=Engine("cuda", "graph")), "spark")
    assert "the engine replays CUDA graphs on cuda" in [f.says for f in spark]
    laptop = replace(LAPTOP, engine=Engine("cpu", "eager", "the device is a CPU"))
    (found,) = (f for f in examine(laptop, "cpu") if f.check == "engine")
    assert found.level == "ok" and found.says.endswith("step by step on cpu: the device is a CPU")


def test_a_laptop_without_gpu_runs_the_cpu_profile_and_not_the_gpu_one():
    assert natural_profile(LAPTOP) == "cpu"
    assert {f.level for f in examine(LAPTOP, "cpu")} == {"ok"}
    assert not can_run(examine(LAPTOP, "gpu"))


# name of the check, level, what the sentence must hold, what the advice must hold, the machine
PROBLEMS = {
    "an aarch64 torch without cuda": (
        "torch-cuda", "fail", "from 2.11", "torch>=2",
        with_torch(version="2.10.0", cuda=None, archs=(), available=False),
    ),
    "a torch for sm_90 alone": (
        "arch", "fail", "sm_80 sm_90", "torch>=2", with_torch(archs=("sm_80", "sm_90")),
    ),
    "an engine without graphs": (
        "engine", "warn", "step by step on cuda: capturing failed (why)", "torch or triton",
        replace(SPARK, engine=Engine("cuda", "eager", "capturing failed (why)")),
    ),
    "an engine that does not start": (
        "engine", "fail", "does not start with tiny-en: boom", "transcribe",
        replace(SPARK, engine=Engine(error="boom")),
    ),
    "a capability that is not the gpu's": (
        "capability", "fail", "9.0, the driver 12.1", "remove the patch",
        with_torch(capability=(9, 0)),
    ),
    "a driver that is too old": (
        "driver", "fail", "wants CUDA 13", "580",
        replace(SPARK, driver="550.54", driver_cuda="12.4"),
    ),
    "nvrtc of cuda 12": ("nvrtc", "warn", "12.8", "torch>=2.12", with_torch(nvrtc="12.8")),
    "a second libcudart": (
        "cudart", "warn", "libcudart 12", "uninstall", replace(SPARK, cudarts=(12, 13)),
    ),
    "only the wrong libcudart": (
        "cudart", "fail", "libcudart.so.13", "torch", replace(SPARK, cudarts=(12,)),
    ),
    "a gpu that torch cannot use": (
        "torch-gpu", "fail", "--gpus all", "torch.zeros",
        replace(with_torch(available=False, capability=None), container=True),
    ),
    "torchaudio for another torch": (
        "torchaudio", "warn", "end at 2.11", "pip uninstall torchaudio",
        with_packages(torchaudio="2.11.0"),
    ),
    "ctranslate2 without cuda": (
        "ctranslate2", "warn", "aarch64 wheels have no CUDA", "insanely-fast-whisper",
        replace(SPARK, ctranslate2_gpus=0),
    ),
    "onnxruntime without cuda": (
        "onnxruntime", "warn", "no CUDA provider", "onnxruntime-gpu>=1.29",
        replace(SPARK, onnx_providers=("CPUExecutionProvider",)),
    ),
    "both onnxruntimes": (
        "onnxruntime", "warn", "hides", "pip uninstall -y onnxruntime",
        replace(with_packages(onnxruntime="1.32.0"), onnx_providers=("CPUExecutionProvider",)),
    ),
    "no triton": (
        "triton", "warn", "step by step", "pip install triton",
        replace(SPARK, packages={"torch": "2.13.0"}),
    ),
    "a broken triton": (
        "triton", "warn", "no ptxas", "reinstall triton",
        replace(SPARK, broken={"triton": "no ptxas"}),
    ),
    "a triton that cannot compile": (
        "triton", "warn", "no compiler", "gcc", replace(SPARK, compiler=False),
    ),
    "a broken flash-attn": (
        "flash-attn", "warn", "undefined symbol", "pip uninstall flash-attn",
        replace(with_packages(flash_attn="2.8.3"), broken={"flash-attn": "undefined symbol"}),
    ),
    "a broken nemo": (
        "nemo", "warn", "editdistance", "constraints.txt",
        replace(SPARK, broken={"nemo_toolkit": "No module named 'editdistance'"}),
    ),
    "whisper.cpp's cpu wheel": (
        "whisper.cpp", "note", "builds for this GPU", "ARCHITECTURES=121",
        with_packages(pywhispercpp="1.5.1"),
    ),
    "no docker for nim": (
        "containers", "note", "Parakeet CTC and RNNT", "Container Toolkit",
        replace(SPARK, docker=False),
    ),
    "no gpu at all": ("gpu", "fail", "no NVIDIA GPU", "nvidia-smi", replace(SPARK, gpus=())),
    "another gpu": (
        "spark", "warn", "no DGX Spark", "--profile gpu",
        replace(
            with_torch(capability=(9, 0)), arch="x86_64", gpus=(Gpu("NVIDIA H200", (9, 0), 139.0),)
        ),
    ),
    "no torch": ("torch", "fail", "not installed", "make setup", replace(SPARK, torch=None)),
    "a torch that does not import": (
        "torch", "fail", "libcudart.so.13: cannot open", "force-reinstall",
        replace(SPARK, torch=Torch(error="libcudart.so.13: cannot open")),
    ),
    "an old python": ("python", "fail", "3.10.1", "PYTHON=", replace(SPARK, python="3.10.1")),
    "a cpu without vectors": (
        "cpu", "warn", "not keep up", "", replace(LAPTOP, cpu_flags=frozenset({"sse2"})),
    ),
    "little memory": (
        "memory", "warn", "Nemotron 0.6B", "tiny-en", replace(LAPTOP, memory_gb=3.0),
    ),
    "a taken port": (
        "port", "warn", "7860", "--port 0", replace(SPARK, ports={7860: False}),
    ),
    "udp that is blocked": ("ice", "warn", "TURN", "turn", replace(SPARK, stun=False)),
    "a container's own network": (
        "ice", "note", "hidden", "--network host", replace(SPARK, container=True),
    ),
    "no network": ("ice", "warn", "loopback", "network", replace(SPARK, addresses=False)),
    "no hub and no cache": ("hub", "warn", "embedded", "hf download", replace(SPARK, hub=False)),
    "no hub but a cache": (
        "hub", "note", "nvidia/x", "", replace(SPARK, hub=False, cached=("nvidia/x",)),
    ),
    "a full disk": ("disk", "warn", "2 GB free", "HF_HOME", replace(SPARK, disk_gb=2.0)),
    "no voice": ("espeak", "warn", "no embedded voice", "espeakng", replace(SPARK, espeak=False)),
}  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_is_seen_named_and_given_its_remedy(problem):
    check, level, says, mend, machine = problem
    profile = "cpu" if machine.arch == "x86_64" and not machine.gpus else "spark"
    found = {f.check: f for f in examine(machine, profile)}[check]
    assert found.level == level
    assert says in found.says
    assert mend in found.mend
    assert can_run(examine(machine, profile)) == (level != "fail")


def test_every_check_has_a_problem_here_that_it_sees():
    assert {name for name, _, _ in CHECKS} == {problem[0] for problem in PROBLEMS.values()}


def test_no_advice_is_to_report_another_compute_capability():
    for _, _, _, _, machine in PROBLEMS.values():
        for profile in ("cpu", "gpu", "spark"):
            for finding in examine(machine, profile):
                advice = finding.mend.lower()
                assert "9.0" not in advice
                assert "(9, 0)" not in advice
                assert "arch_list" not in advice
                assert "get_device_capability" not in advice or "remove" in advice


@pytest.mark.parametrize(
    ("archs", "capability", "fits"),
    [
        (["sm_120"], (12, 1), True), (["sm_90"], (12, 1), False), (["sm_90a"], (12, 1), False),
        (["sm_121a"], (12, 1), True), (["compute_90"], (12, 1), True), (["sm_121"], (12, 0), False),
        (["compute_130"], (12, 1), False), ([], (9, 0), False), (["sm_86"], (8, 9), True),
    ],
)  # fmt: skip
def test_binaries_run_within_their_major_version_and_ptx_on_anything_newer(archs, capability, fits):
    assert runs(archs, capability) is fits


def test_the_report_ends_with_the_verdict_and_the_worst_stands_last():
    findings = examine(replace(SPARK, torch=None, hub=False), "spark")
    lines = report("spark", findings).splitlines()
    assert lines[-1] == "profile spark: cannot run here"
    levels = [line.split()[0] for line in lines if line[:4].strip() and not line.startswith(" ")]
    assert levels.index("FAIL") > levels.index("WARN") > levels.index("ok")


def test_the_report_for_programs_holds_findings_and_facts():
    told = json.loads(report_json(SPARK, "spark", examine(SPARK, "spark")))
    assert told["can_run"] is True
    assert told["machine"]["gpus"][0]["capability"] == [12, 1]
    assert {f["check"] for f in told["findings"]} >= {"torch", "arch", "driver"}

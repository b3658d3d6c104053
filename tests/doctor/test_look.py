"""Finding facts: on this machine, and in what other machines' tools print."""

from __future__ import annotations

import json
import socket
import struct
import threading

import pytest
from typer import Typer
from typer.testing import CliRunner

from voice_agent.doctor import look as looking
from voice_agent.doctor.command import doctor
from voice_agent.doctor.machine import Gpu, Machine


def test_nvidia_smi_of_a_spark_and_of_a_server_is_understood():
    gpus, driver = looking.parse_gpus("NVIDIA GB10, 12.1, [N/A], 580.95.05\n")
    assert (gpus, driver) == ((Gpu("NVIDIA GB10", (12, 1), None),), "580.95.05")
    gpus, _ = looking.parse_gpus("NVIDIA H200, 9.0, 143771, 570.1\nNVIDIA H200, 9.0, 143771, 570.1")
    assert [g.memory_gb for g in gpus] == [pytest.approx(140.4, abs=0.1)] * 2
    assert looking.parse_gpus("No devices were found\n") == ((), None)


@pytest.mark.parametrize("banner", ["CUDA Version: 13.0", "CUDA UMD Version: 13.0"])
def test_a_sparks_own_tool_is_asked_for_its_gpu_and_driver(banner, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        '--query-gpu=*) echo "NVIDIA GB10, 12.1, [N/A], 580.95.05" ;;\n'
        f'*) echo "| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   {banner}   |" ;;\n'
        "esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert looking._nvidia() == ((Gpu("NVIDIA GB10", (12, 1), None),), "580.95.05", "13.0")


def test_a_machine_whose_driver_is_not_loaded_has_no_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert looking._nvidia() == ((), None, None)


def test_every_libcudart_that_a_process_here_would_find_counts(tmp_path, monkeypatch):
    before = set(looking._cudarts())
    wheel = tmp_path / "nvidia" / "cu97" / "lib"
    wheel.mkdir(parents=True)
    (wheel / "libcudart.so.97").touch()
    (tmp_path / "libcudart.so.98").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert set(looking._cudarts()) == before | {97, 98}


def test_a_library_that_fails_crashes_or_hangs_is_told_apart(monkeypatch):
    assert looking._python("print(1)\nprint('x')") == ("x", None)
    assert looking._python("raise ImportError('libfoo.so.1: gone')")[1].endswith(
        "libfoo.so.1: gone"
    )
    assert "signal 11" in looking._python("import os; os.kill(os.getpid(), 11)")[1]
    monkeypatch.setattr(looking, "IMPORT_S", 0.2)
    assert "hangs" in looking._python("import time; time.sleep(60)")[1]


def test_a_port_that_somebody_listens_on_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not looking._free(port)
    assert looking._free(port)


def test_a_stun_server_is_asked_as_the_rfc_says():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer():
            request, sender = server.recvfrom(1024)
            kind, _, cookie = struct.unpack("!HHI", request[:8])
            assert (kind, cookie, len(request)) == (1, 0x2112A442, 20)
            server.sendto(struct.pack("!HHI", 0x0101, 0, cookie) + request[8:20], sender)

        thread = threading.Thread(target=answer)
        thread.start()
        assert looking._stun(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert not looking._stun("127.0.0.1:nonsense")


@pytest.fixture(scope="module")
def here() -> Machine:
    """This machine; without NeMo's import, which takes half a minute."""
    modules = dict(looking._MODULES)
    looking._MODULES.pop("nemo_toolkit")
    try:
        return looking.look(ports=(0,))
    finally:
        looking._MODULES.update(modules)


def test_this_machine_is_described_by_what_is_on_it(here):
    import torch

    assert here.torch is not None
    assert here.torch.version == torch.__version__
    assert here.packages["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert here.memory_gb > 1
    assert here.cpus >= 1
    assert "CPUExecutionProvider" in here.onnx_providers
    assert here.ports == {0: True}


def test_the_command_prints_json_and_its_exit_code_is_the_verdict(here, monkeypatch):
    monkeypatch.setattr(looking, "look", lambda **options: here)
    app = Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, ["--json", "--profile", "cpu"])
    assert json.loads(done.stdout)["can_run"] is True
    assert done.exit_code == 0
    if not here.gpus:
        done = CliRunner().invoke(app, ["--profile", "gpu"])
        assert done.exit_code == 1
        assert "profile gpu: cannot run here" in done.stdout

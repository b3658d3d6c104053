"""The engine on Ray Serve: the deployment file that ships, on this machine, with two replicas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tests.examples.load import EXAMPLES, load_example
from tests.support.collect import Collector
from tests.support.voice import speech
from voice_agent.engine.loading import load_recognizer
from voice_agent.engine.recognizer import Failed
from voice_agent.remote import RemoteRecognizer
from voice_agent.server.listening import bind

pytest.importorskip("ray.serve", reason="needs the extra 'ray'")

SHIPPED = yaml.safe_load((EXAMPLES / "ray_serve.yaml").read_text(encoding="utf-8"))
READY_S = 240.0  # two replicas import torch on a machine that may be busy
STARTS = 3
TOO_BUSY = "The current node timed out during startup"  # Ray gives its own processes 15 s
HERE = {"model": "tiny-en", "slots": 1, "replicas": 2, "gpus": 0}


@pytest.fixture(scope="module")
def example():
    return load_example("ray_serve")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The shipped file's application, with what is this machine's."""
    folder = tmp_path_factory.mktemp("ray")
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    [application] = SHIPPED["applications"]
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{**application, "args": HERE, "runtime_env": {}}],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    for _ in range(STARTS):
        process = start(folder)
        try:
            if ready(f"http://127.0.0.1:{port}", process):
                yield f"ws://127.0.0.1:{port}"
                return
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        said = (folder / "log").read_text()
        if TOO_BUSY not in said:
            break
    pytest.fail(f"it did not get ready:\n{said[-4000:]}")


def start(folder):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
        "RAY_ADDRESS": "local",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    serve = Path(sys.executable).with_name("serve")
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [serve, "run", "serve.yaml"], cwd=folder, env=environment, stdout=log, stderr=log
        )


def ready(url, process):
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(f"{url}/readyz", timeout=5).status == 200
        except OSError:
            time.sleep(0.5)
    return False


def say(stream, pcm):
    for start in range(0, len(pcm), 1280):
        stream.feed(pcm[start : start + 1280])
    stream.finish()


def transcribed(recognizer, pcm):
    heard = Collector()
    stream = recognizer.open(heard)
    say(stream, pcm)
    text = heard.final().text
    stream.close()
    return text


@pytest.fixture(scope="module")
def pcm():
    said = speech("Good morning, I would like to book a table.")
    return np.concatenate([said, np.zeros(3200, np.int16)])


@pytest.mark.timeout(900)
def test_two_replicas_hear_what_one_engine_hears_and_a_third_stream_is_refused(url, pcm):
    local = load_recognizer("tiny-en", device="cpu")
    wanted = transcribed(local, pcm)
    local.close()
    assert wanted

    remote = RemoteRecognizer(url)
    streams = []
    for _ in range(2):  # one on each replica, for either has one slot
        heard = Collector()
        streams.append(remote.open(heard))
        say(streams[-1], pcm)
        assert heard.final().text == wanted
    refused = Collector()
    say(remote.open(refused), pcm)
    end = refused.end()
    assert isinstance(end, Failed) and "all 1 sessions are taken" in str(end.error)
    for stream in streams:
        stream.close()
    remote.close()


def test_a_recogniser_that_has_died_makes_its_replica_unhealthy(example):
    part = SimpleNamespace(name="tiny-en", died=None, owes_s=lambda: 0.0)
    replica = example.Healthy()
    replica.app = SimpleNamespace(state=SimpleNamespace(agent=SimpleNamespace(watched=[part])))
    replica.check_health()
    part.died = RuntimeError("the device fell off the bus")
    with pytest.raises(RuntimeError, match="tiny-en is dead or stuck: the device fell"):
        replica.check_health()


def test_the_shipped_file_is_one_that_ray_and_the_application_take(example):
    from ray.serve.schema import ServeDeploySchema

    [application] = ServeDeploySchema.model_validate(SHIPPED).applications
    options = example.Options(**application.args)
    assert options.gpus == 1
    assert application.import_path == "ray_serve:app"


def test_an_option_that_does_not_exist_is_named(example):
    with pytest.raises(ValueError, match="sloths"):
        example.Options(sloths=3)

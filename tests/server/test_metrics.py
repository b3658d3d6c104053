"""What /metrics says after something has happened."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import websockets
import yaml
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.support.agent_server import RunningServer
from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import Serve, Server, pieces, serve, silence, speech  # noqa: F401
from voice_agent.demo.call import place_call
from voice_agent.demo.clip import Clip
from voice_agent.server import metrics
from voice_agent.server.gate_metrics import GateMetrics
from voice_agent.server.limits import StreamLimits
from voice_agent.server.watch import WatchedRecognizer


async def scrape(server: Server) -> dict[str, float]:
    """Samples by `name{labels}`."""
    async with httpx.AsyncClient(base_url=server.http) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_audio_segments_latency_and_refusals_are_counted(serve: Serve) -> None:  # noqa: F811
    server = await serve([(0.2, "a"), (0.4, "a b")], max_sessions=1)
    url = server.listen(interim_results="true")
    async with websockets.connect(url) as ws:
        during = await scrape(server)
        with pytest.raises(InvalidStatus):
            await websockets.connect(url)
        with pytest.raises(InvalidStatus):
            await websockets.connect(url + "&diarize=true")
        for piece in [*pieces(speech(1.0)), *pieces(silence(1.0)), '{"type": "CloseStream"}']:
            await ws.send(piece)
        async for _ in ws:
            pass
    await server.quiet()
    after = await scrape(server)
    assert during["voice_agent_sessions"] == 1 and after["voice_agent_sessions"] == 0
    assert after["voice_agent_sessions_limit"] == 1 and after["voice_agent_admitting"] == 1
    assert after["voice_agent_audio_seconds_total{protocol=listen}"] == 2.0
    assert after["voice_agent_segments_total{cause=pause}"] == 1
    assert after["voice_agent_final_seconds_count"] == 1
    assert after["voice_agent_partial_lag_seconds_count"] == 2
    assert after["voice_agent_refusals_total{reason=sessions}"] == 2


def every_stat() -> SimpleNamespace:
    """`stats` of a recogniser that counts all that any does."""
    names = [*metrics._ENGINE_GAUGES, *metrics._ENGINE_COUNTERS]
    return SimpleNamespace(heartbeat=time.monotonic(), **dict.fromkeys(names, 1))


async def test_the_engines_own_counters_are_exported(serve: Serve, checkpoint: str) -> None:  # noqa: F811
    from voice_agent import engine

    recognizer = engine.load_recognizer(checkpoint, device="cpu", slots=2)
    server = await serve(recognizer=WatchedRecognizer(recognizer))
    names = await scrape(server)
    assert {
        "voice_agent_engine_lag_seconds", "voice_agent_engine_step_seconds",
        "voice_agent_engine_open_streams", "voice_agent_engine_ticks_total",
        "voice_agent_engine_late_total", "voice_agent_engine_refused_total",
        "voice_agent_finals_owed",
    } <= set(names)  # fmt: skip
    (info,) = (name for name in names if name.startswith("voice_agent_engine_info"))
    assert "{device=cpu}{execution=eager}" in info


async def test_a_heart_that_stands_still_shows_its_age(serve: Serve) -> None:  # noqa: F811
    recognizer = ScriptedRecognizer()
    recognizer.stats = SimpleNamespace(heartbeat=time.monotonic() - 5)  # type: ignore[attr-defined]
    names = await scrape(await serve(recognizer=recognizer))
    assert names["voice_agent_engine_heartbeat_age_seconds"] >= 5


async def test_clients_that_are_cut_off_are_counted_by_reason(serve: Serve) -> None:  # noqa: F811
    server = await serve([(0.2, "a")], limits=StreamLimits(idle_s=0.2))
    async with websockets.connect(server.listen()) as ws:
        with pytest.raises(ConnectionClosedError, match="nothing came"):
            async for _ in ws:
                pass
    assert (await scrape(server))["voice_agent_drops_total{reason=idle}"] == 1


def test_a_call_is_measured_part_by_part(server: RunningServer, clip: Clip) -> None:
    asyncio.run(place_call(server.url, clip))
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for part in ("stt", "llm", "tts"):
        measured = rf'^voice_agent_call_ttfb_seconds_count{{part="{part}"}} [1-9]'
        assert re.search(measured, text, re.M), part
    assert re.search(r"^voice_agent_voice_to_voice_seconds_count [1-9]", text, re.M)


DOCKER = Path(__file__).parents[2] / "docker"


async def test_the_dashboard_shows_metrics_that_exist_and_all_of_ours(
    serve: Serve,  # noqa: F811
) -> None:
    from tests.engine.gate_fixtures import LevelIdentifier
    from voice_agent.engine.gate import GatedRecognizer

    recognizer = ScriptedRecognizer(languages=("en",))
    recognizer.stats = every_stat()  # type: ignore[attr-defined]
    server = await serve(recognizer=WatchedRecognizer(recognizer))
    gate = GatedRecognizer({"en": recognizer, "kn": recognizer}, LevelIdentifier(("en", "kn")))
    server.api.metrics.registry.register(GateMetrics(lambda: gate))
    async with httpx.AsyncClient(base_url=server.http) as client:
        text = (await client.get("/metrics")).text
    # `# TYPE name counter` is there before the first sample of a metric with labels.
    exported = set(re.findall(r"^# TYPE (\w+)(?<!_created) ", text, re.M))
    exported.add("voice_agent_gpu_memory_bytes")  # where CUDA is in use
    dashboard = json.loads((DOCKER / "grafana-dashboard.json").read_text())
    queries = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    shown = {
        re.sub("_(bucket|sum|count)$", "", name)
        for name in re.findall(r"\b(?:voice_agent|process)_\w+", queries)
    }
    assert shown <= exported
    assert {name for name in exported if name.startswith("voice_agent_")} <= shown


def test_what_compose_mounts_into_grafana_and_prometheus_is_there() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for name in ("grafana", "prometheus"):
        files = [v.split(":")[0] for v in services[name]["volumes"] if v.startswith("./")]
        assert files and all((DOCKER / file).is_file() for file in files)

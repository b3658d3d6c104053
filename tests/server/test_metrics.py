"""What /metrics says after something has happened."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import websockets
import yaml
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import Serve, Server, pieces, serve, silence, speech  # noqa: F401


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


async def test_the_engines_own_counters_are_exported(serve: Serve) -> None:  # noqa: F811
    from voice_agent.engine.scheduler import Stats

    recognizer = ScriptedRecognizer([(0.2, "a")])
    recognizer.stats = Stats()  # type: ignore[attr-defined]
    server = await serve(recognizer=recognizer)
    names = await scrape(server)
    assert {
        "voice_agent_engine_lag_seconds", "voice_agent_engine_step_seconds",
        "voice_agent_engine_open_streams", "voice_agent_engine_ticks_total",
        "voice_agent_engine_late_total", "voice_agent_engine_refused_total",
    } <= set(names)  # fmt: skip


DOCKER = Path(__file__).parents[2] / "docker"


async def test_the_dashboard_shows_metrics_that_exist_and_all_of_ours(
    serve: Serve,  # noqa: F811
) -> None:
    from voice_agent.engine.scheduler import Stats

    recognizer = ScriptedRecognizer()
    recognizer.stats = Stats()  # type: ignore[attr-defined]
    server = await serve(recognizer=recognizer)
    async with httpx.AsyncClient(base_url=server.http) as client:
        text = (await client.get("/metrics")).text
    # `# TYPE name counter` is there before the first sample of a metric with labels.
    exported = set(re.findall(r"^# TYPE (\w+)(?<!_created) ", text, re.M))
    exported.add("voice_agent_gpu_memory_bytes")  # where CUDA is in use
    dashboard = json.loads((DOCKER / "grafana-dashboard.json").read_text())
    queries = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    shown = {
        re.sub("_bucket$", "", name)
        for name in re.findall(r"\b(?:voice_agent|process)_\w+", queries)
    }
    assert shown <= exported
    ours = {name for name in exported if name.startswith("voice_agent_")}
    assert ours - shown == {"voice_agent_admitting"}


def test_what_compose_mounts_into_grafana_and_prometheus_is_there() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for name in ("grafana", "prometheus"):
        files = [v.split(":")[0] for v in services[name]["volumes"] if v.startswith("./")]
        assert files and all((DOCKER / file).is_file() for file in files)

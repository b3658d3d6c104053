"""Traces, as a collector gets them from a server in a process of its own."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
import websockets
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from examples import websocket_client
from tests.support.agent_server import SAID
from tests.support.serving import speech
from voice_agent.config_errors import ConfigError
from voice_agent.config_operations import TracingConfig
from voice_agent.server import tracing

ROOT = Path(__file__).parents[2]
SERVER = """
import sys
from tests.support.agent_server import SCRIPT
from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import load_settings
from voice_agent.server.listening import bind
from voice_agent.server.serve import serve

sock = bind("127.0.0.1", 0)
ready = lambda _: print(sock.getsockname()[1], flush=True)
sys.exit(serve(load_settings(), sock, on_ready=ready, load=lambda _: ScriptedRecognizer(SCRIPT)))
"""


@dataclass
class Collector:
    """What an OTLP collector has been sent."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services.add(attributes(sent.resource)["service.name"])
            for scope in sent.scope_spans:
                self.spans.extend(scope.spans)


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            found.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


async def test_a_call_and_a_stream_are_traced_under_the_ids_that_their_clients_see(
    collector: Collector, clip: Any, tmp_path: Path
) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop yet
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "VOICE_AGENT_TRACING__URL": collector.url,
            "VOICE_AGENT_TURN__SMART": "false",
        },
    )
    try:
        assert process.stdout is not None
        address = f"ws://127.0.0.1:{int(process.stdout.readline())}"
        query = "encoding=linear16&sample_rate=16000&endpointing=false"
        async with websockets.connect(f"{address}/v1/listen?{query}") as ws:
            assert ws.response is not None
            stream = ws.response.headers["X-Session-Id"]
            await ws.send(speech(1.5).tobytes())
            await ws.send('{"type": "Finalize"}')
            await ws.send('{"type": "CloseStream"}')
            results = [json.loads(text) async for text in ws]
        soundfile.write(tmp_path / "said.wav", clip.pcm[::3], 16_000)
        said = await websocket_client.talk(
            f"{address}/ws", str(tmp_path / "said.wav"), str(tmp_path / "reply.wav")
        )
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()

    assert collector.services == {"voice-agent"}
    (session,) = collector.named("listen")
    assert attributes(session) == {"session.id": stream, "client.name": "local", "audio_s": 1.5}
    assert results[-1]["request_id"] == stream
    (segment,) = collector.named("segment")
    assert segment.parent_span_id == session.span_id
    about = attributes(segment)
    assert (about["session.id"], about["cause"], about["audio_s"]) == (stream, "client", 1.5)
    assert about["words"] == len(SAID.split()) and SAID not in str(segment)
    assert [event.name for event in segment.events] == ["speech stopped"]

    # The framework traces requests of its own accord; queries may hold secrets.
    assert collector.named("WS /v1/listen") and "linear16" not in str(collector.spans)

    assert said == [SAID]
    (conversation,) = collector.named("conversation")
    turns = {turn.span_id for turn in collector.named("turn")}
    assert turns and {t.parent_span_id for t in collector.named("turn")} == {conversation.span_id}
    for part in ("stt", "tts"):
        assert {span.parent_span_id for span in collector.named(part)} <= turns
        assert collector.named(part), [span.name for span in collector.spans]


def test_tracing_without_the_extra_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'voice-agent\[tracing\]'"):
        tracing.set_up(TracingConfig(url="http://localhost:4318"))


def test_without_a_collector_nothing_of_opentelemetry_is_asked() -> None:
    tracing.set_up(TracingConfig())()
    assert tracing.session_trace(False, "listen", "id", "local") is None

"""What the server counts, in Prometheus' format.

Bucket bounds are multiples of what the pipeline is made of: a chunk of audio is 80 ms, a person
notices a delay from about 200 ms, and beyond 2 s a session is broken rather than slow; an answer
of a language model may take 5 s, and is still one.
Gauges about the engine are read from it when somebody asks, so they cost nothing in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from voice_agent.engine.recognizer import Recognizer
from voice_agent.server.gate_metrics import GateMetrics
from voice_agent.server.sessions import SessionTable
from voice_agent.server.transcription import Interim, Output, Segment

if TYPE_CHECKING:
    from pipecat.observers.base_observer import BaseObserver

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FINAL_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.3, 0.5, 1.0, 2.0)
CALL_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
LAG_BUCKETS = (0.04, 0.08, 0.16, 0.24, 0.32, 0.56, 1.12, 2.24, 5.0)


class Metrics:
    """One server's metrics, in a registry of its own."""

    def __init__(self) -> None:
        """Start counting."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.refusals = Counter(
            "voice_agent_refusals",
            "Clients turned away before any work, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.audio_s = Counter(
            "voice_agent_audio_seconds",
            "Audio heard over the transcription protocols",
            ["protocol"],
            registry=self.registry,
        )
        self.segments = Counter(
            "voice_agent_segments",
            "Segments transcribed, by what ended them",
            ["cause"],
            registry=self.registry,
        )
        self.final_s = Histogram(
            "voice_agent_final_seconds",
            "From the end of a segment's audio to its final text",
            buckets=FINAL_BUCKETS,
            registry=self.registry,
        )
        self.lag_s = Histogram(
            "voice_agent_partial_lag_seconds",
            "Audio that had come when a partial text did, but that it does not account for",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )

        self.drops = Counter(
            "voice_agent_drops",
            "Admitted sessions that were cut off, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.call_ttfb_s = Histogram(
            "voice_agent_call_ttfb_seconds",
            "In calls: stt, from the end of speech to the final text; llm and tts, from their "
            "input to their first output",
            ["part"],
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )
        self.voice_to_voice_s = Histogram(
            "voice_agent_voice_to_voice_seconds",
            "In calls: from the end of the caller's speech to the agent's",
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )

    def call_observers(self) -> list[BaseObserver]:
        """Pipecat observers of one call."""
        from voice_agent.server import call_metrics

        return call_metrics.observers(
            lambda part, seconds: self.call_ttfb_s.labels(part).observe(seconds),
            self.voice_to_voice_s.observe,
        )

    def watch(self, sessions: SessionTable, recognizer: Callable[[], Recognizer | None]) -> None:
        """Export sessions, the engine's own counters and the language gate's.

        Args:
            sessions: of the server.
            recognizer: returns the one that is served, or None while it loads.
        """
        self.registry.register(_Live(sessions, recognizer))
        self.registry.register(GateMetrics(recognizer))

    def see(self, output: Output) -> None:
        """Count what a session put out. Any thread."""
        if isinstance(output, Segment):
            self.segments.labels(output.cause).inc()
            if output.end_s > output.start_s:
                self.final_s.observe(output.decode_ms / 1000)
        elif isinstance(output, Interim):
            self.lag_s.observe(output.lag_s)

    def render(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self.registry)


_ENGINE_GAUGES = {
    "open_streams": "Streams that hold a slot",
    "lag_s": "Of the last tick's oldest chunk: from its audio to its events, in seconds",
    "step_s": "Duration of the last step (a tick), in seconds",
    "backlog_s": "Audio that is accepted but not computed yet, over all streams",
}
_ENGINE_COUNTERS = {
    "ticks": "Steps computed",
    "chunks": "Chunks computed, over all streams",
    "late": "Chunks later than their own length",
    "refused": "Streams refused because every slot was taken",
    "overflows": "Times that a stream's audio found its ring full",
    "undelivered": "Events whose event loop did not take them any more",
}


class _Live(Collector):
    """Read at each scrape."""

    def __init__(self, sessions: SessionTable, recognizer: Callable[[], Recognizer | None]) -> None:
        self._sessions = sessions
        self._recognizer = recognizer

    def collect(self) -> Iterator[Metric]:
        sessions = self._sessions
        yield _gauge("voice_agent_sessions", "Sessions now", len(sessions))
        yield _gauge("voice_agent_sessions_limit", "Sessions at most", sessions.limit)
        admitting = sessions.closed_because is None
        yield _gauge("voice_agent_admitting", "1 while new sessions are admitted", admitting)
        with contextlib.suppress(RuntimeError):  # not on an event loop: a program's own registry
            tasks = len(asyncio.all_tasks())
            yield _gauge("voice_agent_tasks", "Tasks of the event loop", tasks)
        recognizer = self._recognizer()
        if recognizer is not None:
            yield from _engine(recognizer)
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            used = torch.cuda.memory_allocated()
            yield _gauge("voice_agent_gpu_memory_bytes", "GPU memory that torch holds", used)


def _engine(recognizer: Any) -> Iterator[Metric]:
    """What a recogniser tells of itself; each does not tell everything."""
    about = {
        "model": recognizer.name,
        "device": getattr(recognizer, "device", ""),
        "execution": getattr(recognizer, "execution", ""),
    }
    info = GaugeMetricFamily(
        "voice_agent_engine_info",
        "What is served, where, and whether its steps are replayed graphs or eager",
        labels=list(about),
    )
    info.add_metric(list(about.values()), 1)
    yield info
    owed = getattr(recognizer, "owed", None)
    if owed is not None:
        yield _gauge("voice_agent_finals_owed", "Segments whose final text is to come", owed)
    stats: Any = getattr(recognizer, "stats", None)
    if stats is None:
        return
    for name, text in _ENGINE_GAUGES.items():
        if hasattr(stats, name):
            yield _gauge(f"voice_agent_engine_{_unit(name)}", text, getattr(stats, name))
    for name, text in _ENGINE_COUNTERS.items():
        if hasattr(stats, name):
            value = getattr(stats, name)
            yield CounterMetricFamily(f"voice_agent_engine_{name}", text, value=value)
    if beat := getattr(stats, "heartbeat", 0.0):
        age_s = max(0.0, time.monotonic() - beat)
        text = "Since the engine's thread last came round"
        yield _gauge("voice_agent_engine_heartbeat_age_seconds", text, age_s)


def _unit(name: str) -> str:
    return f"{name[:-2]}_seconds" if name.endswith("_s") else name


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)

"""OpenTelemetry traces: Pipecat's own for calls, and a trace for each transcription session.

    conversation ─ turn ─ stt, llm, tts      a call; Pipecat makes them, `conversation.id` is ours
    listen | realtime ─ segment ...          a transcription session, and what was said in it

Spans leave in batches from a thread of their own, over OTLP and HTTP. What was said is in none of
ours. Where tracing is off, nothing of OpenTelemetry is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from voice_agent.config_errors import ConfigError
from voice_agent.config_operations import TracingConfig
from voice_agent.server.transcription import Output, Segment, SpeechStarted, SpeechStopped

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_FLUSH_MS = 2_000


def set_up(config: TracingConfig) -> Callable[[], None]:
    """Export traces from now on; nothing where no collector is named.

    Args:
        config: whom to.

    Returns:
        What to call at the end, off the event loop: sends what is left, or gives up after 2 s.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if config.url is None:
        return lambda: None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from pipecat.utils.tracing.setup import setup_tracing
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tracing.url is set, but the package {error.name!r} is not installed: "
            "pip install 'voice-agent[tracing]'"
        ) from error
    setup_tracing(config.service, OTLPSpanExporter(f"{config.url.rstrip('/')}/v1/traces"))
    provider: Any = trace.get_tracer_provider()

    def finish() -> None:
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()

    return finish


class SessionTrace:
    """One transcription session's spans. Any one thread at a time."""

    def __init__(self, tracer: Tracer, kind: str, session_id: str, client: str) -> None:
        """Begin the session's span.

        Args:
            tracer: makes spans.
            kind: protocol: the span's name.
            session_id: as in logs, and as the client sees it.
            client: name of the client's key.
        """
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._id = session_id
        self._span = tracer.start_span(
            kind, attributes={"session.id": session_id, "client.name": client}
        )
        self._context = set_span_in_context(self._span)
        self._segments: dict[tuple[int, float], Span] = {}  # by channel and begin
        self._lock = threading.Lock()  # the session's threads, and the loop that ends it

    def see(self, output: Output) -> None:
        """Note what a session put out."""
        with self._lock:
            match output:
                case SpeechStarted():
                    self._segments[output.channel, output.begin_s] = self._tracer.start_span(
                        "segment",
                        self._context,
                        attributes={"session.id": self._id, "channel": output.channel},
                    )
                case SpeechStopped(channel=channel):
                    for (of, _), span in self._segments.items():
                        if of == channel:
                            span.add_event("speech stopped", {"at_s": output.at_s})
                case Segment():
                    span_of = self._segments.pop((output.channel, output.start_s), None)
                    if span_of is not None:
                        _describe(span_of, output)
                        span_of.end()

    def end(self, heard_s: float) -> None:
        """The session is over. What was dropped ends with it."""
        with self._lock:
            for span in self._segments.values():
                span.set_attribute("dropped", True)
                span.end()
            self._segments.clear()
        self._span.set_attribute("audio_s", heard_s)
        self._span.end()


def _describe(span: Span, segment: Segment) -> None:
    span.set_attribute("cause", segment.cause)
    span.set_attribute("audio_s", segment.end_s - segment.start_s)
    span.set_attribute("words", len(segment.words))
    span.set_attribute("metrics.ttfs_s", segment.decode_ms / 1000)
    if segment.language is not None:
        span.set_attribute("language", segment.language)


def session_trace(enabled: bool, kind: str, session_id: str, client: str) -> SessionTrace | None:
    """Begin the trace of a session; None where tracing is off."""
    if not enabled:
        return None
    from opentelemetry import trace

    return SessionTrace(trace.get_tracer("voice_agent"), kind, session_id, client)

"""The `log` and `tracing` groups of the settings: what a running server tells its operators."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from voice_agent.config_group import Group


class LogConfig(Group):
    """What is logged, on stderr. `--verbose` sets the level to "INFO".

    Attributes:
        format: "text" for people; "json" for programs: one object a line, with `session` where
            the line concerns one.
        level: the least severe that is logged.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"


class TracingConfig(Group):
    """OpenTelemetry traces of calls and transcription sessions (the extra `tracing`).

    Attributes:
        url: base URL of an OTLP collector that takes HTTP ("http://localhost:4318"); None for no
            traces. Headers and the like come from OpenTelemetry's own environment variables
            (`OTEL_EXPORTER_OTLP_HEADERS`).
        service: what traces call this server.
    """

    url: str | None = Field(default=None, pattern=r"^https?://.+")
    service: str = Field(default="voice-agent", min_length=1)

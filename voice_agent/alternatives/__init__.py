"""Other people's speech-to-text systems behind our recogniser protocol.

    registry   the table: name -> how it is made, what it needs, its licence
    loading    `Choice` (model, device, address, key) and what adapters share
    worker     threads, streams and events around a system's sessions
    redecode   sessions for models that only transcribe whole segments
    bridge     a Pipecat STT service as a recogniser; `vendors` builds those services
    errors     what is missing, and what supplies it

Every other module is one system's adapter.
"""

from voice_agent.alternatives.loading import Choice
from voice_agent.alternatives.registry import (
    SYSTEMS,
    System,
    licence_notice,
    load,
    markdown,
    service,
    system,
)

__all__ = ["SYSTEMS", "Choice", "System", "licence_notice", "load", "markdown", "service", "system"]

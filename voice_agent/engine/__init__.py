"""The engine: audio in, words out, as plain Python.

It knows nothing of Pipecat, asyncio or HTTP. `load_recognizer` gives a `Recognizer`; its
`open()` gives a `Stream`; events come to a callback:

    recognizer = load_recognizer("tiny-en")
    stream = recognizer.open(print)
    stream.feed(pcm)      # int16 or float32, 16 kHz mono, any length
    stream.finish()       # -> Final(text=..., words=...)
"""

from __future__ import annotations

from voice_agent.engine.errors import (
    BadAudio,
    CorruptCheckpoint,
    EngineClosed,
    EngineError,
    EngineFull,
    ModelError,
    ModelNotFound,
    StreamClosed,
    UnsupportedCheckpoint,
)
from voice_agent.engine.loading import load_recognizer
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Event,
    Failed,
    Final,
    Partial,
    Recognizer,
    Stream,
    StreamOptions,
    Word,
)

__all__ = [
    "SAMPLE_RATE",
    "BadAudio",
    "CorruptCheckpoint",
    "EngineClosed",
    "EngineError",
    "EngineFull",
    "Event",
    "Failed",
    "Final",
    "ModelError",
    "ModelNotFound",
    "Partial",
    "Recognizer",
    "Stream",
    "StreamClosed",
    "StreamOptions",
    "UnsupportedCheckpoint",
    "Word",
    "load_recognizer",
]

"""Everything that the engine raises.

    EngineError
    ├── EngineFull              no free slot
    ├── EngineClosed            the recogniser was closed, or its thread died
    ├── StreamClosed            feed/finish/cancel after close()
    ├── BadAudio                samples that cannot be audio: wrong type, shape or values
    └── ModelError              a checkpoint, or a model beside it, that cannot be used
        ├── ModelNotFound       no such name, path or cached repository
        ├── CorruptCheckpoint   damaged, truncated, or checksum differs
        ├── LanguageModelError  not an n-gram model of the recogniser's tokens
        ├── OutOfRange          its numbers are too large for the dtype that was asked for
        └── UnsupportedCheckpoint   readable, but of a shape that we do not serve

A message says what was wrong, how much, and what to do next; the fields carry the same facts.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error that the engine raises."""


class EngineFull(EngineError):
    """No free slot. Streams already admitted keep theirs.

    Attributes:
        slots: how many streams the engine holds at most.
        retry_after_s: seconds after which asking again is reasonable.
    """

    def __init__(self, slots: int, retry_after_s: float = 5.0) -> None:
        self.slots = slots
        self.retry_after_s = retry_after_s
        super().__init__(
            f"all {slots} slots are in use; retry in {retry_after_s:.0f} s "
            "or start with more --slots"
        )


class EngineClosed(EngineError):
    """The recogniser was closed, or its thread died; `__cause__` holds the reason if it died."""


class StreamClosed(EngineError):
    """The stream was closed; open a new one."""


class BadAudio(EngineError):
    """The samples cannot be audio: wrong type, shape or values."""


class ModelError(EngineError):
    """A checkpoint, or a model beside it, that cannot be used.

    Attributes:
        model: the name or path that was asked for.
    """

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        super().__init__(f"{model}: {problem}")


class ModelNotFound(ModelError):
    """No such name, path or cached repository."""


class CorruptCheckpoint(ModelError):
    """The file is damaged or truncated, or its checksum differs."""


class LanguageModelError(ModelError):
    """The file is no n-gram model, is damaged, or is a model of other tokens."""


class OutOfRange(ModelError):
    """Its numbers are too large for the dtype that it was to be computed in."""


class UnsupportedCheckpoint(ModelError):
    """The checkpoint reads well, but has a shape that the engine does not serve."""

"""Partials whose tokens and words are worked out when somebody asks for them.

Most partial texts are shown and replaced, and nobody looks at their words; with thousands of
streams, making them anyway would be much of what the engine thread does. In every other way it is
a `Partial`: equal to a plain one, and to be copied, replaced and pickled.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from voice_agent.engine.recognizer import Partial

if TYPE_CHECKING:
    from voice_agent.engine.text import Transcript

_set = object.__setattr__  # they are frozen


class HeardPartial(Partial):
    """A partial of a transcript as it was."""

    __slots__ = ("_audio_s", "_count", "_transcript")

    @classmethod
    def of(
        cls, transcript: Transcript, audio_s: float, audio_end_s: float, language: str | None
    ) -> HeardPartial:
        """What has been heard so far.

        Args:
            transcript: it may grow on.
            audio_s: where words' times are cut.
            audio_end_s: see `Partial`.
            language: see `Partial`.
        """
        event = cls.__new__(cls)
        _set(event, "text", transcript.text)
        _set(event, "audio_end_s", audio_end_s)
        _set(event, "language", language)
        _set(event, "_transcript", transcript)
        _set(event, "_count", len(transcript.tokens))
        _set(event, "_audio_s", audio_s)
        return event

    def __getattr__(self, name: str) -> Any:
        """An attribute that has not been set: work it out of the transcript, and keep it."""
        if name == "tokens":
            value: Any = tuple(self._transcript.tokens[: self._count])
        elif name == "words":
            value = self._transcript.words(self._audio_s, self._count)
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _set(self, name, value)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partial) and astuple(self) == astuple(other)

    __hash__ = Partial.__hash__

"""What keeps a recording from being transcribed: its file, or what was asked for."""

from __future__ import annotations


class AudioFileError(Exception):
    """A file that cannot be transcribed; the message is one sentence.

    Attributes:
        file: its name, as it was given.
    """

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        super().__init__(f"{file}: {problem}")


class OptionNotServed(ValueError):
    """A language or look-ahead that the recogniser does not have; the message names it."""

"""What is said when a setting cannot be used: one sentence, naming the key and its source."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]
"""Keys and list indexes from the top of the settings down to one value."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one sentence for the person who set it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Values that were set together.

    Attributes:
        values: nested, as they were read.
        where: what to call the place that set a key, given its location.
    """

    values: Mapping[str, Any]
    where: Callable[[Location], str]

    def sets(self, location: Location) -> bool:
        """Whether this source sets the value at `location`, or something below it."""
        node: Any = self.values
        for part in location:
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                # A shorthand (one URL for a whole ICE server) is set above where it fails.
                return isinstance(node, str)
        return True


def explain(
    error: ValidationError, sources: Sequence[Source], settings: type[BaseModel]
) -> ConfigError:
    """Put a failed validation into words, a sentence for each thing that is wrong.

    Args:
        error: what pydantic found.
        sources: where the values came from, weakest first.
        settings: the model that was validated, for the names that do exist.
    """
    sentences = []
    for fault in error.errors():
        location = fault["loc"]
        key = ".".join(str(part) for part in location) or "settings"
        origin = next((s.where(location) for s in reversed(sources) if s.sets(location)), "default")
        if fault["type"] == "extra_forbidden":
            sentences.append(f"{key} ({origin}) is not a setting{did_you_mean(location, settings)}")
            continue
        reason = fault["msg"].removeprefix("Value error, ")
        # A secret must not end up in a log, and a whole table says nothing.
        secret = location[-1:] in (("api_key",), ("credential",))
        shown = isinstance(fault["input"], str | int | float) and not secret
        got = f", got {fault['input']!r}" if shown else ""
        sentences.append(f"{key} ({origin}): {reason[:1].lower()}{reason[1:]}{got}")
    return ConfigError("; ".join(sentences))


def did_you_mean(location: Location, settings: type[BaseModel]) -> str:
    """Name the setting nearest to an unknown one, or list those on its level."""
    *parents, last = map(str, location)
    group: Any = settings
    for part in parents:
        field = getattr(group, "model_fields", {}).get(part)
        group = field.annotation if field is not None else None
    known = sorted(getattr(group, "model_fields", {}))
    near = difflib.get_close_matches(last, known, n=1)
    if near:
        return f"; did you mean {'.'.join([*parents, near[0]])}?"
    return f"; known here: {', '.join(known)}" if known else ""

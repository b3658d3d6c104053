"""What the groups of the settings have in common."""

from __future__ import annotations

import re

from pydantic import AfterValidator, BaseModel, ConfigDict


class Group(BaseModel):
    """Base of every group: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def matching(pattern: str, words: str) -> AfterValidator:
    """Accept strings of one form; `words` says which to somebody who wrote another."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"must be {words}")
        return value

    return AfterValidator(check)

"""What checks are made of: findings, profiles, and what a compiled architecture runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from voice_agent.doctor.machine import Capability, Machine

Level = Literal["ok", "note", "warn", "fail"]
"""fail: the profile cannot run. warn: something will not work. note: good to know."""

Profile = Literal["cpu", "gpu", "spark"]
GPU: tuple[Profile, ...] = ("gpu", "spark")
EVERY: tuple[Profile, ...] = ("cpu", "gpu", "spark")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        level: how bad it is.
        says: one sentence.
        mend: the one command or setting that mends it; empty where there is nothing to mend.
    """

    check: str
    level: Level
    says: str
    mend: str = ""


Check = Callable[[Machine], Finding | None]
CHECKS: list[tuple[str, tuple[Profile, ...], Check]] = []


def check_of(name: str, profiles: tuple[Profile, ...] = EVERY) -> Callable[[Check], Check]:
    """Register a check, in the order of the source.

    Args:
        name: short; its findings carry it.
        profiles: that it is asked for.
    """

    def register(check: Check) -> Check:
        CHECKS.append((name, profiles, check))
        return check

    return register


def natural_profile(machine: Machine) -> Profile:
    """The profile that a machine was made for: by its GPU."""
    if not machine.gpus:
        return "cpu"
    spark = machine.arch == "aarch64" and machine.gpus[0].capability == (12, 1)
    return "spark" if spark else "gpu"


def runs(archs: Sequence[str], capability: Capability) -> bool:
    """Whether code compiled for `archs` runs on a GPU.

    Binaries (sm_XY) run on the same major version from their minor one up, those with a letter
    (sm_90a) on exactly theirs; PTX (compute_XY) is compiled for anything newer.

    >>> runs(["sm_90", "sm_120"], (12, 1)), runs(["sm_90"], (12, 1)), runs(["compute_90"], (12, 1))
    (True, False, True)
    """
    for arch in archs:
        kind, _, number = arch.partition("_")
        own = number[-1:].isalpha()
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if own:
            fits = built == capability
        elif kind == "compute":
            fits = built <= capability
        else:
            fits = built[0] == capability[0] and built[1] <= capability[1]
        if fits:
            return True
    return False


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without a local part: "2.13.0+cu130" -> (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)

"""All checks, in the order in which they are asked.

A check is a function a problem: a `Machine` in, a `Finding` out, or None where it does not apply.
None touches the machine. None ever advises to report a compute capability that the GPU does not
have: binaries for sm_90 do not run on 12.1, whatever the library is told.
"""

from __future__ import annotations

from voice_agent.doctor import gpu_checks, machine_checks, system_checks  # noqa: F401  (register)
from voice_agent.doctor.finding import CHECKS, Finding, Profile
from voice_agent.doctor.machine import Machine


def examine(machine: Machine, profile: Profile) -> list[Finding]:
    """Run every check of a profile, in order."""
    found = (check(machine) for _, profiles, check in CHECKS if profile in profiles)
    return [finding for finding in found if finding is not None]

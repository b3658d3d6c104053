"""`voice-agent doctor`: looks, judges and prints. Exit code 0 if the profile can run, else 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from voice_agent.doctor.finding import Finding, Profile
    from voice_agent.doctor.machine import Machine

_MARKS = {"ok": "ok  ", "note": "note", "warn": "WARN", "fail": "FAIL"}


def doctor(
    profile: Annotated[
        Literal["cpu", "gpu", "spark"] | None,
        typer.Option(help="What it shall run as.", show_default="by this machine's GPU"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    stun: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A STUN server to ask, for ICE."),
    ] = None,
    port: Annotated[
        list[int] | None,
        typer.Option(help="TCP port that is wanted. Repeatable.", show_default="7860"),
    ] = None,
) -> None:
    """Say what will work on this machine, what will not, and what mends it."""
    from rich.console import Console

    from voice_agent.doctor.checks import examine
    from voice_agent.doctor.finding import natural_profile
    from voice_agent.doctor.look import look

    with Console(stderr=True).status("looking at this machine"):
        machine = look(ports=port or (7860,), stun=stun)
    chosen = profile or natural_profile(machine)
    findings = examine(machine, chosen)
    typer.echo(report_json(machine, chosen, findings) if as_json else report(chosen, findings))
    raise typer.Exit(0 if can_run(findings) else 1)


def can_run(findings: Sequence[Finding]) -> bool:
    """Whether nothing stands in the profile's way."""
    return not any(f.level == "fail" for f in findings)


def report(profile: Profile, findings: Sequence[Finding]) -> str:
    """The findings for people: the worst ones last, where the eye is."""
    order = ("ok", "note", "warn", "fail")
    lines = []
    for finding in sorted(findings, key=lambda f: order.index(f.level)):
        lines.append(f"{_MARKS[finding.level]}  {finding.check}: {finding.says}")
        if finding.mend:
            lines.append(f"        -> {finding.mend}")
    verdict = "can run here" if can_run(findings) else "cannot run here"
    return "\n".join([*lines, "", f"profile {profile}: {verdict}"])


def report_json(machine: Machine, profile: Profile, findings: Sequence[Finding]) -> str:
    """The findings and the facts that they rest on, for programs."""
    facts = asdict(machine)
    facts["cpu_flags"] = sorted(machine.cpu_flags)
    return json.dumps(
        {
            "profile": profile,
            "can_run": can_run(findings),
            "findings": [asdict(f) for f in findings],
            "machine": facts,
        },
        indent=2,
        default=str,
    )

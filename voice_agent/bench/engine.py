"""`voice-agent bench engine`: one step of the engine, beside its references and its floor.

engine            the command (here)
engine_run        comparison and timing of steps
engine_systems    our engine as a system; engine_nemo, engine_transformers, engine_sherpa
                  the others, which engine_peers imports, checks and measures
engine_floor      least bytes and operations of a step; what the machine can do at most
engine_load       streams at real-time pace, and the largest number that holds
engine_random     random weights that emit tokens at a realistic rate; engine_audio, shapes
engine_rows       rows, JSON, table, plot; engine_machine what they hold for
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from voice_agent.bench.engine_rows import Report
    from voice_agent.bench.engine_run import Plan, Reference, Run
    from voice_agent.engine.checkpoint import Checkpoint

_OURS_SHARE = 0.5  # of the time for steps; the rest is for the others


def engine(
    checkpoint: Annotated[
        str | None, typer.Option(help="Name, .nemo file, directory or Hugging Face id.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Random weights of toy, tiny-en, nemotron-0.6b or nemotron-3.5."),
    ] = None,
    right: Annotated[
        int | None, typer.Option(help="Right context in frames; the shortest by default.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto: float16 on a GPU.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batches: Annotated[
        str, typer.Option(help="Lanes a step, the most valuable first; '' for no step.")
    ] = "1,8,64",
    steps: Annotated[int, typer.Option(min=10, help="To time, for each batch.")] = 200,
    beside: Annotated[
        str,
        typer.Option(
            help="What to measure beside us: nemo, transformers, sherpa-onnx (8-bit weights), "
            "sherpa-onnx-float32, between commas; installed: the first two; none."
        ),
    ] = "installed",
    beside_up_to: Annotated[int, typer.Option(help="Largest batch of the others.")] = 1024,
    weights: Annotated[str | None, typer.Option(help="int8: 8-bit weights.")] = None,
    kv: Annotated[str | None, typer.Option(help="int8: 8-bit keys and values.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of one operation, on a CPU.")] = None,
    max_token_error: Annotated[
        float | None,
        typer.Option(
            help="Wrong tokens that a row below float32 may have.",
            show_default="0.25 with random weights, which decide on less, else 0.02",
        ),
    ] = None,
    paced: Annotated[
        list[int] | None, typer.Option(help="Streams at real-time pace; repeat for several.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of each paced run.")] = 60.0,
    phases: Annotated[
        str, typer.Option(help="How paced streams' chunks fall: spread or lockstep.")
    ] = "spread",
    capacity: Annotated[
        bool, typer.Option("--find-capacity", help="Search the most streams that hold.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="Slots of that search, if they fit.")] = 1024,
    capacity_seconds: Annotated[float, typer.Option(help="Of each of its runs.")] = 10.0,
    max_lag_ms: Annotated[float, typer.Option(help="At p99, for a number to hold.")] = 40.0,
    budget_s: Annotated[float, typer.Option(help="For the whole run.")] = 540.0,
    out: Annotated[Path | None, typer.Option(help="Folder for engine.json and .png.")] = None,
) -> None:
    """Time of a step, beside NeMo, transformers and the floor; paced streams; capacity."""
    from voice_agent.bench.engine_plan import choose_peers, make_plan, read_weights
    from voice_agent.engine.errors import EngineError

    if (checkpoint is None) == (shape is None):
        raise typer.BadParameter("give --checkpoint or --shape, one of them")
    if phases not in ("spread", "lockstep"):
        raise typer.BadParameter(f"--phases {phases}: spread or lockstep")
    deadline = time.monotonic() + budget_s
    try:
        found, random_limit = read_weights(checkpoint, shape)
        plan = make_plan(
            found, checkpoint or f"{shape}, random weights", right, dtype, device, batches, steps,
            weights, kv, threads, max_token_error, random_limit, beside_up_to,
        )  # fmt: skip
        peers = choose_peers(beside)
        if paced or capacity:
            from voice_agent.bench.engine_load import need_paced

            need_paced()
        report, run = _begin(plan, out)
        found = _calibrated(found, plan, random_limit is not None, report, run.say)
        began = time.monotonic()
        # Where streams are to be paced, steps leave half of the time to them.
        share = 0.5 if paced or capacity else 1.0
        if plan.batches:
            until = began + share * (deadline - began)
            _steps(run, found, peers, until)
        if paced or capacity:
            _load(
                run, found, list(paced or ()), seconds, phases, capacity, most, capacity_seconds,
                max_lag_ms, deadline,
            )  # fmt: skip
    except (EngineError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    _finish(report, plan)
    if not (report.steps or report.paced or report.capacity):
        raise typer.Exit(1)


def _begin(plan: Plan, out: Path | None) -> tuple[Report, Run]:
    """Measure the ceilings and start the report."""
    from dataclasses import asdict

    from rich.console import Console

    from voice_agent.bench.engine_floor import ceilings
    from voice_agent.bench.engine_machine import chip, conditions
    from voice_agent.bench.engine_rows import Report
    from voice_agent.bench.engine_run import Run

    console = Console(stderr=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:6.1f} s] {text}", markup=False, soft_wrap=True)

    found = conditions(plan.device)
    settings = {**found, "model": plan.model, "precision": plan.precision, "right": plan.right,
                "max_token_error": plan.max_token_error}  # fmt: skip
    say("; ".join(f"{k} {v}" for k, v in settings.items()))
    limits = ceilings(plan.device, plan.torch_dtype())
    say(f"ceilings: copy {limits.bytes_per_s / 1e9:,.0f} GB/s (read + write), {plan.dtype} "
        f"product {limits.flop_per_s / 1e12:,.2f} TFLOP/s")  # fmt: skip
    report = Report(conditions=settings, ceilings=asdict(limits), out=out)
    report.save()
    return report, Run(plan, report, limits, chip(found), found["commit"], say)


def _calibrated(
    found: Checkpoint, plan: Plan, random: bool, report: Report, say: Callable[[str], None]
) -> Checkpoint:
    if not random:
        return found
    from voice_agent.bench.engine_random import calibrated

    made, rate = calibrated(found, right=plan.right, device=plan.device)
    report.startup["calibrated_tokens_a_frame"] = rate
    say(f"random weights set to {rate:.2f} tokens a frame")
    return made


def _steps(run: Run, found: Checkpoint, peers: tuple[str, ...], until: float) -> None:
    """Ours first, in one runner for all batches; then the others, each with an equal part."""
    from voice_agent.bench.engine_peers import Peer
    from voice_agent.bench.engine_run import Reference

    plan = run.plan
    small = [b for b in plan.batches if b <= plan.peers_up_to]
    reference = Reference.of(found, plan.right)
    run.say(f"the fp32 reference on the CPU says {reference.total} tokens")
    # What the others take to import is nobody's time for steps.
    others = [p for name in peers if small and (p := Peer.prepared(run, name, found, reference))]
    began = time.monotonic()
    share = _OURS_SHARE if others else 1.0
    _ours(run, found, reference, began + share * (until - began))
    for number, peer in enumerate(others):
        now = time.monotonic()
        if now < until:
            peer.measure(run, small, now + (until - now) / (len(others) - number))
        else:
            run.leave_out(peer.name, "not measured: the time (--budget-s) was used up")


def _ours(run: Run, found: Checkpoint, reference: Reference, deadline: float) -> None:
    import torch

    from voice_agent.bench.engine_run import REFERENCE_LANES, make_ours
    from voice_agent.bench.engine_systems import release

    plan = run.plan
    batches = list(plan.batches)
    while True:
        try:
            ours, about = make_ours(plan, found, max(*batches, REFERENCE_LANES))
            break
        except torch.OutOfMemoryError as error:
            largest = max(batches)
            run.leave_out(f"voice-agent at batch {largest:,}", f"does not fit the memory ({error})")
            batches.remove(largest)
            if not batches:
                return
        release(plan.device)
    run.report.startup["voice-agent"] = about
    run.say("voice-agent is ready: " + ", ".join(f"{k} {v}" for k, v in about.items()))
    run.time_system(ours, found, reference, batches, deadline)
    del ours
    release(plan.device)


def _load(
    run: Run,
    found: Checkpoint,
    paced: list[int],
    seconds: float,
    phases: str,
    capacity: bool,
    most: int,
    capacity_seconds: float,
    max_lag_ms: float,
    deadline: float,
) -> None:
    """Paced runs, then the search."""
    from voice_agent.bench.engine_load import Load, find_capacity, holds

    spread: Literal["spread", "lockstep"] = "lockstep" if phases == "lockstep" else "spread"
    wanted = max([*paced, most if capacity else 1])
    load = Load.fitting(run.plan, found, wanted, least=max(paced, default=1))
    run.say(f"a recogniser with {load.slots:,} slots is ready ({wanted:,} were wanted)")
    most = min(most, load.slots)
    try:
        for streams in paced:
            if time.monotonic() + seconds > deadline:
                run.leave_out(f"paced {streams:,}", "not measured: --budget-s was used up")
                continue
            outcome = load.run(streams, seconds, spread)
            outcome["holds"] = holds(outcome, max_lag_ms)
            run.report.paced.append(outcome)
            run.report.save()
            run.say(f"{streams:,} paced streams: {outcome}")
        if capacity:
            run.report.capacity = find_capacity(
                lambda streams: load.run(streams, capacity_seconds, spread),
                first=max(paced, default=max(1, most // 4)),
                most=most,
                max_lag_ms=max_lag_ms,
                step=max(1, most // 64),
                time_left=lambda: time.monotonic() + capacity_seconds + 5 < deadline,
                say=run.say,
            )
            run.report.save()
    finally:
        load.close()


def _finish(report: Report, plan: Plan) -> None:
    from voice_agent.bench.engine_rows import paced_table, plot, table

    if report.steps:
        typer.echo(table(report.steps))
    if report.paced:
        typer.echo("\n" + paced_table(report.paced))
    if report.capacity:
        found = report.capacity
        typer.echo(
            f"\ncapacity: {found['holds']:,} streams hold p99 <= {found['max_lag_ms']:g} ms"
            + (f", {found['fails']:,} do not" if found["fails"] else "")
            + ("" if found["complete"] else "; the time was used up before the search was")
        )
    for what, why in report.problems.items():
        typer.echo(f"- {what}: {why}")
    report.save()
    if report.out is not None:
        title = f"{plan.model}, {plan.precision}, right context {plan.right}\n"
        plot(report.out / "engine.png", report.steps, title + _chip(report))


def _chip(report: Report) -> str:
    return report.steps[0].machine if report.steps else ""

"""A watchdog tells a process that hangs from one that has no processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from voice_agent.server.processor_time import ProcessorTime, Spent


def spent_by(program: str, seconds: float = 0.6, cores: set[int] | None = None) -> Spent:
    """What a process did while it was looked at."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)
        assert process.stdout is not None
        process.stdout.readline()
        looking = ProcessorTime(process.pid)
        time.sleep(seconds)
        return looking.look()
    finally:
        process.kill()
        process.wait()


BLOCKED = "import time; print(flush=True); time.sleep(60)"
SPINNING = "print(flush=True)\nwhile True: pass"


def test_what_waits_for_something_else_is_held_against_it():
    spent = spent_by(BLOCKED)
    assert spent.held_against(0.6, computing=True) > 0.5


def test_what_computes_on_processors_is_well_and_what_spins_on_a_gpu_is_not():
    spent = spent_by(SPINNING)
    assert spent.ran + spent.starved == pytest.approx(0.6, abs=0.2)
    assert spent.held_against(0.6, computing=True) < 0.2
    assert spent.held_against(0.6, computing=False) == pytest.approx(0.6 - spent.starved)


def test_a_process_that_finds_no_processor_is_excused():
    """Beside another one that spins on the same core, and has the right of way."""
    core = {min(os.sched_getaffinity(0))}
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(rival.pid, core)
        # The kernel counts a wait when it ends, so a look of one wait's length may miss it.
        spent = spent_by("import os; os.nice(19)\n" + SPINNING, seconds=1.2, cores=core)
    finally:
        rival.kill()
        rival.wait()
    assert spent.starved > 0.8
    assert spent.held_against(1.2, computing=False) < 0.4


def test_a_stopped_process_is_not():
    process = subprocess.Popen([sys.executable, "-c", SPINNING], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        looking = ProcessorTime(process.pid)
        time.sleep(0.3)
        assert looking.look().held_against(0.3, computing=True) == pytest.approx(0.3)
    finally:
        process.kill()
        process.wait()


def test_where_nobody_counts_all_time_does():
    assert ProcessorTime(2**22 + 1).look() == Spent()
    assert Spent().held_against(0.5, computing=True) == 0.5

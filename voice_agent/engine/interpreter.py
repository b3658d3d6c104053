"""What a process with an engine asks of its interpreter, so that no chunk waits for it.

A thread that wants the interpreter's lock asks for it after `SWITCH_S`; Python's own 5 ms would be
more than a step of the device.

A full collection looks at every container that lives, with the lock held: some 30 ms for the
transcripts of 8,192 streams, and more for the modules of torch. Python begins one every second or
two under that load, so it would be what the slowest chunks wait for. Streams make no cycles; the
young collections, of 3 ms at most, go on as ever.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

SWITCH_S = 0.001
FULL_AFTER = 1000
"""Collections of the middle generation until a full one: minutes, with thousands of streams."""


def be_prompt() -> None:
    """Ask for it, for the rest of the process's life; call it once what stays has been loaded."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # what was loaded is not looked through again
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_AFTER)


@contextlib.contextmanager
def prompt() -> Iterator[None]:
    """Ask for it for a while."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    be_prompt()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()

"""`voice-agent serve` that gives back, on SIGUSR1, all memory that it does not hold any more.

What a process has resident is the most that it ever needed at once: reference cycles wait for the
collector, and what is freed between two blocks that are not stays with the allocator. Both go on
growing for a quarter of an hour, ever more slowly, and hide what is really kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal


def give_back() -> None:
    """Collect cycles, and return free pages to the system where the allocator can."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    from voice_agent.cli.app import main

    signal.signal(signal.SIGUSR1, lambda *_: give_back())
    main()

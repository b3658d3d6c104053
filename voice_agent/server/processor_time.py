"""How much of some time a process could have done something in: for watchdogs.

On a machine with more to do than processors, a thread that is well may wait for seconds until it
runs. The kernel counts that: of each thread, the time in which it ran, and the time in which it
could have run and no processor was free (`/proc/PID/task/*/schedstat`). What a watchdog holds
against a process is the rest, in which its threads waited for something else: a device, a lock,
or nothing that ever comes.

    hung on a device, a lock       blocked: counts, at once
    spinning on a GPU              runs: counts, as the processor only waits there
    computing on a processor       runs: does not count, up to a longer limit
    starved, or throttled          could run: never counts

Where the kernel does not tell, nothing ran and nothing waited: all time counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process's threads did between two looks, seconds, over all threads.

    Attributes:
        ran: on a processor.
        starved: ready to run, without one.
    """

    ran: float = 0.0
    starved: float = 0.0

    def held_against(self, since_s: float, *, computing: bool) -> float:
        """Seconds in which the process was free to show that it is well.

        Args:
            since_s: seconds between the two looks.
            computing: whether to be running is to be well.
        """
        excused = self.starved + (self.ran if computing else 0.0)
        return max(0.0, since_s - excused)


class ProcessorTime:
    """Looks at a process, again and again."""

    def __init__(self, pid: int | str = "self") -> None:
        """Look at this process, or one's own child."""
        self._tasks = Path(f"/proc/{pid}/task")
        self._before = self._read()

    def look(self) -> Spent:
        """What its threads did since the last look."""
        now, before = self._read(), self._before
        self._before = now
        both = now.keys() & before.keys()  # a thread that has ended takes its counts with it
        ran = sum(now[thread][0] - before[thread][0] for thread in both)
        starved = sum(now[thread][1] - before[thread][1] for thread in both)
        return Spent(ran / 1e9, starved / 1e9)

    def _read(self) -> dict[str, tuple[int, int]]:
        found = {}
        try:
            for task in self._tasks.iterdir():
                ran, starved, _ = task.joinpath("schedstat").read_text().split()
                found[task.name] = int(ran), int(starved)
        except (OSError, ValueError):  # it has just ended, or this kernel does not count
            pass
        return found

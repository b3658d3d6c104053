"""Sessions, access and metrics of one front-end, so that they hold for all of them.

    sessions at once         counted on the board: `server.max_sessions` is the whole server's
    a key's sessions, minutes    likewise
    counters, histograms     each front-end writes files that any of them adds up (Prometheus'
                             multiprocess mode), so a front-end that dies takes nothing away
    gauges                   sessions from the board; the engine's from what it tells; CPU, memory
                             and restarts of each process, labelled by its name

Message size, rate, idle and total time are each client's, and so need no sharing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from voice_agent.processes.board import Board
from voice_agent.server.access import DAY_S, Access, Client
from voice_agent.server.keys import KeyFile
from voice_agent.server.metrics import Metrics
from voice_agent.server.sessions import Refused, Session, SessionTable

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class SharedSessions(SessionTable):
    """The sessions of one front-end, limited with those of the others. See `SessionTable`."""

    def __init__(self, board: Board, front_end: int, limit: int, *, closed_because: str) -> None:
        """Make this front-end's table.

        Args:
            board: of the server.
            front_end: which one this is.
            limit: sessions at once, over all front-ends.
            closed_because: see `SessionTable`.
        """
        super().__init__(limit, closed_because=closed_because)
        self._board = board
        self._front_end = front_end

    def __len__(self) -> int:
        """Sessions of all front-ends."""
        return self._board.sessions

    @property
    def own(self) -> int:
        """Sessions of this front-end."""
        return super().__len__()

    def check(self) -> None:
        """See `SessionTable.check`."""
        if self._closed_because is not None:
            raise Refused(self._closed_because)
        if len(self) >= self.limit:
            raise Refused(f"all {self.limit} sessions are taken")

    def admit(self, kind: str) -> Session:
        """See `SessionTable.admit`."""
        with self._board.lock():
            session = super().admit(kind)
            self._board.count_session(self._front_end, 1)
        return session

    def _forget(self, session: Session) -> None:
        known = super().__len__()
        super()._forget(session)
        self._board.count_session(self._front_end, super().__len__() - known)


class SharedAccess(Access):
    """Keys whose limits hold over all front-ends. See `Access`."""

    def __init__(
        self,
        board: Board,
        front_end: int,
        keys: KeyFile | None,
        *,
        origins: tuple[str, ...],
        hosts: tuple[str, ...],
    ) -> None:
        """Guard a front-end; see `Access`.

        Args:
            board: of the server.
            front_end: which one this is.
            keys: see `Access`.
            origins: see `Access`.
            hosts: see `Access`.
        """
        super().__init__(keys, origins=origins, hosts=hosts)
        self._board = board
        self._front_end = front_end

    @contextmanager
    def session(self, client: Client) -> Iterator[None]:
        """See `Access.session`."""
        name, now = client.name, time.time()
        with self._board.lock():
            problem = self.quota(
                client.key,
                self._board.held(name),
                self._board.heard_s(name, int(now // DAY_S)),
                now,
            )
            if problem is None:
                self._board.hold(self._front_end, name, 1)
        if problem is not None:
            raise problem
        try:
            yield
        finally:
            with self._board.lock():
                self._board.hold(self._front_end, name, -1)

    def heard(self, client: Client, audio_s: float) -> None:
        """See `Access.heard`."""
        if client.key is not None and client.key.minutes_per_day is not None:
            with self._board.lock():
                self._board.hear(client.name, int(time.time() // DAY_S), audio_s)


class SharedMetrics(Metrics):
    """Metrics of all processes, whichever front-end is asked. See `Metrics`."""

    def __init__(self, board: Board, gpu_memory: Callable[[], float | None]) -> None:
        """Start counting.

        Args:
            board: of the server.
            gpu_memory: bytes that the engine's torch holds; None without a GPU.
        """
        assert METRICS_VARIABLE in os.environ, "set before prometheus_client is imported"
        super().__init__()
        self._all = CollectorRegistry()
        MultiProcessCollector(self._all)
        self._processes = _Processes(board, gpu_memory)

    def render(self) -> bytes:
        """See `Metrics.render`."""
        counted = {metric.name for metric in self._all.collect()}
        rest = CollectorRegistry()
        rest.register(_Without(self.registry, counted))
        rest.register(self._processes)
        return generate_latest(self._all) + generate_latest(rest)


class _Without(Collector):
    """What a registry's collectors say, besides what is counted in files or of this process."""

    def __init__(self, registry: CollectorRegistry, counted: set[str]) -> None:
        self._registry = registry
        self._left_out = counted

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.name not in self._left_out and not metric.name.startswith(
                ("process_", "voice_agent_tasks")
            ):
                yield metric


class _Processes(Collector):
    """CPU, memory, files and restarts of each process, from /proc."""

    def __init__(self, board: Board, gpu_memory: Callable[[], float | None]) -> None:
        self._board = board
        self._gpu_memory = gpu_memory

    def collect(self) -> Iterator[Metric]:
        labels = ["process"]
        cpu = CounterMetricFamily(
            "process_cpu_seconds", "User and system CPU time, by process", labels=labels
        )
        memory = GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory, by process", labels=labels
        )
        files = GaugeMetricFamily("process_open_fds", "Open files, by process", labels=labels)
        up = GaugeMetricFamily("voice_agent_process_up", "1 while it runs", labels=labels)
        restarts = CounterMetricFamily(
            "voice_agent_process_restarts", "Times it was started again", labels=labels
        )
        for name, pid, again in self._board.processes():
            usage = _usage(pid) if pid else None
            up.add_metric([name], usage is not None)
            restarts.add_metric([name], again)
            if usage is not None:
                cpu.add_metric([name], usage[0])
                memory.add_metric([name], usage[1])
                files.add_metric([name], usage[2])
        yield from (cpu, memory, files, up, restarts)
        if (used := self._gpu_memory()) is not None:
            yield GaugeMetricFamily(
                "voice_agent_gpu_memory_bytes", "GPU memory that torch holds", value=used
            )


_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _usage(pid: int) -> tuple[float, float, float] | None:
    """CPU seconds, bytes and open files of a process; None where it has just ended."""
    try:
        # The name, in parentheses, may hold spaces; utime and stime are 12th and 13th after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS, pages * _PAGE, files

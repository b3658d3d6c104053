"""Many clients of `/v1/listen` in one process, speaking at real-time pace, and what they saw.

    python -m voice_agent.bench.callers ADDRESS AUDIO OUT --callers N --seconds S

AUDIO is raw 16-bit PCM at 16 kHz. A caller speaks without a pause, in turns of `TURN_S` that it
ends itself with `Finalize`. Callers begin spread over a ramp, so that their chunks are too; what
happens before all have begun is not counted. OUT is a NumPy archive of `Seen`.

A process is for hundreds of callers, so a chunk costs it a timer and a write: websockets are
picows', the loop is uvloop's, and of a result only what is counted is parsed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from picows import WSFrame, WSInvalidStatusError, WSListener, WSMsgType, WSTransport, ws_connect

from voice_agent.engine.recognizer import SAMPLE_RATE

CHUNK_S = 0.08
TURN_S = 4.0
RAMP_S = 5.0
RAMP_CALLERS_A_S = 200
"""Callers who begin in a second, at most, whatever that does to the ramp."""
_CHUNK = round(CHUNK_S * SAMPLE_RATE)
_TURN = round(TURN_S / CHUNK_S)
_CONNECT_S = 60.0  # a server that is asked by everybody at once may answer late
_LAST_S = 10.0  # for the answers to what was said last
_FINALIZE = b'{"type": "Finalize"}'
_CLOSE = b'{"type": "CloseStream"}'


def ramp_s(callers: int) -> float:
    """Seconds in which that many callers, of all processes, begin."""
    return max(RAMP_S, callers / RAMP_CALLERS_A_S)


@dataclass
class Seen:
    """What the callers of one process saw; times in seconds.

    Attributes:
        final_s: from the end of a turn's audio to its text.
        partial_s: from a turn's first sample to its first text.
        lag_s: from the sending of audio to a partial text that accounts for it.
        slip_s: how late a chunk was sent: what the callers' own machine adds.
        refused: callers who were turned away.
        failed: callers whose session ended with an error.
        unanswered: turns whose text had not come when the caller hung up.
        cpu_s: processor time of the process.
    """

    final_s: list[float] = field(default_factory=list)
    partial_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    slip_s: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    unanswered: int = 0
    cpu_s: float = 0.0

    def write(self, path: Path) -> None:
        """Write a NumPy archive."""
        columns: dict[str, Any] = {name: np.asarray(v) for name, v in asdict(self).items()}
        np.savez(path, **columns)

    @classmethod
    def read(cls, path: Path) -> Seen:
        """Read a NumPy archive."""
        with np.load(path) as held:
            return cls(**{name: held[name].tolist() for name in held.files})


class _Message(msgspec.Struct):
    """Of a server's message, what is counted."""

    type: str
    start: float = 0.0
    duration: float | int = 0.0
    is_final: bool = False
    from_finalize: bool = False


_decode = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True)
class Window:
    """Between when and when things count, on the monotonic clock."""

    opens: float
    closes: float

    def holds(self, now: float) -> bool:
        """Whether something that happens now counts."""
        return self.opens <= now < self.closes


class Caller(WSListener):
    """One client."""

    def __init__(self, chunks: list[bytes], first: int, seen: Seen, window: Window) -> None:
        """Prepare a call.

        Args:
            chunks: what is said, round and round.
            first: index of the chunk that it begins with.
            seen: where to note things.
            window: when to note them, and when to end.
        """
        self._loop = asyncio.get_running_loop()
        self._chunks = chunks
        self._next = first % len(chunks)
        self._seen = seen
        self._window = window
        self._sent: list[float] = []  # by chunk
        self._turn_began: deque[float] = deque()
        self._turn_ended: deque[float] = deque()
        self._new_turn = True  # no text has come for the oldest turn
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self.done = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Begin to speak."""
        self._transport = transport
        self._due = time.monotonic()
        # The loop's own clock may run apart from that by a constant.
        self._offset = self._loop.time() - self._due
        self._speak()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The server has hung up."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._over:
            self._seen.failed += 1
        self._seen.unanswered += len(self._turn_ended)
        self.done.set()

    def _speak(self) -> None:
        now = time.monotonic()
        if now >= self._window.closes:
            self._over = True
            self._transport.send(WSMsgType.TEXT, _CLOSE)
            self._timer = self._loop.call_later(_LAST_S, self._transport.disconnect)
            return
        if self._window.holds(now):
            self._seen.slip_s.append(now - self._due)
        if len(self._sent) % _TURN == 0:
            self._turn_began.append(now)
        self._sent.append(now)
        self._transport.send(WSMsgType.BINARY, self._chunks[self._next])
        self._next = (self._next + 1) % len(self._chunks)
        if len(self._sent) % _TURN == 0:
            self._turn_ended.append(time.monotonic())
            self._transport.send(WSMsgType.TEXT, _FINALIZE)
        self._due += CHUNK_S
        self._timer = self._loop.call_at(self._due + self._offset, self._speak)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Note a message."""
        if frame.msg_type == WSMsgType.TEXT:
            self._hear(_decode(frame.get_payload_as_memoryview()))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def _hear(self, message: _Message) -> None:
        if message.type == "Results":
            self._results(message, time.monotonic())
        elif message.type == "Error":
            self._over = True
            self._seen.failed += 1

    def _results(self, message: _Message, now: float) -> None:
        counts = self._window.holds(now)
        if message.is_final:
            if message.from_finalize:
                ended = self._turn_ended.popleft()
                self._turn_began.popleft()
                self._new_turn = True
                if counts:
                    self._seen.final_s.append(now - ended)
            return
        if not counts:
            return
        if self._new_turn:
            self._new_turn = False
            self._seen.partial_s.append(now - self._turn_began[0])
        heard = round((message.start + message.duration) / CHUNK_S)
        self._seen.lag_s.append(now - self._sent[min(heard, len(self._sent)) - 1])


async def callers(
    address: str,
    pcm: np.ndarray,
    count: int,
    seconds: float,
    *,
    of: int | None = None,
    seed: int = 0,
    query: str = "endpointing=false",
) -> Seen:
    """Let callers speak at once.

    Args:
        address: of the server, "HOST:PORT".
        pcm: int16 (n,), 16 kHz, at least a chunk more than one turn.
        count: callers.
        seconds: that count, after the ramp.
        of: callers of all processes together, for the ramp.
        seed: of when they begin, and with what.
        query: further parameters of `/v1/listen`.
    """
    seen = Seen()
    rng = random.Random(f"{seed} {count}")
    ramp = ramp_s(of or count) if of else RAMP_S
    now = time.monotonic()
    window = Window(now + ramp + TURN_S, now + ramp + TURN_S + seconds)
    chunks = [pcm[i : i + _CHUNK].tobytes() for i in range(0, pcm.size - _CHUNK, _CHUNK)]
    url = (
        f"ws://{address}/v1/listen?encoding=linear16&sample_rate={SAMPLE_RATE}"
        f"&interim_results=true&{query}"
    )

    async def one() -> None:
        await asyncio.sleep(rng.uniform(0, ramp))
        caller = Caller(chunks, rng.randrange(len(chunks)), seen, window)
        try:
            await ws_connect(lambda: caller, url, websocket_handshake_timeout=_CONNECT_S)
        except WSInvalidStatusError:
            seen.refused += 1
        except (OSError, TimeoutError):
            seen.failed += 1
        else:
            await caller.done.wait()

    await asyncio.gather(*(one() for _ in range(count)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen.cpu_s = used.ru_utime + used.ru_stime
    return seen


def main() -> None:
    """Read the command line, call, write."""
    import uvloop

    parser = argparse.ArgumentParser(description="Speak to a server as many clients.")
    parser.add_argument("address")
    parser.add_argument("audio", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--of", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--query", default="endpointing=false")
    given = parser.parse_args()
    pcm = np.frombuffer(given.audio.read_bytes(), "<i2")
    calling = callers(
        given.address, pcm, given.callers, given.seconds,
        of=given.of, seed=given.seed, query=given.query,
    )  # fmt: skip
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(calling).write(given.out)


if __name__ == "__main__":
    main()

"""Many clients of `/v1/listen` in one process, speaking at real-time pace, and what they saw.

    python -m voice_agent.bench.callers ADDRESS AUDIO --callers N --seconds S

AUDIO is raw 16-bit PCM at 16 kHz. A caller speaks without a pause, in turns of `TURN_S` that it
ends itself with `Finalize`. Callers begin spread over the first `RAMP_S`, so that their chunks
are too; what happens before all have begun is not counted. Prints one JSON object, `Seen`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.wire import Error, Metadata, Results, parse_server

CHUNK_S = 0.08
TURN_S = 4.0
RAMP_S = 5.0
_CHUNK = round(CHUNK_S * SAMPLE_RATE)
_TURN = round(TURN_S / CHUNK_S)


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
    """

    final_s: list[float] = field(default_factory=list)
    partial_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    slip_s: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0


class Caller:
    """One client."""

    def __init__(self, url: str, pcm: np.ndarray, start: float, seen: Seen, window: Window) -> None:
        """Prepare a call.

        Args:
            url: of `/v1/listen`, with its query.
            pcm: int16 (n,), played round and round.
            start: index of the chunk that it begins with.
            seen: where to note things.
            window: when to note them, and when to end.
        """
        self._url = url
        self._chunks = [pcm[i : i + _CHUNK].tobytes() for i in range(0, pcm.size - _CHUNK, _CHUNK)]
        self._next = int(start) % len(self._chunks)
        self._seen = seen
        self._window = window
        self._sent: list[float] = []  # by chunk
        self._turn_began: deque[float] = deque()
        self._turn_ended: deque[float] = deque()
        self._new_turn = True  # no text has come for the oldest turn

    async def call(self) -> None:
        """Speak until the window closes."""
        try:
            # A server that is asked by everybody at once may answer late; that is not measured.
            async with connect(self._url, compression=None, open_timeout=60) as ws:
                listening = asyncio.create_task(self._listen(ws))
                await self._speak(ws)
                await listening
        except InvalidStatus:
            self._seen.refused += 1
        except (ConnectionClosed, OSError, TimeoutError):
            self._seen.failed += 1

    async def _speak(self, ws: ClientConnection) -> None:
        begun = time.monotonic()
        while (now := time.monotonic()) < self._window.closes:
            due = begun + len(self._sent) * CHUNK_S
            if now < due:
                await asyncio.sleep(due - now)
                now = time.monotonic()
            if self._window.holds(now):
                self._seen.slip_s.append(now - due)
            if len(self._sent) % _TURN == 0:
                self._turn_began.append(now)
            self._sent.append(now)
            await ws.send(self._chunks[self._next])
            self._next = (self._next + 1) % len(self._chunks)
            if len(self._sent) % _TURN == 0:
                self._turn_ended.append(time.monotonic())
                await ws.send('{"type": "Finalize"}')
        await ws.send('{"type": "CloseStream"}')

    async def _listen(self, ws: ClientConnection) -> None:
        async for text in ws:
            message = parse_server(str(text))
            now = time.monotonic()
            if isinstance(message, Results):
                self._results(message, now)
            elif isinstance(message, Error):
                self._seen.failed += 1
            elif isinstance(message, Metadata):
                return

    def _results(self, message: Results, now: float) -> None:
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


@dataclass(frozen=True)
class Window:
    """Between when and when things count, on the monotonic clock."""

    opens: float
    closes: float

    def holds(self, now: float) -> bool:
        """Whether something that happens now counts."""
        return self.opens <= now < self.closes


async def callers(address: str, pcm: np.ndarray, count: int, seconds: float) -> Seen:
    """Let callers speak at once.

    Args:
        address: of the server, "HOST:PORT".
        pcm: int16 (n,), 16 kHz, at least a chunk more than one turn.
        count: callers.
        seconds: that count, after the ramp.
    """
    seen = Seen()
    rng = random.Random(count)
    now = time.monotonic()
    window = Window(now + RAMP_S + TURN_S, now + RAMP_S + TURN_S + seconds)
    url = (
        f"ws://{address}/v1/listen?encoding=linear16&sample_rate={SAMPLE_RATE}"
        "&interim_results=true&endpointing=false"
    )

    async def one() -> None:
        await asyncio.sleep(rng.uniform(0, RAMP_S))
        await Caller(url, pcm, rng.uniform(0, 1e6), seen, window).call()

    await asyncio.gather(*(one() for _ in range(count)))
    return seen


def main() -> None:
    """Read the command line, call, print."""
    parser = argparse.ArgumentParser(description="Speak to a server as many clients.")
    parser.add_argument("address")
    parser.add_argument("audio", type=Path)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    pcm = np.frombuffer(given.audio.read_bytes(), "<i2")
    seen = asyncio.run(callers(given.address, pcm, given.callers, given.seconds))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()

"""Whole calls to the agent from one process: phrases and pauses at real-time pace, and its answers.

    python -m voice_agent.bench.agent_callers ADDRESS FILE --over webrtc --calls N --seconds S

FILE holds a phrase. A caller says it, is silent for `PAUSE_S` while the agent answers, and says it
again. Prints "ready" once everything is imported, waits for a line on stdin, calls, and prints one
JSON object, `Seen`. Calls begin spread over `RAMP_S`; turns count that begin after all have begun.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import websockets
from pipecat.frames.protobufs import frames_pb2
from websockets.exceptions import ConnectionClosed, InvalidStatus

from voice_agent.demo.call import Listener, place_call
from voice_agent.demo.clip import CLIP_RATE, Clip, load_clip
from voice_agent.demo.errors import DemoError
from voice_agent.engine.recognizer import SAMPLE_RATE

PAUSE_S = 4.0
RAMP_S = 4.0
_FRAME_S = 0.02
_VOICE = 0.005 * 32768  # RMS: above silence, below any speech

Over = Literal["websocket", "webrtc"]


@dataclass
class Seen:
    """What the callers of one process saw.

    Attributes:
        asked: turns that counted.
        answer_s: for each that was answered, from the end of the phrase to the agent's voice.
        refused: calls that were turned away.
        failed: calls that broke.
    """

    asked: int = 0
    answer_s: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Talk:
    """What a caller says.

    Attributes:
        clip: phrases and pauses.
        turn_s: from one phrase to the next.
    """

    clip: Clip
    turn_s: float


def talk(phrase: Clip, turns: int, pause_s: float) -> Talk:
    """Say a phrase several times.

    Raises:
        DemoError: nobody speaks in it.
    """
    if not phrase.speech_ends_s:
        raise DemoError(f"{phrase.name}: no speech was found in it")
    turn = np.concatenate([phrase.pcm, np.zeros(round(pause_s * CLIP_RATE), np.int16)])
    turn_s = turn.size / CLIP_RATE
    ends = tuple(i * turn_s + phrase.speech_ends_s[-1] for i in range(turns))
    return Talk(Clip(phrase.name, np.tile(turn, turns), None, ends), turn_s)


class _Answers:
    """The first sound of the agent after each phrase."""

    def __init__(self, said: Talk, seen: Seen, from_s: float) -> None:
        self._said = said
        self._seen = seen
        self._from_s = from_s
        self._answered: set[int] = set()

    def heard(self, clip_s: float, since_s: float | None = None) -> None:
        """The agent makes itself heard.

        Args:
            clip_s: at this moment of the clip.
            since_s: seconds after the end of the phrase, where that was measured more exactly.
        """
        end_s = self._said.clip.speech_end_before(clip_s)
        if end_s is None:
            return
        turn = int(end_s // self._said.turn_s)
        # Up to the next phrase: beyond it, an answer is to another one.
        if self._counts(turn) and clip_s < (turn + 1) * self._said.turn_s:
            if turn not in self._answered:
                self._answered.add(turn)
                self._seen.answer_s.append(clip_s - end_s if since_s is None else since_s)

    def over(self, clip_s: float) -> None:
        """The call is over at this moment of the clip."""
        complete = int(clip_s // self._said.turn_s)
        self._seen.asked += sum(map(self._counts, range(complete)))

    def _counts(self, turn: int) -> bool:
        return turn * self._said.turn_s >= self._from_s


async def by_webrtc(address: str, said: Talk, answers: _Answers) -> None:
    """One call over WebRTC."""
    began = 0.0

    def connected() -> None:
        nonlocal began
        began = time.monotonic() + 0.5  # as `place_call` begins to speak

    def voice(since_s: float) -> None:
        answers.heard(time.monotonic() - began, since_s)

    listener = Listener(on_connected=connected, on_voice=voice)
    await place_call(f"http://{address}", said.clip, listener, answer_limit_s=0.1)
    answers.over(said.clip.seconds)


async def by_websocket(address: str, said: Talk, answers: _Answers) -> None:
    """One call over `/ws`, 16 kHz, in frames of 20 ms."""
    pcm = said.clip.pcm[:: CLIP_RATE // SAMPLE_RATE]
    size = round(_FRAME_S * SAMPLE_RATE)
    began = 0.0

    async def listen(ws: websockets.ClientConnection) -> None:
        async for message in ws:
            frame = frames_pb2.Frame.FromString(message)  # type: ignore[attr-defined]
            if frame.WhichOneof("frame") == "audio":
                heard = np.frombuffer(frame.audio.audio, np.int16).astype(np.float32)
                if heard.size and np.sqrt(np.mean(heard**2)) > _VOICE:
                    answers.heard(time.monotonic() - began)

    async with websockets.connect(f"ws://{address}/ws", max_size=None, open_timeout=60) as ws:
        await ws.send(_client_ready())
        began = time.monotonic()
        listening = asyncio.create_task(listen(ws))
        try:
            for start in range(0, pcm.size - size + 1, size):
                frame = frames_pb2.Frame()  # type: ignore[attr-defined]
                frame.audio.audio = pcm[start : start + size].tobytes()
                frame.audio.sample_rate, frame.audio.num_channels = SAMPLE_RATE, 1
                await ws.send(frame.SerializeToString())
                await asyncio.sleep(max(0.0, began + start / SAMPLE_RATE - time.monotonic()))
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await listening
    answers.over(said.clip.seconds)


def _client_ready() -> bytes:
    frame = frames_pb2.Frame()  # type: ignore[attr-defined]
    about = {"version": "2.2.0", "about": {"library": "voice-agent bench"}}
    frame.message.data = json.dumps(
        {"label": "rtvi-ai", "id": uuid.uuid4().hex, "type": "client-ready", "data": about}
    )
    return bytes(frame.SerializeToString())


async def callers(address: str, phrase: Clip, over: Over, calls: int, seconds: float) -> Seen:
    """Hold calls at once.

    Args:
        address: of the server, "HOST:PORT".
        phrase: what is said in each turn.
        over: transport.
        calls: at once.
        seconds: that count, after the ramp.
    """
    seen = Seen()
    turn_s = phrase.seconds + PAUSE_S
    said = talk(phrase, 1 + int(np.ceil((RAMP_S + seconds) / turn_s)), PAUSE_S)
    call: Callable[..., object] = by_webrtc if over == "webrtc" else by_websocket

    async def one(i: int) -> None:
        late_s = i / calls * RAMP_S
        await asyncio.sleep(late_s)
        try:
            await call(address, said, _Answers(said, seen, RAMP_S - late_s))  # type: ignore[misc]
        except InvalidStatus:
            seen.refused += 1
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == 1013:
                seen.refused += 1
            else:
                seen.failed += 1
        except DemoError as error:
            if "refused the call (503)" in str(error):
                seen.refused += 1
            else:
                seen.failed += 1
        except (OSError, TimeoutError):
            seen.failed += 1

    await asyncio.gather(*map(one, range(calls)))
    return seen


def main() -> None:
    """Read the command line, call, print."""
    parser = argparse.ArgumentParser(description="Call an agent as many callers.")
    parser.add_argument("address")
    parser.add_argument("phrase")
    parser.add_argument("--over", choices=["websocket", "webrtc"], required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    phrase = load_clip(given.phrase)
    print("ready", flush=True)
    sys.stdin.readline()
    seen = asyncio.run(callers(given.address, phrase, given.over, given.calls, given.seconds))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()

"""`examples/twilio_phone.py` on a real socket, called as Twilio's documentation says it calls.

The messages are those of https://www.twilio.com/docs/voice/media-streams/websocket-messages with
a voice in the place of their payload; what Twilio's REST API would get comes to a route here.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import soxr
import uvicorn
import websockets
from fastapi import FastAPI, Request

from tests.examples.load import load_example
from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import eventually
from tests.support.voice import speech
from voice_agent.config import load_settings

MESSAGES = json.loads((Path(__file__).parent / "twilio_messages.json").read_text())
SCRIPT = [(0.4, "it was"), (0.8, "it was the best")]
ACCOUNT, TOKEN, HOST = "AC00000000000000000000000000000001", "12345", "agent.example.com"
RATE, FRAME = 8_000, 160  # Twilio sends 20 ms a message
FORM = {"CallSid": "CA00000000000000000000000000000003", "From": "+14158675310"}


@pytest.fixture(scope="module")
def example():
    return load_example("twilio_phone")


@pytest.fixture(scope="module")
def voice() -> bytes:
    """Two seconds of a caller, as mu-law."""
    raw = io.BytesIO()
    pcm = soxr.resample(speech(), 16_000, RATE)
    soundfile.write(raw, pcm, RATE, format="RAW", subtype="ULAW")
    return raw.getvalue()


@dataclass
class Phone:
    """The example's server, and the other side of the line."""

    port: int
    recognizer: ScriptedRecognizer
    hung_up: list[tuple[str, str]]
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def webhook(self, sign: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.post("/", data=FORM, headers={"X-Twilio-Signature": sign})

    async def ticket(self, example) -> str:
        answer = await self.webhook(example.signature(f"https://{HOST}/", FORM, TOKEN))
        assert f'<Stream url="wss://{HOST}/media">' in answer.text
        return re.search(r'name="ticket" value="([^"]+)"', answer.text).group(1)

    async def dial(self, ticket: str) -> websockets.ClientConnection:
        line = await websockets.connect(f"ws://127.0.0.1:{self.port}/media")
        start = copy.deepcopy(MESSAGES["start"])
        start["start"]["customParameters"]["ticket"] = ticket
        await line.send(json.dumps(MESSAGES["connected"]))
        await line.send(json.dumps(start))
        return line

    async def speak(self, line: websockets.ClientConnection, mu_law: bytes) -> None:
        """At the pace of speech."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for at in range(0, len(mu_law), FRAME):
            message = copy.deepcopy(MESSAGES["media"])
            payload = mu_law[at : at + FRAME].ljust(FRAME, b"\xff")
            message["media"]["payload"] = base64.b64encode(payload).decode()
            await line.send(json.dumps(message))
            due += FRAME / RATE
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def listen(self, line: websockets.ClientConnection) -> None:
        async for message in line:
            self.heard.append(json.loads(message))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [m for m in self.heard if m["event"] == name]

    def voice_s(self) -> float:
        """Seconds of the agent's voice that reached the telephone, without silence."""
        payloads = [base64.b64decode(m["media"]["payload"]) for m in self.events("media")]
        loud = 0
        for payload in payloads:
            pcm, _ = soundfile.read(
                io.BytesIO(payload), samplerate=RATE, channels=1, format="RAW", subtype="ULAW"
            )
            loud += len(pcm) * bool(np.abs(pcm).max() > 0.01)
        return loud / RATE


@pytest.fixture
async def phone(example) -> AsyncIterator[Phone]:
    recognizer = ScriptedRecognizer(SCRIPT)
    hung_up: list[tuple[str, str]] = []

    async def load(_settings: object) -> ScriptedRecognizer:
        return recognizer

    settings = load_settings(overrides={"turn.smart": False, "turn.pause_s": 0.2})
    rest = FastAPI()

    @rest.post("/2010-04-01/Accounts/{account}/Calls/{call}.json")
    async def update(account: str, call: str, request: Request) -> dict[str, str]:
        hung_up.append((call, str((await request.form())["Status"])))
        return {}

    async with serving(rest) as rest_port:
        api = f"http://127.0.0.1:{rest_port}"
        app = example.make_app(settings, HOST, ACCOUNT, TOKEN, load=load, api=api)
        async with serving(app) as port:
            yield Phone(port, recognizer, hung_up)
    recognizer.close()


class serving:  # noqa: N801 - reads as a function
    """An app on a port of its own."""

    def __init__(self, app: FastAPI) -> None:
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))

    async def __aenter__(self) -> int:
        self.task = asyncio.create_task(self.server.serve())
        await eventually(lambda: self.server.started)
        return self.server.servers[0].sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        self.server.should_exit = True
        await self.task


def test_the_signature_is_that_of_twilios_documentation(example):
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert example.signature(url, form, "12345") == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


async def test_the_webhook_answers_twilio_alone(phone, example):
    assert (await phone.webhook("c3RyYW5nZXI=")).status_code == 403
    assert await phone.ticket(example)


async def test_a_stream_without_the_ticket_is_closed(phone):
    line = await phone.dial("guessed")
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await line.recv()
    assert closed.value.rcvd.code == 1008
    assert not phone.recognizer.opened


async def test_a_stream_that_does_not_begin_as_twilios_do_is_closed(phone):
    async with websockets.connect(f"ws://127.0.0.1:{phone.port}/media") as line:
        await line.send("hello?")
        await line.send("hello?")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await line.recv()
    assert closed.value.rcvd.code == 1008


async def test_a_call_is_heard_answered_and_interrupted(phone, example, voice):
    line = await phone.dial(await phone.ticket(example))
    listening = asyncio.create_task(phone.listen(line))
    await phone.speak(line, voice + b"\xff" * RATE)
    await line.send(json.dumps(MESSAGES["dtmf"]))
    await line.send(json.dumps(MESSAGES["mark"]))
    await eventually(lambda: phone.voice_s() > 0.2)
    assert {m["streamSid"] for m in phone.heard} == {MESSAGES["start"]["streamSid"]}
    (stream,) = phone.recognizer.opened
    assert 1.0 < stream.segments[0].size / 16_000 < 4.0, "16 kHz of what was spoken"

    await phone.speak(line, voice)
    await eventually(lambda: phone.events("clear"))

    await line.send(json.dumps(MESSAGES["stop"]))
    await line.close()
    await eventually(lambda: not phone.recognizer.streams)
    await asyncio.gather(listening, return_exceptions=True)
    assert not phone.hung_up, "the caller did it"


async def test_twilio_is_told_to_hang_up_when_the_agent_cannot_go_on(phone, example):
    line = await phone.dial(await phone.ticket(example))
    listening = asyncio.create_task(phone.listen(line))
    await eventually(lambda: phone.recognizer.streams)
    phone.recognizer.streams[0].fail()
    await eventually(lambda: phone.hung_up)
    assert phone.hung_up == [(MESSAGES["start"]["start"]["callSid"], "completed")]
    await asyncio.gather(listening, return_exceptions=True)
    assert not phone.recognizer.streams

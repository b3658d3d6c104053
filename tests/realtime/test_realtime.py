"""`/v1/realtime` over real sockets: the official client, Pipecat's service, and bare messages."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import openai
import pytest
import websockets
from pipecat.frames.frames import (
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.tests.utils import SleepFrame, run_test
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import Serve, Server, eventually, pieces, silence, speech
from voice_agent.server.limits import StreamLimits

RATE = 24_000
SAID = [(0.2, "It"), (0.4, "It was"), (0.6, "It was the best.")]
THEN = [(0.2, "Goodbye.")]
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
NO_VAD = {"audio": {"input": {"turn_detection": None}}}


class Client:
    """Bare messages."""

    def __init__(self, ws: websockets.ClientConnection) -> None:
        self.ws = ws

    async def send(self, kind: str, **fields: object) -> None:
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def audio(self, pcm: np.ndarray) -> None:
        for piece in pieces(pcm, rate=RATE):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(piece).decode())

    async def update(self, **session: object) -> None:
        await self.send("session.update", session={"type": "transcription", **session})

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Everything up to the next message of this type."""
        got = [json.loads(await self.ws.recv())]
        while got[-1]["type"] != kind:
            got.append(json.loads(await self.ws.recv()))
        return got


@asynccontextmanager
async def connected(server: Server, query: str = "intent=transcription") -> AsyncIterator[Client]:
    async with websockets.connect(f"{server.ws}/v1/realtime?{query}") as ws:
        client = Client(ws)
        await client.until("session.created")
        yield client


async def test_the_official_client_with_the_servers_vad(serve: Serve) -> None:
    server = await serve(SAID, THEN)
    client = openai.AsyncOpenAI(api_key="any", base_url=f"{server.http}/v1")
    async with client, client.realtime.connect(
        extra_query={"intent": "transcription"}
    ) as connection:  # fmt: skip
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
                    }
                },
            }
        )
        loud, quiet = speech(1.0, RATE), silence(0.5, RATE)
        for piece in pieces(np.concatenate([quiet, loud, quiet, loud, quiet]), rate=RATE):
            await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        got: list[Any] = []
        while sum(event.type == COMPLETED for event in got) < 2:
            got.append(await connection.recv())

    first = [event for event in got if getattr(event, "item_id", None) == got[2].item_id]
    kinds = [event.type for event in got]
    assert kinds[:3] == ["session.created", "session.updated", "input_audio_buffer.speech_started"]
    assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index(
        "input_audio_buffer.committed"
    )
    assert got[2].audio_start_ms < 500
    created = next(event for event in got if event.type == "conversation.item.created")
    assert created.item.id == got[2].item_id
    deltas = [event.delta for event in first if event.type == DELTA]
    assert "".join(deltas) == "It was the best." and len(deltas) > 1
    completed = [event for event in got if event.type == COMPLETED]
    assert [event.transcript for event in completed] == ["It was the best.", "Goodbye."]
    assert completed[0].usage.seconds == pytest.approx(1.6, abs=0.2)
    await server.quiet()


async def test_commits_cut_where_the_vad_is_off(serve: Serve) -> None:
    server = await serve(SAID, THEN)
    async with connected(server) as client:
        await client.update(**NO_VAD)
        await client.audio(speech(0.5, RATE))
        await client.audio(silence(2.0, RATE))
        await client.send("input_audio_buffer.commit")
        got = await client.until(COMPLETED)
        kinds = [m["type"] for m in got if m["type"] != DELTA]
        assert kinds == [
            "session.updated", "input_audio_buffer.committed", "conversation.item.created",
            COMPLETED,
        ]  # fmt: skip
        assert got[-1]["transcript"] == "It was the best."
        first = got[-1]["item_id"]
        await client.audio(speech(0.3, RATE))
        await client.send("input_audio_buffer.commit")
        got = await client.until(COMPLETED)
        committed = next(m for m in got if m["type"] == "input_audio_buffer.committed")
        assert committed["previous_item_id"] == first and got[-1]["transcript"] == "Goodbye."


async def test_a_commit_of_nothing_is_an_error_and_the_session_goes_on(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.update(**NO_VAD)
        await client.send("input_audio_buffer.commit")
        error = (await client.until("error"))[-1]["error"]
        assert error["code"] == "input_audio_buffer_commit_empty"
        await client.audio(speech(1.0, RATE))
        await client.send("input_audio_buffer.commit")
        assert (await client.until(COMPLETED))[-1]["transcript"] == "It was the best."


async def test_clear_drops_what_was_not_committed(serve: Serve) -> None:
    server = await serve(SAID, THEN)
    async with connected(server) as client:
        await client.update(**NO_VAD)
        await client.audio(speech(1.0, RATE))
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.audio(speech(0.3, RATE))
        await client.send("input_audio_buffer.commit")
        got = await client.until(COMPLETED)
        assert got[-1]["usage"]["seconds"] == pytest.approx(0.3, abs=0.01)


async def test_pipecats_service_commits_at_vad_stop(serve: Serve) -> None:
    server = await serve(SAID, THEN)
    service = OpenAIRealtimeSTTService(api_key="any", base_url=f"{server.ws}/v1/realtime")

    def spoken(seconds: float) -> list[InputAudioRawFrame]:
        return [InputAudioRawFrame(p, 16_000, 1) for p in pieces(speech(seconds), 0.02)]

    down, _ = await run_test(
        Pipeline([service]),
        frames_to_send=[
            SleepFrame(0.3),
            VADUserStartedSpeakingFrame(start_secs=0.2),
            *spoken(1.0),
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
            SleepFrame(0.5),
            VADUserStartedSpeakingFrame(start_secs=0.2),
            *spoken(0.5),
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
            SleepFrame(0.5),
        ],
    )
    texts = [f.text for f in down if isinstance(f, TranscriptionFrame)]
    assert texts == ["It was the best.", "Goodbye."]
    assert any(isinstance(f, InterimTranscriptionFrame) for f in down)
    await server.quiet()


async def test_telephone_audio_and_a_change_between_segments(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.update(**NO_VAD)
        await client.audio(speech(1.0, RATE))
        await client.update(audio={"input": {"format": {"type": "audio/pcmu"}}})
        error = (await client.until("error"))[-1]["error"]
        assert error["code"] == "segment_open"
        await client.send("input_audio_buffer.commit")
        await client.until(COMPLETED)
        await client.update(audio={"input": {"format": {"type": "audio/pcmu"}}})
        updated = (await client.until("session.updated"))[-1]["session"]["audio"]["input"]
        assert updated["format"] == {"type": "audio/pcmu"} and updated["turn_detection"] is None
        await client.send(
            "input_audio_buffer.append", audio=base64.b64encode(b"\x55" * 8000).decode()
        )
        await client.send("input_audio_buffer.commit")
        assert (await client.until(COMPLETED))[-1]["usage"]["seconds"] == pytest.approx(1.0)
    await server.quiet()
    assert not server.recognizer.streams


@pytest.mark.parametrize(("sent", "named"), [
    ("no json", "JSON object"), ("[]", "type is one of"),
    ('{"type": "response.create"}', "response.create"),
    (b"\0\0", "base64"), ('{"type": "input_audio_buffer.append"}', "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "*"}', "not base64"),
    ({"type": "realtime"}, "session.type"), ({"instructions": "be brief"}, "session.instructions"),
    ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "noise_reduction"),
    ({"audio": {"input": {"transcription": {"prompt": "names"}}}}, "transcription.prompt"),
    ({"audio": {"input": {"transcription": {"model": "parakeet"}}}}, "parakeet"),
    ({"audio": {"input": {"transcription": {"language": "xx"}}}}, "'xx'"),
    ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "turn_detection"),
    ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "format.rate"),
    ({"include": ["item.input_audio_transcription.logprobs"]}, "session.include"),
])  # fmt: skip
async def test_what_is_not_served_is_named_and_the_session_goes_on(
    serve: Serve, sent: str | bytes | dict[str, object], named: str
) -> None:
    class English(ScriptedRecognizer):
        def open(self, on_event, *, deliver=None, options=None):  # type: ignore[no-untyped-def]
            if options.language not in (None, "en"):
                raise ValueError(f"scripted writes en, not {options.language!r}")
            return super().open(on_event, deliver=deliver, options=options)

    server = await serve(recognizer=English(SAID))
    async with connected(server) as client:
        if isinstance(sent, dict):
            session = {"type": "transcription", **sent}
            await client.send("session.update", event_id="mine", session=session)
        else:
            await client.ws.send(sent)
        error = (await client.until("error"))[-1]["error"]
        assert named in error["message"] and error["type"] == "invalid_request_error"
        if isinstance(sent, dict):
            assert error["event_id"] == "mine"
        await client.audio(np.concatenate([speech(1.0, RATE), silence(1.0, RATE)]))
        assert (await client.until(COMPLETED))[-1]["transcript"] == "It was the best."
    await server.quiet()


async def test_keywords_reach_the_recogniser(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.update(audio={"input": {"transcription": {"keywords": ["Bengaluru"]}}})
        await client.until("session.updated")
        assert server.recognizer.opened[-1].options.extra == {"phrases": {"Bengaluru": None}}


async def test_finals_come_from_the_pass_that_the_server_was_told(serve: Serve) -> None:
    server = await serve(SAID, stt={"final_pass": "full"})
    async with connected(server) as client:
        await client.update(audio={"input": {"transcription": {"language": "en"}}})
        await client.until("session.updated")
        assert server.recognizer.opened[-1].options.final_pass == "full"


async def test_nulls_ask_for_nothing(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.update(
            include=None, audio={"input": {"noise_reduction": None, "turn_detection": None}}
        )
        session = (await client.until("session.updated"))[-1]["session"]
        assert session["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(("query", "status", "named"), [
    ("", 400, "intent=transcription"), ("intent=conversation", 400, "intent=transcription"),
    ("intent=transcription&model=parakeet", 404, "parakeet"),
    ("intent=transcription&voice=alloy", 400, "voice"),
])  # fmt: skip
async def test_a_handshake_that_asks_for_something_else_is_refused(
    serve: Serve, query: str, status: int, named: str
) -> None:
    server = await serve(SAID)
    with pytest.raises(InvalidStatus) as refused:
        async with connected(server, query):
            pass
    assert refused.value.response.status_code == status
    assert named in json.loads(refused.value.response.body)["error"]["message"]


async def test_a_full_house_is_503(serve: Serve) -> None:
    server = await serve(SAID, max_sessions=1)
    async with connected(server):
        with pytest.raises(InvalidStatus) as refused:
            async with connected(server):
                pass
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) > 0


async def test_a_dead_recogniser_fails_the_item_and_ends_the_session(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.audio(speech(0.5, RATE))
        started = (await client.until("input_audio_buffer.speech_started"))[-1]
        await eventually(lambda: bool(server.recognizer.streams))
        server.recognizer.streams[0].fail()
        got = await client.until("error")
        failed = next(m for m in got if m["type"].endswith("transcription.failed"))
        assert failed["item_id"] == started["item_id"]
        assert got[-1]["error"]["type"] == "server_error"
        with pytest.raises(ConnectionClosed) as closed:
            await client.ws.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    await server.quiet()


async def test_draining_completes_the_open_segment(serve: Serve) -> None:
    server = await serve(SAID)
    async with connected(server) as client:
        await client.audio(speech(1.0, RATE))
        await client.until("input_audio_buffer.speech_started")
        await asyncio.sleep(0.2)
        drained = asyncio.create_task(server.api.agent.sessions.drain(5.0))
        assert (await client.until(COMPLETED))[-1]["transcript"] == "It was the best."
        assert await drained == 0


async def test_silence_of_the_client_is_told_and_ends(serve: Serve) -> None:
    server = await serve(SAID, limits=StreamLimits(idle_s=0.2))
    async with connected(server) as client:
        error = (await client.until("error"))[-1]["error"]
        assert "nothing came for 0.2 s" in error["message"]
    await server.quiet()

"""Clients that exist, pointed at this server by their URL alone: deepgram-sdk and Pipecat's."""

from __future__ import annotations

import asyncio

import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import (
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from pipecat.frames.frames import (
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.tests.utils import SleepFrame, run_test

from tests.support.serving import Serve, Server, pieces, silence, speech

SAID = [(0.3, "Good"), (0.6, "Good morning.")]
AGAIN = [(0.2, "Goodbye.")]


def environment(server: Server) -> DeepgramClientEnvironment:
    return DeepgramClientEnvironment(
        base=server.http, production=server.ws, agent=server.ws, agent_rest=server.http
    )


async def test_the_async_deepgram_sdk_hears_a_pause_a_finalize_and_a_close(serve: Serve) -> None:
    server = await serve(SAID, AGAIN)
    client = AsyncDeepgramClient(api_key="any", environment=environment(server))
    async with client.listen.v1.connect(
        model="nova-3", encoding="linear16", sample_rate=16000, interim_results=True,
        vad_events=True, utterance_end_ms=1000, punctuate=True, diarize=False, language="en",
    ) as connection:  # fmt: skip
        for piece in pieces(speech(1.0)) + pieces(silence(2.0)):
            await connection.send_media(piece)
        await connection.send_keep_alive()
        got = [await connection.recv()]
        while not isinstance(got[-1], ListenV1UtteranceEnd):
            got.append(await connection.recv())
        for piece in pieces(speech(0.5)):
            await connection.send_media(piece)
        await connection.send_finalize()
        await connection.send_close_stream()
        got += [message async for message in connection]

    results = [m for m in got if isinstance(m, ListenV1Results)]
    finals = [m for m in results if m.is_final]
    assert isinstance(got[0], ListenV1SpeechStarted)
    assert isinstance(got[-1], ListenV1Metadata)
    assert [m.channel.alternatives[0].transcript for m in finals] == ["Good morning.", "Goodbye."]
    assert [bool(m.from_finalize) for m in finals] == [False, True]
    assert all(m.speech_final for m in finals)
    assert [w.word for w in finals[0].channel.alternatives[0].words] == ["good", "morning"]
    assert finals[1].start >= finals[0].start + finals[0].duration
    assert got[-1].duration == pytest.approx(3.5)
    await server.quiet()


async def test_the_blocking_deepgram_sdk_works_too(serve: Serve) -> None:
    server = await serve(SAID)

    def talk() -> list[object]:
        client = DeepgramClient(api_key="any", environment=environment(server))
        with client.listen.v1.connect(
            model="nova-2", encoding="linear16", sample_rate=16000
        ) as connection:
            for piece in pieces(speech(1.0)):
                connection.send_media(piece)
            connection.send_close_stream()
            return list(connection)

    result, metadata = await asyncio.to_thread(talk)
    assert isinstance(result, ListenV1Results) and isinstance(metadata, ListenV1Metadata)
    assert result.channel.alternatives[0].transcript == "Good morning."


async def test_the_sdk_is_told_the_status_of_a_refusal(serve: Serve) -> None:
    server = await serve(SAID, slots=0)
    client = AsyncDeepgramClient(api_key="any", environment=environment(server))
    with pytest.raises(ApiError) as refused:
        async with client.listen.v1.connect(model="nova-3", encoding="linear16", sample_rate=16000):
            pass
    assert refused.value.status_code == 503


async def test_pipecats_service_gets_its_final_confirmed_by_finalize(serve: Serve) -> None:
    server = await serve(SAID, AGAIN)
    service = DeepgramSTTService(api_key="any", base_url=server.ws)

    def spoken(seconds: float) -> list[InputAudioRawFrame]:
        return [InputAudioRawFrame(p, 16_000, 1) for p in pieces(speech(seconds), 0.02)]

    down, _ = await run_test(
        Pipeline([service]),
        frames_to_send=[
            VADUserStartedSpeakingFrame(start_secs=0.2),
            *spoken(1.0),
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
            SleepFrame(0.5),
            VADUserStartedSpeakingFrame(start_secs=0.2),
            *spoken(0.5),
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
            SleepFrame(0.5),
        ],
    )  # fmt: skip
    finals = [f for f in down if isinstance(f, TranscriptionFrame)]
    interims = [f for f in down if isinstance(f, InterimTranscriptionFrame)]
    assert [f.text for f in finals] == ["Good morning.", "Goodbye."]
    assert all(f.finalized for f in finals)
    assert "Good" in [f.text for f in interims]
    await server.quiet()

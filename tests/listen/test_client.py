"""`voice_agent.client` against a real server, over lines that are cut."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from tests.listen.flaky_line import line_to
from tests.support.serving import RATE, Serve, pieces, silence, speech
from voice_agent.client import ListenError, Listening
from voice_agent.server.access import Access
from voice_agent.server.keys import KeyFile, new_key
from voice_agent.server.limits import StreamLimits
from voice_agent.wire import Metadata, Results, SpeechStarted

SCRIPT = [(0.2, "one"), (0.6, "one two"), (1.4, "one two three")]


def texts(messages: list[object]) -> list[str]:
    return [
        m.channel.alternatives[0].transcript
        for m in messages
        if isinstance(m, Results) and m.is_final
    ]


async def test_a_recording_goes_in_and_messages_come_out(serve: Serve) -> None:
    server = await serve(SCRIPT)
    async with Listening(server.http, vad_events=True, language="en") as stream:
        for piece in pieces(speech(2.0)) + pieces(silence(1.0)):
            await stream.send(piece)
        stream.end()
        got = [message async for message in stream]
    assert isinstance(got[0], SpeechStarted) and isinstance(got[-1], Metadata)
    assert texts(got) == ["one two three"] and got[-1].duration == 3.0
    await server.quiet()


async def test_a_whole_recording_may_be_sent_at_once(serve: Serve) -> None:
    server = await serve(SCRIPT, limits=StreamLimits(pace=1000.0))
    async with Listening(server.ws) as stream:
        await stream.send(np.concatenate([speech(2.0), silence(58.0)]).tobytes())
        stream.end()
        got = [message async for message in stream]
    assert texts(got) == ["one two three"]
    assert isinstance(got[-1], Metadata) and got[-1].duration == 60.0


async def test_a_line_that_is_cut_again_and_again_costs_no_sample_and_no_word(
    serve: Serve,
) -> None:
    server = await serve(SCRIPT)
    rng = random.Random(7)
    async with (
        line_to(server.port) as line,
        Listening(f"ws://127.0.0.1:{line.port}", endpointing=False) as stream,
    ):
        for i, piece in enumerate(pieces(speech(2.0)) * 4):
            await stream.send(piece)
            if i % 25 == 24:
                stream.finalize()
            if rng.random() < 0.15:
                line.cut()
            await asyncio.sleep(0.004)
        stream.end()
        got = [message async for message in stream]
    assert line.connections > 5
    assert texts(got) == ["one two three"] * 4
    assert [s.size for s in server.recognizer.opened[0].segments] == [2 * RATE] * 4
    seqs = [m.seq for m in got]
    assert seqs == sorted(set(seqs))
    await server.quiet()


async def test_a_line_that_is_cut_before_anything_was_said_costs_nothing(serve: Serve) -> None:
    server = await serve(SCRIPT)
    async with (
        line_to(server.port) as line,
        Listening(f"ws://127.0.0.1:{line.port}", endpointing=False) as stream,
    ):
        for pause_s in (0.0, 0.05, 0.0, 0.05):  # with and without the session's token
            await asyncio.sleep(pause_s)
            line.cut()
        await stream.send(speech(2.0).tobytes())
        stream.end()
        got = [message async for message in stream]
    assert texts(got) == ["one two three"]
    assert [s.size for s in server.recognizer.opened[-1].segments] == [2 * RATE]
    await server.quiet()


async def test_a_server_that_does_not_come_back_is_given_up(serve: Serve) -> None:
    server = await serve(SCRIPT, limits=StreamLimits(grace_s=0.3))
    async with (
        line_to(server.port) as line,
        Listening(f"ws://127.0.0.1:{line.port}", vad_events=True) as stream,
    ):
        await stream.send(speech(0.5).tobytes())
        assert isinstance(await anext(stream), SpeechStarted)
        line.cut(stay_down=True)
        with pytest.raises(ListenError, match=r"within 0\.3 s"):
            async for _ in stream:
                pass
    await server.quiet()


async def test_a_session_that_was_given_up_is_said_to_be_gone(serve: Serve) -> None:
    server = await serve(SCRIPT, limits=StreamLimits(grace_s=0.4))
    async with (
        line_to(server.port) as line,
        Listening(f"ws://127.0.0.1:{line.port}", vad_events=True) as stream,
    ):
        await stream.send(speech(0.5).tobytes())
        assert isinstance(await anext(stream), SpeechStarted)
        server.api.agent.sessions.close("the server is stopping")
        await server.api.agent.sessions.drain(0.0)
        with pytest.raises(ListenError, match="token is not known"):
            async for _ in stream:
                pass


@pytest.mark.parametrize(("query", "status", "named"), [
    ({"diarize": True}, 400, "diarize"), ({"language": "xx", "right_context": "x"}, 400, "right"),
])  # fmt: skip
async def test_a_refusal_says_why(
    serve: Serve, query: dict[str, object], status: int, named: str
) -> None:
    server = await serve(SCRIPT)
    with pytest.raises(ListenError, match=named) as refused:
        async with Listening(server.ws, **query):  # type: ignore[arg-type]
            pass
    assert refused.value.status == status


async def test_a_full_server_says_when_to_come_back(serve: Serve) -> None:
    server = await serve(SCRIPT, max_sessions=1)
    async with Listening(server.ws):
        with pytest.raises(ListenError) as refused:
            await Listening(server.ws).__aenter__()
    assert refused.value.status == 503 and (refused.value.retry_after_s or 0) > 0
    await server.quiet()  # hanging up frees the slot at once, grace or not


async def test_a_key_is_sent(serve: Serve, tmp_path) -> None:
    secret, entry = new_key("bot")
    (tmp_path / "keys.toml").write_text(entry)
    server = await serve(SCRIPT, access=Access(KeyFile(tmp_path / "keys.toml")))
    with pytest.raises(ListenError, match="key is missing"):
        await Listening(server.ws).__aenter__()
    async with Listening(server.ws, key=secret) as stream:
        stream.end()
        assert [type(m) async for m in stream] == [Metadata]


async def test_bad_audio_ends_the_stream_with_its_reason_and_frees_the_slot(serve: Serve) -> None:
    server = await serve(SCRIPT)
    async with Listening(server.ws, encoding="linear32") as stream:
        await stream.send(b"\xff" * 64)
        with pytest.raises(ListenError, match="NaN"):
            async for _ in stream:
                pass
    await server.quiet()


async def test_nobody_there_is_said_in_a_sentence(unused_tcp_port: int) -> None:
    with pytest.raises(ListenError, match="cannot be reached"):
        await Listening(f"ws://127.0.0.1:{unused_tcp_port}").__aenter__()


@pytest.mark.parametrize("url", ["localhost:7860", "ftp://x", "", "ws://"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="ws://HOST:PORT"):
        Listening(url)


@pytest.mark.parametrize(("url", "full"), [
    ("http://h:1", "ws://h:1/v1/listen"), ("https://h/", "wss://h/v1/listen"),
    ("ws://h/asr", "ws://h/asr/v1/listen"), ("wss://h/v1/listen", "wss://h/v1/listen"),
])  # fmt: skip
def test_a_servers_url_is_enough(url: str, full: str) -> None:
    assert Listening(url)._url == full

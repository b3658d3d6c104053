"""`/v1/listen` over real sockets: what a client sends, and what it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import RATE, Serve, Server, eventually, pieces, silence, speech
from voice_agent.server.limits import StreamLimits

HELLO = [(0.3, "Hello"), (0.6, "Hello there.")]
BYE = [(0.2, "Bye.")]
CLOSE = '{"type": "CloseStream"}'
FINALIZE = '{"type": "Finalize"}'


async def talk(url: str, sent: list[bytes | str], **options: Any) -> list[dict[str, Any]]:
    """Send everything and CloseStream; return what came back."""
    async with websockets.connect(url, **options) as ws:
        for item in [*sent, CLOSE]:
            await ws.send(item)
        return [json.loads(text) async for text in ws]


async def ending(url: str, sent: list[bytes | str]) -> tuple[dict[str, Any], ConnectionClosed]:
    """Send what the server will not have; return its last message and how it hung up."""
    async with websockets.connect(url) as ws:
        last: dict[str, Any] = {}
        try:
            for item in sent:
                await ws.send(item)
            while True:
                last = json.loads(await ws.recv())
        except ConnectionClosed as closed:
            return last, closed


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [m["type"] for m in messages]


def finals(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in messages if m["type"] == "Results" and m["is_final"]]


def text_of(result: dict[str, Any]) -> str:
    return result["channel"]["alternatives"][0]["transcript"]


async def test_a_pause_ends_a_segment_and_close_brings_metadata(serve: Serve) -> None:
    server = await serve(HELLO)
    audio = pieces(speech(1.0)) + pieces(silence(1.0))
    got = await talk(server.listen(interim_results="true", vad_events="true"), audio)
    assert kinds(got) == ["SpeechStarted", "Results", "Results", "Results", "Metadata"]
    assert [text_of(m) for m in got[1:4]] == ["Hello", "Hello there.", "Hello there."]
    assert [m["is_final"] for m in got[1:4]] == [False, False, True]
    assert [m["speech_final"] for m in got[1:4]] == [False, False, True]
    assert got[3]["start"] == 0.0 and got[3]["duration"] == pytest.approx(1.5, abs=0.04)
    assert got[-1]["duration"] == 2.0 and got[-1]["models"] == ["scripted"]
    await server.quiet()


async def test_without_interim_results_only_finals_come(serve: Serve) -> None:
    server = await serve(HELLO)
    got = await talk(server.listen(), pieces(speech(1.0)))
    assert kinds(got) == ["Results", "Metadata"]


async def test_bare_text_where_punctuation_is_declined(serve: Serve) -> None:
    server = await serve(HELLO)
    got = await talk(server.listen(punctuate="false"), pieces(speech(1.0)))
    assert text_of(got[0]) == "hello there"
    words = got[0]["channel"]["alternatives"][0]["words"]
    assert [w["punctuated_word"] for w in words] == ["Hello", "there."]


async def test_finalize_is_answered_even_where_nothing_was_said(serve: Serve) -> None:
    server = await serve(HELLO)
    got = await talk(server.listen(), [*pieces(silence(0.5)), FINALIZE])
    assert [(text_of(m), m["from_finalize"], m["is_final"]) for m in finals(got)] == [
        ("", True, True)
    ]


async def test_audio_after_finalize_belongs_to_the_next_segment(serve: Serve) -> None:
    server = await serve(HELLO, BYE)
    sent = [*pieces(speech(1.0)), FINALIZE, *pieces(speech(0.5)), FINALIZE]
    got = await talk(server.listen(), sent)
    first, second = finals(got)
    assert (text_of(first), text_of(second)) == ("Hello there.", "Bye.")
    assert first["start"] + first["duration"] == pytest.approx(1.0)
    assert second["start"] == pytest.approx(1.0) and second["duration"] == pytest.approx(0.5)
    heard = [s.size / RATE for s in server.recognizer.opened[0].segments]
    assert heard == pytest.approx([1.0, 0.5])


async def test_a_client_that_finalises_is_not_cut_at_short_pauses(serve: Serve) -> None:
    server = await serve(BYE, HELLO)
    with_pause = [*pieces(speech(0.5)), *pieces(silence(1.0)), *pieces(speech(0.5))]
    got = await talk(server.listen(), [*pieces(speech(0.5)), FINALIZE, *with_pause, FINALIZE])
    assert [m["from_finalize"] for m in finals(got)] == [True, True]


async def test_without_endpointing_only_the_client_cuts(serve: Serve) -> None:
    server = await serve(HELLO)
    sent = [*pieces(silence(0.4)), *pieces(speech(1.0)), *pieces(silence(3.0)), FINALIZE]
    got = await talk(server.listen(endpointing="false"), sent)
    (result,) = finals(got)
    assert (result["start"], result["duration"]) == (0.0, pytest.approx(4.4))


async def test_channels_are_transcribed_each_by_itself(serve: Serve) -> None:
    server = await serve(HELLO)
    left, right = speech(1.0), silence(1.0)
    stereo = np.stack([left, right], axis=1)
    sent = [stereo[i : i + 1280].tobytes() for i in range(0, len(stereo), 1280)]
    got = await talk(server.listen(channels=2, multichannel="true"), sent)
    assert [(m["channel_index"], text_of(m)) for m in finals(got)] == [([0, 2], "Hello there.")]
    assert got[-1]["channels"] == 2
    assert len(server.recognizer.opened) == 2
    await server.quiet()


@pytest.mark.parametrize(("encoding", "rate", "width"), [
    ("linear16", 48_000, "<i2"), ("linear16", 8_000, "<i2"), ("linear32", 16_000, "<f4"),
])  # fmt: skip
async def test_any_rate_and_float_samples(
    serve: Serve, encoding: str, rate: int, width: str
) -> None:
    server = await serve(HELLO)
    pcm = speech(1.0, rate)
    raw = (pcm / 32768 if width == "<f4" else pcm).astype(width).tobytes()
    # Cut anywhere, even inside a sample.
    sent = [raw[i : i + 3331] for i in range(0, len(raw), 3331)]
    got = await talk(server.listen(encoding=encoding, sample_rate=rate), sent)
    assert text_of(got[0]) == "Hello there." and got[-1]["duration"] == pytest.approx(1.0, abs=1e-3)


async def test_tags_and_extra_come_back_in_metadata(serve: Serve) -> None:
    server = await serve(HELLO)
    got = await talk(server.listen(tag="a", extra="caller:7"), [])
    assert (got[-1]["tags"], got[-1]["extra"]) == (["a"], {"caller": "7"})


@pytest.mark.parametrize(("query", "named"), [
    ({"diarize": "true"}, "diarize"), ({"callback": "http://x"}, "callback"),
    ({"encoding": "flac"}, "flac"), ({"sample_rate": "nine"}, "sample_rate"),
    ({"model": "parakeet"}, "parakeet"), ({"endpointing": "-1"}, "endpointing"),
    ({"channels": "99"}, "channels"), ({"utterance_end_ms": "1000"}, "utterance_end_ms"),
])  # fmt: skip
async def test_what_is_not_served_is_named_before_any_work(
    serve: Serve, query: dict[str, str], named: str
) -> None:
    server = await serve(HELLO)
    with pytest.raises(InvalidStatus) as refused:
        await talk(server.listen(**query), [])
    response = refused.value.response
    assert response.status_code == 400
    assert named in json.loads(response.body)["err_msg"] and named in response.headers["dg-error"]
    assert not server.recognizer.opened


async def test_a_full_house_says_503_and_when_to_come_back(serve: Serve) -> None:
    server = await serve(HELLO, max_sessions=1)
    async with websockets.connect(server.listen()):
        with pytest.raises(InvalidStatus) as refused:
            await talk(server.listen(), [])
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    assert len(server.recognizer.opened) == 1
    await server.quiet()
    assert kinds(await talk(server.listen(), [])) == ["Metadata"]


@pytest.mark.parametrize(("bad", "variant", "named"), [
    ("not json", "SchemaError", "JSON"), ('{"type": "Dance"}', "SchemaError", "Dance"),
    ('{"type": "Finalize", "volume": 1}', "SchemaError", "volume"), ("[]", "SchemaError", "type"),
    ('{"type": "Finalize", "channel": 3}', "SchemaError", "channel"),
    ('{"type": "Received", "seq": 1}', "SchemaError", "resume"),
    ('{"type": "Received", "seq": -1}', "SchemaError", "seq"),
    ("[" * 100_000, "SchemaError", "JSON"),
])  # fmt: skip
async def test_a_message_that_cannot_be_read_is_named_and_ends_the_session(
    serve: Serve, bad: str, variant: str, named: str
) -> None:
    server = await serve(HELLO)
    last, closed = await ending(server.listen(), [bad])
    assert (last["type"], last["variant"]) == ("Error", variant) and named in last["description"]
    assert closed.rcvd is not None and closed.rcvd.code == 1008
    await server.quiet()


async def test_floats_that_are_no_numbers_are_counted(serve: Serve) -> None:
    server = await serve(HELLO)
    bad = np.array([0.1, np.nan, np.inf], "<f4").tobytes()
    last, closed = await ending(server.listen(encoding="linear32"), [bad])
    assert last["variant"] == "DataError" and "2 of 3" in last["description"]
    assert closed.rcvd is not None and closed.rcvd.code == 1008


async def test_configure_is_refused_and_the_stream_goes_on(serve: Serve) -> None:
    server = await serve(HELLO)
    sent = ['{"type": "Configure", "thresholds": {}}', *pieces(speech(1.0))]
    got = await talk(server.listen(), sent)
    assert kinds(got) == ["ConfigureFailure", "Results", "Metadata"]


async def test_a_dead_recogniser_is_told_and_not_waited_for(serve: Serve) -> None:
    server = await serve(HELLO)
    async with websockets.connect(server.listen()) as ws:
        await ws.send(speech(0.5).tobytes())
        await eventually(lambda: bool(server.recognizer.streams))
        server.recognizer.streams[0].fail()
        with pytest.raises(ConnectionClosedError) as closed:
            message = json.loads(await ws.recv())
            await ws.recv()
    assert message["variant"] == "ServerError" and "fell off" in message["description"]
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    await server.quiet()


async def talk_and_wait_a_second(
    serve: Serve, limits: StreamLimits, spoken_s: float
) -> list[dict[str, Any]]:
    """What comes back where the recogniser takes a second to write the text of everything."""
    gate = threading.Event()
    recognizer = ScriptedRecognizer(HELLO, gate=gate)
    server = await serve(recognizer=recognizer, limits=limits)
    talking = asyncio.create_task(
        talk(server.listen(endpointing="false"), pieces(speech(spoken_s)))
    )
    await eventually(lambda: bool(recognizer.opened) and recognizer.opened[0].finished == 1)
    await asyncio.sleep(1.0)
    gate.set()
    return await talking


async def test_a_client_that_has_said_all_may_wait_for_its_text_in_silence(serve: Serve) -> None:
    # Longer than a client may be silent that has not.
    messages = await talk_and_wait_a_second(serve, StreamLimits(idle_s=0.2), spoken_s=1.0)
    assert [m["type"] for m in messages] == ["Results", "Metadata"]


async def test_a_client_that_says_nothing_is_told_about_keepalive(serve: Serve) -> None:
    server = await serve(HELLO, limits=StreamLimits(idle_s=0.2))
    async with websockets.connect(server.listen()) as ws:
        for _ in range(4):
            await asyncio.sleep(0.1)
            await ws.send('{"type": "KeepAlive"}')
        message = json.loads(await ws.recv())
    assert message["variant"] == "LimitError" and "KeepAlive" in message["description"]
    await server.quiet()


async def test_a_session_has_an_end(serve: Serve) -> None:
    server = await serve(HELLO, limits=StreamLimits(total_s=0.3))
    last, closed = await ending(server.listen(), [speech(0.2).tobytes()])
    assert last["variant"] == "LimitError" and "0.3 s" in last["description"]
    assert closed.rcvd is not None and closed.rcvd.code == 1008
    await server.quiet()


async def test_an_hour_in_one_second_is_read_no_faster_than_the_pace(serve: Serve) -> None:
    server = await serve(HELLO, limits=StreamLimits(pace=50.0, burst_s=1.0))
    before = asyncio.get_running_loop().time()
    got = await talk(server.listen(), [silence(1.0).tobytes()] * 21)
    assert got[-1]["duration"] == 21.0
    assert asyncio.get_running_loop().time() - before > 0.35  # 20 s of audio at 50 a second


async def test_a_recogniser_that_is_stuck_ends_the_session_with_an_error(serve: Serve) -> None:
    gate = threading.Event()
    recognizer = ScriptedRecognizer(HELLO, gate=gate)
    server = await serve(recognizer=recognizer, limits=StreamLimits(stuck_s=0.3))
    last, closed = await ending(server.listen(), [*pieces(speech(1.0)), FINALIZE])
    assert last["variant"] == "ServerError" and "0.3 s" in last["description"]
    assert closed.rcvd is not None and closed.rcvd.code == 1011
    gate.set()
    await server.quiet()


async def test_a_recording_has_as_long_as_it_lasts_before_its_text_is_due(serve: Serve) -> None:
    # Longer than a text may be owed that is due.
    messages = await talk_and_wait_a_second(serve, StreamLimits(stuck_s=0.3), spoken_s=9.0)
    assert [m["type"] for m in messages] == ["Results", "Metadata"]


async def test_clients_that_vanish_mid_word_leave_nothing_behind(serve: Serve) -> None:
    server = await serve(HELLO, max_sessions=4)

    async def vanish() -> None:
        ws = await websockets.connect(server.listen())
        await ws.send(speech(0.5).tobytes())
        ws.transport.abort()

    for _ in range(25):
        await asyncio.gather(*(vanish() for _ in range(4)))
        await server.quiet()
    assert kinds(await talk(server.listen(), [])) == ["Metadata"]


async def test_draining_flushes_what_was_said(serve: Serve) -> None:
    server = await serve(HELLO)
    async with websockets.connect(server.listen()) as ws:
        for piece in pieces(speech(1.0)):
            await ws.send(piece)
        await eventually(lambda: server.recognizer.opened[0].current != [])
        await asyncio.sleep(0.2)
        await server.api.agent.sessions.drain(5.0)
        got = [json.loads(text) async for text in ws]
    assert [text_of(m) for m in finals(got)] == ["Hello there."] and kinds(got)[-1] == "Metadata"


async def neighbours(server: Server, count: int) -> list[str]:
    async def one() -> str:
        got = await talk(server.listen(), pieces(speech(1.0)))
        return text_of(got[0])

    return await asyncio.gather(*(one() for _ in range(count)))


async def test_bad_neighbours_change_nobodys_transcript(serve: Serve) -> None:
    server = await serve(HELLO, max_sessions=64, slots=64, limits=StreamLimits(pace=200.0))

    async def misbehave(i: int) -> None:
        ways: list[list[bytes | str]] = [
            ["{"], [b"\x00"] * 200, [b"\xff" * 900_000] * 3, ["x" * 900_000],
            [b"", "", FINALIZE, FINALIZE, CLOSE, CLOSE], [speech(0.3).tobytes()[:-1]] * 5,
        ]  # fmt: skip
        await ending(server.listen(), [*ways[i % len(ways)], "the end"])

    said, *_ = await asyncio.gather(neighbours(server, 12), *(misbehave(i) for i in range(18)))
    assert set(said) == {"Hello there."}
    await server.quiet()

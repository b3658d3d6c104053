"""`POST /v1/audio/transcriptions` with the official client, and what it is refused."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile

from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import Serve, Server, eventually, serve  # noqa: F401 - a fixture
from voice_agent.server import files
from voice_agent.server.access import Access
from voice_agent.server.keys import KeyFile, new_key

SAID = [(0.3, "It was"), (0.8, "It was the best of times.")]
THEN = [(0.3, "And then.")]


@pytest.fixture(scope="session")
def two_segments(speech_file: Path) -> bytes:
    """A WAV of human speech, three seconds of silence, and speech again."""
    pcm, rate = soundfile.read(speech_file, dtype="int16")
    pcm = pcm[rate : 3 * rate]
    both = np.concatenate([pcm, np.zeros(3 * rate, np.int16), pcm])
    out = io.BytesIO()
    soundfile.write(out, both, rate, format="WAV")
    return out.getvalue()


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:  # noqa: F811
    server = await serve(SAID, THEN)
    yield server
    await server.quiet()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with official(server) as client:
        yield client


def official(server: Server, key: str = "any") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=f"{server.http}/v1", max_retries=0)


async def test_json(client: openai.AsyncOpenAI, two_segments: bytes) -> None:
    got = await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("call.wav", two_segments), language="en"
    )
    assert got.text == "It was the best of times. And then."
    assert got.usage is not None and got.usage.type == "duration"


async def test_finals_come_from_the_pass_that_the_server_was_told(
    serve: Serve,  # noqa: F811
    two_segments: bytes,
) -> None:
    server = await serve(SAID, THEN, stt={"final_pass": "search"})
    async with official(server) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=("call.wav", two_segments))
    assert [stream.options.final_pass for stream in server.recognizer.opened] == ["search"]
    await server.quiet()


@pytest.mark.parametrize("stt, right", [({}, 13), ({"right_context": 1}, 1)])
async def test_a_recording_is_heard_with_the_widest_look_ahead_unless_told_otherwise(
    serve: Serve,  # noqa: F811
    two_segments: bytes,
    stt: dict[str, int],
    right: int,
) -> None:
    server = await serve(SAID, THEN, stt=stt)
    server.recognizer.right_contexts = (0, 1, 13)
    async with official(server) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=("call.wav", two_segments))
    assert [stream.options.right_context for stream in server.recognizer.opened] == [right]
    await server.quiet()


async def test_verbose_json_with_words(client: openai.AsyncOpenAI, two_segments: bytes) -> None:
    got = await client.audio.transcriptions.create(
        model="whisper-1", file=("call.wav", two_segments), response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )  # fmt: skip
    seconds = soundfile.info(io.BytesIO(two_segments)).duration
    assert got.duration == pytest.approx(seconds, abs=1e-3)
    assert got.segments is not None and got.words is not None
    assert [s.text for s in got.segments] == ["It was the best of times.", "And then."]
    assert got.segments[0].end <= got.segments[1].start
    assert got.segments[0].avg_logprob == pytest.approx(np.log(0.9), abs=1e-3)
    assert [w.word for w in got.words][-2:] == ["And", "then."]
    assert got.words[-1].end == pytest.approx(got.segments[1].end, abs=0.01)


async def test_text_and_subtitles(client: openai.AsyncOpenAI, two_segments: bytes) -> None:
    def ask(kind: str):
        return client.audio.transcriptions.create(
            model="whisper-1",
            file=("call.wav", two_segments),
            response_format=kind,  # type: ignore[call-overload]
        )

    assert await ask("text") == "It was the best of times. And then.\n"
    assert (await ask("srt")).startswith("1\n00:00:0")
    assert (await ask("vtt")).startswith("WEBVTT\n")


async def test_a_stream_of_deltas_that_join_to_the_text(
    client: openai.AsyncOpenAI, two_segments: bytes
) -> None:
    stream = await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("call.wav", two_segments), stream=True
    )
    events = [event async for event in stream]
    *deltas, done = events
    assert [e.type for e in deltas] == ["transcript.text.delta"] * 2
    assert done.type == "transcript.text.done"
    assert "".join(e.delta for e in deltas if e.type == "transcript.text.delta") == done.text


@pytest.mark.parametrize(("extra", "param"), [
    ({"prompt": "names"}, "prompt"), ({"temperature": 0.4}, "temperature"),
    ({"response_format": "diarized_json"}, "response_format"),
    ({"include": ["logprobs"]}, "include"),
    ({"timestamp_granularities": ["word"]}, "granularities"),
    ({"stream": True, "response_format": "srt"}, "stream"), ({"language": "xx"}, "xx"),
    ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy"),
])  # fmt: skip
async def test_what_is_not_served_is_named(
    serve: Serve,  # noqa: F811
    two_segments: bytes,
    extra: dict[str, object],
    param: str,
) -> None:
    class English(ScriptedRecognizer):
        def open(self, on_event, *, deliver=None, options=None):  # type: ignore[no-untyped-def]
            if options.language not in (None, "en"):
                raise ValueError(f"scripted writes en, not {options.language!r}")
            return super().open(on_event, deliver=deliver or (lambda f: f()), options=options)

    server = await serve(recognizer=English(SAID))
    async with official(server) as client:
        with pytest.raises(openai.BadRequestError, match=param):
            await client.audio.transcriptions.create(
                model="whisper-1",
                file=("a.wav", two_segments),
                **extra,  # type: ignore[arg-type]
            )
    await server.quiet()


async def test_a_model_that_is_not_here_is_404(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="parakeet"):
        await client.audio.transcriptions.create(model="parakeet", file=("a.wav", b"x"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("content", "named"), [
    (b"", "a.wav: is empty"), (b"RIFF....WAVE no", "a.wav: is no audio"),
])  # fmt: skip
async def test_a_file_that_is_no_audio_is_named(
    client: openai.AsyncOpenAI, content: bytes, named: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        await client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", content),
            stream=stream,  # type: ignore[call-overload]
        )


async def test_no_file_and_no_form_are_named(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.http) as http:
        for request in (
            {"data": {"model": "whisper-1"}}, {"content": b"x"},
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}},
            {"files": {"file": ("a", b"1"), "again": ("b", b"2")}},
        ):  # fmt: skip
            answer = await http.post("/v1/audio/transcriptions", **request)  # type: ignore[arg-type]
            assert answer.status_code == 400 and answer.json()["error"]["message"], request


async def test_a_body_over_the_limit_is_left_unread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    async with httpx.AsyncClient(base_url=server.http) as http:
        answer = await http.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", b"\0" * (3 << 20))}
        )
    assert answer.status_code == 413 and "1 MiB" in answer.json()["error"]["message"]


async def test_a_full_house_says_503_with_retry_after(serve: Serve, two_segments: bytes) -> None:  # noqa: F811
    server = await serve(SAID, max_sessions=1, slots=0)
    async with httpx.AsyncClient(base_url=server.http) as http:
        answer = await http.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", two_segments)}
        )
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert answer.json()["error"]["type"] == "server_error"
    await server.quiet()


async def test_a_key_is_wanted_and_its_minutes_are_counted(
    serve: Serve,  # noqa: F811
    two_segments: bytes,
    tmp_path: Path,
) -> None:
    secret, entry = new_key("alice")
    (tmp_path / "keys.toml").write_text(entry + "minutes_per_day = 0.05\n")
    server = await serve(SAID, access=Access(KeyFile(tmp_path / "keys.toml")))

    async def ask(key: str) -> str:
        async with official(server, key) as client:
            got = await client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", two_segments)
            )
        return got.text

    with pytest.raises(openai.AuthenticationError, match="not known"):
        await ask("va_wrong")
    assert await ask(secret)
    with pytest.raises(openai.RateLimitError, match=r"0\.05 minutes"):
        await ask(secret)


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_client_that_hangs_up_stops_the_work(
    serve: Serve,  # noqa: F811
    two_segments: bytes,
    stream: str,
) -> None:
    gate = threading.Event()
    server = await serve(recognizer=ScriptedRecognizer(SAID, gate=gate))

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=server.http) as http:
            await http.post(
                "/v1/audio/transcriptions",
                files={"file": ("a.wav", two_segments)},
                data={"stream": stream},
            )

    asking = asyncio.create_task(ask())
    await eventually(lambda: bool(server.recognizer.streams))
    asking.cancel()
    await asyncio.sleep(0.1)
    gate.set()  # the recogniser goes on; nobody waits for what it says
    await server.quiet()

"""What a server logs, line by line: whose session it is, as the client was told, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator

import pytest
import websockets

from tests.server.test_serve import Process
from tests.server.test_webrtc import an_offer, ask
from tests.server.test_websocket import audio, bot_ready, closed
from voice_agent.cli import logs


@pytest.fixture
def server(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setenv("VOICE_AGENT_LOG__FORMAT", "json")
    process = Process("--model", checkpoint, "--verbose")
    yield process
    process.kill()


async def test_every_line_about_a_session_has_the_id_that_its_client_was_told(
    server: Process,
) -> None:
    url = server.url()
    ws_url = url.replace("http", "ws")
    told: dict[str, str] = {}
    async with websockets.connect(
        f"{ws_url}/v1/listen?encoding=linear32&sample_rate=16000"
    ) as listen:
        assert listen.response is not None
        told["listen"] = listen.response.headers["X-Session-Id"]
        assert listen.response.headers["dg-request-id"] == told["listen"]
        await listen.send('{"type": "CloseStream"}')
        last = [json.loads(text) async for text in listen][-1]
        assert last["request_id"] == told["listen"]
    async with websockets.connect(f"{ws_url}/v1/realtime?intent=transcription") as realtime:
        assert realtime.response is not None
        told["realtime"] = realtime.response.headers["X-Session-Id"]
        created = json.loads(await realtime.recv())
        assert created["session"]["id"] == f"sess_{told['realtime']}"
    async with websockets.connect(f"{ws_url}/ws") as agent:
        assert agent.response is not None
        told["websocket"] = agent.response.headers["X-Session-Id"]
        await bot_ready(agent)
        await agent.send(audio(rate=7))
        await closed(agent)
    peer, offer = await an_offer()
    _, _, headers = await ask(f"{url}/api/offer", offer)
    told["webrtc"] = headers["x-session-id"]
    await peer.close()
    await asyncio.to_thread(server.end, signal.SIGTERM)

    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert len(set(told.values())) == 4
    for kind, session in told.items():
        begun = [
            line["session"] for line in lines if line["message"].startswith(f"session ({kind}) beg")
        ]
        assert begun == [session], kind
    (warning,) = (line for line in lines if "sample_rate is 8000" in line["message"])
    assert (warning["session"], warning["level"]) == (told["websocket"], "WARNING")
    pipecats = {line.get("session") for line in lines if line["logger"].startswith("pipecat.")}
    assert pipecats & set(told.values()), "in tasks of the call, too"
    assert {line["logger"] for line in lines if "session" not in line}  # uvicorn's, of no session


def test_the_librarys_records_and_tracebacks_are_one_object_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import logging

    from loguru import logger

    logs.set_up(False, level="INFO", as_json=True)
    try:
        with logger.contextualize(session="s1"):
            logging.getLogger("aiortc.codecs").info("from a %s", "library")
            with contextlib.suppress(ZeroDivisionError):
                try:
                    _ = 1 / 0
                except ZeroDivisionError:
                    logger.exception("it\nfailed")
                    raise
        logging.getLogger("other").debug("below the level")
        logger.info("of nobody")
    finally:
        logs.set_up(False)
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["session"], first["logger"], first["message"]) == (
        "s1",
        "aiortc.codecs",
        "from a library",
    )
    assert second["message"] == "it\nfailed" and "ZeroDivisionError" in second["exception"]
    assert "session" not in third and third["level"] == "INFO"


def test_text_lines_name_the_session_or_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    from loguru import logger

    logs.set_up(True)
    try:
        with logger.contextualize(session="s2"):
            logger.warning("careful")
        logger.info("of nobody")
    finally:
        logs.set_up(False)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("WARNING s2 careful") and second.endswith("INFO    - of nobody")

"""Who is let in, over real sockets: keys, hosts, origins, quotas."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path

import httpx
import pytest
import websockets
from loguru import logger
from websockets.exceptions import InvalidStatus

from tests.server.test_keys import write
from tests.support.serving import Serve, Server, pieces, serve, speech  # noqa: F401 - a fixture
from voice_agent.server.access import Access
from voice_agent.server.keys import KeyFile

SCRIPT = [(0.2, "hello")]
CLOSE = '{"type": "CloseStream"}'


async def kinds(server: Server, **options: object) -> list[str]:
    """Send a second of speech; the types of what comes back."""
    async with websockets.connect(server.listen(), **options) as ws:  # type: ignore[arg-type]
        for piece in [*pieces(speech(1.0)), CLOSE]:
            await ws.send(piece)
        return [json.loads(text)["type"] async for text in ws]


async def refusal(server: Server, **options: object) -> tuple[int, str, str | None]:
    """Status, sentence and Retry-After of a handshake that must fail."""
    with pytest.raises(InvalidStatus) as refused:
        await kinds(server, **options)
    response = refused.value.response
    retry = response.headers.get("Retry-After")
    return response.status_code, json.loads(response.body)["err_msg"], retry


def keyed(tmp_path: Path, **limits: float) -> tuple[dict[str, str], Access]:
    secrets = write(tmp_path / "keys.toml", "alice", "bob", **limits)
    return secrets, Access(KeyFile(tmp_path / "keys.toml"))


@pytest.mark.parametrize("how", [
    lambda key: {"additional_headers": {"Authorization": f"Bearer {key}"}},
    lambda key: {"additional_headers": {"Authorization": f"Token {key}"}},
    lambda key: {"subprotocols": ["token", key]},
    lambda key: {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]},
], ids=["bearer", "token", "deepgram in a browser", "openai in a browser"])  # fmt: skip
async def test_a_key_opens_however_it_is_sent(serve: Serve, tmp_path: Path, how) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path)
    server = await serve(SCRIPT, access=access)
    assert await kinds(server, **how(secrets["alice"])) == ["Results", "Metadata"]


async def test_no_key_or_a_wrong_one_is_401_before_any_work(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    _, access = keyed(tmp_path)
    server = await serve(SCRIPT, access=access)
    assert (await refusal(server))[0] == 401
    wrong = {"Authorization": "Bearer va_wrong"}
    status, sentence, _ = await refusal(server, additional_headers=wrong)
    assert status == 401 and "va_wrong" not in sentence
    assert not server.recognizer.opened


async def test_a_keys_sessions_are_its_own(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path, sessions=1)
    server = await serve(SCRIPT, access=access)
    alice = {"additional_headers": {"Authorization": f"Bearer {secrets['alice']}"}}
    bob = {"additional_headers": {"Authorization": f"Bearer {secrets['bob']}"}}
    async with websockets.connect(server.listen(), **alice):
        status, sentence, retry = await refusal(server, **alice)
        assert status == 429 and "1 sessions" in sentence and retry is not None
        assert await kinds(server, **bob) == ["Results", "Metadata"]
    await server.quiet()
    assert await kinds(server, **alice) == ["Results", "Metadata"]


async def test_a_keys_minutes_run_out_until_the_day_is_over(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path, minutes_per_day=0.01)
    server = await serve(SCRIPT, access=access)
    alice = {"additional_headers": {"Authorization": f"Bearer {secrets['alice']}"}}
    assert await kinds(server, **alice) == ["Results", "Metadata"]
    await server.quiet()
    status, sentence, retry = await refusal(server, **alice)
    assert status == 429 and "0.01 minutes" in sentence and 0 < int(retry or 0) <= 86_400


async def test_another_clients_token_resumes_nothing(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path)
    server = await serve(SCRIPT, access=access)
    alice = {"Authorization": f"Bearer {secrets['alice']}"}
    bob = {"Authorization": f"Bearer {secrets['bob']}"}
    async with websockets.connect(server.listen(resume="true"), additional_headers=alice) as ws:
        token = json.loads(await ws.recv())["token"]
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(
                f"{server.ws}/v1/listen?resume={token}", additional_headers=bob
            )
    assert refused.value.response.status_code == 404


async def test_pages_from_elsewhere_are_turned_away(serve: Serve) -> None:  # noqa: F811
    server = await serve(SCRIPT, access=Access(origins=("https://friend.example",)))
    ours = f"http://127.0.0.1:{server.port}"
    assert await kinds(server, origin=ours) == ["Results", "Metadata"]
    assert await kinds(server, origin="https://friend.example") == ["Results", "Metadata"]
    for stranger in (
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{server.port}.evil.example",
    ):
        assert (await refusal(server, origin=stranger))[0] == 403


async def test_a_name_that_is_not_ours_is_421(serve: Serve) -> None:  # noqa: F811
    server = await serve(SCRIPT)
    async with httpx.AsyncClient(base_url=server.http) as client:
        assert (await client.get("/metrics")).status_code == 200
        for host in ("rebound.example", "", "[", f"evil@rebound.example:{server.port}"):
            answer = await client.get("/metrics", headers={"Host": host})
            assert answer.status_code in (400, 421), host


async def test_metrics_want_a_key_too(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path)
    server = await serve(SCRIPT, access=access)
    async with httpx.AsyncClient(base_url=server.http) as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 401 and "Bearer" in answer.headers["WWW-Authenticate"]
        key = {"Authorization": f"Bearer {secrets['bob']}"}
        assert (await client.get("/metrics", headers=key)).status_code == 200


async def test_a_browser_is_asked_for_the_key_as_a_password(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    secrets, access = keyed(tmp_path)
    server = await serve(SCRIPT, access=access)
    async with httpx.AsyncClient(base_url=server.http) as client:
        assert "Basic" in (await client.get("/metrics")).headers["WWW-Authenticate"]
        assert (await client.get("/metrics", auth=("me", secrets["bob"]))).status_code == 200
        assert (await client.get("/metrics", auth=("me", "wrong"))).status_code == 401
        for broken in ("Basic", "Basic *", "Basic bm9jb2xvbg==", "Basic /////w=="):
            answer = await client.get("/metrics", headers={"Authorization": broken})
            assert answer.status_code == 401, broken


async def test_a_page_that_is_allowed_gets_cors(serve: Serve) -> None:  # noqa: F811
    server = await serve(SCRIPT, access=Access(origins=("https://friend.example",)))
    asked = {
        "Origin": "https://friend.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with httpx.AsyncClient(base_url=server.http) as client:
        allowed = await client.options("/v1/audio/transcriptions", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://friend.example"
        asked["Origin"] = "https://evil.example"
        refused = await client.options("/v1/audio/transcriptions", headers=asked)
        assert "Access-Control-Allow-Origin" not in refused.headers


async def test_no_secret_is_logged(
    serve: Serve,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets, access = keyed(tmp_path)
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    ours = partial(re.match, r"(?!websockets\.client)")  # which logs what this test sends
    sink = logger.add(lines.append, level=0, filter=lambda record: ours(record["name"] or ""))
    try:
        server = await serve(SCRIPT, access=access)
        alice = {"Authorization": f"Bearer {secrets['alice']}"}
        async with websockets.connect(server.listen(resume="true"), additional_headers=alice) as ws:
            token = json.loads(await ws.recv())["token"]
        for headers in (alice, {"Authorization": "Token va_wrong"}):
            with pytest.raises(InvalidStatus):
                await websockets.connect(
                    f"{server.ws}/v1/listen?resume={token}", additional_headers=headers
                )
        await server.quiet()
    finally:
        logger.remove(sink)
    lines += [f"{r.name}: {r.getMessage()}" for r in caplog.records if ours(r.name)]
    assert any("WebSocket /v1/listen" in line for line in lines)
    secret = (secrets["alice"], "va_wrong", token)
    assert not [line for line in lines if any(s in line for s in secret)]

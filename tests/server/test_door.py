"""Keys, origins and names at the agent's own routes, by real clients."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest
import websockets

from tests.server.test_websocket import bot_ready
from tests.support.agent_server import RunningServer, scripted_server
from voice_agent.server.keys import new_key

ROUTES = {
    "offer": ("POST", "/api/offer", {"sdp": "v=0\r\nm=audio", "type": "offer"}),
    "candidates": ("PATCH", "/api/offer", {"pc_id": "nobody", "candidates": []}),
    "start": ("POST", "/start", {}),
}


def ask(server: RunningServer, route: str, **headers: str) -> tuple[int, str]:
    """Status and reason of an answer."""
    method, path, body = ROUTES[route]
    sent = urllib.request.Request(
        server.url + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(sent, timeout=20) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, str(json.load(error)["detail"])


def preflight(server: RunningServer, origin: str) -> str | None:
    """What a browser is told when it asks whether a page may send its offer."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    sent = urllib.request.Request(f"{server.url}/api/offer", headers=headers, method="OPTIONS")
    try:
        with urllib.request.urlopen(sent, timeout=20) as response:
            return response.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as error:
        return error.headers["Access-Control-Allow-Origin"]


async def status_of_ws(server: RunningServer, **options) -> int:
    """Of the handshake."""
    try:
        async with websockets.connect(server.ws_url, **options) as caller:
            await bot_ready(caller)
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("route", ROUTES)
def test_a_page_from_elsewhere_may_not_call(server, route):
    status, reason = ask(server, route, Origin="https://elsewhere.example")
    assert status == 403
    assert "'https://elsewhere.example' may not call this server" in reason


async def test_a_page_from_elsewhere_may_not_open_the_websocket(server):
    assert await status_of_ws(server, origin="https://elsewhere.example") == 403
    assert await status_of_ws(server, origin=server.url) == 101


@pytest.mark.parametrize("route", ROUTES)
def test_a_name_that_was_rebound_to_this_machine_is_not_answered(server, route):
    status, reason = ask(server, route, Host="elsewhere.example")
    assert status == 421 and "'elsewhere.example'" in reason


def test_pages_that_the_settings_allow_may_call():
    server = scripted_server(**{"server.allowed_origins": ["https://friend.example"]})
    try:
        assert ask(server, "start", Origin="https://friend.example")[0] == 200
        assert ask(server, "start", Origin="https://elsewhere.example")[0] == 403
        for origin, allowed in (("friend", "https://friend.example"), ("elsewhere", None)):
            assert preflight(server, f"https://{origin}.example") == allowed
    finally:
        server.stop()


@pytest.fixture
def guarded(tmp_path):
    """A server with the keys of alice, who may talk once at a time, and of bob."""
    secrets = {}
    lines = ""
    for name, limit in (("alice", "sessions = 1\n"), ("bob", "")):
        secrets[name], entry = new_key(name)
        lines += entry + limit
    (tmp_path / "keys.toml").write_text(lines)
    server = scripted_server(**{"server.keys": tmp_path / "keys.toml"})
    yield server, secrets
    server.assert_idle()
    server.stop()


async def test_only_keys_let_in_where_there_are_keys(guarded):
    server, secrets = guarded
    for route in ROUTES:
        assert await asyncio.to_thread(ask, server, route) == (
            401,
            "a key is missing; send Authorization: Bearer KEY",
        )
        key = {"Authorization": "Bearer va_wrong"}
        assert (await asyncio.to_thread(ask, server, route, **key))[0] == 401
    assert await status_of_ws(server) == 401
    key = {"Authorization": f"Bearer {secrets['bob']}"}
    assert (await asyncio.to_thread(ask, server, "start", **key))[0] == 200
    assert await status_of_ws(server, additional_headers=key) == 101


async def test_a_key_has_its_own_number_of_conversations(guarded):
    server, secrets = guarded
    alice, bob = ({"Authorization": f"Bearer {secrets[who]}"} for who in ("alice", "bob"))
    async with websockets.connect(server.ws_url, additional_headers=alice) as first:
        await bot_ready(first)
        assert await status_of_ws(server, additional_headers=alice) == 429
        assert await status_of_ws(server, additional_headers=bob) == 101
    await asyncio.to_thread(server.assert_idle)
    assert await status_of_ws(server, additional_headers=alice) == 101

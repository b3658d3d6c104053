"""WebRTC calls by real aiortc peers over real sockets."""

import asyncio
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urljoin

import aioice.ice
import pytest
from aiortc import RTCPeerConnection

from tests.support.agent_server import SAID, eventually
from voice_agent.demo.call import Heard, Listener, place_call
from voice_agent.demo.errors import DemoError


async def an_offer() -> tuple[RTCPeerConnection, dict[str, str]]:
    """A peer that offers audio and a data channel, and its offer."""
    peer = RTCPeerConnection()
    peer.createDataChannel("rtvi")
    peer.addTransceiver("audio")
    await peer.setLocalDescription(await peer.createOffer())
    return peer, {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}


def request(url: str, body: object, method: str = "POST") -> tuple[int, dict, dict]:
    """Status, JSON and headers of an answer."""
    sent = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(sent, timeout=20) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


@pytest.fixture
def impatient(server, monkeypatch):
    """The server, which waits but a moment for those who offer and never connect."""
    monkeypatch.setattr(server.agent, "connect_timeout_s", 0.3)
    return server


async def ask(url: str, body: object, method: str = "POST") -> tuple[int, dict, dict]:
    return await asyncio.to_thread(request, url, body, method)


async def test_a_caller_hears_captions_grow_and_an_answer(server, clip):
    partials: list[str] = []
    heard: Heard = await place_call(server.url, clip, Listener(on_partial=partials.append))
    assert partials == ["it was", "it was the best", SAID][: len(partials)] and partials
    (final,) = heard.finals
    assert (final.text, final.language) == (SAID, "en")
    assert final.after_speech_s is not None and final.after_speech_s > 0
    assert heard.voiced_s > 0.3
    assert heard.voice_to_voice_s


async def test_two_callers_talk_at_once_and_a_third_is_refused(server, clip):
    connected = asyncio.Event()
    calls = [
        asyncio.create_task(place_call(server.url, clip, Listener(on_connected=connected.set)))
        for _ in range(2)
    ]
    await asyncio.to_thread(eventually, lambda: len(server.agent.sessions) == 2)
    peer, offer = await an_offer()
    status, body, headers = await ask(f"{server.url}/api/offer", offer)
    await peer.close()
    assert status == 503
    assert body["detail"] == "all 2 sessions are taken; retry in 5 s"
    assert headers["retry-after"] == "5"
    with pytest.raises(DemoError, match="refused the call .503.: all 2 sessions are taken"):
        await place_call(server.url, clip)
    for heard in await asyncio.gather(*calls):
        assert [final.text for final in heard.finals] == [SAID]


async def test_a_refusal_comes_before_any_work(server, monkeypatch):
    monkeypatch.setattr(server.agent, "make_call", lambda *_, **__: pytest.fail("work was done"))
    monkeypatch.setattr(server.agent.sessions, "limit", 0)
    status, _, _ = await ask(f"{server.url}/api/offer", {"sdp": "not even SDP", "type": "offer"})
    assert status == 503


async def test_who_offers_and_never_connects_loses_the_slot(impatient):
    peer, offer = await an_offer()
    status, answer, _ = await ask(f"{impatient.url}/api/offer", offer)
    assert status == 200 and answer["type"] == "answer"
    assert len(impatient.agent.sessions) == 1
    await peer.close()  # without having read the answer
    await asyncio.to_thread(impatient.assert_idle)


async def test_a_caller_who_hangs_up_in_the_middle_leaves_nothing_behind(server, clip):
    connected = asyncio.Event()
    call = asyncio.create_task(
        place_call(server.url, clip, Listener(on_partial=lambda _: connected.set()))
    )
    await connected.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.to_thread(server.assert_idle)


KILLED_CALLER = """
import asyncio, sys
from voice_agent.demo.call import Listener, place_call
from voice_agent.demo.clip import load_clip
clip = load_clip(sys.argv[2])
asyncio.run(place_call(sys.argv[1], clip, Listener(on_partial=lambda t: print(t, flush=True))))
"""


def test_a_caller_who_is_killed_leaves_nothing_behind(server, speech_file, monkeypatch):
    """No goodbye of any kind: ICE consent (RFC 7675) runs out, 30 s as it is set by default."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    caller = subprocess.Popen(
        [sys.executable, "-c", KILLED_CALLER, server.url, str(speech_file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == "it was\n"
    assert len(server.agent.sessions) == 1
    caller.kill()
    caller.communicate()
    server.assert_idle(30.0)


@pytest.mark.parametrize(
    "offer, problem",
    [
        ({"sdp": "no SDP at all", "type": "offer"}, "it has no audio"),
        ({"sdp": "v=0\r\nm=audio nonsense\r\n", "type": "offer"}, "the offer cannot be used"),
        ({"sdp": "v=0\r\nm=audio 9 RTP/AVP 0\r\n", "type": "answer"}, "the offer cannot be used"),
    ],
)
async def test_an_offer_that_is_none_is_answered_with_400(server, offer, problem):
    status, body, _ = await ask(f"{server.url}/api/offer", offer)
    assert status == 400
    assert problem in body["detail"]


async def test_an_offer_without_sdp_is_answered_with_422(server):
    status, body, _ = await ask(f"{server.url}/api/offer", {"type": "offer"})
    assert status == 422
    assert "sdp" in str(body["detail"])


async def test_late_candidates_reach_a_running_call_and_no_other(impatient):
    peer, offer = await an_offer()
    _, answer, _ = await ask(f"{impatient.url}/api/offer", offer)
    url = f"{impatient.url}/api/offer"
    candidate = "candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host"
    late = {"candidate": candidate, "sdp_mid": "0", "sdp_mline_index": 0}
    ok, _, _ = await ask(url, {"pc_id": answer["pc_id"], "candidates": [late]}, "PATCH")
    unknown, _, _ = await ask(url, {"pc_id": "nobody", "candidates": [late]}, "PATCH")
    bad = {**late, "candidate": "candidate:nonsense"}
    unreadable, body, _ = await ask(url, {"pc_id": answer["pc_id"], "candidates": [bad]}, "PATCH")
    await peer.close()
    assert (ok, unknown, unreadable) == (200, 404, 400)
    assert "a candidate cannot be used" in body["detail"]


async def test_a_call_that_cannot_be_built_is_an_error_and_leaves_nothing(server, monkeypatch):
    async def make_call(*_, **__):
        raise RuntimeError("no voice today")

    monkeypatch.setattr(server.agent, "make_call", make_call)
    peer, offer = await an_offer()
    sent = asyncio.to_thread(urllib.request.urlopen, _post(f"{server.url}/api/offer", offer))
    with pytest.raises(urllib.error.HTTPError) as refused:
        await sent
    await peer.close()
    assert refused.value.code == 500
    refused.value.close()


def _post(url: str, body: object) -> urllib.request.Request:
    return urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


# What the prebuilt page asks for


async def test_the_page_is_told_where_to_send_its_offer(impatient):
    status, body, _ = await ask(f"{impatient.url}/start", {"transport": "webrtc"})
    assert status == 200
    assert body["iceConfig"] == {"iceServers": []}, "no public STUN server unless configured"
    peer, offer = await an_offer()
    url = f"{impatient.url}/sessions/{body['sessionId']}/api/offer"
    status, answer, _ = await ask(url, offer)
    await peer.close()
    assert (status, answer["type"]) == (200, "answer")


async def test_the_page_is_told_the_websocket(server):
    _, body, _ = await ask(f"{server.url}/start", {"transport": "websocket"})
    assert body["wsUrl"] == server.ws_url


async def test_a_transport_that_is_not_served_is_named(server):
    status, body, _ = await ask(f"{server.url}/start", {"transport": "daily"})
    assert status == 400
    assert "'daily' is not served" in body["detail"]


@pytest.mark.parametrize("path", ["/", "/client/"])
def test_both_pages_are_served_with_all_that_they_name(server, path):
    with urllib.request.urlopen(f"{server.url}{path}") as response:
        page = response.read().decode()
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert named
    for asset in named:
        with urllib.request.urlopen(urljoin(f"{server.url}{path}", asset)) as response:
            assert response.status == 200, asset


def test_health_and_readiness(server, monkeypatch):
    def get(path: str) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(f"{server.url}{path}") as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    assert get("/healthz") == (200, {"status": "ok"})
    sessions = {"active": 0, "limit": 2}
    assert get("/readyz") == (200, {"status": "ready", "model": "scripted", "sessions": sessions})
    monkeypatch.setattr(server.agent.sessions, "_closed_because", "the server is stopping")
    assert get("/readyz") == (503, {"status": "the server is stopping", "sessions": sessions})
    assert get("/healthz")[0] == 200

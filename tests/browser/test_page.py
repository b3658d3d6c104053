"""Pipecat's prebuilt page in a real browser with a human voice as microphone, on a real server."""

import re

import pytest

from tests.support.agent_server import SAID, eventually, scripted_server

ANSWER_MS = 30_000

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")


@pytest.fixture(scope="module")
def running():
    running = scripted_server()
    yield running
    running.stop()


@pytest.fixture
def server(running):
    running.assert_idle()
    yield running
    running.assert_idle()


def see(visit, text: str | re.Pattern) -> None:
    """Wait for a paragraph of the page; exactly this, where it is no pattern."""
    found = visit.page.get_by_text(text, exact=True).first
    playwright.expect(found).to_be_visible(timeout=ANSWER_MS)


def test_words_and_answer_appear_and_a_second_call_is_heard_too(server, visit, clip):
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    see(caller, SAID)
    see(caller, f"You said: {SAID}.")
    events = caller.page.inner_text("body")
    for partial in ("it was", "it was the best"):
        assert f'"text":"{partial}","final":false,"language":"en"' in events
    caller.disconnect()
    server.assert_idle()

    # The call has stopped the track that it was given; the page must have another.
    before = len(server.recognizer.opened)
    caller.connect()  # the fake microphone's file begins anew
    eventually(lambda: len(server.recognizer.opened) > before)
    stream = server.recognizer.opened[-1]
    # A busy machine may cut what is said; it is said again.
    whole = 1.2 * 16_000
    eventually(lambda: any(s.size > whole for s in stream.segments), limit_s=ANSWER_MS / 1000)
    own = (server.url, server.url.replace("http", "ws"), "blob:", "data:")
    assert [url for url in caller.asked if not url.startswith(own)] == [], "it needs nobody else"
    caller.disconnect()


def test_a_microphone_that_may_not_be_used_is_told(server, visit):
    caller = visit(f"{server.url}/client/", None)
    see(caller, "Microphone blocked")


def test_closing_the_tab_leaves_nothing_behind(server, visit, clip, monkeypatch):
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.2)  # or WebRTC takes half a minute
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    agent = caller.page.get_by_role("definition").nth(1)
    playwright.expect(agent).to_have_text("ready", timeout=ANSWER_MS)
    assert len(server.agent.sessions) == 1
    caller.page.close()
    server.assert_idle(limit_s=40.0)

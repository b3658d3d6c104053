"""Pipecat's prebuilt page in a real browser with a human voice as microphone, on a real server."""

import re

import pytest

from tests.support.agent_server import SAID, RunningServer, eventually, scripted_server
from voice_agent.config import load_settings
from voice_agent.demo.clip import known_clip
from voice_agent.recognizers import load_recognizer

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


def test_the_words_and_the_answer_appear_on_the_page(server, visit, clip):
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    see(caller, SAID)
    see(caller, f"You said: {SAID}.")
    events = caller.page.inner_text("body")
    for partial in ("it was", "it was the best"):
        assert f'"text":"{partial}","final":false,"language":"en"' in events
    (heard,) = server.recognizer.opened[-1].segments
    assert heard.size > 1.2 * 16000
    caller.disconnect()


def test_the_page_needs_nobody_but_its_server(server, visit, clip):
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    see(caller, SAID)
    own = (server.url, server.url.replace("http", "ws"), "blob:", "data:")
    assert [url for url in caller.asked if not url.startswith(own)] == []
    caller.disconnect()


def test_a_second_call_from_the_same_page_is_heard_too(server, visit, clip):
    """The call stops the track that it was given; the page must have another."""
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    see(caller, SAID)
    caller.disconnect()
    server.assert_idle()
    before = len(server.recognizer.opened)
    caller.connect()  # the fake microphone's file begins anew
    eventually(lambda: len(server.recognizer.opened) > before)
    stream = server.recognizer.opened[-1]
    eventually(lambda: stream.finished == 1, limit_s=ANSWER_MS / 1000)
    assert stream.segments[0].size > 1.2 * 16000
    caller.disconnect()


def test_a_microphone_that_may_not_be_used_is_told(server, visit):
    caller = visit(f"{server.url}/client/", None)
    see(caller, "Microphone blocked")


def test_closing_the_tab_leaves_nothing_behind(server, visit, clip):
    caller = visit(f"{server.url}/client/", clip)
    caller.connect()
    see(caller, SAID)
    caller.page.close()
    server.assert_idle(limit_s=40.0)


def test_the_embedded_model_hears_the_clip_through_the_page(visit):
    settings = load_settings(overrides={"server.max_sessions": 1})
    server = RunningServer(settings, load_recognizer(settings))
    try:
        caller = visit(f"{server.url}/client/", known_clip())
        caller.connect()
        see(caller, re.compile(r"\bYou said\b"))
        see(caller, re.compile(r"\bit was (a|the) \w+ of \w+", re.IGNORECASE))
    finally:
        server.stop()

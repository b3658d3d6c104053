"""Calls from the page at /, in a real browser whose microphone plays a human voice."""

import re

import pytest

from tests.support.agent_server import SAID, RunningServer, eventually
from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import load_settings

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")

from tests.browser.captions_page import ENERGY, WATCH, CaptionsPage  # noqa: E402
from tests.browser.conftest import AGAIN  # noqa: E402

ENGLISH = ((0.4, "it was"), (1.2, SAID))
KANNADA = "ನಮಸ್ಕಾರ ನೀವು ಹೇಗಿದ್ದೀರಿ"
LONG = SAID + " it was the worst of times it was the age of wisdom" * 6
MILLISECONDS = re.compile(r"^\d+ ms$")


@pytest.fixture
def serve():
    """Start servers; `serve(script of each segment, ..., speaks=..., **settings)`."""
    running = []

    def serve(*scripts, speaks=None, port=0, **settings):
        loaded = load_settings(
            overrides={"server.max_sessions": 2, "turn.smart": False, **settings}
        )
        recognizer = ScriptedRecognizer(
            *(scripts or [ENGLISH]), slots=8, languages=("en", "kn"), speaks=speaks
        )
        running.append(RunningServer(loaded, recognizer, port))
        return running[-1]

    yield serve
    for server in running:
        if not server.loop.is_closed():
            server.assert_idle(limit_s=40.0)
            server.stop()


@pytest.fixture
def open_page(browse, clip, microphone):
    def open_page(server, *flags, pauses_s=AGAIN, **more):
        sound = microphone(clip, pauses_s)
        visit = browse(server.url, *flags, microphone=sound, **more)
        return CaptionsPage(visit.page), visit

    return open_page


def test_words_are_grey_then_black_with_their_language_and_the_answer(
    serve, open_page, screenshots
):
    server = serve(ENGLISH, ((1.0, KANNADA),), speaks="en", language="auto")
    caller, visit = open_page(server, pauses_s=(6.0, 60.0), before=WATCH)
    caller.talk()
    for text, language, name in ((SAID, "en", "English"), (KANNADA, "kn", "Kannada")):
        mine = caller.see("You", text)
        playwright.expect(mine.locator(".badge")).to_have_text(name)
        playwright.expect(mine.locator(".words")).to_have_attribute("lang", language)
        caller.see("Agent", text)
        server.recognizer.speaks = "kn"
    seen = caller.seen()
    assert ("", "it was") in seen
    assert seen.index(("", "it was")) < seen.index((SAID, ""))
    assert ("", f"You said: {SAID}.") in seen, "what is not yet spoken is grey"
    for kind in ("first", "final", "voice"):
        playwright.expect(caller.latency(kind)).to_have_text(MILLISECONDS)
    playwright.expect(caller.sparkline("first")).to_have_attribute("d", re.compile(r"^M0.*L100"))
    announced = caller.page.locator("#announcer")
    playwright.expect(announced).to_have_text(re.compile(f"^Agent: .*{KANNADA}"))
    caller.page.screenshot(path=screenshots / "captions-page.png")
    assert caller.serious_faults() == []
    own = (server.url, server.url.replace("http", "ws"), "blob:", "data:")
    assert [url for url in visit.asked if not url.startswith(own)] == []
    caller.hang_up()
    server.assert_idle()


def test_kannada_has_its_badge_and_its_letters_on_a_dark_phone(serve, open_page, screenshots):
    server = serve(((1.0, KANNADA),), speaks="kn", language="auto")
    phone = {"width": 390, "height": 780}
    caller, _ = open_page(
        server, viewport=phone, color_scheme="dark", device_scale_factor=2, has_touch=True
    )
    caller.talk()
    mine = caller.see("You", KANNADA)
    playwright.expect(mine.locator(".badge")).to_have_text("Kannada")
    playwright.expect(mine.locator(".words")).to_have_attribute("lang", "kn")
    caller.see("Agent", KANNADA)
    loaded = "[...document.fonts].filter((font) => font.status === 'loaded').map((f) => f.family)"
    assert any("Noto Sans Kannada" in family for family in caller.page.evaluate(loaded))
    assert caller.page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    caller.page.screenshot(path=screenshots / "captions-page-phone.png")
    assert caller.serious_faults() == []
    caller.hang_up()


def test_speaking_while_the_agent_speaks_cuts_it_off(serve, open_page):
    server = serve(((1.2, LONG),))
    caller, _ = open_page(server, pauses_s=(5.0,) * 8, before=ENERGY)
    caller.talk()
    playwright.expect(caller.entry("Agent", LONG).first).to_be_visible(timeout=30_000)
    cut = caller.page.locator(".entry[data-cut]").first
    playwright.expect(cut).to_be_visible(timeout=30_000)
    playwright.expect(cut.locator(".who")).to_have_text("Agent, interrupted")
    playwright.expect(cut.locator(".unsure")).not_to_be_empty()
    # The whole answer takes half a minute; what has been cut off makes no more sound.
    assert caller.page.evaluate("energy()") > 0
    caller.page.wait_for_function(
        """async () => {
          const before = await energy();
          await new Promise((go) => setTimeout(go, 400));
          return (await energy()) - before < 1e-4;
        }""",
        timeout=5_000,
    )
    caller.hang_up()


def test_the_call_comes_back_when_the_server_does_and_takes_typed_words(serve, open_page):
    server = serve()
    caller, _ = open_page(server)
    caller.talk()
    port = server.sock.getsockname()[1]
    server.stop()
    caller.expect_state(re.compile("The server is stopping. Trying again"))
    again = serve(port=port)
    caller.expect_state("Connected")
    eventually(lambda: len(again.agent.sessions) == 1)
    caller.page.get_by_label("Message to the agent").fill("good morning")
    caller.page.keyboard.press("Enter")
    caller.see("You, typed", "good morning")
    caller.see("Agent", "You said: good morning.")
    caller.hang_up()


def test_a_recogniser_that_fails_is_told_and_ends_the_call(serve, open_page):
    server = serve()
    caller, _ = open_page(server)
    caller.talk()
    eventually(lambda: server.recognizer.streams)
    server.recognizer.streams[-1].fail("the device fell off the bus")
    caller.expect_problem("the device fell off the bus")
    caller.expect_state("Not connected")


def test_two_talk_at_once_and_a_third_waits_for_a_place(serve, open_page):
    server = serve()
    (one, _), (two, _), (three, _) = (
        open_page(server, pauses_s=(5.0,) * 8, alone=alone) for alone in (True, False, False)
    )
    one.talk()
    two.talk()
    three.button("Talk").click()
    three.expect_state("All 2 sessions are taken. Trying again")
    for caller in (one, two):
        caller.see("You", SAID)
    one.hang_up()
    three.expect_state("Connected")
    for caller in (two, three):
        caller.hang_up()


def test_push_to_talk_and_mute_decide_what_is_heard(serve, open_page):
    server = serve()
    caller, _ = open_page(server, pauses_s=(1.0,) * 12, before=ENERGY)
    hint = caller.page.locator("#hint-title")
    playwright.expect(hint).to_have_text("Press Talk, and speak.")
    caller.button("Push to talk").click()
    caller.talk()
    playwright.expect(hint).to_have_text("Hold the button, and speak.")
    caller.page.wait_for_timeout(4_000)  # the clip is said once at least
    assert caller.page.locator("#transcript .entry").count() == 0
    caller.page.keyboard.down("Space")
    level = caller.page.get_by_label("Microphone level")
    caller.page.wait_for_function("() => document.getElementById('level').value > 0.1")
    caller.see("You", SAID)
    caller.page.keyboard.up("Space")
    playwright.expect(caller.page.locator("#hold")).to_have_attribute("data-held", "false")
    caller.button("Push to talk").click()
    sent = "window.calls.at(-1).getSenders()[0].track.enabled"
    assert caller.page.evaluate(sent)
    caller.button("Mute").click()
    playwright.expect(caller.button("Mute")).to_have_attribute("aria-pressed", "true")
    playwright.expect(level).to_have_js_property("value", 0)
    assert not caller.page.evaluate(sent)
    caller.hang_up()


# As slow as a busy machine: the browser looks for the speaker while the list is filled again.
SLOW_SPEAKER = """
const {setSinkId} = HTMLMediaElement.prototype;
HTMLMediaElement.prototype.setSinkId = async function (id) {
  navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
  await new Promise((go) => setTimeout(go, 500));
  if (id === "gone") throw new DOMException("no such speaker", "NotFoundError");
  await setSinkId.call(this, id);
};
"""


def test_microphone_and_speaker_can_be_changed_during_a_call(serve, open_page):
    server = serve()
    caller, _ = open_page(server, before=ENERGY + SLOW_SPEAKER)
    caller.talk()
    caller.page.get_by_text("Microphone and speaker").click()
    for kind in ("Microphone", "Speaker"):
        caller.page.get_by_label(kind, exact=True).select_option(index=2)
    caller.page.wait_for_function(
        """() => {
          const list = (id) => document.getElementById(id);
          const chosen = (id) => list(id).selectedOptions[0];
          const {track} = window.calls.at(-1).getSenders()[0];
          return track.readyState === "live" && track.label === chosen("microphone").text
            && list("microphone").selectedIndex === 2 && list("speaker").selectedIndex === 2
            && document.getElementById("voice").sinkId === chosen("speaker").value;
        }""",
        timeout=30_000,
    )
    speaker = caller.page.get_by_label("Speaker", exact=True)
    speaker.evaluate("(list) => list.add(new Option('A speaker that is gone', 'gone'))")
    speaker.select_option("gone")
    caller.expect_problem("no such speaker")
    assert speaker.evaluate("(list) => list.selectedIndex") == 2, "the one before stays chosen"
    caller.hang_up()


def test_closing_the_tab_frees_its_place_at_once(serve, open_page):
    server = serve()
    caller, _ = open_page(server)
    caller.talk()
    caller.page.close()
    server.assert_idle(limit_s=10.0)  # by itself, WebRTC notices after 30

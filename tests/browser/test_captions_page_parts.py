"""Parts of the page by themselves, in a browser without a call."""

import pytest

from tests.support.agent_server import scripted_server

pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")


@pytest.fixture(scope="module")
def server():
    running = scripted_server()
    yield running
    running.stop()


def test_subtitles_have_two_short_lines_and_break_at_pauses(server, browse):
    page = browse(server.url).page
    srt = page.evaluate(
        """async () => {
          const words = Array.from({length: 20}, (_, i) => {
            const start = 3600 + 0.25 * i + (i < 15 ? 0 : 2);
            return {text: "syllables", start, end: start + 0.2};
          });
          const {asSrt} = await import("./static/subtitles.js");
          return asSrt([{start: 3600, end: 3610, text: "", words}]);
        }"""
    )
    cues = [cue.splitlines() for cue in srt.split("\n\n")]
    assert [cue[0] for cue in cues] == ["1", "2", "3"]
    assert cues[0][1] == "01:00:00,000 --> 01:00:01,950"
    assert cues[0][2:] == ["syllables syllables syllables syllables"] * 2
    assert cues[2][1] == "01:00:05,750 --> 01:00:06,950"
    assert len(" ".join(line for cue in cues for line in cue[2:]).split()) == 20


def test_latency_is_from_the_sound_to_what_it_brings(server, browse):
    """Speech from 1.0 s to 3.0 s, over noise; the answer is heard from 4.2 s."""
    page = browse(server.url).page
    told = page.evaluate(
        """async () => {
          const {LatencyClock} = await import("./static/latency.js");
          const told = {};
          const clock = new LatencyClock((kind, ms) => (told[kind] = ms));
          for (let now = 0; now < 6000; now += 20) {
            clock.hear(now, now >= 1000 && now < 3000 ? 0.1 : 0.002, now >= 4200 ? 0.1 : 0);
            if (now === 1400 || now === 1800) clock.caption(now, false);
            if (now === 3300) clock.caption(now, true);
          }
          return told;
        }"""
    )
    assert told == {"first": 400, "final": 320, "voice": 1220}


def test_dark_or_light_is_the_systems_until_one_is_chosen_and_then_kept(server, browse):
    page = browse(server.url, color_scheme="dark").page
    light, dark = "rgb(243, 246, 248)", "rgb(16, 22, 27)"
    button = page.get_by_role("button", name="Dark", exact=True)
    for colour, pressed in ((dark, "true"), (light, "false")):
        assert button.get_attribute("aria-pressed") == pressed
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
        button.click()
    button.click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_a_language_decided_before_the_first_words_marks_them(server, browse):
    page = browse(server.url).page
    shown = page.evaluate(
        """async () => {
          const {Transcript} = await import("./static/captions.js");
          const list = document.getElementById("transcript");
          const transcript = new Transcript(list, document.createElement("div"));
          const shown = [];
          const look = () => shown.push([...list.querySelectorAll(".badge")].map(
            (badge) => badge.hidden ? null : badge.textContent));
          transcript.language({language: "kn"});
          look();
          transcript.caption({text: "one", final: false, language: null});
          look();
          transcript.language({language: "en"});  // the gate has thought better of it
          look();
          transcript.caption({text: "one two", final: true, language: "en"});
          transcript.caption({text: "three", final: false, language: null});
          look();
          return shown;
        }"""
    )
    assert shown == [[], ["Kannada"], ["English"], ["English", None]]


def test_what_the_agent_did_not_get_to_say_stays_grey(server, browse):
    page = browse(server.url).page
    shown = page.evaluate(
        """async () => {
          const {Transcript} = await import("./static/captions.js");
          const list = document.getElementById("transcript");
          const transcript = new Transcript(list, document.createElement("div"));
          const part = (text, said, status) => transcript.says({
            text, segment_id: text, will_be_spoken: true, spoken_status: status,
            spoken_progress: {accumulated_text: said, remaining_text: text.slice(said.length)},
          });
          transcript.answerBegins();
          for (const text of ["One. ", "Two ", "three."]) transcript.plans({text});
          transcript.agentStarted();
          part("One.", "", "new");
          part("One.", "One.", "completed");
          part("Two three.", "Two", "in-progress");
          transcript.agentInterrupted();
          const [entry] = list.querySelectorAll(".entry");
          return [".who", ".sure", ".unsure"].map((part) => entry.querySelector(part).textContent);
        }"""
    )
    assert shown == ["Agent, interrupted", "One. Two", " three."]

"""The page's second tab, and what the page says when something is wrong."""

import base64
import re
from urllib.parse import urlsplit

import pytest
import soundfile

from tests.support.agent_server import SAID, scripted_server
from voice_agent.demo.clip import CLIP_RATE
from voice_agent.server.keys import new_key

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")

from tests.browser.captions_page import CaptionsPage  # noqa: E402


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


@pytest.fixture
def recording(clip, tmp_path):
    path = tmp_path / "two cities.flac"
    soundfile.write(path, clip.pcm, CLIP_RATE)
    return path


@pytest.fixture
def guarded(tmp_path):
    """A server that wants a key, and the key."""
    secret, entry = new_key("alice")
    (tmp_path / "keys.toml").write_text(entry)
    running = scripted_server(**{"server.keys": tmp_path / "keys.toml"})
    yield running, secret
    running.assert_idle()
    running.stop()


def transcribe(page, recording) -> None:
    page.get_by_role("tab", name="Transcribe a file").click()
    page.get_by_label("choose a file").set_input_files(recording)


def saved(page, format: str) -> tuple[str, str]:
    """Name and text of what a link saves."""
    with page.expect_download() as download:
        page.get_by_role("link", name=f"(.{format})").click()
    path = download.value.path()
    return download.value.suggested_filename, path.read_text(encoding="utf-8")


# What the progress bar shows, one after the other.
PROGRESS = """
addEventListener("DOMContentLoaded", () => {
  window.progress = [];
  const bar = document.getElementById("file-progress");
  new MutationObserver(() => window.progress.push(bar.value)).observe(bar, {attributes: true});
});
"""


def test_a_file_becomes_text_and_subtitles(server, browse, recording, screenshots):
    page = browse(server.url, before=PROGRESS).page
    transcribe(page, recording)
    playwright.expect(page.locator("#file-state")).to_have_text("is done", timeout=30_000)
    playwright.expect(page.locator("#segments .sure")).to_have_text(SAID)
    progress = page.evaluate("window.progress")
    assert progress == sorted(progress) and progress[-1] == 1
    assert any(0 < shown < 1 for shown in progress), progress
    assert saved(page, "txt") == ("two cities.txt", f"{SAID}\n")
    name, srt = saved(page, "srt")
    assert name == "two cities.srt"
    assert re.fullmatch(rf"1\n00:00:0\d,\d{{3}} --> 00:00:0\d,\d{{3}}\n{SAID}\n", srt)
    _, vtt = saved(page, "vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    page.screenshot(path=screenshots / "captions-page-file.png")
    assert CaptionsPage(page).serious_faults() == []


def test_a_file_may_be_dropped(server, browse, recording):
    page = browse(server.url).page
    page.get_by_role("tab", name="Talk").press("ArrowRight")
    dropped = page.evaluate_handle(
        """({name, bytes}) => {
          const transfer = new DataTransfer();
          const data = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([data], name, {type: "audio/flac"}));
          return transfer;
        }""",
        {"name": recording.name, "bytes": base64.b64encode(recording.read_bytes()).decode()},
    )
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": dropped})
    playwright.expect(page.locator("#file-state")).to_have_text("is done", timeout=30_000)
    playwright.expect(page.locator("#segments .sure")).to_have_text(SAID)


def test_a_file_without_sound_is_told(server, browse, tmp_path):
    path = tmp_path / "notes.wav"
    path.write_text("these are no samples")
    page = browse(server.url).page
    transcribe(page, path)
    CaptionsPage(page).expect_problem("notes.wav holds no sound that this browser can read.")


def test_a_key_is_asked_for_and_a_wrong_one_told(guarded, browse, recording, clip, microphone):
    server, secret = guarded
    caller = CaptionsPage(browse(server.url, microphone=microphone(clip)).page)
    caller.button("Talk").click()
    caller.expect_problem("This server wants a key.")
    key = caller.page.get_by_label("Key for this server")
    key.fill("va_wrong")
    caller.button("Use it").click()
    caller.button("Talk").click()
    caller.expect_problem("The server does not know this key.")
    key.fill(secret)
    caller.button("Use it").click()
    caller.talk()
    caller.hang_up()
    transcribe(caller.page, recording)
    playwright.expect(caller.page.locator("#file-state")).to_have_text("is done", timeout=30_000)


def test_why_there_is_no_microphone_is_told(server, browse):
    refused = CaptionsPage(browse(server.url).page)
    refused.button("Talk").click()
    refused.expect_problem("The browser does not let this page use the microphone.")

    # What a browser says on a machine without one; this one cannot be told to have none.
    none = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s'); }"
    deaf = CaptionsPage(browse(server.url, before=none % "NotFoundError").page)
    deaf.button("Talk").click()
    deaf.expect_problem("There is no microphone. Plug one in")

    # A name of another machine, over plain http: browsers take it for insecure.
    elsewhere = f"http://voice.example:{urlsplit(server.url).port}"
    insecure = CaptionsPage(
        browse(elsewhere, "--host-resolver-rules=MAP voice.example 127.0.0.1").page
    )
    insecure.button("Talk").click()
    insecure.expect_problem("over https or on localhost alone")

"""Headless Chromium whose microphone is a file."""

from __future__ import annotations

import functools
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.support.agent_server import SAID
from voice_agent.demo.clip import CLIP_RATE, Clip, load_clip

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OUT = Path(__file__).parents[2] / "out"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, default=OUT, help="where the tests put pictures of the page"
    )


@pytest.fixture(scope="session")
def chromium() -> str:
    """The installed browser; playwright's own is not fetched."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"no browser is installed ({', '.join(NAMES)})")


@pytest.fixture(scope="session")
def screenshots(request) -> Path:
    """Where pictures go: out/, or what --screenshots names (where this folder was asked for)."""
    folder = request.config.getoption("--screenshots", OUT)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Two seconds of a human voice: "It was the best of times"."""
    moonshine_voice = pytest.importorskip(
        "moonshine_voice", reason="its clip needs the extra 'demo'"
    )
    file = Path(moonshine_voice.__file__).parent / "assets" / "two_cities.wav"
    return load_clip(str(file), SAID, from_s=1.0, to_s=2.95)


@dataclass
class Visit:
    """A page, and every address that it asked for something."""

    page: Page
    asked: list[str] = field(default_factory=list)

    def connect(self) -> None:
        self.page.get_by_role("button", name="Connect", exact=True).click()

    def disconnect(self) -> None:
        self.page.get_by_role("button", name="Disconnect", exact=True).click()


Browse = Callable[..., Visit]
Launch = Callable[..., "Browser"]


@pytest.fixture(scope="package")
def launch(chromium) -> Iterator[Launch]:
    """Browsers, one for all tests that want it alike; `alone` is one of its own.

    The microphone is a file, which begins anew whenever it is opened; None is one that may not be
    used.
    """
    from playwright import sync_api as playwright

    with ExitStack() as stack:
        chrome = stack.enter_context(playwright.sync_playwright()).chromium

        def start(*flags: str, microphone: str | None) -> Browser:
            args = ["--no-sandbox", "--use-fake-device-for-media-stream", *flags]
            if microphone is not None:
                args.append("--use-fake-ui-for-media-stream")
                args.append(f"--use-file-for-fake-audio-capture={microphone}")
            browser = chrome.launch(executable_path=chromium, args=args)
            stack.callback(browser.close)
            return browser

        shared = functools.cache(start)

        def launch(*flags: str, microphone: str | None, alone: bool) -> Browser:
            return (start if alone else shared)(*flags, microphone=microphone)

        yield launch


@pytest.fixture
def browse(launch) -> Iterator[Browse]:
    """Open a page: `browse(url, *flags, microphone=..., before=..., alone=...)`.

    `before` is a script that runs before the page's. What else there is describes the window, which
    shares nothing with another's (`new_context`).
    """
    with ExitStack() as stack:

        def browse(
            url: str,
            *flags: str,
            microphone: str | None = None,
            before: str = "",
            alone: bool = False,
            **window: Any,
        ) -> Visit:
            context = launch(*flags, microphone=microphone, alone=alone).new_context(**window)
            stack.callback(context.close)
            visit = Visit(context.new_page())
            visit.page.on("request", lambda request: visit.asked.append(request.url))
            if before:
                visit.page.add_init_script(before)
            visit.page.goto(url)
            return visit

        yield browse


@pytest.fixture
def visit(browse, microphone) -> Callable[[str, Clip | None], Visit]:
    """Open the prebuilt page with a microphone that plays a clip, or one that may not be used."""
    from playwright import sync_api as playwright

    def visit(url: str, clip: Clip | None) -> Visit:
        visit = browse(url, microphone=microphone(clip) if clip is not None else None)
        # Until then, the button does nothing.
        state = visit.page.get_by_role("definition").first
        playwright.expect(state).to_have_text("initialized", ignore_case=True)
        return visit

    return visit


AGAIN = (10.0, 10.0, 10.0, 60.0)


@pytest.fixture(scope="package")
def microphone(tmp_path_factory) -> Callable[..., str]:
    """What a browser's microphone plays: `microphone(clip, pauses_s=...)`.

    The clip after a second of silence, in which the call begins, and before each pause. On a busy
    machine a call takes longer than that to begin, so the clip is said again.
    """
    folder = tmp_path_factory.mktemp("microphones")

    def microphone(clip: Clip, pauses_s: tuple[float, ...] = AGAIN) -> str:
        pieces = [np.zeros(CLIP_RATE, np.int16)]
        for pause_s in pauses_s:
            pieces += [clip.pcm, np.zeros(round(pause_s * CLIP_RATE), np.int16)]
        sound = np.concatenate(pieces)
        path = folder / f"{zlib.crc32(sound.tobytes()):08x}.wav"  # the same name for the same sound
        if not path.exists():
            soundfile.write(path, sound, CLIP_RATE)
        return f"{path}%noloop"

    return microphone

"""Headless Chromium whose microphone is a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from voice_agent.demo.clip import CLIP_RATE, Clip

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The installed browser; playwright's own is not fetched."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"no browser is installed ({', '.join(NAMES)})")


@dataclass
class Visit:
    """A page, and every address that it asked for something."""

    page: Page
    asked: list[str] = field(default_factory=list)

    def connect(self) -> None:
        self.page.get_by_role("button", name="Connect", exact=True).click()

    def disconnect(self) -> None:
        self.page.get_by_role("button", name="Disconnect", exact=True).click()


@pytest.fixture
def visit(chromium, tmp_path) -> Iterator[Callable[[str, Clip | None], Visit]]:
    """Open a page with a microphone that plays a clip, or (None) one that may not be used."""
    from playwright import sync_api as playwright

    with ExitStack() as stack:
        chrome = stack.enter_context(playwright.sync_playwright()).chromium

        def visit(url: str, clip: Clip | None) -> Visit:
            flags = ["--no-sandbox", "--use-fake-device-for-media-stream"]
            if clip is not None:
                flags.append("--use-fake-ui-for-media-stream")
                flags.append(f"--use-file-for-fake-audio-capture={microphone(clip, tmp_path)}")
            browser = chrome.launch(executable_path=chromium, args=flags)
            stack.callback(browser.close)
            visit = Visit(browser.new_page())
            visit.page.on("request", lambda request: visit.asked.append(request.url))
            visit.page.goto(url)
            # Until then, the button does nothing.
            state = visit.page.get_by_role("definition").first
            playwright.expect(state).to_have_text("initialized", ignore_case=True)
            return visit

        yield visit


def microphone(clip: Clip, folder: Path) -> str:
    """The clip after a second of silence (in which the call begins), and much silence after it."""
    path = folder / "microphone.wav"
    before, after = np.zeros(CLIP_RATE, np.int16), np.zeros(60 * CLIP_RATE, np.int16)
    soundfile.write(path, np.concatenate((before, clip.pcm, after)), CLIP_RATE)
    return f"{path}%noloop"

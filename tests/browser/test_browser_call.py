"""`examples/browser_call.py`, started as somebody would, and talked to on the page that it opens.

What it takes for the browser writes the address down; the test's own opens it, with a microphone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.examples.load import EXAMPLES
from tests.support.agent_server import eventually

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'dev'")

from tests.browser.captions_page import CaptionsPage  # noqa: E402


@pytest.fixture
def opened(tmp_path, checkpoint) -> Iterator[str]:
    """The address that the example has opened in the browser."""
    address = tmp_path / "address"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {address}.new && mv {address}.new {address}\n')
    browser.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "browser_call.py", "0", checkpoint],
        env={**os.environ, "BROWSER": f"{browser} %s"},
    ) as server:
        try:
            eventually(lambda: address.exists() or server.poll() is not None, limit_s=120.0)
            assert server.poll() is None, "the example has ended"
            yield address.read_text().strip()
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 130


def test_whoever_talks_on_the_page_that_it_opens_is_heard(opened, browse, clip, microphone):
    caller = CaptionsPage(browse(opened, microphone=microphone(clip)).page)
    caller.talk()
    caller.see("You", re.compile(r"\w"))  # a random model hears nonsense, but it hears
    caller.hang_up()

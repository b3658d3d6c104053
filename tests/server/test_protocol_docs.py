"""docs/protocol.md and examples/openai_client.py, run as they stand against a real server."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi.responses import HTMLResponse

from tests.support.serving import Serve, Server, serve, silence, speech  # noqa: F401 - a fixture
from voice_agent.config_server import ServerSettings
from voice_agent.server import files, listen_query, listening
from voice_agent.server.keys import KeyFile
from voice_agent.server.limits import StreamLimits
from voice_agent.vad import Vad

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
BLOCK = re.compile(r"^```\w+\n(?:# |<!-- )(\S+)(?: -->)?\n(.*?)^```", re.M | re.S)
SNIPPETS = dict(BLOCK.findall(PAGE))
SCRIPT = [(0.3, "It was"), (0.8, "It was the best of times.")]
SAID = "It was the best of times."


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:  # noqa: F811
    server = await serve(SCRIPT)
    yield server
    await server.quiet()


@pytest.fixture(scope="session")
def recording(speech_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a human voice at 48 kHz."""
    pcm, rate = soundfile.read(speech_file, dtype="int16")
    path = tmp_path_factory.mktemp("audio") / "recording.wav"
    soundfile.write(path, pcm[rate : 3 * rate], rate)
    return path


async def run(*command: str | Path, **environment: str) -> str:
    """What a program prints; its errors are the test's."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def written(name: str, server: Server, folder: Path) -> Path:
    path = folder / name
    path.write_text(SNIPPETS[name].replace("localhost:7860", f"127.0.0.1:{server.port}"))
    return path


@pytest.mark.parametrize("name", ["ours.py", "deepgram_sdk.py", "openai_file.py"])
async def test_the_python_snippets_print_what_was_said(
    name: str, server: Server, recording: Path, tmp_path: Path
) -> None:
    # What is sent is loud all through, since this server's VAD hears loudness; the file route
    # has the real one.
    path = recording if name == "openai_file.py" else tmp_path / "loud.wav"
    if path != recording:
        soundfile.write(path, np.concatenate([speech(1.0), silence(1.0)]), 16_000)
    assert await run(sys.executable, written(name, server, tmp_path), path) == f"{SAID}\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_curl_line(server: Server, recording: Path, tmp_path: Path) -> None:
    assert await run("sh", written("file.sh", server, tmp_path), recording) == f"{SAID}\n"


@pytest.mark.skipif(shutil.which("websocat") is None, reason="websocat is not installed")
async def test_the_websocat_line(server: Server, tmp_path: Path) -> None:
    pcm = tmp_path / "speech.pcm"
    pcm.write_bytes(np.concatenate([speech(1.0, 48_000), silence(1.0, 48_000)]).tobytes())
    assert SAID in await run("sh", written("live.sh", server, tmp_path), pcm)


@pytest.mark.parametrize("way", [[], ["--live"]], ids=["file", "live"])
async def test_the_openai_example(server: Server, recording: Path, way: list[str]) -> None:
    example = ROOT / "examples" / "openai_client.py"
    url = f"{server.http}/v1"
    assert await run(sys.executable, example, recording, "--url", url, *way) == f"{SAID}\n"


async def test_the_browser_snippet_shows_what_the_microphone_heard(
    serve: Serve,  # noqa: F811
    speech_file: Path,
    tmp_path: Path,
) -> None:
    from playwright.async_api import async_playwright, expect

    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no browser is installed (chromium, google-chrome)")
    # A browser takes a test tone for noise, so this is a voice, and the VAD is the real one.
    server = await serve(SCRIPT, new_vad=Vad)
    server.app.add_api_route("/page", lambda: HTMLResponse(SNIPPETS["browser.html"]))
    pcm, rate = soundfile.read(speech_file, dtype="int16")
    microphone = tmp_path / "microphone.wav"
    soundfile.write(microphone, np.concatenate([pcm[rate : 3 * rate], np.zeros(rate, "i2")]), rate)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=browser_path,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        page = await browser.new_page()
        await page.goto(f"{server.http}/page")
        await page.get_by_role("button", name="Talk").click()
        await expect(page.locator("#text")).to_contain_text(SAID, timeout=20_000)
        await browser.close()


async def test_the_key_command_makes_a_key_that_holds(tmp_path: Path) -> None:
    made = await asyncio.create_subprocess_shell(
        SNIPPETS["key.sh"].replace("python", sys.executable),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    _, shown = await made.communicate()
    name, secret = shown.decode().strip().split(": ")
    key = KeyFile(tmp_path / "keys.toml").find(secret)
    assert key is not None and key.name == name == "alice"


def test_the_page_names_every_parameter() -> None:
    table = PAGE[PAGE.index("| parameter |") : PAGE.index("The server's VAD cuts")]
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert listen_query._SINGLE | listen_query._REPEATED <= named


def test_the_page_names_the_limits_that_hold() -> None:
    limits = StreamLimits()
    numbers = re.findall(
        r"^\|.*?\| ([\d,]+)(?: [×M]\w*| s| after)?", PAGE[PAGE.index("## Limits") :], re.M
    )
    assert [int(n.replace(",", "")) for n in numbers] == [
        ServerSettings().max_sessions,
        listening.MAX_MESSAGE_BYTES >> 20,
        files.MAX_BYTES >> 20,
        limits.pace,
        limits.idle_s,
        limits.total_s,
        limits.unsent,
        limits.stuck_s,
        limits.grace_s,
    ]
    assert f"after {limits.burst_s:g} s at once" in PAGE

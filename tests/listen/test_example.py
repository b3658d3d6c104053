"""`examples/listen.py`, as somebody would run it."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import soundfile

from tests.support.serving import Serve, silence, speech

EXAMPLE = Path(__file__).parents[2] / "examples/listen.py"


async def test_it_prints_what_the_server_heard(serve: Serve, tmp_path: Path) -> None:
    recording = tmp_path / "said.wav"
    soundfile.write(recording, np.concatenate([speech(1.0), silence(1.0)]), 16_000)
    server = await serve([(0.2, "one"), (0.6, "one two")])
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, recording, server.ws,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (out.decode(), process.returncode) == ("one two\n", 0), err.decode()

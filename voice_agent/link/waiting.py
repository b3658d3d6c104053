"""How whoever opens a stream waits for the engine process's answer."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future

_ANSWER_S = 30.0


def wait_elsewhere(answer: Future[None]) -> bool:
    """Wait on this thread, unless it is an event loop's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with contextlib.suppress(Exception):  # whoever asks for its result has it
            answer.exception(_ANSWER_S)
        return answer.done()
    return False

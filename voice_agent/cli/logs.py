"""Logging of a command: quiet unless asked, always on stderr."""

from __future__ import annotations

import logging
import sys


def set_up(verbose: bool) -> None:
    """Set loguru (Pipecat and ours) and logging (uvicorn, aiortc) to one level.

    Args:
        verbose: log from INFO up; otherwise warnings and errors alone.
    """
    from loguru import logger

    level = "INFO" if verbose else "WARNING"
    logger.remove()
    logger.add(sys.stderr, level=level, format="{time:HH:mm:ss} {level: <7} {message}")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", force=True)

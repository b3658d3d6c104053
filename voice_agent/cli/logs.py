"""Logging of a command: quiet unless asked, always on stderr, one place for all libraries.

    text    12:30:17 WARNING - the recogniser is late
    json    {"time": "2026-11-26T12:30:17.123456+00:00", "level": "WARNING", "logger": "...",
             "session": "5a1c...", "message": "..."}

What concerns a session carries its id, which its client was told, too (`X-Session-Id`).
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loguru import Message

_TEXT = "{time:HH:mm:ss} {level: <7} {extra[session]} {message}"


def set_up(verbose: bool, *, level: str = "WARNING", as_json: bool = False) -> None:
    """Set loguru (Pipecat and ours) and logging (uvicorn, aiortc, the engine) to one level.

    Args:
        verbose: log from INFO up, at least.
        level: otherwise.
        as_json: one JSON object a line.
    """
    from loguru import logger

    if verbose and logging.getLevelNamesMapping()[level] > logging.INFO:
        level = "INFO"
    logger.remove()
    logger.configure(extra={"session": "-"})
    if as_json:
        logger.add(_write_json, level=level, format="{message}")
    else:
        logger.add(sys.stderr, level=level, format=_TEXT)
    logging.basicConfig(level=level, handlers=[_ToLoguru()], force=True)


def _write_json(message: Message) -> None:
    record = message.record
    line: dict[str, Any] = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "logger": record["name"],
        "message": record["message"],
    }
    if record["extra"].get("session", "-") != "-":
        line["session"] = record["extra"]["session"]
    if record["exception"] is not None:
        # What loguru has formatted: the message, then the traceback.
        line["exception"] = str(message)[len(record["message"]) :].strip()
    print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)


class _ToLoguru(logging.Handler):
    """Hands the standard library's records on."""

    def emit(self, record: logging.LogRecord) -> None:
        from loguru import logger

        def named(line: Any) -> None:
            line["name"] = record.name

        known = record.levelname in logging.getLevelNamesMapping() and record.levelno
        level = record.levelname if known else record.levelno  # loguru knows those of the library
        logger.patch(named).opt(exception=record.exc_info).log(level, record.getMessage())

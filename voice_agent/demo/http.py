"""JSON over HTTP, straight to its address: a proxy of the environment knows no server of ours."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class HttpError(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status; None where nothing answered at all.
        body: JSON of the answer; empty where it was none.
    """

    def __init__(self, status: int | None, problem: str, body: dict[str, Any]) -> None:
        self.status, self.body = status, body
        super().__init__(problem)


def ask(url: str, body: dict[str, Any] | None = None, *, limit_s: float) -> dict[str, Any]:
    """GET, or POST where there is a body. Blocks.

    Args:
        url: where.
        body: what to send, as JSON.
        limit_s: seconds to wait.

    Returns:
        The answer, a JSON object.

    Raises:
        HttpError: refused, with the server's own reason, or unreachable.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with _direct.open(request, timeout=limit_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        answer: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            parsed = json.loads(text)
            answer = parsed if isinstance(parsed, dict) else {}
        raise HttpError(error.code, str(answer.get("detail", text)), answer) from error
    except (OSError, ValueError) as error:  # URLError is an OSError
        why = getattr(error, "reason", error)
        raise HttpError(None, f"{url} cannot be reached: {why}", {}) from error

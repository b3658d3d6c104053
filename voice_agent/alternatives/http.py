"""A speech server that takes one file at a time over HTTP."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np

from voice_agent.alternatives.errors import NoServer, SystemFailed
from voice_agent.engine.recognizer import SAMPLE_RATE

TIMEOUT_S = 120.0
"""Seconds that a server may take for one segment; a cold one loads its weights first."""


def wav(pcm: np.ndarray) -> bytes:
    """16-bit WAV of float32 samples, shape (n,), at 16 kHz."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


class SpeechServer:
    """A client of one server. Thread-safe, as httpx's is."""

    def __init__(self, system: str, url: str, *, start: str, api_key: str | None = None) -> None:
        """Connect on the first request.

        Args:
            system: for messages.
            url: without a path.
            start: the command that starts such a server, for messages.
            api_key: sent as a bearer token.
        """
        self._system, self._url, self._start = system, url.rstrip("/"), start
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S)

    def check(self, path: str) -> None:
        """Ask for its health.

        Raises:
            NoServer: nothing answers, or what answers is not well.
        """
        try:
            answer = self._client.get(self._url + path, timeout=5.0)
        except httpx.HTTPError as error:
            raise NoServer(self._system, self._url, self._start, error) from error
        if answer.is_error:
            raise NoServer(
                self._system, self._url, self._start, f"{path} says {answer.status_code}"
            )

    def post(self, path: str, pcm: np.ndarray, fields: dict[str, str]) -> dict[str, Any]:
        """Send a segment as `file` with form fields, and return the JSON that comes back.

        Raises:
            NoServer: it does not answer.
            SystemFailed: it answers with an error, or with something that is not a JSON object.
        """
        file = {"file": ("segment.wav", wav(pcm), "audio/wav")}
        try:
            answer = self._client.post(self._url + path, files=file, data=fields)
        except httpx.HTTPError as error:
            raise NoServer(self._system, self._url, self._start, error) from error
        if answer.is_error:
            raise SystemFailed(self._system, f"{answer.status_code}: {answer.text[:200]}")
        try:
            said = answer.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise SystemFailed(self._system, f"{path} answered {answer.text[:80]!r}, not JSON")
        return said

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

"""A segment on a websocket: audio goes out, JSON events come back on a thread of their own.

A connection serves one segment. Subclasses speak one server's messages.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import connect

from voice_agent.alternatives.errors import NoServer, SystemFailed
from voice_agent.alternatives.worker import Decoded, Heard
from voice_agent.engine.recognizer import StreamOptions

CONNECT_S = 10.0
FINAL_S = 60.0
"""Seconds that a server may take from the last audio to its final."""


class SocketSession(ABC):
    """One segment; see `voice_agent.alternatives.worker.Session`."""

    system: str
    start: str
    """The command that starts such a server, for messages."""

    def __init__(
        self, url: str, options: StreamOptions, heard: Heard, api_key: str | None = None
    ) -> None:
        """Connect and say what is wanted.

        Raises:
            NoServer: nothing there speaks websockets.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connection = ExitStack()
        try:
            self._socket = self._connection.enter_context(
                connect(url, additional_headers=headers, open_timeout=CONNECT_S, max_size=None)
            )
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
            raise NoServer(self.system, url, self.start, error) from error
        self._heard = heard
        self._over = threading.Event()
        self._problem: str | None = None
        self.decoded = Decoded("")
        self._listener = threading.Thread(
            target=self._listen, name=f"{self.system}-events", daemon=True
        )
        self._listener.start()
        self._send(*self.hello(options))

    @abstractmethod
    def hello(self, options: StreamOptions) -> list[str]:
        """Messages that begin a segment."""

    @abstractmethod
    def audio(self, pcm16: bytes) -> str | bytes:
        """The message that carries audio, little-endian 16-bit at 16 kHz."""

    @abstractmethod
    def goodbye(self) -> str:
        """The message that ends a segment."""

    @abstractmethod
    def hear(self, event: dict[str, Any]) -> bool:
        """Take an event into `decoded`; returns whether the segment is over."""

    def feed(self, pcm: np.ndarray) -> None:
        """Send audio."""
        self._send(self.audio((np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()))

    def finish(self, rest: np.ndarray) -> Decoded:
        """Send the last audio and wait for the final.

        Raises:
            SystemFailed: the server said no, hung up, or took too long.
        """
        if rest.size:
            self.feed(rest)
        self._send(self.goodbye())
        came = self._over.wait(FINAL_S)
        self._connection.close()
        if not came:
            raise SystemFailed(self.system, f"no final came within {FINAL_S:.0f} s")
        if self._problem is not None:
            raise SystemFailed(self.system, self._problem)
        return self.decoded

    def cancel(self) -> None:
        """Hang up."""
        self._over.set()
        self._connection.close()

    def _send(self, *messages: str | bytes) -> None:
        try:
            for message in messages:
                self._socket.send(message)
        except ConnectionClosed as error:
            self._over.wait(1.0)  # the reason, if any, is on its way
            raise SystemFailed(self.system, self._problem or "the server hung up") from error

    def _listen(self) -> None:
        try:
            for message in self._socket:
                event = json.loads(message)
                if event.get("type") == "error":
                    said = event.get("error", event)
                    self._problem = said.get("message", said) if isinstance(said, dict) else said
                    break
                before = self.decoded
                over = self.hear(event)
                if over:
                    break
                if self.decoded is not before and not self._over.is_set():
                    self._heard(self.decoded)
            else:
                self._problem = "the server hung up before its final"
        except ConnectionClosed as error:
            self._problem = f"the server hung up: {error}"
        except (ValueError, KeyError, AttributeError) as error:
            self._problem = f"a message that is not of its protocol: {error!r}"
        self._over.set()

"""A front-end's connection to one engine process."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from loguru import logger

from voice_agent.link.packing import Unframer


class Client(Protocol):
    """Whose connection it is."""

    def take_in(self, line: Line, kind: int, body: memoryview) -> None:
        """A message has come."""
        ...

    def lost(self, line: Line) -> None:
        """The connection is gone."""
        ...


class Line(asyncio.Protocol):
    """See the module docstring. Event loop only.

    Attributes:
        transport: of the connection, once it is made.
        lost: set when it is gone.
    """

    transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        """Connect a client; asyncio does."""
        self._client = client
        self._unframer = Unframer()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            for kind, body in self._unframer.push(data):
                self._client.take_in(self, kind, body)
        except Exception:
            logger.exception("the engine's message could not be read; its connection is cut")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.lost.set()
        self._client.lost(self)

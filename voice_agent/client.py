"""Transcribe over `WS /v1/listen`, through lost connections, as an async iterator.

    async with Listening("ws://localhost:7860", language="en") as stream:
        await stream.send(pcm)              # 16 kHz mono 16-bit, pieces of any length
        stream.finalize()                   # a `Results` with from_finalize answers it
        stream.end()                        # no more audio: what is owed comes, then the end
        async for message in stream: ...    # Results, SpeechStarted, UtteranceEnd, Metadata

What is sent is kept until the server has acknowledged it. When the connection is lost, another
one goes on with the first message that the server has not accepted, and it repeats the events
that did not arrive, so that no sample and no event is lost or comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import deque
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

from voice_agent.wire import (
    Ack,
    CloseStream,
    Error,
    Finalize,
    KeepAlive,
    Metadata,
    Received,
    Results,
    ServerMessage,
    Session,
    WireError,
    parse_server,
)

KEEPALIVE_S = 4.0
"""Silence of ours after which the server is told that we are still there."""
_MESSAGE_BYTES = 32 * 1024  # servers limit a message's size
_UNSENT_BYTES = 256 * 1024  # what `send` lets wait before it waits itself
_CLOSE_S = 2.0
_NOT_FOUND = 404
_FIRST_GRACE_S = 10.0  # where the connection is lost before the server has named its own
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 1.0
_LOST = (OSError, TimeoutError, WebSocketException)


class ListenError(Exception):
    """The server cannot be had, or has ended the session; the message says why.

    Attributes:
        status: HTTP status of a refusal; None for others.
        retry_after_s: seconds after which the server would like to be asked again; None where it
            did not say.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        super().__init__(message)


class Listening:
    """See the module docstring. One event loop; `put` and `finalize` before `__aenter__` wait."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        encoding: str = "linear16",
        sample_rate: int = 16_000,
        interim_results: bool = True,
        **query: object,
    ) -> None:
        """Describe a session; nothing is opened yet.

        Args:
            url: of the server: "ws://host:port", or with http, wss or https.
            key: bearer key, where the server wants one.
            encoding: of the audio.
            sample_rate: samples a second.
            interim_results: whether text is wanted while it grows.
            **query: further parameters of `/v1/listen`; those that are None are left out.
        """
        self._url = _listen_url(url)
        self._headers = {} if key is None else {"Authorization": f"Token {key}"}
        asked = {
            "encoding": encoding,
            "sample_rate": sample_rate,
            "interim_results": interim_results,
            **query,
        }
        self._query = {k: _text(v) for k, v in asked.items() if v is not None}
        self._token = ""
        self._grace_s = _FIRST_GRACE_S
        self._seq = 0  # of the last event that arrived
        self._kept: deque[bytes | str] = deque()  # not acknowledged yet
        self._acknowledged = 0  # messages before the first of `_kept`
        self._position = 0  # messages before the next one to send
        self._unsent_bytes = 0
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._messages: asyncio.Queue[ServerMessage | ListenError | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ListenError: the server cannot be reached, or refuses.
        """
        try:
            ws = await self._connect({**self._query, "resume": "true"})
        except _LOST as error:
            raise _refusal(error, self._url) from error
        self._task = asyncio.create_task(self._run(ws))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up; what the server still owes is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # Out

    async def send(self, audio: bytes) -> None:
        """Send audio; waits while too much of it is not on its way yet."""
        self.put(audio)
        while self._unsent_bytes > _UNSENT_BYTES and not self._over:
            self._room.clear()
            await self._room.wait()

    def put(self, audio: bytes) -> None:
        """Send audio as soon as possible; returns at once."""
        for start in range(0, len(audio), _MESSAGE_BYTES):
            self._add(audio[start : start + _MESSAGE_BYTES])

    def finalize(self) -> None:
        """End the segment; one `Results` with `from_finalize` follows."""
        self._add(Finalize().to_json())

    def end(self) -> None:
        """No more audio; the iterator ends after what is still owed."""
        self._add(CloseStream().to_json())

    def _add(self, message: bytes | str) -> None:
        self._kept.append(message)
        self._unsent_bytes += len(message)
        self._wake.set()

    async def _write(self, ws: ClientConnection) -> None:
        with contextlib.suppress(*_LOST):  # the reader finds out too
            while True:
                while (index := self._position - self._acknowledged) < len(self._kept):
                    message = self._kept[index]
                    self._position += 1
                    await ws.send(message)
                    self._unsent_bytes -= len(message)
                    self._room.set()
                self._wake.clear()
                try:
                    async with asyncio.timeout(KEEPALIVE_S):
                        await self._wake.wait()
                except TimeoutError:
                    await ws.send(KeepAlive().to_json())

    # In

    def __aiter__(self) -> Self:
        """Messages, in order, each once."""
        return self

    async def __anext__(self) -> ServerMessage:
        """The next message.

        Raises:
            ListenError: the session failed, or the server could not be found again in time.
        """
        if self._over and self._messages.empty():
            raise StopAsyncIteration
        message = await self._messages.get()
        if isinstance(message, ListenError):
            raise message
        if message is None:
            raise StopAsyncIteration
        return message

    @property
    def _over(self) -> bool:
        return self._task is None or self._task.done()

    async def _run(self, ws: ClientConnection) -> None:
        last: ListenError | None = None
        try:
            while not await self._talk(ws):
                ws = await self._come_back()
        except ListenError as error:
            last = error
        except WireError as error:
            last = ListenError(str(error))
        finally:
            self._messages.put_nowait(last)
            self._room.set()

    async def _talk(self, ws: ClientConnection) -> bool:
        """Use a connection until it is lost (False) or the session is over (True)."""
        writer: asyncio.Task[None] | None = None
        try:
            async for text in ws:
                match message := parse_server(str(text)):
                    case Session(received=received):
                        self._token, self._grace_s = message.token, message.grace_s
                        self._forget(received)
                        self._position = received
                        self._unsent_bytes = sum(map(len, self._kept))
                        writer = writer or asyncio.create_task(self._write(ws))
                    case Ack(received=received):
                        self._forget(received)
                    case Error(description=description):
                        await self._confirm(ws, message)
                        raise ListenError(description)
                    case _:
                        self._messages.put_nowait(message)
                        await self._confirm(ws, message)
                        if isinstance(message, Metadata):
                            return True
        except _LOST:
            pass
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.wait({writer})
            await ws.close()
        return False

    async def _confirm(self, ws: ClientConnection, message: ServerMessage) -> None:
        self._seq = message.seq or self._seq
        if not isinstance(message, Results) or message.is_final:  # interims replace each other
            with contextlib.suppress(*_LOST):  # it is said again on the next connection
                await ws.send(Received(seq=self._seq).to_json())

    def _forget(self, received: int) -> None:
        while self._acknowledged < received and self._kept:
            self._kept.popleft()
            self._acknowledged += 1

    # Connections

    async def _connect(self, query: dict[str, str]) -> ClientConnection:
        # Captions are small and come in a hurry; compressing them costs both ends memory.
        return await connect(
            f"{self._url}?{urlencode(query, doseq=True)}",
            additional_headers=self._headers,
            compression=None,
            close_timeout=_CLOSE_S,
        )

    async def _come_back(self) -> ClientConnection:
        """Connect again, within the session's grace."""
        wait_s = _FIRST_RETRY_S
        try:
            async with asyncio.timeout(self._grace_s):
                while True:
                    try:
                        return await self._connect(self._again())
                    except InvalidStatus as error:
                        status = error.response.status_code
                        if status == _NOT_FOUND and self._token and not self._begun:
                            self._token = ""  # the server has kept nothing, since it had nothing
                            continue
                        if status < 500:
                            raise _refusal(error, self._url) from error
                    except _LOST:
                        pass
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                    wait_s = min(2 * wait_s, _LONGEST_RETRY_S)
        except TimeoutError:
            raise ListenError(
                f"the connection to {self._url} was lost and could not be had again "
                f"within {self._grace_s:g} s"
            ) from None

    @property
    def _begun(self) -> bool:
        """Whether the server has confirmed anything, or said anything, of the session."""
        return bool(self._acknowledged or self._seq)

    def _again(self) -> dict[str, Any]:
        if self._token:
            return {"resume": self._token, "received": str(self._seq)}
        return {**self._query, "resume": "true"}


def _listen_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(f"{url!r} is no server's URL; write ws://HOST:PORT or wss://HOST")
    path = parts.path.rstrip("/")
    if not path.endswith("/v1/listen"):
        path += "/v1/listen"
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def _text(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [_text(v) for v in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusal(error: Exception, url: str) -> ListenError:
    if isinstance(error, InvalidStatus):
        response = error.response
        try:
            why = json.loads(response.body)["err_msg"]
        except (ValueError, LookupError, TypeError):
            why = f"{url} answered {response.status_code} {response.reason_phrase}"
        retry = response.headers.get("Retry-After", "")
        return ListenError(
            why,
            status=response.status_code,
            retry_after_s=float(retry) if retry.isdecimal() else None,
        )
    if isinstance(error, InvalidHandshake):
        return ListenError(f"{url} does not speak websockets: {error}")
    return ListenError(f"{url} cannot be reached: {error or type(error).__name__}")

"""Who may use the server, and how much: keys, hosts, origins, quotas. Decided before any work.

    host      a `Host` that is not ours: a page that rebinds its name to our address (421)
    origin    a browser page from elsewhere (403)
    key       `Authorization: Bearer|Token KEY`, or websocket subprotocols (401)
    quota     the key's sessions at once, and its minutes of audio a day (429)

Without keys only this machine is served (loopback addresses); start-up says so.
Browsers cannot set headers on websockets, so a key may come as a subprotocol: `token, KEY` as
Deepgram has it, or `openai-insecure-api-key.KEY` as OpenAI has it. Pages cannot send bearer keys
at all, so it may also be the password of HTTP's basic scheme.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from voice_agent.config_server import ServerSettings
from voice_agent.server.keys import Key, KeyFile

_OPENAI_SUBPROTOCOL = "openai-insecure-api-key."
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
DAY_S = 86_400
"""Seconds of a day, by which minutes are counted."""


class Denied(Exception):
    """This client may not; the message is one sentence.

    Attributes:
        status: HTTP status: 401, 403, 421 or 429.
        reason: one word for metrics.
        retry_after_s: seconds after which asking again is reasonable; None for never.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after_s: int | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who may use the server.

    Attributes:
        name: their key's, or "local" where there are no keys.
        key: None where there are no keys.
    """

    name: str
    key: Key | None = None


class Access:
    """See the module docstring. Event loop only.

    Attributes:
        origins: of pages, besides the server's own, that may call it.
    """

    def __init__(
        self,
        keys: KeyFile | None = None,
        *,
        origins: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
    ) -> None:
        """Guard a server.

        Args:
            keys: None serves loopback addresses alone.
            origins: of pages, besides the server's own, that may call it; "*" for all.
            hosts: names that clients may call it by; none: any where there are keys, and those
                of this machine where there are not.
        """
        self._keys = keys
        self.origins = origins
        self._hosts = hosts
        self._sessions: Counter[str] = Counter()
        self._audio_s: defaultdict[tuple[str, int], float] = defaultdict(float)  # by UTC day

    @property
    def open_to(self) -> str:
        """Who is served, for the lines that a start prints."""
        return "clients with a key" if self._keys is not None else "this machine alone (no keys)"

    async def check(self, connection: HTTPConnection) -> Client:
        """Decide about a request or a websocket's handshake.

        Raises:
            Denied: this client may not.
        """
        self._check_host(connection)
        self._check_origin(connection.headers)
        if self._keys is None:
            peer = connection.client.host if connection.client is not None else ""
            if not _is_loopback(peer):
                raise Denied(
                    401,
                    "key",
                    "this server has no keys and so serves its own machine alone; see server.keys",
                )
            return Client("local")
        secret = secret_of(connection.headers)
        if secret is None:
            raise Denied(401, "key", "a key is missing; send Authorization: Bearer KEY")
        # The file may have changed, and is then read.
        key = await asyncio.to_thread(self._keys.find, secret)
        if key is None:
            raise Denied(401, "key", "this key is not known here")
        return Client(key.name, key)

    def _check_host(self, connection: HTTPConnection) -> None:
        name = (urlsplit("//" + connection.headers.get("host", "")).hostname or "").lower()
        allowed = self._hosts or (_LOCAL_NAMES if self._keys is None else ())
        if allowed and name not in allowed:
            raise Denied(
                421,
                "host",
                f"this server does not answer to the name {name[:80]!r}; see server.hosts",
            )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or "*" in self.origins or origin in self.origins:
            return
        parts = urlsplit(origin)
        if not parts.netloc or parts.netloc.lower() != headers.get("host", "").lower():
            raise Denied(
                403,
                "origin",
                f"pages from {origin[:80]!r} may not call this server; see server.allowed_origins",
            )

    @contextmanager
    def session(self, client: Client) -> Iterator[None]:
        """Count one of the client's sessions for as long as the block runs.

        Raises:
            Denied: the key's sessions or minutes are used up.
        """
        now = time.time()
        name = client.name
        problem = self.quota(client.key, self._sessions[name], self._audio_s[name, _day(now)], now)
        if problem is not None:
            raise problem
        self._sessions[client.name] += 1
        try:
            yield
        finally:
            self._sessions[client.name] -= 1

    @staticmethod
    def quota(key: Key | None, sessions: int, heard_s: float, now: float) -> Denied | None:
        """Why a key may not begin a session, or None where it may.

        Args:
            key: None for clients without one.
            sessions: that it has now.
            heard_s: seconds of its audio today.
            now: seconds since the epoch.
        """
        if key is not None and key.sessions is not None and sessions >= key.sessions:
            text = f"all {key.sessions} sessions of this key are taken"
            return Denied(429, "key_sessions", text, 5)
        if key is not None and key.minutes_per_day is not None:
            if heard_s >= key.minutes_per_day * 60:
                return Denied(
                    429,
                    "key_minutes",
                    f"the {key.minutes_per_day:g} minutes of this key are used up for today (UTC)",
                    int(DAY_S - now % DAY_S) + 1,
                )
        return None

    def heard(self, client: Client, audio_s: float) -> None:
        """Count audio against the client's minutes."""
        today = _day(time.time())
        self._audio_s[client.name, today] += audio_s
        for stale in [entry for entry in self._audio_s if entry[1] < today]:
            del self._audio_s[stale]


def access_of(server: ServerSettings) -> Access:
    """Access by the settings.

    Raises:
        KeysError: `server.keys` cannot be used.
    """
    keys = KeyFile(server.keys) if server.keys is not None else None
    return Access(keys, origins=server.allowed_origins, hosts=server.hosts)


def secret_of(headers: Headers) -> str | None:
    """The key that a client sent, however it did."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() in ("bearer", "token") and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        return _password(value)
    offered = subprotocols(headers)
    for i, name in enumerate(offered):
        if name.startswith(_OPENAI_SUBPROTOCOL):
            return name.removeprefix(_OPENAI_SUBPROTOCOL)
        if name in ("token", "bearer") and i + 1 < len(offered):
            return offered[i + 1]
    return None


def _password(value: str) -> str | None:
    try:
        _, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    return password if colon else None


def subprotocols(headers: Headers) -> list[str]:
    """What a websocket's handshake offers, in order."""
    return [p.strip() for p in headers.get("sec-websocket-protocol", "").split(",") if p.strip()]


def answer_to(headers: Headers) -> str | None:
    """The subprotocol to answer with: the first that is not a key, or None."""
    offered = subprotocols(headers)
    return offered[0] if offered and not offered[0].startswith(_OPENAI_SUBPROTOCOL) else None


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == ""  # a Unix socket has no peer address
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _day(now: float) -> int:
    return int(now // DAY_S)

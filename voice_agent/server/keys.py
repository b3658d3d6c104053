"""Bearer keys: made at random, kept as hashes in a file, reloaded when the file changes.

    [keys.alice]
    sha256 = "5f1c..."
    sessions = 4            # at once; left out: as many as the server takes
    minutes_per_day = 600   # of audio, UTC; left out: no limit

`new_key` makes a key of 256 random bits. One that is random cannot be guessed from its SHA-256,
so a slow password hash would protect nothing and cost every handshake; a chosen password could
be, which is why keys are made here. `python -m voice_agent.server.keys NAME` prints a new one: the
lines for the file on stdout, the secret on stderr.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

PREFIX = "va_"
_CHECK_EVERY_S = 1.0


class KeysError(ValueError):
    """A keys file that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Key:
    """One client's key, without the secret.

    Attributes:
        name: for logs and metrics.
        digest: SHA-256 of the secret.
        sessions: at once; None for no limit of its own.
        minutes_per_day: of audio; None for no limit.
    """

    name: str
    digest: bytes
    sessions: int | None = None
    minutes_per_day: float | None = None


def new_key(name: str) -> tuple[str, str]:
    """Make a key.

    Args:
        name: whose it is: letters, digits, "-" and "_".

    Returns:
        The secret, which is shown once and kept nowhere, and the lines for the keys file.

    Raises:
        KeysError: a name that cannot stand in the file.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise KeysError(f"{name!r} is no name for a key; use letters, digits, - and _")
    secret = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, f'[keys.{name}]\nsha256 = "{digest}"\n'


def parse_keys(text: str, where: str) -> tuple[Key, ...]:
    """Read a keys file.

    Args:
        text: its content.
        where: its name, for errors.

    Raises:
        KeysError: not TOML, or an entry that cannot be used.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KeysError(f"{where}: not valid TOML: {error}") from None
    entries = table.pop("keys", {})
    if table or not isinstance(entries, dict):
        raise KeysError(f"{where}: holds [keys.NAME] tables alone, found {', '.join(table)}")
    return tuple(_key(name, entry, where) for name, entry in entries.items())


def _key(name: str, entry: object, where: str) -> Key:
    known = {"sha256", "sessions", "minutes_per_day"}
    if not isinstance(entry, dict) or entry.keys() - known:
        raise KeysError(f"{where}: keys.{name} is a table of {', '.join(sorted(known))}")
    digest = entry.get("sha256")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise KeysError(f"{where}: keys.{name}.sha256 is 64 hexadecimal digits")
    sessions, minutes = entry.get("sessions"), entry.get("minutes_per_day")
    if sessions is not None and (type(sessions) is not int or sessions < 1):
        raise KeysError(f"{where}: keys.{name}.sessions is a whole number from 1")
    if minutes is not None and (type(minutes) not in (int, float) or not minutes > 0):
        raise KeysError(f"{where}: keys.{name}.minutes_per_day is a number above 0")
    return Key(name, bytes.fromhex(digest), sessions, minutes)


class KeyFile:
    """The keys of a file, as it is now.

    `find` reads the file when it has changed, at most once a second, so call it off the event
    loop. A file that has become unreadable is reported, and the keys that were read last hold.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysError: it cannot be read or used.
        """
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._checked = 0.0
        self._keys: tuple[Key, ...] = ()
        self._reload()

    def _reload(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"{self._path}: cannot read the keys file: {error}") from error
        self._keys = parse_keys(text, str(self._path))

    def find(self, secret: str, now: float | None = None) -> Key | None:
        """The key with this secret, or None. Takes the same time for every wrong one.

        Args:
            secret: what a client sent.
            now: a monotonic clock's time, for tests.
        """
        now = time.monotonic() if now is None else now
        if now - self._checked >= _CHECK_EVERY_S:
            self._checked = now
            try:
                self._reload()
            except KeysError as error:
                logger.error(f"{error}; the keys that were read before it still hold")
        digest = hashlib.sha256(secret.encode()).digest()
        found = None
        for key in self._keys:  # all of them, so that time tells nothing about where it matched
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def main(arguments: list[str]) -> int:
    """Make a key for each name.

    Args:
        arguments: names.

    Returns:
        The exit code: 2 for a name that cannot be used, or none.
    """
    if not arguments:
        print("usage: python -m voice_agent.server.keys NAME...", file=sys.stderr)
        return 2
    try:
        made = {name: new_key(name) for name in arguments}
    except KeysError as error:
        print(error, file=sys.stderr)
        return 2
    for name, (secret, entry) in made.items():
        print(f"{name}: {secret}", file=sys.stderr)
        print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

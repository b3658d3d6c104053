"""Keys: hashed in their file, found in constant time, reloaded without a restart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from voice_agent.server.keys import KeyFile, KeysError, new_key, parse_keys


def write(path: Path, *names: str, **limits: float) -> dict[str, str]:
    """A keys file with a new key for each name; returns the secrets."""
    secrets, lines = {}, []
    for name in names:
        secrets[name], entry = new_key(name)
        lines.append(entry + "".join(f"{k} = {v}\n" for k, v in limits.items()))
    path.write_text("\n".join(lines))
    return secrets


def test_a_key_is_known_by_its_hash_and_its_secret_is_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    secret = write(path, "alice", sessions=2, minutes_per_day=10.5)["alice"]
    key = KeyFile(path).find(secret)
    assert key is not None
    assert (key.name, key.sessions, key.minutes_per_day) == ("alice", 2, 10.5)
    assert key.digest == hashlib.sha256(secret.encode()).digest()
    assert secret not in path.read_text() and secret not in repr(key)


def test_two_keys_are_never_alike() -> None:
    assert new_key("a")[0] != new_key("a")[0] and len(new_key("a")[0]) > 40


@pytest.mark.parametrize("wrong", ["", "va_", "x" * 10_000, "ключ"])
def test_a_wrong_key_is_not_found(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "keys.toml"
    write(path, "alice", "bob")
    assert KeyFile(path).find(wrong) is None


def test_a_changed_file_holds_from_the_next_second(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    old = write(path, "alice")["alice"]
    keys = KeyFile(path)
    assert keys.find(old, now=100.0) is not None
    new = write(path, "alice", "bob")["bob"]
    assert keys.find(new, now=100.5) is None  # not looked at again so soon
    assert keys.find(new, now=101.5) is not None
    assert keys.find(old, now=101.6) is None


def test_a_file_that_breaks_keeps_the_keys_that_were_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    secret = write(path, "alice")["alice"]
    keys = KeyFile(path)
    path.write_text("[keys.alice\n")
    assert keys.find(secret, now=1e9) is not None
    path.unlink()
    assert keys.find(secret, now=2e9) is not None


@pytest.mark.parametrize(("text", "named"), [
    ("[", "not valid TOML"), ("[users]", "users"), ("keys = 1", "tables"),
    ("[keys.a]\nsha256 = 'abc'", "64 hexadecimal"), ("[keys.a]\nsecret = 'x'", "keys.a"),
    (f"[keys.a]\nsha256 = '{'0' * 64}'\nsessions = 0", "sessions"),
    (f"[keys.a]\nsha256 = '{'0' * 64}'\nsessions = true", "sessions"),
    (f"[keys.a]\nsha256 = '{'0' * 64}'\nminutes_per_day = nan", "minutes_per_day"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_by_entry(text: str, named: str) -> None:
    with pytest.raises(KeysError, match=named):
        parse_keys(text, "keys.toml")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot read the keys file"):
        KeyFile(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a\n[keys.b]"])
def test_a_name_that_could_not_stand_in_the_file_is_refused(name: str) -> None:
    with pytest.raises(KeysError, match="is no name"):
        new_key(name)

"""Tables of settings before they are checked: read from a file, taken from flags, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voice_agent.config_errors import ConfigError


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or YAML file.

    Args:
        path: ends in `.toml`, `.yaml` or `.yml`.

    Returns:
        Its table; empty for an empty file.

    Raises:
        ConfigError: it cannot be read, or is no table of settings.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the settings file: {error.strerror}") from error
    try:
        if path.suffix == ".toml":
            import tomllib

            values = tomllib.loads(raw.decode())
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            try:
                values = yaml.safe_load(raw.decode())
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from error
        else:
            raise ConfigError(f"{path}: a settings file ends in .toml, .yaml or .yml")
    except ConfigError:
        raise
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    if values is None:  # an empty YAML file
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a settings file holds a table of settings at its top level")
    return values


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into tables and leave out what is None."""
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            value = nested(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Put one table over another, key by key at every depth."""
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged

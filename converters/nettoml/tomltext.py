"""Values as TOML has them, each on one line."""

from __future__ import annotations

import re
from typing import Any


def toml_value(value: Any) -> str:
    """A JSON-able value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


def toml_string(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def toml_key(key: str) -> str:
    """A key of TOML, in quotes if need be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_string(key)

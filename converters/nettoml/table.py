"""Strict reading of a TOML table: every key is asked for by name and type, everything else is a problem with its TOML path.

Problems are collected, not raised, so that a user sees all of them at once; a key with a problem reads as absent.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

from xnorinfer.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A net.toml is written by people; numbers belong into arrays.
MAX_TOML_BYTES = 1 << 20
#: Words among which one that is misspelled is looked for, which takes long.
MOST_WORDS, LONGEST_WORD = 1000, 100

#: A vector: the name of an array, one number for all, or the numbers themselves.
Vector: TypeAlias = str | int | float | list[int | float]


def parse_toml(text: str) -> dict[str, Any]:
    """The top table.  Raises OptionError with the line and column of a mistake."""
    if len(text) > MAX_TOML_BYTES:
        raise OptionError(f"--net: {len(text)} characters, at most {MAX_TOML_BYTES} are read; numbers belong into arrays")
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; numbers of thousands of digits are another
        raise OptionError(f"--net: no valid TOML: {error}") from None
    except RecursionError:
        raise OptionError("--net: no valid TOML: nested too deeply") from None
    return table


def nearest(word: str, words: Sequence[str]) -> str:
    """ " (did you mean X?)" or what there is."""
    near = [other for other in words[:MOST_WORDS] if len(other) <= LONGEST_WORD] if len(word) <= LONGEST_WORD else []
    close = difflib.get_close_matches(word, near, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are {', '.join(words[:12])}{', ...' if len(words) > 12 else ''}" if words else "there are none"


class Table:
    """One table of a TOML file.  `where` is its path, "" for the top; `close` reports keys that nobody asked for."""

    def __init__(self, values: dict[str, Any], where: str, problems: list[str]) -> None:
        self.values = values
        self.where = where
        self.problems = problems
        self._known: list[str] = []

    def path(self, key: str) -> str:
        """The TOML path of a key."""
        return f"{self.where}.{key}" if self.where else key

    def problem(self, key: str, text: str) -> None:
        """Report something wrong with a key (or with the table itself: key "")."""
        self.problems.append(f"{self.path(key) if key else self.where or 'the file'}: {text}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def _get(self, key: str) -> Any:
        if key not in self._known:
            self._known.append(key)
        return self.values.get(key)

    def _wrong(self, key: str, value: Any, needed: str) -> None:
        self.problem(key, f"is {_shorten(value)}, needed is {needed}")

    def text(self, key: str) -> str | None:
        """A string that is not empty."""
        value = self._get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self._wrong(key, value, "a name in quotes")
        return None

    def choice(self, key: str, choices: Sequence[str]) -> Any:
        """One of some words."""
        value = self._get(key)
        if value is None or (isinstance(value, str) and value in choices):
            return value
        self.problem(key, f"is {_shorten(value)}, needed is one of {', '.join(choices)}")
        return None

    def number(self, key: str, *, above: float | None = None, least: float | None = None) -> float | None:
        """A finite number."""
        value = self._get(key)
        if value is None:
            return None
        if not _is_number(value) or (above is not None and value <= above) or (least is not None and value < least):
            bound = f" above {above:g}" if above is not None else f", {least:g} or above" if least is not None else ""
            self._wrong(key, value, f"a finite number{bound}")
            return None
        return float(value)

    def integer(self, key: str, *, least: int, most: int | None = None) -> int | None:
        """A whole number."""
        value = self._get(key)
        if value is None:
            return None
        if not _is_integer(value) or value < least or (most is not None and value > most):
            self._wrong(key, value, f"a whole number from {least}{'' if most is None else f' to {most}'}")
            return None
        return int(value)

    def flag(self, key: str) -> bool:
        """true, or absent."""
        value = self._get(key)
        if not isinstance(value, bool | None):
            self._wrong(key, value, "true or false")
        return value is True

    def flag_or(self, key: str, word: str) -> bool | str:
        """true, a word, or absent."""
        value = self._get(key)
        if value == word and isinstance(value, str):
            return word
        if not isinstance(value, bool | None):
            self._wrong(key, value, f'true, false or "{word}"')
        return value is True

    def numbers(self, key: str, count: int, meaning: str) -> tuple[float, ...] | None:
        """A list of so many finite numbers."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
            self._wrong(key, value, f"[{meaning}]")
            return None
        return tuple(float(one) for one in value)

    def lists(self, key: str, needed: str, *, count: int | None = None, each: int | None = None) -> list[list[float]] | None:
        """Lists of finite numbers, all of one length: so many lists, or of so many numbers each."""
        value = self._get(key)
        if value is None:
            return None
        listed = [one for one in value if isinstance(one, list)] if isinstance(value, list) else []
        fits = len(listed) == (len(value) if count is None and listed else count) and len({len(one) for one in listed}) == 1
        if not fits or each not in (None, len(listed[0])) or not all(_is_number(one) for inner in listed for one in inner):
            self._wrong(key, value, needed)
            return None
        return [[float(one) for one in inner] for inner in listed]

    def sizes(
        self, key: str, needed: str, *, counts: Sequence[int], least: int, words: Sequence[str] = ()
    ) -> tuple[int, ...] | str | None:
        """Whole numbers, a list of as many as `counts` allows (where that is 1, the number itself), or one of some words."""
        value = self._get(key)
        if value is None or (isinstance(value, str) and value in words):
            return value
        listed = value if isinstance(value, list) else [value] if 1 in counts else []
        if len(listed) in counts and all(_is_integer(one) and least <= one < 1 << 40 for one in listed):
            return tuple(listed)
        self._wrong(key, value, needed)
        return None

    def shape(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers above 0."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(_is_integer(n) and 0 < n < 1 << 40 for n in value):
            self._wrong(key, value, "a list of whole numbers above 0, such as [784, 256]")
            return None
        return tuple(value)

    def ranges(self, key: str) -> list[tuple[int, int]] | None:
        """A list of [begin, end] with 0 <= begin < end."""
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, list) and value:
            pairs = [one for one in value if isinstance(one, list) and len(one) == 2 and all(map(_is_integer, one))]
            if len(pairs) == len(value) and all(0 <= begin < end for begin, end in pairs):
                return [(begin, end) for begin, end in pairs]
        self._wrong(key, value, "one [begin, end] per dimension, such as [[0, 784], [0, 256]]")
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; () if absent."""
        value = self._get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            self._wrong(key, value, "a list of names in quotes")
            return ()
        return tuple(value)

    def vector(self, key: str) -> Vector | None:
        """The name of an array, a finite number, or a list of finite numbers."""
        value = self._get(key)
        if value is None or (isinstance(value, str) and value) or _is_number(value):
            return value  # type: ignore[no-any-return]
        if isinstance(value, list) and value and all(map(_is_number, value)):
            return value
        self._wrong(key, value, "the name of an array, a finite number, or a list of finite numbers")
        return None

    def table(self, key: str) -> Table | None:
        """A table inside this one."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._wrong(key, value, "a table")
            return None
        return Table(value, self.path(key), self.problems)

    def tables(self, key: str) -> list[Table]:
        """A list of tables; [] if absent."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self._wrong(key, value, "a list of tables")
            return []
        return [Table(one, f"{self.path(key)}[{index}]", self.problems) for index, one in enumerate(value)]

    def children(self) -> list[tuple[str, Table]]:
        """All keys of this table, each of which must be a table."""
        return [(key, inner) for key in self.values if (inner := self.table(key)) is not None]

    def one_of(self, keys: Sequence[str], *, needed: bool = True) -> str | None:
        """The one key of several that is there; several, or none where one is needed, are a problem."""
        self._known.extend(key for key in keys if key not in self._known)
        given = [key for key in keys if key in self.values]
        if len(given) > 1:
            self.problem("", f"{' and '.join(given)} exclude each other")
        elif not given and needed:
            self.problem("", f"needs {'one of ' if len(keys) > 1 else ''}{', '.join(keys)}")
        return given[0] if len(given) == 1 else None

    def close(self) -> None:
        """Report keys that mean nothing here."""
        for key in self.values:
            if key not in self._known:
                self.problem(key, f"unknown key, {nearest(key, self._known)}")


def _is_number(value: object) -> bool:
    if isinstance(value, int):  # as large as one likes in TOML
        return not isinstance(value, bool) and abs(value) < 1 << 64
    return isinstance(value, float) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

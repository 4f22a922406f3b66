"""MXNet's symbols (`NAME-symbol.json`): nodes in the order of computation, and what they say about themselves.

Attributes are texts.  Where they stand was changed twice: in `param`, then in `attr`, since MXNet 1.0 in `attrs`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from xnorinfer.budget import JSON_BYTES, spend_bytes, spend_steps
from xnorinfer.errors import OptionError, SourceError

#: Attributes of any node that say nothing about what it computes at inference, beside those between two underscores each.
HIDDEN = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")
_SIZES = re.compile(r"[(\[] *(?:\d{1,9}L? *, *)*(?:\d{1,9}L? *)?[)\]]")


@dataclass(frozen=True)
class SymbolNode:
    """A node.  inputs: (node, output of it), nodes by their place, before this one where all is well; operation: "null" of a
    variable."""

    operation: str
    name: str
    said: Mapping[str, str]
    inputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Symbol:
    """A symbol.  heads: what it gives, as inputs of nodes are said."""

    nodes: tuple[SymbolNode, ...]
    heads: tuple[tuple[int, int], ...]

    @property
    def outputs(self) -> list[str]:
        """The names of the nodes that give what it gives."""
        return [self.nodes[place].name if place < len(self.nodes) else f"node {place}" for place, _ in self.heads]

    def of_output(self, name: str, about: str) -> Symbol:
        """What leads to one of its outputs; other nodes compute nothing, then.  Raises OptionError for a name that is none."""
        if name not in self.outputs:
            raise OptionError(f"--output-name {name}: {about} gives {', '.join(self.outputs)}")
        head = self.heads[self.outputs.index(name)]
        needed, left_over = {head[0]}, [head[0]]
        while left_over:
            place = left_over.pop()
            for read, _ in self.nodes[place].inputs if place < len(self.nodes) else ():
                spend_steps(what="looking for what leads to an output")
                if read not in needed:
                    needed.add(read)
                    left_over.append(read)
        left = SymbolNode("null", "", {}, ())
        return Symbol(tuple(node if place in needed else left for place, node in enumerate(self.nodes)), (head,))


def read_symbol(path: Path) -> Symbol:
    """Read a symbol.  Raises SourceError."""

    def damaged(what: str) -> NoReturn:
        raise SourceError(f"{path.name} is no symbol of MXNet, or damaged: {what}")

    spend_bytes(JSON_BYTES * path.stat().st_size, f"the symbol in {path.name}")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError:
        raise SourceError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        damaged(f"{error}")
    if not isinstance(found, dict) or not isinstance(found.get("nodes"), list):
        damaged("it has no list of nodes")
    nodes: list[SymbolNode] = []
    for place, given in enumerate(found["nodes"]):
        spend_steps(what="reading its nodes")
        if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("op", "name")):
            damaged(f"node {place} has no op and name")
        said: dict[str, str] = {}
        for key in ("param", "attr", "attrs"):
            held = given.get(key) or {}
            if not isinstance(held, dict) or not all(isinstance(value, str) for value in held.values()):
                damaged(f"the {key} of node {given['name']} are no texts by name")
            said |= held
        inputs = _entries(given.get("inputs"))
        if inputs is None or (inputs and given["op"] == "null"):  # variables have none
            damaged(f"the inputs of node {given['name']} are none of nodes")
        nodes.append(SymbolNode(given["op"], given["name"], said, inputs))
    heads = _entries(found.get("heads"))
    if not heads or all(place >= len(nodes) for place, _ in heads):
        damaged("its heads are none of its nodes")
    return Symbol(tuple(nodes), heads)


def _entries(given: Any) -> tuple[tuple[int, int], ...] | None:
    """Outputs of nodes, each [node, output] or with a version behind it, whether they are there or not; None where they are
    none."""
    if not isinstance(given, list):
        return None
    found: list[tuple[int, int]] = []
    for entry in given:
        spend_steps(what="reading its nodes")
        if not isinstance(entry, list) or not 2 <= len(entry) <= 3 or not all(type(number) is int for number in entry):
            return None
        node, output = entry[:2]
        if not all(0 <= number < 1 << 31 for number in (node, output)):
            return None
        found.append((node, output))
    return tuple(found)


class Refused(Exception):
    """A node cannot be read; the message says why, as the end of a sentence."""


NOT_SUPPORTED = "is not supported in a binary network"


@dataclass
class Attributes:
    """The attributes of a node, each read once.  What cannot be read raises Refused."""

    said: Mapping[str, str]
    _known: set[str] = field(default_factory=set)

    def _text(self, name: str) -> str | None:
        self._known.add(name)
        found = self.said.get(name)
        return None if found is None else found.strip()

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"\d{1,9}L?", text):
            raise Refused(f"has the {name} {text}, needed is a whole number: is malformed")
        return int(text.rstrip("L"))

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"-?\d{1,9}L?", text):
            raise Refused(f"has the {name} {text}, needed is a whole number: is malformed")
        return int(text.rstrip("L"))

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        text = self._text(name)
        if text is None and default is not None:
            return default
        try:
            number = float(text or "")
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Refused(f"has the {name} {text}, needed is a number: is malformed")
        return number

    def flag(self, name: str, *, default: bool) -> bool:
        """Yes or no."""
        text = self._text(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false", "1", "0"):
            raise Refused(f"has the {name} {text}, needed is True or False: is malformed")
        return text.lower() in ("true", "1")

    def word(self, name: str, default: str = "", allowed: Sequence[str] = ()) -> str:
        """One of some words; None is the default."""
        text = self._text(name)
        text = default if text is None or text == "None" else text
        if text not in allowed:
            raise Refused(f"has the {name} {text or '(none)'}, which {NOT_SUPPORTED}; known: {', '.join(allowed)}")
        return text

    def sizes(self, name: str) -> tuple[int, ...]:
        """Whole numbers from 0 on like (3, 3); () where there are none."""
        text = self._text(name)
        if text is None or text == "None":
            return ()
        if not _SIZES.fullmatch(text):
            raise Refused(f"has the {name} {text}, needed are whole numbers like (3, 3): is malformed")
        return tuple(int(number) for number in re.findall(r"\d+", text))

    def no_matter(self, *names: str) -> None:
        """What is for training, or for the machine alone."""
        self._known.update(names)

    def unknown(self) -> list[str]:
        """What was not read: it may change what the node computes."""
        hidden = (*self._known, *HIDDEN)
        return [
            name
            for name in self.said
            if name not in hidden
            and not (name.startswith("__") and name.endswith("__"))
            and not name.endswith(tuple(f"_{one}" for one in HIDDEN))
        ]

"""The table of a checkpoint's tensors: many of one kind become few rows, so that what follows is not scrolled away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from xnorinfer.cli import screen
from xnorinfer.oneline import one_line

if TYPE_CHECKING:
    from xnorinfer.converters.reading import TensorUse

#: Reasons to ignore what only training needs: all of it is one row.
_TRAINING = re.compile("optimizer|counts training|a counter or setting of the training")
#: Tensors of one kind that get a row each; of more, the first SHOWN do.
MOST, SHOWN = 8, 2


def show_tensors(tensors: Sequence[TensorUse]) -> None:
    """Name, shape, type and use of each, those of the training in one row, then how many there are."""
    rows: list[list[str | Text]] = []
    training = [use for use in tensors if _of_training(use)]
    if len(training) < 2:
        training = []
    for use, more in folded([use for use in tensors if not _of_training(use)] if training else tensors):
        name = f"... {use.name}, the last of {more} more" if more else use.name
        becomes = Text(one_line(f"ignored: {use.use}"), "dim") if use.ignored else use.use
        rows.append([name, screen.shape_text(use.shape), use.dtype, becomes])
    if training:
        what = Text("ignored: state of the training (optimizer, counters), no part of inference", "dim")
        rows.append([f"{training[0].name} and {len(training) - 1} more", "", "", what])
    screen.table([("tensor", False), ("shape", True), ("type", False), ("becomes", False)], rows)
    ignored = sum(use.ignored for use in tensors)
    screen.say(f"{len(tensors)} tensors: {len(tensors) - ignored} used, {ignored} ignored")


def _of_training(use: TensorUse) -> bool:
    return use.ignored and _TRAINING.match(use.use) is not None


def folded(tensors: Sequence[TensorUse]) -> Iterator[tuple[TensorUse, int]]:
    """Tensors in order, each with 0; of many of one kind the first few, then the last one with the number that it is for."""
    members: dict[tuple[bool, str], list[int]] = {}
    for index, use in enumerate(tensors):
        members.setdefault(_kind(use), []).append(index)
    counts: dict[int, int] = {}
    for places in members.values():
        if len(places) <= MOST:
            counts.update(dict.fromkeys(places, 0))
        else:
            counts.update(dict.fromkeys(places[:SHOWN], 0))
            counts[places[-1]] = len(places) - SHOWN
    for index in sorted(counts):
        yield tensors[index], counts[index]


def _kind(use: TensorUse) -> tuple[bool, str]:
    """What tensors of one kind share: whether they are ignored, the layer they belong to, and what is said of them, but for
    names and numbers in it."""
    layer, colon, said = ("", "", use.use) if use.ignored else use.use.partition(": ")
    words = (said if colon or use.ignored else use.use).split()
    plain = ("*" if re.search(r"[/._]", word) else re.sub(r"\d+", "#", word) for word in words)
    return use.ignored, f"{layer if colon else ''}: {' '.join(plain)}"

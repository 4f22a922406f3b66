"""The order of layers: in which ones matrices fit one behind the other, and what supports the one that was taken.

A source that knows the order, by a graph or a config, says so.  Where it has only that of registration, of a listing, or of
names, its assumption is a default, and is judged here once the network stands: shapes that fit in no other order support it,
numbers that rise in names that differ in nothing else (fc1, fc2; 0, 3, 6; dense, dense_1), and BatchNorm's statistics.  Words
(hidden, middle; fc_a, fc_b) do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from xnorinfer.converters.containers.arrays import natural_key
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.reading import Assumption, Notes, Origin, Remark, default_warning
from xnorinfer.net.ops import Linear

#: Layers whose orders are looked for, and steps of the search.
MAX_ORDERED, MOST_STEPS = 64, 10_000


def chains(shapes: Sequence[tuple[int, int]], families: Sequence[str] = (), *, ends: bool = False) -> list[tuple[int, ...]]:
    """The orders in which matrices (inputs, neurons) fit one behind the other, up to two of them; layers of one shape that
    change places are two orders.  families: those of one family keep the order in which they are given.  ends: orders that
    begin with as many inputs and end with as many neurons as the one given.

    Where the search for a second one takes too long, there is one, an empty one.
    """
    found: list[tuple[int, ...]] = []
    steps = 0

    def fits(index: int, order: tuple[int, ...]) -> bool:
        if order:
            return shapes[order[-1]][1] == shapes[index][0]
        return not ends or shapes[index][0] == shapes[0][0]

    def extend(order: tuple[int, ...], left: tuple[int, ...]) -> None:
        nonlocal steps
        steps += 1
        if len(found) > 1 or steps > MOST_STEPS:
            return
        if not left:
            if not ends or shapes[order[-1]][1] == shapes[-1][1]:
                found.append(order)
            return
        begun: set[str] = set()
        for index in left:
            if families and families[index] in begun:
                continue
            if families:
                begun.add(families[index])
            if fits(index, order):
                extend((*order, index), tuple(other for other in left if other != index))

    if 0 < len(shapes) <= MAX_ORDERED:
        extend((), tuple(range(len(shapes))))
    return [*found, ()] if len(found) == 1 and steps > MOST_STEPS else found


def family(name: str, number: str = "#") -> str:
    """A name with `number` for its numbers: fc1, fc2 -> fc#."""
    return re.sub(r"_?\d+", number, name)


def note_order(notes: Notes, value: str, origin: Origin) -> None:
    """Say what the order of layers follows from, in the place of what was said before."""
    others = [one for one in notes.assumptions if one.what != ORDER]
    at = next((index for index, one in enumerate(notes.assumptions) if one.what == ORDER), len(others))
    notes.assumptions[:] = [*others[:at], Assumption(ORDER, value, origin), *others[at:]]


def judge_order(
    layers: Sequence[tuple[str, Linear]],
    normed: Collection[str],
    followers: Callable[[], Collection[str]],
    notes: Notes,
    *,
    warn: bool,
) -> None:
    """Say what supports an order that is assumed by default, or that nothing does, with a warning.

    layers: all of a network by name, in that order.  normed: names of those with a BatchNorm.  followers: finds the names of
    those that BatchNorm's statistics show to follow the layer before them.
    """
    taken = next((one for one in notes.assumptions if one.what == ORDER and one.origin == "default"), None)
    if taken is None or any(layer.window is not None for _, layer in layers):
        return  # which maps fit behind which, windows decide
    names = [name for name, _ in layers]
    shapes = [(layer.depth, layer.neurons) for _, layer in layers]
    *hidden, (name, last) = layers
    if not last.binary or (name not in normed and all(other in normed for other, _ in hidden)):
        shapes[-1] = (last.depth, -1)  # it can stand nowhere else
    families = [family(name, "") for name in names]
    alike: dict[str, list[str]] = {}
    for name, one in zip(names, families, strict=True):
        alike.setdefault(one, []).append(name)
    rising = all(some == sorted(some, key=natural_key) for some in alike.values())
    if len(chains(shapes, ends=True)) == 1:
        note_order(notes, f"{taken.value}: the only one in which the shapes of the matrices fit", "file")
    elif rising and (len(alike) == 1 or len(chains(shapes, families, ends=True)) == 1):
        note_order(notes, f"{taken.value}, in which the numbers in their names rise", "file")
    elif _is_proven(names, shapes, followers()):
        note_order(notes, f"{taken.value}, which BatchNorm's statistics bear out", "statistics")
    elif warn:
        against = "" if rising else ", in which the numbers in their names do not rise"
        what = f"the order of layers is taken {taken.value}: {', '.join(names)}{against} (others fit, too)"
        text = default_warning(what, "[[layers]] in their order")
        notes.warnings.append(Remark(f"{text}, and --expect finds the one that gives the network's own answers", ORDER))


def _is_proven(names: Sequence[str], shapes: Sequence[tuple[int, int]], following: Collection[str]) -> bool:
    """Whether layers that are known to follow the one before them leave one order alone."""
    # What every other layer follows is in doubt, and what is the last.  If they exchange two alone, layers stand in a circle.
    doubtful = [depth for name, (depth, _) in zip(names, shapes, strict=True) if name not in following]
    doubtful.append(shapes[-1][1])
    return len(doubtful) - len(set(doubtful)) <= 1

"""Slots of values: never overwritten while something still reads them, used again afterwards, two for a chain."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from xnorinfer.engine.buffers import OUTSIDE, Slots, slots_for
from xnorinfer.graph import INPUT, Node, chain


def nodes_of(*inputs: tuple[int, ...]) -> tuple[Node[str], ...]:
    return tuple(Node(str(index), "op", read) for index, read in enumerate(inputs))


def play(nodes: Sequence[Node[str]], sizes: Sequence[int], slots: Slots) -> None:
    """Run the nodes in order over cells that remember who wrote them."""
    cells = [[OUTSIDE] * size for size in slots.sizes]
    assert len(slots.taken) == len(nodes)
    assert slots.taken[-1] == OUTSIDE
    for index, (node, slot) in enumerate(zip(nodes, slots.taken, strict=True)):
        # A node reads rows while it writes others, so that its own slot must not be one that it reads.
        if slot != OUTSIDE:
            cells[slot][: sizes[index]] = [index] * sizes[index]
            assert len(cells[slot]) >= sizes[index]
        for read in node.inputs:
            if read != INPUT:
                assert cells[slots.taken[read]][: sizes[read]] == [read] * sizes[read], (index, read)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_chains_take_two(count: int) -> None:
    rng = random.Random(count)
    sizes = [rng.randint(1, 50) for _ in range(count)]
    nodes = chain((str(index), "op") for index in range(count))
    slots = slots_for(nodes, sizes)
    play(nodes, sizes, slots)
    assert slots.taken == (*(index % 2 for index in range(count - 1)), OUTSIDE)
    assert slots.sizes == tuple(max(sizes[first:-1:2]) for first in range(min(2, count - 1)))


def test_a_shortcut_holds_one_more() -> None:
    """Blocks of which each adds its input to its output: the shortcut's slot, and two for the values on the way beside it."""
    nodes = nodes_of((INPUT,), (0,), (1,), (2, 0), (3,), (4,), (5, 3), (6,))
    sizes = [8] * len(nodes)
    slots = slots_for(nodes, sizes)
    play(nodes, sizes, slots)
    assert len(slots.sizes) == 3


def test_the_slot_that_fits_best_is_used_again() -> None:
    # 0 and 1 lie beside each other until 2 has read them; 3 then takes the smaller one, which is enough for it.
    nodes = nodes_of((INPUT,), (INPUT,), (0, 1), (2,), (3,))
    assert slots_for(nodes, [100, 10, 5, 7, 1]) == Slots((0, 1, 2, 1, OUTSIDE), (100, 10, 5))
    # Where none is enough, the one to which the least has to be added.
    assert slots_for(nodes, [20, 10, 5, 30, 1]) == Slots((0, 1, 2, 0, OUTSIDE), (30, 10, 5))


def test_values_that_nothing_reads() -> None:
    nodes = nodes_of((INPUT,), (0,), (0,), (0,))
    sizes = [3, 4, 5, 6]
    slots = slots_for(nodes, sizes)
    play(nodes, sizes, slots)
    assert slots.sizes == (3, 5)


def alive(nodes: Sequence[Node[str]], index: int) -> int:
    """Values that must lie apart while a node runs: those that it or a later one reads, and its own."""
    read = {value for node in nodes[index:] for value in node.inputs if 0 <= value < index}
    return len(read) + (index < len(nodes) - 1)


def test_random_graphs() -> None:
    """Values are whole when they are read, and no slot more is taken than the moment needs at which most values are alive."""
    rng = random.Random(7)
    for _ in range(300):
        count = rng.randint(1, 30)
        far = rng.choice([2, 5, 30])
        inputs = [
            tuple(rng.randint(max(INPUT, index - far), index - 1) for _ in range(rng.choice([1, 1, 2, 3])))
            for index in range(count)
        ]
        nodes = nodes_of(*inputs)
        sizes = [rng.randint(1, 99) for _ in nodes]
        slots = slots_for(nodes, sizes)
        play(nodes, sizes, slots)
        assert len(slots.sizes) == max(alive(nodes, index) for index in range(count))

"""Places of values: never overwritten while something still reads them, as few bytes as the fullest step needs, or nearly."""

from __future__ import annotations

import random
from collections.abc import Sequence

from xnorinfer.engine.buffers import Life, most_alive, places_for


def play(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Write and read values step by step over cells that remember who wrote them."""
    places, size = places_for(lives)
    cells = [-1] * size
    for step in range(max((life.last for life in lives), default=-1) + 1):
        for index, life in enumerate(lives):
            if life.first == step:
                assert places[index] + life.size <= size
                cells[places[index] : places[index] + life.size] = [index] * life.size
        for index, life in enumerate(lives):
            if life.first <= step <= life.last:
                assert set(cells[places[index] : places[index] + life.size]) <= {index}, (step, index)
    return places, size


def test_chains_take_two() -> None:
    for count in range(9):
        lives = [Life(8, step, step + 1) for step in range(count)]
        assert play(lives)[1] == 8 * min(count, 2) == most_alive(lives)


def test_a_shortcut_holds_one_more() -> None:
    lives = [Life(8, 0, 3), Life(8, 1, 2), Life(8, 2, 3), Life(8, 3, 4)]
    assert play(lives)[1] == 24 == most_alive(lives)


def test_small_values_go_between_large_ones() -> None:
    lives = [Life(100, 0, 5), Life(50, 0, 1), Life(10, 2, 3), Life(40, 3, 5), Life(50, 6, 7)]
    places, size = play(lives)
    assert places[4] == 0
    assert size == 150 == most_alive(lives)


def test_nothing_and_values_that_nothing_reads() -> None:
    assert places_for([]) == ([], 0)
    assert most_alive([]) == 0
    assert play([Life(3, 0, 0), Life(4, 1, 1)]) == ([0, 0], 4)


def test_random_lives() -> None:
    rng = random.Random(7)
    total, bound = 0, 0
    for _ in range(300):
        count, far = rng.randint(1, 30), rng.choice([1, 4, 30])
        lives = [Life(rng.randint(1, 99), first, first + rng.randint(0, far)) for first in range(count)]
        total += play(lives)[1]
        bound += most_alive(lives)
    assert bound <= total <= 1.1 * bound

"""Nodes that point backwards, and tables of functions that know every op or say which they do not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from xnorinfer.errors import NetworkError
from xnorinfer.graph import INPUT, Interpretation, Node, chain, node_problems, users_of


@dataclass(frozen=True)
class Double:
    by: int = 2


@dataclass(frozen=True)
class Twice(Double):
    """An op of its own, whatever it inherits from."""


@dataclass(frozen=True)
class Plus:
    pass


@pytest.fixture
def meaning() -> Interpretation[[int], int]:
    made: Interpretation[[int], int] = Interpretation("test.meaning", (Double, Plus))
    Interpretation.every.remove(made)

    @made.of(Double)
    def _double(op: Double, value: int) -> int:
        return op.by * value

    return made


def test_the_function_of_the_class_is_called(meaning: Interpretation[[int], int]) -> None:
    assert meaning(Node("a", Double(3), (INPUT,)), 5) == 15


@pytest.mark.parametrize("op", [Plus(), Twice()])
def test_an_op_without_a_function_is_named_with_its_node(op: object, meaning: Interpretation[[int], int]) -> None:
    with pytest.raises(NetworkError, match=f"here: test.meaning does not know the class {type(op).__name__}"):
        meaning(Node("here", op, (INPUT,)), 5)
    assert meaning.missing == ["Plus"]


def test_users_and_a_chain() -> None:
    nodes = (*chain([("a", Double()), ("b", Double())]), Node("sum", Plus(), (0, 1)))
    assert [node.inputs for node in nodes] == [(INPUT,), (0,), (0, 1)]
    assert users_of(nodes) == [[1, 2], [2], []]
    assert not list(node_problems(nodes))


@pytest.mark.parametrize("inputs", [(1,), (2,), (-2,), (), (True,), [0], (0, 1), ("0",)])
def test_inputs_that_are_not_earlier_nodes(inputs: object) -> None:
    nodes = (Node("a", Double(), (INPUT,)), Node("b", Double(), inputs))  # type: ignore[arg-type]
    (problem,) = node_problems(nodes)
    assert problem.startswith("b: ")


def test_names_are_text() -> None:
    (problem,) = node_problems((Node(5, Double(), (INPUT,)),))  # type: ignore[arg-type]
    assert problem == "node 0: its name is 5, needed is text"

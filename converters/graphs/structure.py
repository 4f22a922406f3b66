"""How the nodes of a graph hang together, before anybody asks what they compute: which of its outputs is the network's, the
order of computation, and what leads nowhere or in a circle."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.problems import NAMED, Problems
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes
from xnorinfer.errors import OptionError

_PLAIN = r"[\w./-]*[\w/-]"
ORDERED = Assumption("order of the nodes", "that of computation, which is not the file's", "graph")


def output_lines(names: Sequence[str]) -> str:
    """The end of a refusal: the options that choose one of several outputs."""
    listed = [f"--output-name {name if re.fullmatch(_PLAIN, name) else repr(name)}" for name in dict.fromkeys(names)]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return f"; {' or '.join(listed[:NAMED])}{more} takes one of them"


def told_outputs(text: str) -> set[str]:
    """The names that the options in a refusal take (`output_lines`)."""
    return {word.strip("'") for word in re.findall(r"--output-name ('[^']*'|\S+)", text)}


def choose_output(graph: OnnxGraph, options: ConvertOptions, notes: Notes, about: str) -> tuple[OnnxGraph, int | None]:
    """The graph with the one output that an option names, and which of them it is; others, and what leads to them alone, are
    left out.  None without the option.  Raises OptionError for a name that is none."""
    name = options.output_name
    if name is None:
        return graph, None
    if name not in graph.outputs:
        raise OptionError(f"--output-name {name}: {about} gives {', '.join(graph.outputs) or 'nothing'}")
    if len(graph.outputs) > 1:
        others = ", ".join(other for other in graph.outputs if other != name)
        notes.assumptions.append(Assumption("output", f"{name}; left out: {others}", "option"))
    needed = leading_nodes(graph.nodes, (name,))
    nodes = tuple(node for node in graph.nodes if id(node) in needed)
    return dataclasses.replace(graph, nodes=nodes, outputs=(name,)), graph.outputs.index(name)


def leading_nodes(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> set[int]:
    """The ids of the nodes that lead to some values."""
    giver = _givers(nodes)
    kept: set[int] = set()
    left = list(outputs)
    while left:
        spend_steps(what="looking for what leads to an output")
        at = giver.get(left.pop())
        if at is not None and id(nodes[at]) not in kept:
            kept.add(id(nodes[at]))
            left += nodes[at].inputs
    return kept


def in_order(nodes: Sequence[OnnxNode]) -> tuple[list[OnnxNode], list[OnnxNode]]:
    """Nodes in an order of computation, as in the file where that is one, and those that are in a circle or behind one; they
    stand at the end of the first list, too."""
    giver = _givers(nodes)
    waits = [{giver[name] for name in node.inputs if name in giver} for node in nodes]
    if all(other < index for index, others in enumerate(waits) for other in others):
        return list(nodes), []
    readers: list[list[int]] = [[] for _ in nodes]
    for index, others in enumerate(waits):
        for other in others:
            readers[other].append(index)
    missing = [len(others) for others in waits]
    ready = deque(index for index, count in enumerate(missing) if not count)
    found: list[int] = []
    while ready:
        spend_steps(what="ordering the nodes of a graph")
        index = ready.popleft()
        found.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    left = [index for index, count in enumerate(missing) if count]
    return [nodes[index] for index in [*found, *left]], [nodes[index] for index in left]


def _givers(nodes: Sequence[OnnxNode]) -> Mapping[str, int]:
    """Value -> the first node that gives it."""
    found: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.outputs:
            if name:
                found.setdefault(name, index)
    return found


def circles(nodes: Sequence[OnnxNode]) -> Iterator[list[OnnxNode]]:
    """Circles among nodes, each of which begins at the first node in it, until every circle has a node in one of these."""
    giver = _givers(nodes)
    waits = [[giver[name] for name in node.inputs if name in giver] for node in nodes]
    done: set[int] = set()
    for start in range(len(nodes)):
        if start in done:
            continue
        way = _way_back(start, waits, done)
        done.update(way or (start,))
        if way:
            yield [nodes[index] for index in way]


def _way_back(start: int, waits: Sequence[Sequence[int]], without: set[int]) -> list[int]:
    """The shortest way from a node over those that read it back to itself; [] where there is none."""
    came: dict[int, int] = {}
    reach = deque([start])
    while reach:
        here = reach.popleft()
        for other in waits[here]:
            spend_steps(what="looking for circles in a graph")
            if other == start:
                way = [here]
                while way[-1] != start:
                    way.append(came[way[-1]])
                return [way[-1], *way[:-1]]
            if other not in came and other not in without:
                came[other] = here
                reach.append(other)
    return []


def checked(graph: OnnxGraph, notes: Notes, problems: Problems) -> tuple[list[OnnxNode], set[int]]:
    """The nodes in the order of computation, with those in circles or behind them last: their places.  What is wrong with the
    outputs and with circles is among the problems."""
    ordered, circular = in_order(graph.nodes)
    if ordered != list(graph.nodes) and not circular:
        notes.assumptions.append(ORDERED)
    for circle in circles(circular):
        names = [node.name for node in circle]
        shown = names if len(names) <= NAMED else [*names[: NAMED - 1], "...", names[-1]]
        told = " -> ".join([*shown, names[0]])
        problems.add(f"nodes stand in a circle, where each is computed from itself: {told}")
        problems.damaged = True
    given = {name for node in graph.nodes for name in node.outputs} | set(graph.inputs) | set(graph.constants)
    for name in dict.fromkeys(graph.outputs):
        if name not in given:
            problems.add(f"the output {name} is nothing that the graph computes" + _others(graph, name))
            problems.damaged = True
        elif graph.outputs.count(name) > 1:
            problems.add(f"the graph gives {name} {graph.outputs.count(name)} times among its outputs: is malformed")
            problems.damaged = True
    return ordered, set(range(len(ordered) - len(circular), len(ordered)))


def _others(graph: OnnxGraph, name: str) -> str:
    others = [other for other in graph.outputs if other != name]
    return output_lines(others) if others else ""

"""Nodes of graphs that compute with values number by number, and those that join two values: sums and concatenations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.behindsums import Signs
from xnorinfer.converters.graphs.elementwise import Expr
from xnorinfer.converters.graphs.livevalues import Constant, Live, Stage, Value
from xnorinfer.converters.graphs.livevalues import Shape as Sizes
from xnorinfer.converters.graphs.places import Places, look_at, vector_of
from xnorinfer.converters.graphs.stages import Stages
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Add, Channels, Concat, Flatten, Multiply, Steps
from xnorinfer.net.values import levels_of_all

JOINED = (
    "joins two branches of the network by something else than a sum, a difference, a product or a concatenation, which is not "
    "supported in a binary network"
)
#: Comparisons of two values that their difference says, which is 0 in float32 for equal ones alone.
ORDERED = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


class GraphValues(Stages):
    """What a walk does at nodes that are no layers and no pools."""

    # ---------------------------------------------------------------- elementwise, as `operations` asks for it

    def apply(self, node: OnnxNode, op: str, *args: Value) -> Value:
        """One of `elementwise.OPERATIONS` on values.  Raises Refused."""
        lives = [arg for arg in args if isinstance(arg, Live)]
        lost = next((live for live in lives if live.expr.op == "lost"), None)
        if lost is not None:
            return lost
        if not lives:
            if any(not isinstance(arg, Constant) for arg in args):
                return Sizes()
            return self.constants.elementwise(node, op, [arg for arg in args if isinstance(arg, Constant)])
        if any(one.stage is not lives[0].stage for one in lives):
            return self._across(node, op, args)
        if op in ("Add", "Sub", "Mul") and len(lives) == 2 and not _in_one_layout(*lives):
            return self.joined(node, op, lives)  # a value and its own channels in another order
        live = self._alike(node, lives)
        operands: list[Expr | None] = [None if isinstance(arg, Live) else self._operand(node, arg, live) for arg in args]
        if any(operand is None and not isinstance(arg, Live) for operand, arg in zip(operands, args, strict=True)):
            if len({one.expr.number for one in lives}) > 1:
                self.problems.refuse(
                    node, "joins a map with numbers of its own for every pixel, which is not supported in a binary network"
                )
            live = self.flattened(node, live)
            args = tuple(live if isinstance(arg, Live) else arg for arg in args)
            operands = [None if isinstance(arg, Live) else self._operand(node, arg, live) for arg in args]
        given = [arg.expr if isinstance(arg, Live) else operand for arg, operand in zip(args, operands, strict=True)]
        made = self.table.node(op, [one for one in given if one is not None], node.outputs[0])
        if made.op != op:
            self._note_cancelled()
        return dataclasses.replace(live, expr=made)

    def _across(self, node: OnnxNode, op: str, args: Sequence[Value]) -> Value:
        """Of values of several stages.  A comparison is that of their difference with 0; the larger or smaller of two is a
        choice by that; a choice is the sum of what is chosen, times 1, and of the other, times 0.  Raises Refused."""
        lives = [arg for arg in args if isinstance(arg, Live)]
        if op in ORDERED and len(lives) == 2:
            return self.apply(node, op, self.joined(node, "Sub", lives), self.number(0.0))
        if op in ("Max", "Min") and len(lives) == 2:
            first = self.apply(node, "Greater" if op == "Max" else "Less", *args)
            return self.apply(node, "Where", first, *args)
        if op != "Where":
            return self.joined(node, op, lives)
        chosen, one, other = args
        first = self.apply(node, "NotEqual", chosen, self.number(0.0))
        terms = [
            self.apply(node, "Mul", share, term)
            for share, term in ((first, one), (self.apply(node, "Sub", self.number(1.0), first), other))
            if not (isinstance(term, Constant) and not term.array.any())
        ]
        return terms[0] if len(terms) == 1 else self.apply(node, "Add", *terms)

    def _alike(self, node: OnnxNode, lives: Sequence[Live]) -> Live:
        """What stands for all of them: they are expressions of one value, in one layout."""
        first = lives[0]
        for live in lives[1:]:
            if not _in_one_layout(live, first):
                told = "that stand in another order each" if _as_many(live, first) else "of different shapes"
                self.problems.refuse(node, f"joins values {told}, which is not supported in a binary network")
            if live.outside != first.outside:
                self.problems.refuse(
                    node, "joins values that are padded in different ways, which is not supported in a binary network"
                )
        return first

    def _note_cancelled(self) -> None:
        """`x + (sign(x) - x)` is read as sign(x), which the framework's own numbers miss by rounding."""
        text = (
            "signs with a straight-through estimator in the forward pass, x + (sign(x) - x), are read as sign(x): the "
            "framework's own values are rounded twice, by up to |x| / 2^24, and its scores differ by that"
        )
        if text not in self.notes.warnings:
            self.notes.warnings.append(text)

    def is_input(self, value: Value) -> bool:
        """Whether a value is what the network makes of its input before the first layer."""
        return isinstance(value, Live) and value.stage.layer is None

    def number(self, value: float) -> Constant:
        """A number as a constant."""
        return self.constants.of(np.array(value, np.float32), ())

    def single(self, node: OnnxNode, value: Value | None) -> float:
        """The number that a constant is.  Raises Refused."""
        number = value.number if isinstance(value, Constant) else None
        if number is None:
            self.problems.refuse(node, "needs a single number as constant, which is not supported in a binary network")
        self.use(value, f"{node.operation}: a single number")
        return number

    def _operand(self, node: OnnxNode, value: Value, live: Live) -> Expr | None:
        """A constant beside the network's values: a number, or one for each neuron or channel.  None where the pixels of a map
        have numbers of their own."""
        if not isinstance(value, Constant):
            self.problems.refuse(node, "computes with shapes, which is not supported in a binary network")
        warnings = self.notes.warnings if value.array.ndim else []  # numbers of a program are float32 beside tensors that are
        array = value.array.astype(np.uint8) if value.array.dtype == np.bool_ else value.array  # truths, 0 and 1 as numbers
        flat = as_float32(RawTensor(node.name, array, str(array.dtype)), warnings)
        shape, width = live.stage.shape, live.stage.width
        self.use(value, f"{live.stage.layer or 'input'}: {node.operation}")
        if flat.size == 1:
            return self.table.const(flat.reshape(-1)[0])
        if live.places is not None and shape is not None:
            try:
                vector = vector_of(flat, live.places, shape)
            except ValueError:
                self._refuse_shape(node, value.array.shape, math.prod(shape))
            return None if vector is None else self._vector(vector)
        if flat.ndim > 1 and flat.size and (flat == flat[(0,) * (flat.ndim - 1)]).all():  # a row for each sample of an example
            flat = flat[(0,) * (flat.ndim - 1)]
        if flat.size != 1 and (flat.shape[-1] != flat.size or width not in (None, flat.size)):
            self._refuse_shape(node, value.array.shape, width)
        return self._vector(flat.reshape(-1))

    def _vector(self, vector: F32) -> Expr:
        return self.table.const(vector[0] if vector.size == 1 or (vector == vector[0]).all() else vector)

    def _refuse_shape(self, node: OnnxNode, shape: tuple[int, ...], width: int | None) -> None:
        self.problems.refuse(node, f"has a constant of shape {shape} for {width or 'the input'} values")

    # ---------------------------------------------------------------- joins

    def joined(self, node: OnnxNode, op: str, lives: Sequence[Live]) -> Live:
        """The sum, the difference, or the product of two values of the network.  Raises Refused."""
        if op not in ("Add", "Sub", "Mul") or len(lives) != 2:
            self.problems.refuse(node, JOINED)
        if op == "Mul" and lives[0].stage.shape != lives[1].stage.shape:
            return self._gated(node, *lives)
        one, other = self._vectors(node, [self._number(node, live) for live in lives])
        shapes = one.stage.shape, other.stage.shape
        if shapes[0] != shapes[1]:
            told = " and ".join("of unknown shape" if shape is None else " x ".join(map(str, shape)) for shape in shapes)
            self.problems.refuse(
                node,
                f"{'multiplies' if op == 'Mul' else 'adds'} values {told} and not two of one shape, which is not supported in "
                "a binary network",
            )
        if not _stand_alike(one, other):
            self.problems.refuse(
                node, "joins values that stand in another order each, which is not supported in a binary network"
            )
        second = other.stage.at
        if op == "Sub":  # a + (-b) is rounded as a - b is
            second = self.once(f"{node.name}.minus", Steps.of(("mul", -1)), second)
        name = self.free(node.name)
        at = self.emit(name, Multiply() if op == "Mul" else Add(), one.stage.at, second)
        stage = Stage(one.leaf, at, shapes[0], name)
        return self.begin(node.name, stage, shapes[0], one.places if one.places is not None else other.places)

    def _gated(self, node: OnnxNode, *lives: Live) -> Live:
        """A value times a smaller one: a number for each of its channels, or for each pixel, or one.  Raises Refused."""
        one, gate = sorted((self._number(node, live) for live in lives), key=lambda live: -math.prod(live.stage.shape or ()))
        shape, places, beside = one.stage.shape, one.places, gate.places
        if shape is None or gate.stage.shape is None or places is None or beside is None:
            self.problems.refuse(node, self.unknown_shape)
        look_at(places)
        channels, at = shape[-1], gate.stage.at
        fits = beside.ndim == places.ndim and all(
            size in (1, whole) for size, whole in zip(beside.shape, places.shape, strict=True)
        )
        spread = np.broadcast_to(beside, places.shape) if fits else None
        if math.prod(gate.stage.shape) == 1 and spread is not None:  # one number for all
            if len(gate.stage.shape) > 1:
                at = self.emit(self.free(f"{node.name}.flatten"), Flatten(), at)
            at = self.emit(self.free(f"{node.name}.channels"), Channels((0,) * channels), at)
        elif spread is None or (spread != places % channels).any() or beside.size != channels:
            if spread is None or (spread != places // channels).any() or gate.stage.shape != (*shape[:-1], 1):
                told = f"{' x '.join(map(str, shape))} by {' x '.join(map(str, gate.stage.shape))}"
                reason = "numbers that are neither of one shape nor one for each channel or pixel"
                self.problems.refuse(node, f"multiplies {told}, {reason}, which is not supported in a binary network")
            at = self.emit(self.free(f"{node.name}.channels"), Channels((0,) * channels), at)
        elif gate.stage.shape[-1] != channels:
            at = self.emit(self.free(f"{node.name}.flatten"), Flatten(), at)
        name = self.free(node.name)
        stage = Stage(one.leaf, self.emit(name, Multiply(), one.stage.at, at), shape, name)
        return self.begin(node.name, stage, shape, places)

    def _vectors(self, node: OnnxNode, lives: Sequence[Live]) -> list[Live]:
        """Values that are joined: maps of one pixel as vectors, where others are vectors."""
        if all(live.stage.is_map for live in lives):
            return list(lives)
        flat = [live.stage.is_map and live.places is not None and live.places.ndim == 1 for live in lives]
        return [self.flattened(node, live) if is_flat else live for live, is_flat in zip(lives, flat, strict=True)]

    def _number(self, node: OnnxNode, live: Live) -> Live:
        """A value of the network that a sum reads; signs among them are -1 and +1.  Raises Refused."""
        found = self.settled(node, live)
        signs = found.stage.signed
        return found if signs is None or (signs.low, signs.high) == (-1, 1) else self.as_numbers(node, found, signs)

    def as_numbers(self, node: OnnxNode, live: Live, signs: Signs) -> Live:
        """Signs that stand for two other numbers, as these.  Raises Refused."""
        steps = self.numbers_of(node, signs, "joins {} with other values")
        at = self.once(f"{live.stage.layer}.numbers", Steps(steps), live.stage.at) if steps else live.stage.at
        stage = dataclasses.replace(live.stage, leaf=self.table.value(node.name), at=at, signed=None, pieces=())
        return Live(stage.leaf, stage, places=live.places)

    def concatenated(self, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
        """Values one behind the other in their channels.  Raises Refused."""
        inputs = [value for value in inputs if not isinstance(value, Constant) or value.array.size]  # nothing adds nothing
        lives = [value for value in inputs if isinstance(value, Live)]
        lost = next((live for live in lives if live.expr.op == "lost"), None)
        if lost is not None:
            return lost
        if len(lives) < len([value for value in inputs if value is not None]):
            self.problems.refuse(node, "joins values of the network and constants, which is not supported in a binary network")
        found = self._vectors(node, [self.settled(node, live) for live in lives])
        if len(found) == 1:
            return found[0]
        first = found[0]
        axis = node.attributes.get("axis", 1)
        vectors = all(one.stage.shape is not None and len(one.stage.shape) == 1 for one in found) and axis in (1, -1)
        if (any(one.places is None for one in found) and not vectors) or not isinstance(axis, int):
            self.problems.refuse(node, self.unknown_shape)
        places = None if any(one.places is None for one in found) else self._side_by_side(node, found, axis)
        signs = first.stage.signed
        alike = signs is not None and all(
            one.stage.signed is not None and (one.stage.signed.low, one.stage.signed.high) == (signs.low, signs.high)
            for one in found
        )
        if not alike:
            found = [self._number(node, one) for one in found]
        if alike and signs is not None:
            by = dict.fromkeys(name for one in found if one.stage.signed is not None for name in one.stage.signed.by)
            signs = dataclasses.replace(signs, by=tuple(by))
        assert first.stage.shape is not None
        shape = (*first.stage.shape[:-1], sum(one.stage.width or 0 for one in found))
        at = self.emit(node.name, Concat(), *(one.stage.at for one in found))
        levels = None if alike else levels_of_all([one.stage.domain for one in found])
        stage = Stage(first.leaf, at, shape, node.name, signed=signs if alike else None, levels=levels)
        result = self.begin(node.name, stage, shape, places)
        self.newest = dataclasses.replace(self.newest, pieces=tuple(one.stage for one in found))
        return dataclasses.replace(result, stage=self.newest)

    def _side_by_side(self, node: OnnxNode, lives: Sequence[Live], axis: int) -> Places:
        """Where the numbers of values stand that are joined along an axis, which must be that of their channels.  Raises
        Refused."""
        first = lives[0]
        assert first.places is not None
        if not -first.places.ndim - 1 <= axis <= first.places.ndim:
            self.problems.refuse(node, f"joins values along the axis {axis}, which they do not have: is malformed")
        axis = axis % (first.places.ndim + 1) - 1
        total, offset = sum(one.stage.width or 0 for one in lives), 0
        moved: list[Places] = []
        pixels: Places | None = None
        for one in lives:
            places, width = one.places, one.stage.width
            assert places is not None
            assert width is not None
            look_at(places)
            if axis < 0 or places.ndim != first.places.ndim or places.shape[axis] != width:
                self._refuse_axis(node, lives)
            channels = np.moveaxis(places, axis, -1)
            mine = channels[..., 0] // width
            in_order = (channels % width == np.arange(width)).all() and (channels // width == mine[..., None]).all()
            if not in_order or (pixels is not None and not np.array_equal(mine, pixels)):
                self._refuse_axis(node, lives)
            if one.stage.shape is None or one.stage.shape[:-1] != (first.stage.shape or ())[:-1]:
                self._refuse_axis(node, lives)
            pixels = mine
            moved.append((places // width * total + places % width + offset).astype(np.int32))
            offset += width
        return np.concatenate(moved, axis=axis)

    def _refuse_axis(self, node: OnnxNode, lives: Sequence[Live]) -> NoReturn:
        told = ", ".join(" x ".join(map(str, live.stage.shape or ("?",))) for live in lives)
        self.problems.refuse(
            node,
            f"joins values {told} along another axis than that of their channels, which is not supported in a binary network",
        )


def _in_one_layout(one: Live, other: Live) -> bool:
    """Whether two values of one stage stand in their tensors alike."""
    if one.places is None or other.places is None:
        return one.places is other.places
    return np.array_equal(one.places, other.places)


def _as_many(one: Live, other: Live) -> bool:
    return one.places is not None and other.places is not None and one.places.shape == other.places.shape


def _stand_alike(one: Live, other: Live) -> bool:
    """Whether the numbers of two values of one shape stand in the same order."""
    if one.places is None or other.places is None:
        known = one.places if one.places is not None else other.places
        return known is None or bool((known.reshape(-1) == np.arange(known.size)).all())
    return np.array_equal(one.places, other.places)

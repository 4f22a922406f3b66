"""What a graph does with its input before the first layer: a part of the input mapping, or signs of each input by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from xnorinfer.converters.assemble import pixel_step, rescaled_pixels
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.behindsums import Both, Placed, Read, Signs, is_arithmetic, layers_of
from xnorinfer.converters.graphs.elementwise import Expr, constants, evaluate
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.networkparts import Follower
from xnorinfer.converters.reading import INPUT, Assumption, Notes, Remark
from xnorinfer.net.ops import Function, Levels, Norm, Step, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, Shape, SignInput, ThresholdInput

#: What the graph's input is unless an option or its own numbers say otherwise: torchvision's ToTensor.
GRAPH_INPUT = PixelInput.range(0, 1)
RAW_PIXELS = PixelInput.range(0, 255)
#: A graph that makes its input smaller than this many times is one of raw pixels: it divides by 255 or by deviations of pixels.
SHRINKS = 0.1
UNSAID = (
    "the graph does not say what its input is: pixels / 255 is used (0..1); where the network was trained on others, "
    "--input-range -1:1 or 0:255 (raw pixels), --input-normalize MEAN:STD, --input-threshold, --input-signs or --input-real "
    "says so"
)


@dataclass
class Entry:
    """The input of a graph as far as it is known.  given: by an option; base: what enters the graph, mapping: what the first
    layer reads.

    leading: what stands before signs of each input by itself, behind a BatchNorm of inputs, or ends in levels, None where there
    is none of these; signs: those.
    """

    given: InputMapping | None
    base: InputMapping = GRAPH_INPUT
    mapping: InputMapping = GRAPH_INPUT
    norms: list[Follower] = field(default_factory=list)
    leading: list[Follower] | None = None
    signs: Signs | None = None
    said: str = ""
    zero: Rule | None = None  # what the profile that the user chose makes of a sign of 0

    def __post_init__(self) -> None:
        if self.given is not None:
            self.base = self.mapping = self.given

    def note(self, notes: Notes) -> None:
        """Say what the input is taken for."""
        origin = "option" if self.given is not None else "graph" if self.said else "default"
        value = self.base.describe() + (f": {self.said}" if self.said else "")
        notes.assumptions.append(Assumption("input of the graph", value, origin))  # type: ignore[arg-type]
        if origin == "default":
            notes.warnings.append(Remark(UNSAID, INPUT))

    def settle(self, steps: Sequence[Placed]) -> None:
        """Look at what the graph does first: its own numbers tell raw pixels from others."""
        if self.given is not None or self.said or self.norms:
            return
        slope = 1.0
        for _, step in steps:
            if not isinstance(step, Step) or not is_arithmetic(step):
                break
            if step.function in ("mul", "div"):
                sizes = np.abs(step.parameters[0])
                slope *= float(sizes.max()) if step.function == "mul" else 1 / float(sizes.min())
        if 0 < abs(slope) <= SHRINKS:
            self.base = self.mapping = RAW_PIXELS
            self.said = f"it divides its input by {1 / abs(slope):.6g} itself"

    def settle_norm(self, name: str, norm: Norm) -> None:
        """The same by the statistics of a BatchNorm of the input."""
        if self.given is None and not self.said and not self.norms and float(norm.mean.max(initial=0)) > 1:
            self.base = self.mapping = RAW_PIXELS
            self.said = f"{name} saw inputs of {float(norm.mean.max()):.4g} on average"

    # ---------------------------------------------------------------- how it ends

    def norm(self, read: Read, name: str, norm: Norm, width: int) -> None:
        """A BatchNorm of the inputs."""
        self.settle(read.steps)
        self.settle_norm(name, norm)
        self.norms += [*_ops(f"{name}.input", read, width), (name, norm)]

    def real(self, node: OnnxNode, read: Read, width: int, image: Shape | None, problems: Problems, *, binary: bool) -> None:
        """The first layer reads real values: the steps join the mapping of pixels, but behind a BatchNorm.

        image: the shape of an input that is a map, whose channels may each have numbers of their own.  binary: whether the
        layer has such weights.  Raises Refused.
        """
        self.settle(read.steps)
        if self.norms and binary:
            problems.refuse(
                node, "reads what a BatchNorm made of the inputs without a sign, which is not supported in a binary network"
            )
        if self.norms:
            self.leading = [*self.norms, *_ops("input", read, width)]
            return
        if not read.steps:
            return
        if not isinstance(self.base, PixelInput | ChannelInput):
            problems.add(
                f"the graph computes with its input, which '{self.base.describe()}' does not allow; --input-range says another"
            )
            return
        channels = 1 if image is None else image[2]
        mapped = [step for _, step in read.steps if isinstance(step, Step) and is_arithmetic(step)]
        if len(mapped) < len(read.steps) or any(step.parameters[0].size not in (1, channels) for step in mapped):
            problems.refuse(node, "reads inputs that are not mapped alike, which is not supported in a binary network")
        many = not all(_is_number(step) for step in mapped)
        bases = self.base.channels if isinstance(self.base, ChannelInput) else (self.base,) * (channels if many else 1)
        mappings: list[PixelInput] = []
        found: list[str] = []
        for channel, base in enumerate(bases):
            steps = [(step.function, _number_of(step, channel)) for step in mapped]
            mappings.append(affine("the graph", base, steps, found) or base)
        self.mapping = mappings[0] if len(set(mappings)) == 1 else ChannelInput(tuple(mappings))
        for problem in dict.fromkeys(found):
            problems.add(problem)

    def takes(self, node: OnnxNode, expr: Expr, leaf: Expr, read: Read, problems: Problems) -> bool:
        """Whether an expression that is no steps maps pixels evenly all the same, as one that rounds them to their own grid;
        the mapping is that, then.  Raises Refused where it takes only few values, and not so."""
        self.settle(read.steps)
        if self.norms or not isinstance(self.base, PixelInput) or any(array.ndim for array in constants(expr)):
            return False
        found = _evenly(expr, leaf, self.base)
        if found is not None:
            self.mapping = found
            return True
        if read.levels is not None:
            return False
        others = (one for one in (PixelInput(1, 0, 256), PixelInput(2, -256, 256)) if _evenly(expr, leaf, one))
        way = next((f"; where pixels are {one.describe()} they do" for one in others), "")
        if way:
            reason = "rounds its input to a grid: pixels do not become values that are evenly apart"
            problems.refuse(node, f"{reason}, under {self.base.describe()}, which is not supported{way}")
        return False

    def binarized(self, node: OnnxNode, expr: Expr, leaf: Expr, read: Read, width: int, problems: Problems) -> None:
        """The first layer reads signs of each input."""
        assert read.signs is not None
        self.settle(read.steps)
        if not self.norms:
            if isinstance(self.base, ThresholdInput | SignInput):
                low, high = evaluate(expr, np.array([-1, 1], np.float32), None, leaf)
                if not low < 0 < high:
                    self._refuse(node, problems)
                return
            if isinstance(self.base, PixelInput) and _one_for_all(read):
                threshold = self._pixel(node, expr, leaf, read.signs, problems)
                if threshold is not None:
                    self.mapping = ThresholdInput(threshold)
                    return
        if isinstance(self.base, ThresholdInput | SignInput):
            self._refuse(node, problems)
        self.leading = [*self.norms, *_ops("input", read, width)]
        self.signs = read.signs

    def rounded(self, read: Read, width: int) -> None:
        """The first layer reads levels of each input."""
        self.settle(read.steps)
        ops = _ops("input", read, width)
        self.leading = [*self.norms, *((name if isinstance(op, Steps) else "input.levels", op) for name, op in ops)]

    def _pixel(self, node: OnnxNode, expr: Expr, leaf: Expr, signs: Signs, problems: Problems) -> int | None:
        """The first pixel of +1, each of the 256 tried in float32; None where -1 stands above +1."""
        assert isinstance(self.base, PixelInput)
        mapped = ((self.base.slope * np.arange(256) + self.base.intercept) / self.base.divisor).astype(np.float32)
        value = evaluate(expr, mapped, None, leaf)
        middle = (signs.low + signs.high) / 2
        if signs.rule == "sign" and (value == middle).any():
            if self.zero not in ("ge", "gt"):
                zero = int(np.argmax(value == middle))
                way = "--profile ge-zero takes it for +1, gt-zero for -1"
                problems.refuse(node, f"gives 0 for pixel {zero}, which is neither -1 nor +1; {way}")
            elif self.zero == "ge":
                value = np.where(value == middle, signs.high, value)
        first = pixel_step(value > middle)
        if first is None and pixel_step(value < middle) is None:
            problems.refuse(
                node,
                f"binarizes the input, which is {self.base.describe()}: there is no step from -1 up to +1; --input-range says "
                "what pixels are before it",
            )
        return first

    def _refuse(self, node: OnnxNode, problems: Problems) -> None:
        problems.refuse(
            node,
            f"binarizes the input, which the mapping '{self.base.describe()}' does not allow; --input-range says another",
        )


def _ops(name: str, read: Read, width: int) -> list[tuple[str, Steps | Levels]]:
    """Steps of an input as ops; it is not read as joined runs of them (`behindsums.read` of `twice`)."""
    return [(called, op) for called, op in layers_of(name, read.steps, width) if not isinstance(op, Both)]


def _one_for_all(read: Read) -> bool:
    return all(not isinstance(step, Step) or not is_arithmetic(step) or step.parameters[0].size == 1 for _, step in read.steps)


def _evenly(expr: Expr, leaf: Expr, base: PixelInput) -> PixelInput | None:
    """The mapping of pixels to what an expression gives for them under another one; None where that is none."""
    pixels = np.arange(256)
    values = evaluate(expr, ((base.slope * pixels + base.intercept) / base.divisor).astype(np.float32), None, leaf)
    steps = np.diff(values.astype(np.float64))
    if not np.isfinite(values).all() or not steps[0] or (steps != steps[0]).any():
        return None
    ratio = Fraction(float(steps[0]))
    first = Fraction(float(values[0]))
    divisor = math.lcm(ratio.denominator, first.denominator)
    return PixelInput(float(ratio * divisor), float(first * divisor), float(divisor))


def _number_of(step: Step, channel: int) -> float:
    """The number of an operation by one, or by one for each channel."""
    numbers = step.parameters[0].reshape(-1)
    return float(numbers[channel if numbers.size > 1 else 0])


def _is_number(step: Step) -> bool:
    """Whether it is an operation by one number for all inputs."""
    return not step.parameters[0].ndim


def affine(who: str, base: PixelInput, steps: Sequence[tuple[Function, float]], problems: list[str]) -> PixelInput | None:
    """The mapping of pixels that a network computes with by numbers; None, with the problem, where it is none."""
    slope, intercept, divisor = base.slope, base.intercept, base.divisor
    for kind, number in steps:
        if kind == "mul":
            slope, intercept = slope * number, intercept * number
        elif kind == "div":
            divisor *= number
        else:
            intercept += (number if kind == "add" else -number) * divisor
    return rescaled_pixels(who, slope, intercept, divisor, problems)

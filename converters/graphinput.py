"""What a graph does with its input before the first layer, as an input mapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from xnorinfer.converters.assemble import pixel_step
from xnorinfer.converters.graphproblems import Problems
from xnorinfer.converters.graphvalues import COMPUTE
from xnorinfer.converters.onnxfile import OnnxNode
from xnorinfer.netspec import F32, ChainOp, InputMapping, PixelInput, Rule, SignInput, ThresholdInput

#: One operation with a number, in float32.
InputStep: TypeAlias = tuple[ChainOp, np.float32]


def threshold_input(
    base: InputMapping, steps: Sequence[InputStep], node: OnnxNode, rule: Rule, problems: Problems
) -> InputMapping:
    """The input mapping where a node binarizes the graph's input: tried for every pixel, in float32.  Raises Refused."""
    if isinstance(base, PixelInput):
        pixels = np.arange(256)
        mapped = ((base.slope * pixels + base.intercept) / base.divisor).astype(np.float32)
        value = _apply(steps, mapped)
        if rule == "sign" and (value == 0).any():
            zero = int(np.argmax(value == 0))
            problems.refuse(
                node, f"gives 0 for pixel {zero}, which is neither -1 nor +1", f"[input] threshold = {max(zero, 1)}"
            )
        ones = value >= 0 if rule == "ge" else value > 0
        first = pixel_step(ones)
        if first is not None:
            return ThresholdInput(first)
        problems.refuse(node, "gives the pixels 0..255 no step from -1 up to +1; --input-range says what pixels are before it")
    if isinstance(base, ThresholdInput | SignInput):
        low, high = _apply(steps, np.array([-1, 1], np.float32))
        if low < 0 < high:
            return base
    problems.refuse(
        node,
        f"binarizes the input, which the mapping '{base.describe()}' does not allow; --input-range says another",
    )


def affine_input(base: InputMapping, steps: Sequence[InputStep], problems: Problems) -> InputMapping:
    """The input mapping where the first layer reads real values: the steps join the mapping of pixels."""
    if not isinstance(base, PixelInput):
        what = f"the graph computes with its input, which '{base.describe()}' does not allow"
        problems.add(f"{what}; --input-range says another")
        return base
    slope, intercept, divisor = base.slope, base.intercept, base.divisor
    for kind, value in steps:
        number = float(value)
        if kind == "mul":
            slope, intercept = slope * number, intercept * number
        elif kind == "div":
            divisor *= number
        else:
            intercept += (number if kind == "add" else -number) * divisor
    if not (np.isfinite([slope, intercept, divisor]).all() and slope and divisor):
        problems.add("the graph maps every pixel to one value or to infinity; --input-range says what pixels are")
        return base
    return PixelInput(slope, intercept, divisor)


def _apply(steps: Sequence[InputStep], x: F32) -> F32:
    """The graph's steps before the first layer, in float32."""
    with np.errstate(all="ignore"):
        for kind, value in steps:
            x = np.asarray(COMPUTE[kind.capitalize()](x, value), np.float32)
    return x

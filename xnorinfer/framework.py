"""A network run by a framework itself, beside the exact reference.

A checkpoint that holds a whole program is run by its own framework (`programs`).  Any other holds no code: there the layers
are taken from the `NetSpec` and run by PyTorch: `F.linear` with sign weights, `F.batch_norm` in evaluation mode, `hardtanh`
and `sign` in float32, on the mapped inputs.  PyTorch rounds every product and partial sum of the first layer's real inputs,
the reference rounds once; a sum that lies that close to a threshold can land on the other side.  To tell this from anything
else, the layers after the first sign are computed once more from the exact bits: a prediction that is then equal was decided
by the rounding of the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.base import ConvertOptions, Reading
from xnorinfer.errors import MissingExtraError, unhandled
from xnorinfer.netspec import BatchNorm, Chain, Dense, Elementwise, FloatDense, Hardtanh, Layer, NetSpec, Sign
from xnorinfer.programs import NotRunnable, open_program
from xnorinfer.programs.base import entering
from xnorinfer.programs.compare import ProgramRun, run_program
from xnorinfer.reference import binary_weights, layer_outputs

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

#: Formats whose training framework is PyTorch.
TORCH_FORMATS = ("torch",)
#: Samples computed at once.
ROWS = 1024


@dataclass
class FrameworkRun:
    """Predictions of the framework against the exact reference.

    original: whether it is the framework that the checkpoint comes from.  first_bits: bits after the first sign that differ, of
    `first_bits_of`, in `first_samples` samples.  different: samples whose class differs; by_first_layer: those of them that
    agree once the framework is given the exact bits of the first layer.  largest_score_difference: among samples with equal
    first bits.  instead: why the program that files of this kind hold could not be run itself; None where there is none.
    """

    framework: str
    version: str
    original: bool
    rows: int = 0
    first_bits: int = 0
    first_bits_of: int = 0
    first_samples: int = 0
    different: int = 0
    by_first_layer: int = 0
    largest_score_difference: float = 0.0
    instead: str | None = None

    @property
    def unexplained(self) -> int:
        """Samples whose class differs for another reason than the rounding of the first layer."""
        return self.different - self.by_first_layer

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {**asdict(self), "unexplained": self.unexplained}


def run_framework(
    path: Path,
    reading: Reading,
    options: ConvertOptions,
    x: NDArray[Any],
    report: Progress = lambda what, done, total: None,
) -> FrameworkRun | ProgramRun:
    """Run raw inputs x (rows, depth) in the framework of a checkpoint that was read with these options, and compare.

    Where the file cannot be run itself, its layers are run in PyTorch; the result says why.  Raises MissingExtraError.
    """
    instead = None
    try:
        program = open_program(path, reading, options)
        if program is not None:
            return run_program(program, reading.net, x, report)
    except NotRunnable as error:
        instead = str(error)
    result = run_torch(reading.net, reading.source, x, report)
    result.instead = instead
    return result


def run_torch(
    net: NetSpec, source_format: str, x: NDArray[Any], report: Progress = lambda what, done, total: None
) -> FrameworkRun:
    """Run raw inputs x (rows, depth) in PyTorch and compare.  Raises MissingExtraError without it."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("--framework", "torch", "torch") from None
    result = FrameworkRun("torch", torch.__version__, source_format in TORCH_FORMATS)
    first = next((index for index, layer in enumerate(net.layers) if isinstance(layer, Sign)), None)
    with torch.inference_mode():
        signs = {id(layer): _tensor(binary_weights(layer)) for layer in net.layers if isinstance(layer, Dense)}
        for start in range(0, len(x), ROWS):
            report("running PyTorch", start, len(x))
            _compare(result, net, x[start : start + ROWS], first, signs)
        report("running PyTorch", len(x), len(x))
    return result


def _compare(result: FrameworkRun, net: NetSpec, x: NDArray[Any], first: int | None, signs: dict[int, torch.Tensor]) -> None:
    exact = [value for _, value in layer_outputs(net, x)]
    value = _tensor(entering(net.input, x))
    equal_bits = np.ones(len(x), np.bool_)
    if first is None:
        scores = repeated = _run(net.layers, value, signs).numpy()
    else:
        bits = _run(net.layers[: first + 1], value, signs)
        wrong = bits.numpy() != exact[first]
        equal_bits = ~wrong.any(axis=1)
        result.first_bits += int(wrong.sum())
        result.first_bits_of += wrong.size
        result.first_samples += int((~equal_bits).sum())
        rest = net.layers[first + 1 :]
        scores = _run(rest, bits, signs).numpy()
        repeated = _run(rest, _tensor(exact[first]), signs).numpy()
    wanted = exact[-1].argmax(axis=1)
    different = scores.argmax(axis=1) != wanted
    result.rows += len(x)
    result.different += int(different.sum())
    result.by_first_layer += int((different & ~equal_bits & (repeated.argmax(axis=1) == wanted)).sum())
    if equal_bits.any():
        distance = np.abs(scores[equal_bits].astype(np.float64) - exact[-1][equal_bits])
        result.largest_score_difference = max(result.largest_score_difference, float(distance.max()))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """A copy: arrays from files are read-only, which PyTorch warns of."""
    import torch

    return torch.from_numpy(np.array(array))


def _run(layers: Sequence[Layer], value: torch.Tensor, signs: dict[int, torch.Tensor]) -> torch.Tensor:
    from torch.nn import functional

    for layer in layers:
        if isinstance(layer, Dense):
            value = functional.linear(value, signs[id(layer)])
            value = value * layer.h if layer.h != 1 else value
            value = value if layer.scale is None else value * _tensor(layer.scale)
            value = value if layer.bias is None else value + _tensor(layer.bias)
        elif isinstance(layer, BatchNorm):
            value = _batch_norm(layer, value)
        elif isinstance(layer, Chain):
            for op, vector in layer.steps:
                value = getattr(value, op)(_tensor(vector))
        elif isinstance(layer, Hardtanh):
            value = functional.hardtanh(value)
        elif isinstance(layer, Sign):
            value = _sign(layer, value)
        elif isinstance(layer, FloatDense):
            bias = None if layer.bias is None else _tensor(layer.bias)
            value = functional.linear(value, _tensor(layer.weight), bias)
        elif isinstance(layer, Elementwise):
            value = _function(layer, value)
        else:
            raise unhandled("framework.run_torch", layer)
    return value


def _function(layer: Elementwise, value: torch.Tensor) -> torch.Tensor:
    import torch

    if layer.function == "prelu":
        return torch.nn.functional.prelu(value, _tensor(layer.parameters[0]).reshape(-1))
    if layer.function == "clip":
        low, high = (float(bound) for bound in layer.parameters)
        return torch.clamp(value, low, high)
    functions = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    if layer.function not in functions:
        raise unhandled("framework.run_torch", layer.function)
    return functions[layer.function](value)


def _batch_norm(layer: BatchNorm, value: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional

    mean, gamma, beta = (None if v is None else _tensor(v) for v in (layer.mean, layer.gamma, layer.beta))
    assert mean is not None
    if layer.variance is not None and layer.form == "torch":
        return functional.batch_norm(value, mean, _tensor(layer.variance), gamma, beta, False, 0.0, layer.epsilon)
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    if layer.inv_std is not None:
        return (value - mean) * (gamma * _tensor(layer.inv_std)) + beta
    assert layer.variance is not None
    scale = torch.reciprocal(torch.sqrt(_tensor(layer.variance) + np.float32(layer.epsilon).item())) * gamma
    return value * scale + (beta - mean * scale)


def _sign(layer: Sign, value: torch.Tensor) -> torch.Tensor:
    import torch

    if layer.rule == "sign":
        return value.sign()
    if layer.rule in ("ge", "gt"):
        plus = value >= 0 if layer.rule == "ge" else value > 0
        return torch.where(plus, 1.0, -1.0)
    soft = torch.clamp((value + 1) / 2, 0, 1)
    return 2 * (torch.round(soft) if layer.rule == "round-even" else torch.floor(soft + 0.5)) - 1

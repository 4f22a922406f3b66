"""What a trainable network is made of, as its authors write it: 128C3-P2-256C3-P2-1024-10."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from xnorinfer.errors import OptionError
from xnorinfer.training.binarylayers import H

_CONVOLUTION = re.compile(r"(\d{1,6})C(\d{1,3})(V?)(?:-P(\d{1,3}))?")
_DENSE = re.compile(r"\d{1,6}")
#: What stands for a hidden layer: the neurons of a dense one, or the text of a convolution.
Hidden = int | str


@dataclass(frozen=True)
class Convolution:
    """A convolution of stride 1 with square kernels, and the max-pool behind it.

    padding: rows and columns of zeros on every side.  pool: side and stride of the pool's windows, 1: there is no pool.
    """

    neurons: int
    kernel: int
    padding: int
    pool: int

    @classmethod
    def parse(cls, text: str) -> Convolution:
        """128C3: 128 neurons, 3x3, padded so that the map keeps its size; 128C3V: not padded ('valid'); -P2: 2x2 max-pool.

        Raises OptionError.
        """
        match = _CONVOLUTION.fullmatch(text)
        if match is None:
            raise OptionError(f"{text!r} is no convolution such as 128C3, 128C3V (not padded) or 128C3-P2 (with a max-pool)")
        neurons, kernel, pool = int(match[1]), int(match[2]), int(match[4] or 1)
        if min(neurons, kernel, pool) < 1:
            raise OptionError(f"{text}: its numbers must be above 0")
        if not match[3] and kernel % 2 == 0:
            raise OptionError(f"{text}: a map keeps its size under odd kernels only; {neurons}C{kernel}V is not padded")
        return cls(neurons, kernel, 0 if match[3] else kernel // 2, pool)

    def outputs(self, size: int) -> int:
        """Rows (columns) behind the pool, of `size` rows (columns); 0 or less where the map is too small."""
        return (size + 2 * self.padding - self.kernel + 1) // self.pool


def parse_layers(text: str) -> tuple[tuple[Hidden, ...], int]:
    """Hidden layers and classes of 128C3-P2-1024-10.  Raises OptionError."""
    hidden: list[Hidden] = []
    for part in text.split("-"):
        if _DENSE.fullmatch(part):
            hidden.append(int(part))
        elif part.startswith("P") and hidden and isinstance(hidden[-1], str) and "P" not in hidden[-1]:
            hidden[-1] += f"-{part}"
            Convolution.parse(hidden[-1])
        elif part.startswith("P"):
            raise OptionError(f"layers {text}: {part} must follow a convolution")
        else:
            Convolution.parse(part)
            hidden.append(part)
    classes = hidden.pop()
    if isinstance(classes, str):
        raise OptionError(f"layers {text}: the last one must be dense, with a neuron for each class")
    return tuple(hidden), classes


@dataclass(frozen=True)
class Shape:
    """What a network is made of; enough to build it again.

    inputs: features, or of images (height, width, channels).  hidden: neurons of dense layers, texts of convolutions.
    """

    inputs: int | tuple[int, int, int]
    hidden: tuple[Hidden, ...]
    classes: int
    h: H = 1.0
    stochastic: bool = False
    bias: bool = True
    dropout_input: float = 0.2
    dropout_hidden: float = 0.5

    def __post_init__(self) -> None:
        sizes = (*self.input_shape, self.classes, *(layer for layer in self.hidden if isinstance(layer, int)))
        if min(sizes) < 1 or not self.hidden:
            raise OptionError(f"layer sizes {self.name} must be whole numbers above 0, with a hidden layer at least")
        for name, value in (("input", self.dropout_input), ("hidden", self.dropout_hidden)):
            if not 0 <= value < 1:
                raise OptionError(f"{name} dropout is {value:g}; needed is a number from 0 to below 1")
        self.values()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(features,) or (height, width, channels)."""
        return (self.inputs,) if isinstance(self.inputs, int) else self.inputs

    @property
    def name(self) -> str:
        """For example 784-4096-4096-4096-10, or 28x28x1-128C3-P2-1024-10."""
        return "-".join(map(str, ("x".join(map(str, self.input_shape)), *self.hidden, self.classes)))

    @property
    def widths(self) -> list[int]:
        """Features of the input, then neurons of every layer."""
        hidden = [layer if isinstance(layer, int) else Convolution.parse(layer).neurons for layer in self.hidden]
        return [math.prod(self.input_shape), *hidden, self.classes]

    def values(self) -> tuple[tuple[int, ...], ...]:
        """What each layer reads, (features,) or (height, width, channels); last the scores.

        Raises OptionError for a convolution that reads no map, or one that leaves nothing of it.
        """
        found = [self.input_shape]
        for layer in (*self.hidden, self.classes):
            if isinstance(layer, int):
                found.append((layer,))
                continue
            convolution = Convolution.parse(layer)
            if len(found[-1]) != 3:
                raise OptionError(f"{self.name}: {layer} reads {math.prod(found[-1])} features; a convolution needs a map")
            height, width = (convolution.outputs(size) for size in found[-1][:2])
            if min(height, width) < 1:
                raise OptionError(f"{self.name}: {layer} leaves nothing of a map of {found[-1][0]}x{found[-1][1]}")
            found.append((height, width, convolution.neurons))
        return tuple(found)

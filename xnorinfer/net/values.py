"""What flows between the nodes of a float network: values with a shape and a domain, first of all the network's own inputs.

The classes of input mappings are domains, too: a value is pixels that enter by a mapping, signs, levels, or real numbers.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import OptionError


@dataclass(frozen=True)
class PixelInput:
    """uint8 pixels p that enter the network as `x = (slope*p + intercept) / divisor`.

    Three float64 numbers instead of scale and offset, so that the exact sums of a first layer stay exact for the usual
    mappings: `2*p/255 - 1` is (2, -255, 255), raw pixels are (1, 0, 1).  Slope and divisor are not 0.
    Raises OptionError for what maps no pixels to float32, or all to one value.
    """

    slope: float
    intercept: float
    divisor: float
    kind: Literal["pixels"] = field(default="pixels", init=False)

    def __post_init__(self) -> None:
        given = (self.slope, self.intercept, self.divisor)
        _require_numbers("the input mapping takes three numbers", *given)
        for name, value in zip(("slope", "intercept", "divisor"), given, strict=True):
            object.__setattr__(self, name, float(value))  # 2 and 2.0 are one mapping, and one content digest
        if not self.slope or not self.divisor:
            raise OptionError(f"input mapping {given} has a zero slope or divisor")
        largest = float(np.finfo(np.float32).max)
        finite = math.isfinite(self.intercept) and math.isfinite(self.divisor)
        if not (finite and all(abs(end) <= largest for end in self.ends)):
            raise OptionError("the input mapping takes pixels out of the range of float32")

    @classmethod
    def range(cls, low: float, high: float) -> PixelInput:
        """Pixels 0..255 mapped linearly to low..high."""
        _require_numbers("input range takes two numbers", low, high)
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise OptionError(f"input range {low:g}:{high:g} maps every pixel to one value; give two different numbers LO:HI")
        if (low, high) == (0.0, 255.0):
            return cls(1.0, 0.0, 1.0)
        return cls(high - low, 255.0 * low, 255.0)

    @classmethod
    def normalize(cls, mean: float, std: float) -> PixelInput:
        """torchvision's `ToTensor` and `Normalize(mean, std)`: (p/255 - mean) / std."""
        _require_numbers("input normalization takes two numbers", mean, std)
        if not (math.isfinite(mean) and math.isfinite(std)) or std <= 0:
            raise OptionError(f"input normalization {mean:g}:{std:g} needs a finite MEAN and a STD above 0")
        return cls(1.0, -255.0 * mean, 255.0 * std)

    @property
    def ends(self) -> tuple[float, float]:
        """What the pixels 0 and 255 become."""
        return self.intercept / self.divisor, (255 * self.slope + self.intercept) / self.divisor

    def describe(self) -> str:
        low, high = self.ends
        if self.normalized is None:
            return f"uint8 pixels 0..255 mapped linearly to {low:.6g}..{high:.6g}"
        mean, std = self.normalized
        return f"uint8 pixels 0..255 mapped by (p/255 - {mean:g}) / {std:g} to {low:.6g}..{high:.6g}"

    @property
    def normalized(self) -> tuple[float, float] | None:
        """Mean and std where they say the mapping, as they were given to `normalize`; not of 0..1 and of raw pixels."""
        mean, std = (float(f"{number / 255:.12g}") for number in (0.0 - self.intercept, self.divisor))
        return (mean, std) if self.slope == 1 and std > 0 and self.divisor not in (1, 255) else None


@dataclass(frozen=True)
class ChannelInput:
    """uint8 pixels of an image that enter by a mapping of each channel, as torchvision's three means and stds.

    Mapped in float64 and rounded to float32: what reads them reads real numbers.  channels: a `PixelInput` each, two or more;
    where all are the same, `PixelInput` itself says it.
    """

    channels: tuple[PixelInput, ...]
    kind: Literal["channels"] = field(default="channels", init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.channels, tuple | list) or not all(type(one) is PixelInput for one in self.channels):
            raise OptionError(f"the mappings of channels are {self.channels!r}, needed is a tuple of PixelInput")
        object.__setattr__(self, "channels", tuple(self.channels))
        if len(self.channels) < 2 or len(set(self.channels)) == 1:
            raise OptionError("the channels of an image have different mappings, two or more; one for all is a PixelInput")

    @classmethod
    def normalize(cls, means: Sequence[float], stds: Sequence[float]) -> PixelInput | ChannelInput:
        """torchvision's `ToTensor` and `Normalize(means, stds)`; one `PixelInput` where all channels have the same."""
        if len(means) != len(stds) or not means:
            raise OptionError(f"input normalization has {len(means)} means and {len(stds)} stds; give one of each a channel")
        found = tuple(PixelInput.normalize(mean, std) for mean, std in zip(means, stds, strict=True))
        return found[0] if len(set(found)) == 1 else cls(found)

    def describe(self) -> str:
        ends = ", ".join(f"{low:.6g}..{high:.6g}" for low, high in (one.ends for one in self.channels))
        return f"uint8 pixels 0..255 mapped linearly, channel by channel, to {ends}"


@dataclass(frozen=True)
class ThresholdInput:
    """uint8 pixels that enter as +1 where `pixel >= threshold`, else -1."""

    threshold: int
    kind: Literal["threshold"] = field(default="threshold", init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | np.integer) or isinstance(self.threshold, bool):
            raise OptionError(f"input threshold {self.threshold!r} is not a whole number")
        if not 1 <= self.threshold <= 255:
            raise OptionError(f"input threshold {self.threshold} makes every pixel the same bit; give a value from 1 to 255")
        object.__setattr__(self, "threshold", int(self.threshold))  # one that numpy counted goes into files, too

    def describe(self) -> str:
        return f"uint8 pixels, {self.threshold} and above is +1, below is -1"


@dataclass(frozen=True)
class SignInput:
    """Inputs that are themselves -1 or +1."""

    kind: Literal["signs"] = field(default="signs", init=False)

    def describe(self) -> str:
        return "values that are exactly -1 or +1"


@dataclass(frozen=True)
class RealInput:
    """Any finite float32 inputs, used as they are."""

    kind: Literal["reals"] = field(default="reals", init=False)

    def describe(self) -> str:
        return "float32 values, used as they are"


InputMapping: TypeAlias = PixelInput | ChannelInput | ThresholdInput | SignInput | RealInput


def input_to_json(mapping: InputMapping) -> dict[str, Any]:
    """A mapping as JSON-able dict; `input_from_json` is the way back."""
    if isinstance(mapping, ChannelInput):
        return {"kind": mapping.kind, "channels": [input_to_json(one) for one in mapping.channels]}
    fields = {name: getattr(mapping, name) for name in mapping.__dataclass_fields__ if name != "kind"}
    return {"kind": mapping.kind, **fields}


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an int or float (no bool) that is finite as a float: JSON may hold integers of any size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require_numbers(what: str, *values: object) -> None:
    """Raise OptionError for what is no number; NaN and infinity are, an integer beyond float64 is not."""
    for value in values:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or (isinstance(value, int) and not is_finite_number(value)):
            raise OptionError(f"{what}, and {value!r} is none")


def input_from_json(data: Any) -> InputMapping:
    """The mapping that `input_to_json` wrote.  Raises OptionError on anything else."""
    kinds: dict[str, type[Any]] = {"pixels": PixelInput, "threshold": ThresholdInput, "signs": SignInput, "reals": RealInput}
    if isinstance(data, dict) and data.get("kind") == "channels":
        parts = data.get("channels")
        if set(data) != {"kind", "channels"} or not isinstance(parts, list) or not all(map(_is_pixels, parts)):
            raise OptionError(f"input mapping {reprlib.repr(data)} needs exactly a list of mappings of pixels, channels")
        return ChannelInput(tuple(cast("PixelInput", input_from_json(part)) for part in parts))
    if not isinstance(data, dict) or str(data.get("kind")) not in kinds:  # str: a list cannot be looked up
        raise OptionError(f"input mapping {reprlib.repr(data)} is none of {', '.join([*kinds, 'channels'])}")
    kind = kinds[data["kind"]]
    wanted = [name for name in kind.__dataclass_fields__ if name != "kind"]
    values = {name: data.get(name) for name in wanted}
    if set(data) != {"kind", *wanted} or not all(map(is_finite_number, values.values())):
        raise OptionError(
            f"input mapping {reprlib.repr(data)} needs exactly the finite numbers {', '.join(wanted) or '(none)'}"
        )
    mapping: InputMapping = kind(**values)
    return mapping


def _is_pixels(data: object) -> bool:
    return isinstance(data, dict) and data.get("kind") == "pixels"


@dataclass(frozen=True)
class LevelValues:
    """Whole numbers q from `low` to `high` that stand for the float32 numbers `((q - zero) * step) / divisor`, operations by 1
    left out."""

    low: int
    high: int
    zero: int = 0
    step: float = 1.0
    divisor: float = 1.0

    @property
    def top(self) -> int:
        """The largest code: q - low is one of 0 to so many."""
        return self.high - self.low

    @property
    def numbers(self) -> NDArray[np.float32]:
        """What its levels stand for, in order, (levels,)."""
        found = np.arange(self.low - self.zero, self.high - self.zero + 1).astype(np.float32)
        with np.errstate(all="ignore"):
            for function, number in self.factors:
                found = found * np.float32(number) if function == "mul" else found / np.float32(number)
        return found

    @property
    def factors(self) -> list[tuple[Literal["mul", "div"], float]]:
        """What q - zero is multiplied with and divided by."""
        both: list[tuple[Literal["mul", "div"], float]] = [("mul", self.step), ("div", self.divisor)]
        return [(function, number) for function, number in both if number != 1]


Domain: TypeAlias = InputMapping | LevelValues

#: What a quantizer to signs gives, and what sums, BatchNorm and functions give.
SIGNS, REALS = SignInput(), RealInput()

#: Levels at most: codes of 4 bits, of pixels of 8.
MOST_LEVELS, MOST_LEVELS_OF_PIXELS = 16, 256
#: Whole numbers of levels at most, in either direction.
MOST_LEVEL = 1 << 15


def numbers_of(domain: Domain) -> NDArray[np.float32] | None:
    """What signs or levels are, in order; None for other numbers."""
    if isinstance(domain, SignInput | ThresholdInput):
        return np.array([-1, 1], np.float32)
    return domain.numbers if isinstance(domain, LevelValues) else None


def domain_of_all(domains: Sequence[Domain], numbers: Sequence[float] = ()) -> Domain:
    """What values of all these domains are together, some numbers beside them: signs, levels (`levels_of_all`) or reals."""
    if all(isinstance(one, SignInput | ThresholdInput) for one in domains) and all(one in (-1, 1) for one in numbers):
        return SIGNS
    levels = levels_of_all(domains, numbers)
    # Where several levels are one number, which of them it was is not to be told of that.
    return REALS if levels is None or not (np.diff(levels.numbers) > 0).all() else levels


def levels_of_all(domains: Sequence[Domain], numbers: Sequence[float] = ()) -> LevelValues | None:
    """The levels that values of all these domains have together, some numbers beside them: whole numbers times the factors of
    one of them that are each of these float32 numbers; of several such the fewest.

    None where they are not all signs and levels, where no factors are of all, and for more than 16.
    """
    first = domains[0]
    if isinstance(first, LevelValues) and set(domains) == {first} and set(numbers) <= set(first.numbers.tolist()):
        return first
    found = [numbers_of(domain) for domain in domains]
    with np.errstate(over="ignore"):
        every = np.unique(np.concatenate([*(one for one in found if one is not None), np.array(numbers, np.float32)]))
    if any(one is None for one in found) or every.size > MOST_LEVELS or not np.isfinite(every).all():
        return None
    best: LevelValues | None = None
    for step, divisor in dict.fromkeys((one.step, one.divisor) for one in domains if isinstance(one, LevelValues)) or [
        (1.0, 1.0)
    ]:
        whole = np.rint(every.astype(np.float64) * float(np.float32(divisor)) / float(np.float32(step)))
        low, high = int(whole[0]), int(whole[-1])
        if high - low >= (MOST_LEVELS if best is None else best.top) or max(-low, high) > 2 * MOST_LEVEL:
            continue
        made = LevelValues(low, high, 0, step, divisor)
        if np.array_equal(made.numbers[whole.astype(np.int64) - low], every) and (np.diff(made.numbers) > 0).all():
            best = made
    same = [one for one in domains if isinstance(one, LevelValues) and best is not None and _moved(one) == best]
    return same[0] if same else best


def _moved(levels: LevelValues) -> LevelValues:
    """The same levels with the zero 0."""
    return LevelValues(levels.low - levels.zero, levels.high - levels.zero, 0, levels.step, levels.divisor)


#: Of one sample: (features,), or (height, width, channels).
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """What a node gives or reads.  domain: which numbers they are, and what enters the network for them where they are its
    inputs."""

    shape: Shape
    domain: Domain

    @property
    def width(self) -> int:
        """How many numbers a sample has."""
        return math.prod(self.shape)

"""What every checkpoint source shares: the options it is read with, and what it gives back.

A source implements reading only.  It turns a path into a `Reading`: the float network (`Net`), what became of each tensor
of the file, and what was assumed on the way, so that nothing is guessed silently.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import require_memory_option, spend_steps
from xnorinfer.converters.latents import SCALES, ScaleBy
from xnorinfer.errors import OptionError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Steps
from xnorinfer.net.ties import PROFILES
from xnorinfer.net.values import InputMapping, PixelInput, Shape, input_from_json, input_to_json, is_finite_number
from xnorinfer.report import Assumption as Assumption
from xnorinfer.report import Origin as Origin
from xnorinfer.report import TensorUse as TensorUse


@dataclass(frozen=True)
class ConvertOptions:
    """What the user said about a checkpoint.  None (or empty) means: take it from the file, else the source's default.

    ema: use the moving averages of the weights that an optimizer kept, where the file holds them.
    net: the text of a net.toml (see `net`), which then says everything.
    state: which state dict is the network where a checkpoint holds several, by its key ("model", "ema.module"; "." the top).
    ignore: names or patterns (`fnmatch`) of tensors that the network does not use; they are left out before anything is read.
    before_norm: the function between each hidden layer's sum and its BatchNorm (see `function_named`).
    center: binary weights are the signs of the latents minus each neuron's mean over its inputs.
    scale_by: the magnitude of binary weights, a name in `latents.SCALES`, of the latents as they are binarized.
    input_shape: of one sample, as a graph takes it ((channels, height, width) mostly), where the file does not say it.
    output_name: which value is the network's where a graph gives several, by its name there.
    sign_of_signs: signs of what is signs already are read as those, and not refused (a graph).
    answered: answers of the trained network are at hand (`answers`) and prove a reading; what the file's statistics say
        against it is a warning.
    max_memory: what may be made of the file, in bytes (see `budget`).  Says nothing about the network, so it is not recorded.
    """

    format: str | None = None
    profile: str | None = None
    bn_epsilon: float | None = None
    h: float | Literal["glorot"] | None = None
    input: InputMapping | None = None
    float_layers: tuple[str, ...] = ()
    ema: bool = False
    net: str | None = None
    ignore: tuple[str, ...] = ()
    before_norm: str | None = None
    center: bool = False
    scale_by: ScaleBy | None = None
    input_shape: tuple[int, ...] | None = None
    state: str | None = None
    output_name: str | None = None
    sign_of_signs: bool = False
    answered: bool = False
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.format is not None and not isinstance(self.format, str):
            raise OptionError(f"format {self.format!r} is no name of a format")
        if self.profile is not None and (not isinstance(self.profile, str) or self.profile not in PROFILES):
            raise OptionError(f"profile {self.profile!r} is none of {', '.join(PROFILES)}")
        if self.bn_epsilon is not None and not (is_finite_number(self.bn_epsilon) and self.bn_epsilon >= 0):
            raise OptionError(f"BatchNorm epsilon {self.bn_epsilon!r} is not a finite number, 0 or above")
        if self.h is not None and not (
            self.h == "glorot" if isinstance(self.h, str) else is_finite_number(self.h) and self.h > 0
        ):
            raise OptionError(f"H {self.h!r} is neither a finite number above 0 nor 'glorot'")
        if self.input is not None and not isinstance(self.input, InputMapping):
            raise OptionError(f"input {self.input!r} is no input mapping")
        if not _are_texts(self.float_layers):
            raise OptionError(f"float layers {self.float_layers!r} must be a sequence of layer names")
        if not isinstance(self.ema, bool):
            raise OptionError(f"ema {self.ema!r} must be True or False")
        if self.net is not None and not isinstance(self.net, str):
            raise OptionError(f"net must be the text of a net.toml, not {type(self.net).__name__}")
        if self.state is not None and not isinstance(self.state, str):
            raise OptionError(f"state {self.state!r} is no key of a state dict")
        if self.output_name is not None and not isinstance(self.output_name, str):
            raise OptionError(f"output name {self.output_name!r} is no name of an output")
        if not _are_texts(self.ignore):
            raise OptionError(f"ignore {self.ignore!r} must be a sequence of names or patterns of tensors")
        if self.before_norm is not None:
            function_named(self.before_norm)
        if not isinstance(self.center, bool):
            raise OptionError(f"center {self.center!r} must be True or False")
        if self.scale_by is not None and (not isinstance(self.scale_by, str) or self.scale_by not in SCALES):
            raise OptionError(f"scale_by {self.scale_by!r} is none of {', '.join(SCALES)}")
        if self.input_shape is not None and not _is_shape(self.input_shape):
            raise OptionError(f"input shape {self.input_shape!r} is no sequence of whole numbers above 0 like (3, 32, 32)")
        if not isinstance(self.sign_of_signs, bool):
            raise OptionError(f"sign_of_signs {self.sign_of_signs!r} must be True or False")
        if not isinstance(self.answered, bool):
            raise OptionError(f"answered {self.answered!r} must be True or False")
        require_memory_option(self.max_memory)

    def to_json(self) -> dict[str, Any]:
        """Only what was given, JSON-able; recorded in the model file so that `verify` reads the source the same way."""
        given: dict[str, Any] = {
            name: value
            for name in ("format", "profile", "bn_epsilon", "h", "net", "state", "output_name", "before_norm", "scale_by")
            if (value := getattr(self, name)) is not None
        }
        if self.input is not None:
            given["input"] = input_to_json(self.input)
        for name in (*_SEQUENCES, "input_shape"):
            if getattr(self, name):
                given[name] = list(getattr(self, name))
        for name in ("ema", "center", "sign_of_signs", "answered"):
            if getattr(self, name):
                given[name] = True
        return given

    @classmethod
    def from_json(cls, data: Any) -> ConvertOptions:
        """The options that `to_json` recorded.  Raises OptionError on anything else."""
        if not isinstance(data, dict):
            raise OptionError(f"recorded options are {type(data).__name__}, needed is a table of names and values")
        unknown = set(data) - (set(cls.__dataclass_fields__) - {"max_memory"})
        if unknown:
            raise OptionError(f"recorded options {', '.join(sorted(unknown))} are not known to this version")
        known = dict(data)
        if "input" in known:
            known["input"] = input_from_json(known["input"])
        sequences = (*_SEQUENCES, "input_shape")
        known.update({name: tuple(known[name]) for name in sequences if isinstance(known.get(name), list)})
        return cls(**known)


#: Options that are sequences of texts.
_SEQUENCES = ("float_layers", "ignore")


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(type(size) is int and 0 < size < 1 << 31 for size in value)


#: Assumptions whose alternatives can be measured (`xnorinfer.proof.sensitivity`).
TIE_PROFILE = "tie profile"
EPSILON = "BatchNorm epsilon"
NORM_ORDER = "order of BatchNorm's operations"
MAGNITUDE = "H, the magnitude of binary weights"
INPUT = "input"


@dataclass(frozen=True)
class Open:
    """A node of a network that was refused of which nothing is known but what it reads, names of nodes; `Steps(())` stands for
    it in the network, which gives what the first of them does.  reason: why."""

    reason: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A checkpoint, read.  `tensors` holds every tensor of the file exactly once.

    entry: of a graph, what enters it, before steps of its own that the network's input mapping has in it.
    channels_first: whether the source has images as (channels, height, width), where the network's are (height, width,
    channels).  unplaced: names of the convolutions of which the source does not say where they look, in a network that was
    refused.  sample: the shape of a sample as a graph takes it, where that is known.  outputs: names of the values that a graph
    gives.  place: which of several of them an option chose, from 0 on.  open: by their names, the nodes that are not known, of
    a network that was refused.
    """

    source: str
    net: Net
    tensors: tuple[TensorUse, ...]
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...] = ()
    entry: InputMapping | None = None
    channels_first: bool = False
    unplaced: tuple[str, ...] = ()
    sample: Shape | None = None
    outputs: tuple[str, ...] = ()
    place: int | None = None
    open: Mapping[str, Open] = field(default_factory=dict)

    def as_source(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Samples (rows, ...) of the network as (rows, depth) in the order in which its source has their values."""
        if not self.channels_first:
            return rows.reshape(len(rows), -1)
        found: NDArray[Any] = rows.reshape(len(rows), *self.net.shape).transpose(0, 3, 1, 2).reshape(len(rows), -1)
        return found

    def as_network(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Samples (rows, ...) as the source has them as (rows, depth) in the order of the network; the way back."""
        if not self.channels_first:
            return rows.reshape(len(rows), -1)
        height, width, channels = self.net.shape
        found: NDArray[Any] = rows.reshape(len(rows), channels, height, width).transpose(0, 2, 3, 1).reshape(len(rows), -1)
        return found

    def scores_of(self, answer: NDArray[Any]) -> NDArray[Any]:
        """What its source gives as the network does: scores of a map (rows, ...) line by line, channels innermost."""
        if answer.ndim < 3:
            return answer
        classes = self.net.classes
        first = self.channels_first and answer.shape[1] == classes
        return (np.moveaxis(answer, 1, -1) if first else answer).reshape(len(answer), -1)


class Remark(str):
    """A warning that knows which assumption it is about (`Assumption.what`), so that what answers it can take it away."""

    about: str

    def __new__(cls, text: str, about: str) -> Remark:
        remark = super().__new__(cls, text)
        remark.about = about
        return remark


class Named(Protocol):
    """A tensor as a reader has it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


N = TypeVar("N", bound=Named)

#: How the reason begins to ignore a tensor that the user names.
BY_OPTION = "--ignore"


def without_ignored(tensors: Iterable[N], options: ConvertOptions, notes: Notes, where: str = "") -> list[N]:
    """The tensors of a file but those that --ignore names, which are noted as ignored; for a reader, before it groups them.

    where: what stands before a tensor's name where it is shown; patterns may have it or not.  Tensors that are noted as ignored
    already may be named, too.  Raises OptionError for a pattern that matches nothing.
    """
    kept: list[N] = []
    used: set[str] = set()
    for tensor in tensors:
        spend_steps(len(options.ignore), "looking for tensors to ignore")
        patterns = [p for p in options.ignore if matches(p, where + tensor.name) or matches(p, tensor.name)]
        if not patterns:
            kept.append(tensor)
            continue
        used.update(patterns)
        use = f"{BY_OPTION} {patterns[0]}"
        notes.use(tensor, use, ignored=True, where=where)
    for pattern in options.ignore:
        if pattern not in used and not any(use.ignored and matches(pattern, use.name) for use in notes.tensors):
            names = [where + tensor.name for tensor in kept]
            listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise OptionError(f"--ignore {pattern}: no tensor has such a name; there are {listed or 'none'}")
    return kept


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern of --ignore, or a name as it stands, names a tensor."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def default_warning(what: str, *lines: str) -> str:
    """A warning about a default that only a net.toml can replace."""
    return f"{what}, which the file does not say" + net_line(*lines)


def net_line(*lines: str) -> str:
    """The end of a refusal: the line of a net.toml (`net`) that would resolve it; several are alternatives."""
    return "; a net.toml (--net) can say " + " or ".join(f"`{line}`" for line in lines)


def ignore_line(name: str) -> str:
    """The end of a refusal about a tensor that may take no part in inference."""
    return f"; if it takes no part, --ignore {name} leaves it out"


class Source(Protocol):
    """One kind of checkpoint.  Frameworks are imported inside `read`, never at module level."""

    name: str
    meaning: str

    def sniff(self, path: Path) -> bool:
        """True if the file looks like this kind; reads a few bytes at most, never raises on odd content."""

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the checkpoint.  Raises SourceError (unreadable), OptionError or NetworkError (all reasons at once)."""


#: How functions are said in options and in `before_norm` of a net.toml.
FUNCTION_NAMES = "relu, leaky-relu[:SLOPE], tanh, sigmoid, hardtanh or clip:LOW:HIGH"
#: torch.nn.LeakyReLU's slope.
LEAKY_SLOPE = 0.01


def function_named(text: object, option: str = "before_norm") -> Steps:
    """A function said in words by an option.  Raises OptionError for what is none of `FUNCTION_NAMES`."""
    kind, *numbers = text.split(":") if isinstance(text, str) else (None,)
    try:
        values = [float(number) for number in numbers]
        if kind == "hardtanh" and not values:
            return HARDTANH
        if kind in ("relu", "tanh", "sigmoid") and not values:
            return Steps.of((kind,))
        if kind == "leaky-relu" and len(values) < 2 and all(map(math.isfinite, values)):
            return Steps.of(("prelu", *(values or [LEAKY_SLOPE])))
        if kind == "clip" and len(values) == 2 and all(map(math.isfinite, values)) and values[0] < values[1]:
            return Steps.of(("clip", *values))
    except ValueError:
        pass
    raise OptionError(f"{option} {text!r} is none of {FUNCTION_NAMES}")


def glorot(depth: int, neurons: int) -> float:
    """BinaryNet's H="Glorot": sqrt(1.5 / (fan_in + fan_out)), rounded to float32 once, as `np.float32(np.sqrt(...))` does.

    Of a convolution both fans are times the taps of its kernel.
    """
    return float(np.float32(np.sqrt(1.5 / (depth + neurons))))


#: The reference's mapping (BinaryNet: pixels from [0, 1] to [-1, 1]), used when nobody says otherwise.
DEFAULT_INPUT = PixelInput.range(-1.0, 1.0)


@dataclass
class Notes:
    """Collects tensor uses, assumptions and warnings while a source reads."""

    tensors: list[TensorUse] = field(default_factory=list)
    assumptions: list[Assumption] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def use(self, tensor: Named, use: str, *, ignored: bool = False, where: str = "") -> None:
        """Note what became of a tensor.  where: what stands before its name where it is shown."""
        self.tensors.append(TensorUse(where + tensor.name, tensor.shape, tensor.dtype, use, ignored))

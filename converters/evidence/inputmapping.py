"""Which input mapping fits the first BatchNorm: its statistics beside the sums that given inputs make (`--data`).

The moving mean and variance are those of the sums that the training inputs made, so that any inputs of the same kind, without
labels, must make sums like them under the right mapping; under a wrong one their variance is several times off, or their means
are whole deviations away.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.evidence.sums import F64, NEURONS, signs_of
from xnorinfer.converters.reading import INPUT, Assumption, ConvertOptions, Reading, Remark
from xnorinfer.errors import InputError
from xnorinfer.graph import INPUT as INPUT_VALUE
from xnorinfer.graph import Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Linear, Norm, Pool
from xnorinfer.net.reference import Rows, compute, windows_of
from xnorinfer.net.values import REALS, ChannelInput, InputMapping, PixelInput, RealInput, Shape, SignInput, ThresholdInput

#: Mappings of pixels in use; the last ones are of images that were inverted, or cut where anything is drawn.
USUAL: tuple[InputMapping, ...] = (
    PixelInput.range(-1, 1),
    PixelInput.range(0, 1),
    PixelInput.normalize(0.1307, 0.3081),
    PixelInput.range(0, 255),
    PixelInput.range(-0.5, 0.5),
    PixelInput.range(-128, 127),
    ThresholdInput(128),
    ThresholdInput(1),
    PixelInput.range(1, -1),
    PixelInput.range(1, 0),
)
#: The same for images of three colours: torchvision's numbers for ImageNet, and those in use for CIFAR-10.
USUAL_COLOURS: tuple[InputMapping, ...] = (
    ChannelInput.normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ChannelInput.normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)
#: A mapping fits where its distance is at most this, and all others are at least `APART` further away.
CLOSE, APART = 0.6, 0.3
#: Inputs that are looked at; below FEWEST their own variance says little.
ROWS, FEWEST = 4096, 16
#: Of a convolution so many neurons, and so many numbers in all windows.
MAP_NEURONS, MOST_VALUES = 64, 1 << 25


@dataclass(frozen=True)
class MappingFit:
    """How the sums under one mapping compare with a BatchNorm's statistics.

    variance: the moving variance over that of the sums, median of the neurons; 1 is equal.  offset: how far the means are
    apart, in deviations by the moving variance, median of the neurons; 0 is equal.
    """

    mapping: InputMapping
    variance: float
    offset: float

    @property
    def distance(self) -> float:
        """0 for statistics that are equal."""
        return abs(math.log(self.variance)) + self.offset if 0 < self.variance < math.inf else math.inf

    def describe(self) -> str:
        return f"variance ratio {self.variance:.3g}, means off by {self.offset:.2g} deviations"


@dataclass(frozen=True)
class MappingEvidence:
    """What inputs say about the input mapping.  norm: the BatchNorm whose statistics were compared; fits: best first.

    assumed: the fit of the mapping that the network was read with.
    """

    norm: str
    rows: int
    fits: tuple[MappingFit, ...]
    assumed: MappingFit

    @property
    def best(self) -> MappingFit | None:
        """The one mapping that fits; None where none does, or several do."""
        first = self.fits[0]
        return first if first.distance <= CLOSE and not self._near(first) else None

    @property
    def confirmed(self) -> bool:
        """Whether the mapping of the network fits, and none fits clearly better."""
        return self.assumed.distance <= CLOSE and self.assumed.distance <= self.fits[0].distance + APART

    @property
    def contradicted(self) -> bool:
        """Whether another mapping fits and the network's own does not."""
        return self.best is not None and not self.confirmed

    @property
    def plausible(self) -> bool:
        """Whether no mapping fits better, and sums vary as they should; means may be off where a training went on."""
        return self.assumed.distance <= self.fits[0].distance + APART and 0.8 <= self.assumed.variance <= 1.25

    @property
    def rivals(self) -> tuple[MappingFit, ...]:
        """Mappings that fit about as well as the network's own; statistics cannot tell them apart."""
        return self._near(self.assumed) if self.confirmed else ()

    def _near(self, one: MappingFit) -> tuple[MappingFit, ...]:
        return tuple(fit for fit in self.fits if fit is not one and fit.distance < min(one.distance + APART, CLOSE))

    def describe(self) -> str:
        """One sentence."""
        about = f"the sums of these {self.rows:,} inputs under {option_of(self.assumed.mapping)}"
        mine = f"{about} beside {self.norm}'s statistics: {self.assumed.describe()}"
        if self.rivals:
            others = ", ".join(option_of(fit.mapping) for fit in self.rivals)
            return f"{mine}: they confirm it, but cannot tell it from {others}"
        if self.confirmed:
            return f"{mine}: they confirm it"
        first = self.fits[0]
        other = "" if first is self.assumed else f"; under {option_of(first.mapping)}: {first.describe()}"
        return f"{mine}{other}" + ("" if self.contradicted else "; no usual mapping fits them clearly")


def judge_mapping(net: Net, rows: NDArray[Any]) -> MappingEvidence | None:
    """Compare the first BatchNorm with the sums that inputs make under every usual mapping, and under the network's own.

    rows: (rows, ...) unlabelled inputs, uint8 pixels, -1/+1, or floats as they enter the first layer or in 0..1; of images
    channels last.  At least 16 are needed.  Returns None where no BatchNorm directly follows the first layer, a pool behind
    it, or the inputs, so that there is nothing to compare.  Raises InputError for rows of another size or type.
    """
    values = _checked(net, rows)
    found = _statistics(net)
    if found is None:
        return None
    values = values[:: max(1, len(values) // found.most_rows)]
    parts: dict[str, tuple[F64, F64]] = {}
    fits = []
    for mapping, key, inputs, slope, intercept in _candidates(net, values):
        if key not in parts:
            parts[key] = found.parts_of(inputs.reshape(len(inputs), *net.shape))
        fits.append(_fit(mapping, found, found.sums_of(*parts[key], slope, intercept)))
    own = next(fit for fit in fits if fit.mapping == net.input)
    return MappingEvidence(found.name, len(values), tuple(sorted(fits, key=lambda fit: fit.distance)), own)


def apply_mapping(reading: Reading, evidence: MappingEvidence, options: ConvertOptions) -> Reading:
    """A reading with what `judge_mapping` found.

    The one mapping that fits takes the place of a default; where several fit alike, a default stays one, with a warning that
    names them.  What the file or an option says stays, with a warning where the inputs contradict it.
    """
    stated = options.input is not None or any(one.what == INPUT and one.origin != "default" for one in reading.assumptions)
    if stated and not evidence.confirmed and evidence.plausible:
        return reading
    if not evidence.confirmed and (stated or not evidence.contradicted):
        better = "" if evidence.best is None else f"; {option_of(evidence.best.mapping)} says that"
        return _warned(reading, f"input: {evidence.describe()}{better}")
    fit = evidence.assumed if evidence.confirmed else evidence.fits[0]
    value = f"{fit.mapping.describe()} ({evidence.norm} beside {evidence.rows:,} inputs: {fit.describe()})"
    assumptions = tuple(
        Assumption(INPUT, value, "data" if one.origin == "default" else one.origin) if one.what == INPUT else one
        for one in reading.assumptions
    )
    warnings = tuple(text for text in reading.warnings if not (isinstance(text, Remark) and text.about == INPUT))
    net = dataclasses.replace(reading.net, input=fit.mapping)
    found = dataclasses.replace(reading, net=net, assumptions=assumptions, warnings=warnings)
    return _warned(found, f"input: {evidence.describe()}") if evidence.rivals and not stated else found


def _warned(reading: Reading, text: str) -> Reading:
    return dataclasses.replace(reading, warnings=(*reading.warnings, Remark(text, INPUT)))


def option_of(mapping: InputMapping) -> str:
    """A mapping as it is given on the command line."""
    match mapping:
        case ThresholdInput():
            return f"--input-threshold {mapping.threshold}"
        case SignInput():
            return "--input-signs"
        case RealInput():
            return "--input-real"
        case ChannelInput():
            means = ",".join(f"{0.0 - one.intercept / one.slope / 255:.6g}" for one in mapping.channels)
            stds = ",".join(f"{one.divisor / one.slope / 255:.6g}" for one in mapping.channels)
            return f"--input-normalize={means}:{stds}"
        case PixelInput():
            if mapping.normalized is not None:
                mean, std = mapping.normalized
                return f"--input-normalize{'=' if mean < 0 else ' '}{mean:.12g}:{std:.12g}"
            low, high = mapping.ends
            return f"--input-range={low:.6g}:{high:.6g}"


def _checked(net: Net, rows: NDArray[Any]) -> F64:
    """(rows, depth) float64, a part of many."""
    array = np.asarray(rows)
    if array.dtype.kind not in "iuf" or array.ndim < 2 or math.prod(array.shape[1:]) != net.depth:
        raise InputError(
            f"data has shape {array.shape} and dtype {array.dtype}; this network takes rows of {net.depth} numbers"
        )
    if len(array) < FEWEST:
        raise InputError(f"data has {len(array)} rows; at least {FEWEST} are needed to compare statistics")
    chosen = array[:: max(1, -(-len(array) // ROWS))].reshape(-1, net.depth).astype(np.float64)
    if not np.isfinite(chosen).all():
        raise InputError("data holds values that are NaN or infinite")
    return chosen


@dataclass(frozen=True)
class _Statistics:
    """The first BatchNorm, and what stands before it: nothing, or a layer, and behind that perhaps a pool.

    mean, variance: (neurons,).  shape: of the inputs.
    """

    name: str
    mean: F64
    variance: F64
    shape: Shape
    layer: Linear | None = None
    pool: Pool | None = None

    @property
    def channels(self) -> int:
        """Of inputs that may have mappings of their own; 1 where all values of a vector have the same."""
        return self.shape[-1] if len(self.shape) == 3 else 1

    @property
    def most_rows(self) -> int:
        """How many inputs are looked at: windows hold values many times."""
        if self.layer is None or self.layer.window is None:
            return ROWS
        outputs = math.prod(self.layer.window.outputs(*self.shape[:2]))
        return max(FEWEST, min(ROWS, MOST_VALUES // (outputs * max(self.layer.depth, len(self.mean)) * self.channels)))

    def parts_of(self, inputs: F64) -> tuple[F64, F64]:
        """Inputs (rows, ...) -> their sums with the weights, (channels, rows, places, neurons), and those of the weights that
        have an input, (channels, places, neurons): outside a map there are none."""
        if self.layer is None:
            return inputs.reshape(1, len(inputs), -1, len(self.mean)), np.ones(1)
        count, weights = self.channels, self.layer.weight[: len(self.mean)].astype(np.float64)
        if self.layer.binary:
            weights = signs_of(weights, self.layer.rule or "ge")
        if self.layer.window is None:
            taps = inputs.reshape(len(inputs), 1, -1, count)
            inside = np.ones((1, taps.shape[2]))
        else:
            windows, on_map = windows_of(inputs, self.layer.window, 0)
            taps = windows.reshape(len(inputs), -1, self.layer.window.taps, count)
            inside = on_map.reshape(-1, self.layer.window.taps).astype(np.float64)
        kernels = np.moveaxis(weights.reshape(len(weights), -1, count), 2, 0)
        sums = np.stack([taps[..., channel] @ kernel.T for channel, kernel in enumerate(kernels)])
        return sums, np.stack([inside @ kernel.T for kernel in kernels])

    def sums_of(self, sums: F64, inside: F64, slope: F64, intercept: F64) -> F64:
        """What the BatchNorm meets where inputs enter as slope * input + intercept, (channels,) or (1,) each: (values,
        neurons)."""
        if self.layer is None:
            mapped: F64 = slope * sums[0] + intercept
            return mapped.reshape(-1, len(self.mean))
        slopes, intercepts = (np.broadcast_to(one, len(sums)) for one in (slope, intercept))
        found: F64 = sum(a * part + b * some for a, part, b, some in zip(slopes, sums, intercepts, inside, strict=True))
        scale, bias = (None if one is None else one[: len(self.mean)] for one in (self.layer.scale, self.layer.bias))
        found = found * (self.layer.h * (1.0 if scale is None else scale)) + (0.0 if bias is None else bias)
        if self.pool is not None and self.layer.window is not None:
            maps = found.reshape(len(found), *self.layer.window.outputs(*self.shape[:2]), -1)
            found = compute(Node("pool", self.pool, (INPUT_VALUE,)), Rows(maps.astype(np.float32), REALS)).array.astype(
                np.float64
            )
        return found.reshape(-1, len(self.mean))


def _statistics(net: Net) -> _Statistics | None:
    """What can be compared; None where nothing can."""
    users = users_of(net.nodes)
    if sum(INPUT_VALUE in node.inputs for node in net.nodes) > 1:
        return None
    layer: Linear | None = None
    pool: Pool | None = None
    at = 0
    while not isinstance(norm := net.nodes[at].op, Norm):
        if isinstance(norm, Linear) and layer is None and norm.groups == 1 and not norm.pad:
            layer = norm
        elif isinstance(norm, Pool) and layer is not None and pool is None:
            pool = norm
        elif not isinstance(norm, Flatten) or layer is not None:
            return None
        if len(users[at]) != 1:
            return None
        (at,) = users[at]
    most = len(norm.mean) if layer is None else NEURONS if layer.window is None else MAP_NEURONS
    mean = norm.mean[:most].astype(np.float64)
    with np.errstate(divide="ignore"):
        inverse = None if norm.inv_std is None else 1 / np.square(norm.inv_std[:most].astype(np.float64))
    variance = inverse if norm.variance is None else norm.variance[:most].astype(np.float64)
    assert variance is not None
    return _Statistics(net.nodes[at].name, mean, variance, net.shape, layer, pool)


def _candidates(net: Net, values: F64) -> Iterator[tuple[InputMapping, str, F64, F64, F64]]:
    """Mappings with the inputs as they go into the sums, by a name for those that several share, and slope and intercept of
    each channel."""
    own, unit, none = net.input, np.ones(1), np.zeros(1)
    whole = bool((values == np.rint(values)).all())
    if whole and values.min() >= 0 and values.max() <= 255:
        pixels: F64 | None = values
    else:
        pixels = np.rint(values * 255) if values.min() >= 0 and values.max() <= 1 else None
    if pixels is None:
        yield own, "as they are", values, unit, none
        return
    usual = (*USUAL, *(USUAL_COLOURS if net.shape[2:] == (3,) else ()))
    for mapping in (own, *(other for other in usual if other != own)):
        if isinstance(mapping, ThresholdInput):
            yield mapping, f"from {mapping.threshold}", np.where(pixels >= mapping.threshold, 1.0, -1.0), unit, none
        elif isinstance(mapping, PixelInput | ChannelInput):
            channels = mapping.channels if isinstance(mapping, ChannelInput) else (mapping,)
            slopes, shifts = np.transpose([(one.slope / one.divisor, one.intercept / one.divisor) for one in channels])
            yield mapping, "pixels", pixels, slopes, shifts
        else:
            yield mapping, "as they are", values, unit, none


def _fit(mapping: InputMapping, found: _Statistics, sums: F64) -> MappingFit:
    """How sums (values, neurons) compare."""
    ours, spread = sums.mean(axis=0), sums.var(axis=0)
    alive = (spread > 0) & (found.variance > 0) & np.isfinite(found.variance)
    if not alive.any():
        return MappingFit(mapping, math.inf, math.inf)
    ratio = float(np.median(found.variance[alive] / spread[alive]))
    return MappingFit(mapping, ratio, float(np.median(np.abs(found.mean - ours)[alive] / np.sqrt(found.variance[alive]))))

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
from xnorinfer.graph import users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput

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
#: A mapping fits where its distance is at most this, and all others are at least `APART` further away.
CLOSE, APART = 0.6, 0.3
#: Inputs that are looked at; below FEWEST their own variance says little.
ROWS, FEWEST = 4096, 16


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

    rows: (rows, ...) unlabelled inputs, uint8 pixels, -1/+1, or floats as they enter the first layer or in 0..1.  At least 16
    are needed.  Returns None where no BatchNorm directly follows the first layer, or the inputs, so that there is nothing to
    compare.  Raises InputError for rows of another size or type.
    """
    values = _checked(net, rows)
    found = _statistics(net)
    if found is None:
        return None
    name, mean, variance, weights = found
    moments: dict[str, tuple[F64, F64]] = {}
    fits = []
    for mapping, key, inputs, slope, intercept in _candidates(net.input, values):
        if key not in moments:
            sums = inputs if weights is None else inputs @ weights[0].T
            moments[key] = sums.mean(axis=0), sums.var(axis=0)
        fits.append(_fit(mapping, mean, variance, weights, moments[key], slope, intercept))
    own = next(fit for fit in fits if fit.mapping == net.input)
    return MappingEvidence(name, len(values), tuple(sorted(fits, key=lambda fit: fit.distance)), own)


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
            if mapping == PixelInput.normalize(0.1307, 0.3081):
                return "--input-normalize 0.1307:0.3081"
            low, high = mapping.ends
            return f"--input-range={low:.6g}:{high:.6g}"
        case ChannelInput():
            return f"a mapping of each channel ({mapping.describe()})"


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


def _statistics(net: Net) -> tuple[str, F64, F64, tuple[F64, F64, F64] | None] | None:
    """Name, mean and variance of the first BatchNorm, with the signs, magnitudes and biases of the layer before it; None for
    those of inputs that are binarized one by one."""
    first, (behind, *others) = net.nodes[0].op, users_of(net.nodes)[0] or [0]
    if others or sum(INPUT_VALUE in node.inputs for node in net.nodes) > 1:
        return None
    node = net.nodes[0 if isinstance(first, Norm) else behind]
    norm = node.op
    if not isinstance(norm, Norm) or not isinstance(first, Norm | Linear) or len(net.shape) > 1:
        return None
    mean = norm.mean.astype(np.float64)
    with np.errstate(divide="ignore"):
        inverse = None if norm.inv_std is None else 1 / np.square(norm.inv_std.astype(np.float64))
    variance = inverse if norm.variance is None else norm.variance.astype(np.float64)
    assert variance is not None
    if isinstance(first, Norm):
        return node.name, mean, variance, None
    signs = signs_of(first.weight[:NEURONS].astype(np.float64), first.rule or "ge")
    scale = np.ones(len(signs)) if first.scale is None else first.scale[:NEURONS].astype(np.float64)
    bias = np.zeros(len(signs)) if first.bias is None else first.bias[:NEURONS].astype(np.float64)
    return node.name, mean[:NEURONS], variance[:NEURONS], (signs, first.h * scale, bias)


def _candidates(own: InputMapping, values: F64) -> Iterator[tuple[InputMapping, str, F64, float, float]]:
    """Mappings with the inputs as they go into the sums, by a name for those that several share, and slope and intercept."""
    whole = bool((values == np.rint(values)).all())
    if whole and values.min() >= 0 and values.max() <= 255:
        pixels: F64 | None = values
    else:
        pixels = np.rint(values * 255) if values.min() >= 0 and values.max() <= 1 else None
    if pixels is None:
        yield own, "as they are", values, 1.0, 0.0
        return
    for mapping in (own, *(usual for usual in USUAL if usual != own)):
        if isinstance(mapping, ThresholdInput):
            yield mapping, f"from {mapping.threshold}", np.where(pixels >= mapping.threshold, 1.0, -1.0), 1.0, 0.0
        elif isinstance(mapping, PixelInput):
            yield mapping, "pixels", pixels, mapping.slope / mapping.divisor, mapping.intercept / mapping.divisor
        else:
            yield mapping, "as they are", values, 1.0, 0.0


def _fit(
    mapping: InputMapping,
    mean: F64,
    variance: F64,
    weights: tuple[F64, F64, F64] | None,
    moments: tuple[F64, F64],
    slope: float,
    intercept: float,
) -> MappingFit:
    """The fit of `slope * inputs + intercept`, from mean and variance of the inputs, or of their sums with signs."""
    if weights is None:
        ours, spread = slope * moments[0] + intercept, slope**2 * moments[1]
    else:
        signs, magnitude, bias = weights
        ours = magnitude * (slope * moments[0] + intercept * signs.sum(axis=1)) + bias
        spread = np.square(magnitude * slope) * moments[1]
    alive = (spread > 0) & (variance > 0) & np.isfinite(variance)
    if not alive.any():
        return MappingFit(mapping, math.inf, math.inf)
    ratio = float(np.median(variance[alive] / spread[alive]))
    return MappingFit(mapping, ratio, float(np.median(np.abs(mean - ours)[alive] / np.sqrt(variance[alive]))))

"""What the first BatchNorm says about how inputs enter, without any inputs: their average, and how far they reach.

A first layer's sums are taken over inputs whose average is not 0, so that the means of its neurons follow the number of their
+1 weights: the slope is the average input.  Measured on trained networks it is right to a tenth of the range.  Together with
the variance this rules out most wrong mappings; what is left depends on the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xnorinfer.converters.evidence.hiddensums import MARGIN, spread, untrained
from xnorinfer.converters.evidence.inputmapping import option_of
from xnorinfer.converters.evidence.sums import F64, Sums
from xnorinfer.converters.finding import Finding
from xnorinfer.converters.reading import INPUT
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, SignInput, ThresholdInput

#: Of the range of a mapping, where the average input may seem to lie: the estimate is off by up to a tenth of it.
DOUBTFUL, WRONG = 0.2, 0.4
#: Median variance over that of independent inputs at both ends of the range, and the most in terms of the number of inputs.
LEAST, MOST = 0.003, 0.5
#: Neurons that an estimate needs.
FEWEST = 16

#: What a hint compares.
COMPARED: tuple[InputMapping, ...] = (
    PixelInput.range(-1, 1),
    PixelInput.range(0, 1),
    PixelInput.normalize(0.1307, 0.3081),
    PixelInput.range(0, 255),
    ThresholdInput(128),
)


@dataclass(frozen=True)
class Average:
    """The average input by the slope of means over sums of weights, and its standard error."""

    value: float
    error: float


def average_input(sums: Sums) -> Average | None:
    """None where there are too few neurons, or all have as many +1 weights."""
    (average,) = _averages(sums, np.ones((sums.channels, 1))) or (None,)
    return average


def _averages(sums: Sums, kinds: F64) -> list[Average]:
    """The average input of every kind, by a least squares fit; none where statistics do not say.

    kinds: (channels, kinds), 1 for the channels of each.
    """
    totals = sums.signs @ np.stack([sums.of_inputs(kind) for kind in kinds.T], axis=1)
    means = sums.mean / sums.magnitude
    power = totals.T @ totals
    trained = sums.neurons >= FEWEST and not untrained(sums) and bool(np.isfinite(means).all())
    if not trained or np.linalg.matrix_rank(power) < len(power):
        return []
    inverse = np.linalg.inv(power)
    slopes = inverse @ (totals.T @ means)
    left = means - totals @ slopes
    errors = np.sqrt(left @ left / (sums.neurons - len(power)) * np.diag(inverse))
    return [Average(float(slope), float(error)) for slope, error in zip(slopes, errors, strict=True)]


def ends_of(mapping: InputMapping) -> tuple[F64, F64] | None:
    """The lowest and the highest input, of every channel that has its own mapping: (1,) or (channels,) each; None for real
    numbers."""
    if isinstance(mapping, PixelInput | ChannelInput):
        ends = np.sort([one.ends for one in (mapping.channels if isinstance(mapping, ChannelInput) else (mapping,))], axis=1)
        return ends[:, 0], ends[:, 1]
    return (-np.ones(1), np.ones(1)) if isinstance(mapping, ThresholdInput | SignInput) else None


def judge_first(sums: Sums, mapping: InputMapping, *, may_be_float: bool) -> Iterator[Finding]:
    """What contradicts an input mapping; the layer must be the first one.  may_be_float: nothing says that it is binary."""
    found = _contradiction(sums, mapping)
    if found is None:
        return
    left = suggestions(sums)
    option = "--input-range, --input-normalize, --input-threshold, --input-signs or --input-real says how inputs enter"
    option += f"; by these statistics {'; or '.join(left)}" if left else ""
    explanation = "inputs enter in another range"
    if found.small and may_be_float:
        explanation += f", or {sums.name} is an ordinary float layer"
        option += f"; --float-layer {sums.name} says so, if it is one"
    evidence = f"{sums.norm_name}, under {option_of(mapping)}: {found.evidence}"
    yield Finding(evidence, explanation, option, INPUT, found.proof, found.answers)


@dataclass(frozen=True)
class _Contradiction:
    """small: the sums are, as those of float weights are."""

    evidence: str
    proof: bool
    answers: tuple[str, ...] = ("input",)
    small: bool = False


def _contradiction(sums: Sums, mapping: InputMapping) -> _Contradiction | None:
    ends = ends_of(mapping)
    if ends is None or untrained(sums):
        return None
    low, high = ends
    out = _outside(sums, low, high)
    between = f"{low.min():.4g}..{high.max():.4g}"
    if out.mean() >= 0.5:
        worst = int(np.argmax(np.where(out, np.abs(sums.mean) + np.sqrt(sums.variance), 0)))
        text = (
            f"{int(out.sum())} of {sums.neurons} neurons have statistics that no sums of {sums.depth} inputs in "
            f"{between} have, neuron {worst} a mean of {sums.mean[worst]:.4g} and a variance of "
            f"{sums.variance[worst]:.4g}"
        )
        return _Contradiction(text, proof=True, answers=())
    ratio = spread(sums) / max(float(np.mean(((high - low) / 2) ** 2)), 1e-30)
    if ratio < LEAST or ratio > MOST * sums.inputs:
        text = (
            f"the sums are too {'small' if ratio < LEAST else 'large'} for inputs in {between}; their variance is "
            f"{ratio:.2g} times that of independent inputs at both ends"
        )
        return _Contradiction(text, proof=True, answers=("input", "scale_by", "h"), small=ratio < LEAST)
    averages = _averages(sums, np.ones((sums.channels, 1)) if len(low) == 1 else np.eye(sums.channels))
    if not averages:
        return None
    value, error = (np.array([getattr(average, name) for average in averages]) for name in ("value", "error"))
    place = (value - low) / (high - low)
    beyond = np.maximum(-place, place - 1) - 4 * error / (high - low)
    at = int(np.argmax(beyond))
    if beyond[at] <= DOUBTFUL:
        return None
    channel = f" in channel {at}" if len(low) > 1 else ""
    text = f"the means are those of inputs that average {value[at]:.3g}{channel}, outside {low[at]:.4g}..{high[at]:.4g}"
    return _Contradiction(text, proof=bool(beyond[at] > WRONG))


def _outside(sums: Sums, low: F64, high: F64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(neurons,): whose mean or variance no inputs in low..high give."""
    if (sums.share < 1).any():  # outside the map there is 0
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    # Inputs in -half..half around the middle of the range.
    middle, half = ((high + sign * low) / 2 * np.ones(sums.channels) for sign in (1, -1))
    middle, half = (np.tile(one, sums.depth // sums.channels) for one in (middle, half))
    ends = sums.magnitude * np.stack([sums.signs @ middle - half.sum(), sums.signs @ middle + half.sum()])
    least, most = ends.min(axis=0), ends.max(axis=0)
    slack = 0.02 * (most - least)
    far = (sums.mean < least - slack) | (sums.mean > most + slack)
    wide = np.isfinite(sums.variance) & (sums.variance > MARGIN * np.square((most - least) / 2) + 1e-6)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = far | wide
    return found


def suggestions(sums: Sums) -> list[str]:
    """The usual mappings that statistics leave, each with the images it needs: "0..1 (--input-range=0:1) for ..."."""
    average = average_input(sums)
    if average is None:
        return []
    found = []
    for mapping in COMPARED:
        if _contradiction(sums, mapping) is None:
            ends = ends_of(mapping)
            assert ends is not None
            place = float((average.value - ends[0][0]) / (ends[1][0] - ends[0][0]))
            if not -0.02 <= place <= 1.02:  # not ruled out, but no image is as dark or bright
                continue
            place = min(1.0, max(0.0, place))
            cut = isinstance(mapping, ThresholdInput)
            images = f"{place:.0%} of pixels at 128 and above" if cut else f"an average pixel of {255 * place:.0f}"
            found.append(f"{option_of(mapping)} for images with {images}")
    return found


def hint(sums: Sums | None) -> str:
    """What a warning goes on with where nothing says how inputs enter: the options, and the mappings that statistics leave."""
    text = (
        "--input-range, --input-normalize and --input-threshold say how pixels were mapped, --input-signs that inputs are -1 "
        "or +1 themselves, as where the network binarizes them, --input-real that they are used as they are"
    )
    left = [] if sums is None else suggestions(sums)
    if sums is None or not left:
        return text
    return f"{text}.  {sums.norm_name}'s statistics leave {'; '.join(left)} (MNIST: 33, 13% at 128 and above)"

"""What BatchNorm's statistics say against a reading: sums that cannot be, or that are not those of a binary network.

Measured on trained networks (`tests/evidence/evidence_wrong_guesses.py`): the variance of sums of n inputs of -1 and +1 is 0.8
to 10 times n in the median of a layer's neurons, that of ordinary float weights, of scaled ones or of tanh's results 0.001 to
0.03 times n; 0.45 to 0.61 of a hidden layer's means are above 0, all of them behind a ReLU.  The means of a layer can be
predicted from the BatchNorm before it: its input j is +1 with the probability that gamma * z + beta is above 0, z normal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from xnorinfer.converters.evidence.sums import F64, Sums, signs_of
from xnorinfer.converters.finding import ACTIVATIONS, BETWEEN, ORDER, WEIGHTS, Finding
from xnorinfer.converters.reading import MAGNITUDE, glorot
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Norm

#: Median variance of a layer's sums over that of independent signs: below LOW it is none of a binary layer, below DOUBTFUL
#: hardly.
LOW, DOUBTFUL = 0.1, 0.25
#: Plausible ones, for naming what else would fit.
PLAUSIBLE = (0.25, 30.0)
#: Dropout of a half doubles the inputs that training saw, and so the variance that is possible by 4.
MARGIN = 4.0

#: What a layer's neurons become on their way to the next.
Activation = Literal["signs", "relu", "hardtanh"]


def judge_sums(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Everything that the statistics of binary layers contradict; the first layer's inputs are `inputmapping`'s."""
    fresh = [sums for sums in layers if untrained(sums)]
    if fresh:
        names = ", ".join(sums.norm_name for sums in fresh)
        yield Finding(
            f"{names}: mean 0 and variance 1 everywhere, as BatchNorm is made",
            "it was never trained, or its statistics are not in the file",
            "convert the trained network",
            BETWEEN,
        )
    trained = [sums for sums in layers if sums not in fresh]
    mixed = list(_mixed_up(trained))
    yield from mixed
    if mixed:
        return
    one_sided = list(_one_sided(trained))
    yield from one_sided
    low = list(_low(trained))
    yield from low
    if not one_sided and not low:
        yield from _impossible(trained)
        yield from _links(trained)


def untrained(sums: Sums) -> bool:
    """Whether a BatchNorm is as it was made."""
    norm = sums.norm
    return norm.variance is not None and bool((norm.mean == 0).all() and (norm.variance == 1).all())


def spread(sums: Sums) -> float:
    """Median variance of the neurons that vary over that of independent inputs of -1 and +1; 1 where none does."""
    ratio = sums.ratio[(sums.variance > 0) & np.isfinite(sums.variance)]
    return float(np.median(ratio)) if ratio.size else 1.0


def _named(layers: Sequence[Sums]) -> str:
    return ", ".join(sums.name for sums in layers)


def _mixed_up(layers: Sequence[Sums]) -> Iterator[Finding]:
    """inv_std that is a variance."""
    wrong = []
    for sums in layers:
        if sums.norm.inv_std is None or sums.norm.inv_std.size < 2:
            continue
        as_variance = dataclasses.replace(sums, norm=_with_variance(sums.norm, sums.norm.inv_std))
        if spread(sums) < LOW and spread(as_variance) > spread(sums) * 10 and spread(as_variance) > LOW:
            wrong.append(sums)
    if wrong:
        first = wrong[0]
        assert first.norm.inv_std is not None
        low, high = float(np.median(first.norm.inv_std)), float(np.sqrt(first.inputs) * np.median(np.abs(first.magnitude)))
        yield Finding(
            f"{_named(wrong)}: what is read as inv_std is {low:.3g} in the median of {first.name}, so that sums of "
            f"{first.depth} inputs would deviate by {1 / low:.2g} only, where independent ones do by {high:.3g}",
            "as a variance it fits: the arrays stand in another order, gamma, beta, mean, variance in Keras' get_weights()",
            "a net.toml (--net) can say `norm = {gamma = ..., beta = ..., mean = ..., variance = ...}`",
            ORDER,
            proof=True,
        )


def _with_variance(norm: Norm, variance: object) -> Norm:
    return dataclasses.replace(norm, variance=variance, inv_std=None, form="tf")  # type: ignore[arg-type]


def _one_sided(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Means of one sign, as behind a ReLU."""
    hidden = [sums for sums in layers if not sums.last]
    means = [sums.norm.mean[: sums.neurons] for sums in hidden]
    sided = [sums for sums, mean in zip(hidden, means, strict=True) if mean.size >= 8 and (mean >= 0).mean() >= 0.95]
    neurons = sum(sums.neurons for sums in sided)
    above = sum(int((sums.norm.mean[: sums.neurons] >= 0).sum()) for sums in sided)
    if neurons < 16:
        return
    yield Finding(
        f"{above} of the {neurons} means in {', '.join(sums.norm_name for sums in sided)} are 0 or above, where sums of signs "
        "have means of both signs alike",
        "a ReLU, or a function like it, stands between sum and BatchNorm",
        "--before-norm relu says so (or leaky-relu:SLOPE, sigmoid), a net.toml (--net) that there is nothing",
        BETWEEN,
        proof=True,
        answers=("before_norm",),
    )


def _low(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Variances far below those of sums of signs."""
    judged = [sums for sums in layers if not sums.first and sums.neurons >= 2]
    low = [sums for sums in judged if spread(sums) < DOUBTFUL and _beside_prediction(sums) < 2 * DOUBTFUL]
    first = [sums for sums in layers if sums.first and spread(sums) < LOW]
    if not low:
        return
    proof = any(spread(sums) < LOW for sums in low)
    least = min(low, key=spread)
    deviation = float(np.sqrt(np.median(least.variance)))
    expected = float(np.sqrt(least.inputs) * np.median(np.abs(least.magnitude)))
    evidence = (
        f"{_named([*first, *low])}: the sums are too small for binary weights and activations; those of {least.name} "
        f"deviate by {deviation:.2g} in its BatchNorm, sums of {least.depth} signs by about {expected:.3g}"
    )
    others = [sums for sums in layers if sums not in first and sums not in low]
    floats = _float_layers(low) if others else None
    at_the_end = low[-1].last and low == judged[-len(low) :]
    if floats is not None and at_the_end and any(not sums.first for sums in others):
        yield Finding(evidence, *floats, WEIGHTS, proof, ("scale_by", "h"))
        return
    explanations = list(_explained(low, judged, floats))
    yield Finding(
        evidence,
        " or ".join(what for what, _ in explanations),
        "; ".join(option for _, option in explanations),
        MAGNITUDE,
        proof,
        ("scale_by", "h", "before_norm"),
    )


def _beside_prediction(sums: Sums) -> float:
    """As `spread`, but beside independent signs with the probabilities that the BatchNorm before gives: neurons that never
    change add nothing."""
    assert sums.before is not None
    varying = float(sums.of_inputs(1 - np.square(means_after(sums.before, "signs"))).sum())
    return spread(sums) * sums.inputs / max(1.0, varying)


def _float_layers(low: Sequence[Sums]) -> tuple[str, str]:
    what = "is an ordinary float layer" if len(low) == 1 else "are ordinary float layers"
    options = " ".join(f"--float-layer {sums.name}" for sums in low)
    return f"{_named(low)} {what}", f"{options} says so"


def _explained(low: Sequence[Sums], judged: Sequence[Sums], floats: tuple[str, str] | None) -> Iterator[tuple[str, str]]:
    """What else makes sums of this size, and what says so.  floats: how to say that they alone are float."""
    behind_relus = [_predicted(sums, "relu", sums.latent) for sums in judged]
    if _agree(judged, behind_relus) and _slope(judged, behind_relus) > 0.7:
        yield (
            "the means are those of ordinary float weights behind ReLUs: it is no binary network",
            "a network of float layers cannot be converted",
        )
        return
    if all((np.abs(sums.norm.mean[: sums.neurons]) <= 1).all() and (sums.variance <= 1).all() for sums in low):
        yield "tanh, sigmoid or hardtanh stands between sum and BatchNorm", "--before-norm tanh, sigmoid or hardtanh says so"
    if all(PLAUSIBLE[0] < spread(_scaled(sums)) < PLAUSIBLE[1] for sums in low):
        yield "weights are scaled by their mean magnitude, as in XNOR-Net", "--scale-by mean-abs (or mean-abs-layer) says so"
    clipped = all(np.abs(sums.layer.weight).max() <= glorot(*sums.layer.fans) for sums in low)
    if clipped and all(PLAUSIBLE[0] < spread(_glorot(sums)) < PLAUSIBLE[1] for sums in low):
        yield "H is that of Glorot", "--h glorot says so"
    if floats is not None:
        yield f"{floats[0]}, or all are", f"{floats[1]} if they alone are; a network of float layers cannot be converted"
    else:
        yield "weights or activations are ordinary floats", "a network of float layers cannot be converted"


def _scaled(sums: Sums) -> Sums:
    scale = np.abs(sums.layer.weight).mean(axis=tuple(range(1, sums.layer.weight.ndim)), dtype=np.float64).astype(np.float32)
    return dataclasses.replace(sums, layer=dataclasses.replace(sums.layer, scale=scale))


def _glorot(sums: Sums) -> Sums:
    return dataclasses.replace(sums, layer=dataclasses.replace(sums.layer, h=glorot(*sums.layer.fans)))


def _impossible(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Means and variances that no sums of this many inputs have."""
    for sums in (sums for sums in layers if not sums.first):
        most = sums.depth * np.abs(sums.magnitude)
        bad = (np.abs(sums.mean) > 1.02 * most) | (np.isfinite(sums.variance) & (sums.variance > MARGIN * np.square(most) + 1))
        if not bad.any():
            continue
        worst = int(np.argmax(np.maximum(np.abs(sums.mean) / most, np.sqrt(np.where(bad, sums.variance, 0)) / most)))
        yield Finding(
            f"{sums.norm_name}: {int(bad.sum())} of {sums.neurons} neurons have statistics that no sums of {sums.depth} signs "
            f"have, neuron {worst} a mean of {sums.norm.mean[worst]:.4g} and a variance of {sums.variance[worst]:.4g}",
            "another magnitude or scale of weights, another BatchNorm's statistics, or a training that diverged",
            "--h and --scale-by say the magnitude, a net.toml (--net) which norm belongs to which layer",
            MAGNITUDE,
            proof=bool(bad.mean() >= 0.5),
            answers=("h", "scale_by"),
        )


# ---------------------------------------------------------------- means from the BatchNorm before


_POINTS = np.linspace(-4, 4, 161)
_DENSITY = np.exp(-np.square(_POINTS) / 2) / np.exp(-np.square(_POINTS) / 2).sum()


def means_after(norm: Norm, activation: Activation) -> F64:
    """(neurons,): mean of what follows a BatchNorm, whose output is about normal with deviation |gamma| around beta."""
    gamma = np.ones(norm.mean.shape) if norm.gamma is None else norm.gamma.astype(np.float64)
    beta = np.zeros(norm.mean.shape) if norm.beta is None else norm.beta.astype(np.float64)
    values = beta[:, None] + np.abs(gamma)[:, None] * _POINTS
    if activation == "signs":
        values = signs_of(values)
    else:
        values = np.maximum(values, 0) if activation == "relu" else np.clip(values, -1, 1)
    means: F64 = values @ _DENSITY
    return means


def _predicted(sums: Sums, activation: Activation, weights: F64, before: Norm | None = None) -> F64:
    """(neurons,): the means that a layer's sums should have, without the bias."""
    norm = before or sums.before
    assert norm is not None
    means: F64 = sums.magnitude * (weights @ sums.of_inputs(means_after(norm, activation)))
    return means


def _misses(layers: Sequence[Sums], predicted: Sequence[F64]) -> float:
    """Mean square of what predictions miss, in deviations; large ones count as 5."""
    return float(
        np.mean(np.concatenate([np.minimum(np.square(_error(s, p)), 25) for s, p in zip(layers, predicted, strict=True)]))
    )


def _error(sums: Sums, predicted: F64) -> F64:
    error: F64 = (sums.mean - predicted) / _deviation(sums)
    return error


def _deviation(sums: Sums) -> F64:
    deviation: F64 = np.sqrt(np.maximum(sums.variance, 1e-12))
    return deviation


def correlation(layers: Sequence[Sums], predicted: Sequence[F64]) -> float:
    """Of means and their predictions, both in deviations, over all layers; 0 where either is constant."""
    pairs = list(zip(layers, predicted, strict=True))
    alive = [np.isfinite(s.variance) & (s.variance > 0) for s, _ in pairs]
    found = np.concatenate([(s.mean / _deviation(s))[a] for (s, _), a in zip(pairs, alive, strict=True)])
    wanted = np.concatenate([(p / _deviation(s))[a] for (s, p), a in zip(pairs, alive, strict=True)])
    if found.size < 2 or not found.std() > 0 or not wanted.std() > 0:
        return 0.0
    return float(np.corrcoef(found, wanted)[0, 1])


def _slope(layers: Sequence[Sums], predicted: Sequence[F64]) -> float:
    found = np.concatenate([s.mean / _deviation(s) for s in layers])
    wanted = np.concatenate([p / _deviation(s) for s, p in zip(layers, predicted, strict=True)])
    return float(found @ wanted / max(float(wanted @ wanted), 1e-30))


def _agree(layers: Sequence[Sums], predicted: Sequence[F64]) -> bool:
    """Whether predictions are close enough to name what they assume: no chance, and no other cause."""
    return sum(s.neurons for s in layers) >= 16 and correlation(layers, predicted) >= 0.9


def links(layers: Sequence[Sums]) -> list[Sums]:
    """The layers whose means can be predicted."""
    return [sums for sums in layers if sums.before is not None and not untrained(sums)]


#: Deviations of chance by which the means that a BatchNorm predicts must be nearer than those of any other.
BORNE_OUT = 5.0


def follows(sums: Sums, net: Net) -> bool:
    """Whether a layer's means are those of signs of the BatchNorm before it, and of no other one of the network."""
    if not links([sums]):
        return False
    norms = [op for op in net.ops if isinstance(op, Norm) and op not in (sums.before, sums.norm)]
    others = [_fit(sums, norm) for norm in norms if norm.mean.size == sums.channels]
    return (_fit(sums) - max([0.0, *others])) * float(np.sqrt(sums.neurons)) >= BORNE_OUT


def _fit(sums: Sums, before: Norm | None = None) -> float:
    return correlation([sums], [_predicted(sums, "signs", sums.signs, before)])


def _links(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Another reading that predicts the means where this one does not."""
    linked = links(layers)
    if not linked:
        return
    ours = [_predicted(sums, "signs", sums.signs) for sums in linked]
    missed = _misses(linked, ours)

    def better(predicted: Sequence[F64]) -> bool:
        return _agree(linked, predicted) and missed >= 4 * _misses(linked, predicted)

    if better([_predicted(sums, "relu", sums.signs) for sums in linked]):
        yield Finding(
            f"the means in {', '.join(sums.norm_name for sums in linked)} are those of sums over ReLUs of the layers before "
            f"(correlation {correlation(linked, [_predicted(s, 'relu', s.signs) for s in linked]):.2f}, "
            f"{correlation(linked, ours):.2f} with signs)",
            "activations are not binarized",
            "such a network cannot be converted",
            ACTIVATIONS,
            proof=True,
        )
        return
    centred = [_predicted(sums, "signs", _centred(sums)) for sums in linked]
    if better(centred) or _centred_first(layers):
        yield Finding(
            f"the means in {', '.join(sums.norm_name for sums in layers)} are those of weights from which the mean of each "
            "neuron's is taken before the sign",
            "weights are centred, as in XNOR-Net and IR-Net",
            "--center says so",
            WEIGHTS,
            proof=True,
            answers=("center",),
        )
        return
    yield from _misplaced(linked, [(sums.norm_name, sums.norm) for sums in layers])


def _centred(sums: Sums) -> F64:
    return signs_of(sums.latent - sums.latent.mean(axis=1, keepdims=True))


def _centred_first(layers: Sequence[Sums]) -> bool:
    """Whether the first layer's means follow the number of +1 weights of centred weights alone: inputs whose mean is not 0,
    as of most images, leave that trace."""
    first = next((sums for sums in layers if sums.first and sums.neurons >= 32), None)
    if first is None:
        return False
    ours, centred = (correlation([first], [weights.sum(axis=1)]) for weights in (first.signs, _centred(first)))
    return abs(centred) >= 0.8 and abs(ours) <= 0.5


def _misplaced(linked: Sequence[Sums], norms: Sequence[tuple[str, Norm]]) -> Iterator[Finding]:
    """Layers that follow another one than the one before them."""
    for sums in linked:
        ours = [_predicted(sums, "signs", sums.signs)]
        chance = 1 / np.sqrt(sums.neurons)
        if sums.neurons < 16 or correlation([sums], ours) > max(0.2, 2 * chance):
            continue
        for name, norm in norms:
            if norm in (sums.before, sums.norm) or norm.mean.size != sums.channels:
                continue
            other = [_predicted(sums, "signs", sums.signs, norm)]
            clear = _misses([sums], ours) >= 4 * _misses([sums], other)
            if (_agree([sums], other) and clear) or correlation([sums], other) >= max(0.5, 5 * chance):
                assert sums.before is not None
                fits = correlation([sums], other), correlation([sums], ours)
                yield Finding(
                    f"the means in {sums.norm_name} are those of sums over signs of {name} (correlation {fits[0]:.2f}), "
                    f"not of {sums.before_name} ({fits[1]:.2f})",
                    "layers, or BatchNorms, stand in another order than they are computed in",
                    "a net.toml (--net) can say the order of [[layers]] and each `norm`",
                    ORDER,
                    proof=True,
                )
                break

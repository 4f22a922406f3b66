"""Whether small weights count at all: the means that BatchNorm saw, under signs and under other readings of the latents.

A file of latents does not say what a layer makes of them: their signs, or -1, 0 and +1 with what is near 0 as 0 (Larq's
`ste_tern`, TWN).  But the means of its sums are `W @ means of its inputs`, and BatchNorm keeps them.  The inputs' means are
known only about, from the BatchNorm before (`means_after`), in the first layer not at all; so they are taken as normal around
that, and every reading of the weights has a likelihood, with the slope, tau and sigma that fit best:

    means ~ N(slope * W @ inputs, tau^2 * W @ W.T + sigma^2 * diag(variances))

Readings that are compared, by the magnitude that a weight w counts with:

    signs        1
    ternary      1, and 0 below a threshold; any threshold
    graded       min(1, |w| / edge), any edge: ordinary floats, several bits, and what a binary network leaves of which small
                 weights changed their signs while the means were taken
    by places    the share of ternary's 1 at the weight's input, in its neuron, or both: where inputs are never used latents are
                 small, too

What counts is how far ternary's logarithm of the likelihood is ahead of all others.  Measured on trained networks: summed over
their layers at most 2.2 in binary ones, 12 to 200 in ternary ones of 32 neurons and more, whose threshold it finds to a few
percent; less only where the learning rate stayed so large that weights crossed the threshold all the time, or where weights
decayed to nothing.  A layer of 10 neurons shows nothing.

And ternary weights must explain the means at all: they are 0.6 to 3.3 ahead a neuron, in trained networks, of means that have
nothing to do with the weights but their size; with statistics that are any numbers, at most 0.25 in layers of 40 neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xnorinfer.converters.evidence.hiddensums import means_after, untrained
from xnorinfer.converters.evidence.sums import F64, Sums
from xnorinfer.converters.evidence.weightvalues import one_magnitude
from xnorinfer.converters.finding import WEIGHTS, Finding

#: Sums over layers of how far ternary is ahead of every other reading: beyond doubt, and worth a word.
PROVEN, DOUBTFUL = 10.0, 5.0
#: How far signs may be behind ternary or graded weights in one layer: fast trainings of binary networks leave up to 37.
BEHIND = 45.0
#: How far ternary is ahead of means that are independent of the weights, where it explains them: a neuron, and in all.
EXPLAINS, BY_CHANCE = 0.35, 8.0
#: Neurons and weights that are looked at in one layer; more cost more than they tell.
NEURONS, WEIGHTS_SEEN = 128, 1 << 21
#: Neurons that a first look takes, and the size of all matrices: BLAS works on smaller ones in one thread, which on a busy
#: machine is a hundred times faster.
BLOCK = 48
#: Shares of weights below a threshold, or an edge, that are tried first; how closely the best is looked for.
SHARES, STEP = (0.1, 0.25, 0.5, 0.75, 0.93), 0.004
#: What ternary must be ahead of signs by at a first look, and then, to be looked at closely.
FIRST, START = 3.0, 5.0
#: Ratios of sigma^2 to tau^2 that are tried.
NOISE = np.geomspace(1e-3, 1e3, 9)


@dataclass(frozen=True)
class Ternary:
    """The ternary reading of a layer that fits best.  share: of its weights, those that are 0, below threshold.

    ahead: of every other reading; behind: how far signs are behind ternary or graded weights, whichever fits better.
    """

    sums: Sums
    threshold: float
    share: float
    ahead: float
    behind: float


def judge_ternary(layers: Sequence[Sums]) -> Iterator[Finding]:
    """Layers whose means are those of ternary weights, or not of signs at least; layers: with statistics, in order."""
    layers = [sums for sums in layers if not untrained(sums) and not one_magnitude(sums.layer.weight)]
    if not any(_first_look(sums) for sums in layers):
        return
    found = [ternary for sums in layers if (ternary := best_ternary(sums)) is not None]
    ahead = [ternary for ternary in found if ternary.ahead > 0]
    total = sum(ternary.ahead for ternary in ahead)
    shows = 'its own outputs (--expect) show whether its signs count; a net.toml (--net) can say `kind = "binary"`'
    if total >= DOUBTFUL:
        shares = ", ".join(f"{one.share:.0%} of {one.sums.name}'s (below {one.threshold:.2g})" for one in ahead)
        yield Finding(
            f"{shares} weights add nothing to the means in {', '.join(one.sums.norm_name for one in ahead)}, which are "
            f"{_times(total)} likelier without them than with their signs",
            "the network is ternary (-1, 0 and +1 around a threshold), which one bit cannot hold",
            f"only a binary one can be converted; {shows}",
            WEIGHTS,
            proof=total >= PROVEN,
        )
        return
    behind = [ternary for ternary in found if ternary.behind >= BEHIND]
    if behind:
        yield Finding(
            f"the smaller weights of {', '.join(one.sums.name for one in behind)} count for less than larger ones in the "
            f"means of {', '.join(one.sums.norm_name for one in behind)}",
            "they are ternary, of several bits or ordinary floats, or changed their signs until the end of the training",
            f"only binary weights can be converted; {shows}",
            WEIGHTS,
        )


def _times(logarithm: float) -> str:
    """10^9 times; for numbers that say something, 300 times."""
    return f"{np.exp(logarithm):.0f} times" if logarithm < 7 else f"10^{logarithm / np.log(10):.0f} times"


def _first_look(sums: Sums) -> bool:
    """Whether few neurons of a layer, or all it has, are nearer to some ternary weights than to signs."""
    means = _Means(sums, BLOCK)
    return max(means.ternary(share) for share in SHARES) - means.likelihood(1.0) >= FIRST


def best_ternary(sums: Sums) -> Ternary | None:
    """None where no ternary reading is clearly ahead of signs, as in nearly all binary layers."""
    means = _Means(sums, NEURONS)
    signs = means.likelihood(1.0)
    best, share = max((means.ternary(share), share) for share in SHARES)
    if not best - signs >= START:
        return None
    best, share = _refined(means.ternary, best, share)
    if best - means.unrelated(share) < EXPLAINS * means.means.size + BY_CHANCE:
        return None
    graded, _ = _refined(means.graded, *max((means.graded(share), share) for share in SHARES))
    plain = max(signs, means.placed(share))
    return Ternary(sums, means.edge(share), share, best - max(plain, graded), max(best, graded) - plain)


def _refined(measure: Callable[[float], float], best: float, share: float) -> tuple[float, float]:
    """The largest likelihood near a share, and the share that has it."""
    step = 0.08
    while step > STEP:
        value, near = max((measure(near), near) for near in (share - step, share + step) if 0 < near < 1)
        if value > best:
            best, share = value, near
        else:
            step /= 2
    return best, share


def _products(weights: F64) -> F64:
    """`weights @ weights.T`, of blocks."""
    count, depth = weights.shape
    padded = np.pad(weights, ((0, -count % BLOCK), (0, -depth % BLOCK)))
    blocks = padded.reshape(-1, BLOCK, padded.shape[1] // BLOCK, BLOCK).transpose(0, 2, 1, 3)
    found = np.block([[(rows @ columns.swapaxes(1, 2)).sum(axis=0) for columns in blocks] for rows in blocks])
    return found[:count, :count]


class _Means:
    """A layer's means, for the likelihood of readings of its weights."""

    def __init__(self, sums: Sums, neurons: int) -> None:
        rows = slice(max(1, min(neurons, WEIGHTS_SEEN // sums.depth)))
        magnitude, mean = sums.magnitude[rows], sums.mean[rows]
        # A neuron that never changes says as much as one that an input changes now and then.
        deviation = np.sqrt(np.maximum(sums.variance[rows], np.square(magnitude)))
        known = np.isfinite(deviation)
        self.means = (mean / deviation)[known]
        self.weights = (sums.signs[rows] * (magnitude / deviation)[:, None])[known]
        self.sizes = np.abs(sums.latent[rows][known])
        self.inputs = sums.of_inputs(np.ones(sums.channels) if sums.before is None else means_after(sums.before, "signs"))
        self.sorted = np.sort(self.sizes, axis=None)

    def edge(self, share: float) -> float:
        """The size that a share of the weights is below."""
        return float(self.sorted[int(share * self.sorted.size)])

    def likelihood(self, counts: F64 | float) -> float:
        """Logarithm of the likelihood, but for a constant.  counts: what weights count with, of shape (neurons, depth)."""
        if not self.means.size:
            return -np.inf
        weights = self.weights * counts
        products = _products(weights)
        level = float(np.trace(products)) / len(weights)
        if not level > 0:
            return -np.inf
        covariances = products / level + NOISE[:, None, None] * np.eye(len(weights))
        # Means and what is predicted, as they are where covariances are 1, block by block: each leaves the blocks after it.
        values = np.broadcast_to(
            np.stack([self.means, (weights * self.inputs).sum(axis=1)], axis=1), (len(NOISE), len(weights), 2)
        )
        missed, met, power, logarithms = (np.zeros(len(NOISE)) for _ in range(4))
        while values.shape[1]:
            roots = np.linalg.cholesky(covariances[:, :BLOCK, :BLOCK])
            solved = np.linalg.solve(roots, np.concatenate([values[:, :BLOCK], covariances[:, :BLOCK, BLOCK:]], axis=2))
            white, across = solved[..., :2], solved[..., 2:].swapaxes(1, 2)
            missed += np.square(white[..., 0]).sum(axis=1)
            met += (white[..., 0] * white[..., 1]).sum(axis=1)
            power += np.square(white[..., 1]).sum(axis=1)
            logarithms += np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
            values = values[:, BLOCK:] - across @ white
            covariances = covariances[:, BLOCK:, BLOCK:] - across @ across.swapaxes(1, 2)
        missed -= np.square(met) / np.maximum(power, 1e-30)
        return float((-0.5 * len(weights) * np.log(np.maximum(missed / len(weights), 1e-30)) - logarithms).max())

    def ternary(self, share: float) -> float:
        return self.likelihood((self.sizes >= self.edge(share)).astype(np.float64))

    def unrelated(self, share: float) -> float:
        """The likelihood of means that are independent of each other, each as large as its neuron has weights, or not 0."""
        found = []
        for counts in (1.0, (self.sizes >= self.edge(share)).astype(np.float64)):
            size = np.square(self.weights * counts).sum(axis=1)
            variances = size / size.mean() + NOISE[:, None]
            missed = (np.square(self.means) / variances).mean(axis=1)
            found.append(-0.5 * (len(size) * np.log(np.maximum(missed, 1e-30)) + np.log(variances).sum(axis=1)).min())
        return float(max(found))

    def graded(self, share: float) -> float:
        return self.likelihood(np.minimum(1, self.sizes / max(self.edge(share), 1e-30)))

    def placed(self, share: float) -> float:
        counted = (self.sizes >= self.edge(share)).astype(np.float64)
        inputs, neurons = counted.mean(axis=0), counted.mean(axis=1)[:, None]
        return max(self.likelihood(inputs), self.likelihood(neurons), self.likelihood(inputs * neurons))

"""The numbers of steps over real values, which no proof can try all of: most of what changes such a number by one float is
rounded away again in every sample."""

from __future__ import annotations

import numpy as np

from xnorinfer.float32 import F32
from xnorinfer.packing.fusedpart import Part
from xnorinfer.packing.lower import steps_of_part
from xnorinfer.packing.packed import Affine
from xnorinfer.packing.packedops import STEP_VECTORS
from xnorinfer.proof.verification import LayerProof


def compare_numbers(proof: LayerProof, part: Part, steps: Affine, dot: F32 | None = None) -> None:
    """The numbers of steps against the source's in its order; where a file has them in another form, they are left to samples.

    dot: (values, neurons), every dot, where steps add something to what they make of those: that is compared, then, and the
    numbers behind it alone.
    """
    source = steps_of_part(part)
    ours, theirs = steps, source
    if dot is not None:
        (before, ours), (wanted, theirs) = _at_side(steps), _at_side(source)
        with np.errstate(all="ignore"):
            found, needed = before.apply(dot), wanted.apply(dot)
        apart = (found != needed) & ~(np.isnan(found) & np.isnan(needed))
        if apart.any():
            at, neuron = (int(i) for i in np.argwhere(apart)[0])
            proof.differ(
                int(apart.sum()),
                f"output {neuron} at accumulator {dot[at, neuron]:g}: the source adds to {needed[at, neuron]!r}, the model to "
                f"{found[at, neuron]!r}",
            )
    if ours.ops != theirs.ops:
        return
    used = np.array([[STEP_VECTORS[step] > 0, STEP_VECTORS[step] > 1] for step in ours.ops], np.bool_).reshape(-1, 2, 1)
    wrong = (ours.values != theirs.values) & used
    if wrong.any():
        at, which, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"output {neuron}: the source has {ours.ops[at]} {theirs.values[at, which, neuron]!r}, the model "
            f"{ours.values[at, which, neuron]!r}",
        )


def _at_side(steps: Affine) -> tuple[Affine, Affine]:
    """The steps before what is added, and those from there on."""
    at = steps.ops.index("side") if "side" in steps.ops else 0
    return Affine(steps.ops[:at], steps.values[:at]), Affine(steps.ops[at:], steps.values[at:])

"""Random and adversarial float networks for tests: every layer kind, every tie rule, the BatchNorm tensors that hurt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Linear, Named, Norm, NormForm, Op, Quantize, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput, ThresholdInput

INPUTS: dict[str, InputMapping] = {
    "range": PixelInput.range(-1, 1),
    "unit": PixelInput.range(0, 1),
    "raw": PixelInput.range(0, 255),
    "inverted": PixelInput.range(1, -1),
    "normalize": PixelInput.normalize(0.1307, 0.3081),
    "threshold": ThresholdInput(128),
    "signs": SignInput(),
    "reals": RealInput(),
}


def vector(rng: np.random.Generator, neurons: int, scale: float = 1.0) -> F32:
    return (rng.standard_normal(neurons) * scale).astype(np.float32)


def spoil(rng: np.random.Generator, values: F32, awkward: Sequence[float]) -> F32:
    """Overwrite about a third of the entries by awkward values."""
    out = values.copy()
    hit = rng.random(out.shape) < 0.35
    out[hit] = rng.choice(np.array(awkward, np.float32), int(hit.sum()))
    return out


def random_batch_norm(
    rng: np.random.Generator, neurons: int, spread: float, form: NormForm = "tf", *, awkward: bool = True
) -> Norm:
    """BatchNorm of accumulators whose standard deviation is about `spread`; a third of its channels are awkward."""
    gamma = vector(rng, neurons)
    beta = vector(rng, neurons, 0.3)
    mean = vector(rng, neurons, spread)
    variance = (spread**2 * (0.3 + rng.random(neurons))).astype(np.float32)
    if awkward:
        gamma = spoil(rng, gamma, [0.0, -0.0, 1e-30, -1e-30, 3e-7, -1e-6, -1.0, 1e20, 1e-44])
        beta = spoil(rng, beta, [0.0, 1e-8, -1e-8, 2.0**-24, 30.0, -30.0])
        mean = spoil(rng, mean, [0.0, 1.0, -2.0, 0.5, 1e9, -1e9])
        variance = spoil(rng, variance, [0.0, 1e-12, 1e12])
    if form == "lasagne":
        inv_std = (1 / np.sqrt(variance + np.float32(1e-4))).astype(np.float32)
        return Norm(mean, inv_std=inv_std, gamma=gamma, beta=beta, form=form)
    return Norm(mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-4, form=form)


def as_chain(norm: Norm) -> Steps:
    """The textbook order of BatchNorm, as ONNX graphs spell it out."""
    assert norm.variance is not None
    assert norm.gamma is not None
    assert norm.beta is not None
    deviation = np.sqrt(norm.variance + np.float32(1e-5))
    return Steps.of(("sub", norm.mean), ("div", deviation), ("mul", norm.gamma), ("add", norm.beta))


def kinds(net: Net) -> list[str]:
    """What its nodes are: binary, float, norm, sign, or the words of steps."""
    words = {Norm: lambda op: "norm", Quantize: lambda op: "sign", Linear: lambda op: "binary" if op.binary else "float"}
    return [words.get(type(op), lambda op: " ".join(step.word for step in op.steps))(op) for op in net.ops]  # type: ignore[no-untyped-call]


def names_of(net: Net, *kinds: type[Op]) -> list[str]:
    return [node.name for node in net.nodes if isinstance(node.op, kinds)]


def random_latents(rng: np.random.Generator, neurons: int, depth: int, *, zeros: bool) -> F32:
    latent = np.clip(rng.standard_normal((neurons, depth)) * 0.4, -1, 1).astype(np.float32)
    if zeros:
        hit = rng.random(latent.shape) < 0.05
        latent[hit] = rng.choice(np.array([0, -0.0, 1e-9, -1e-9, 2.0**-24, 2.0**-25, 1, -1], np.float32), int(hit.sum()))
    return latent


def random_network(
    seed: int,
    widths: Sequence[int],
    mapping: InputMapping,
    *,
    rule: Rule = "round-even",
    form: NormForm = "tf",
    h: float = 1.0,
    float_tail: bool = False,
    tail_reads: Literal["hardtanh", "sign"] = "hardtanh",
    chains: bool = False,
    binarize_input: bool = False,
    profile: str = "tf1-round",
    awkward: bool = True,
) -> Net:
    """Dense (bias, H, sometimes a scale) -> BatchNorm -> sign, ending in a head with BatchNorm or a float layer on hardtanh.

    awkward: hidden layers have channels where sums of real inputs leave float32, so that no limit of the sums tells their sign.
    """
    rng = np.random.default_rng(seed)
    layers: list[Named] = []
    if binarize_input:
        raw = isinstance(mapping, PixelInput) and mapping.divisor == 1
        layers += [("bn", random_batch_norm(rng, widths[0], 100.0 if raw else 0.5, form)), ("input.sign", Quantize(rule))]
    spread = 0.6 * 255 if isinstance(mapping, PixelInput) and mapping.divisor == 1 and not binarize_input else 0.6
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        last = index == len(widths) - 2
        name = f"fc{index + 1}"
        if last and float_tail:
            layers += [
                (f"{name}.in", HARDTANH if tail_reads == "hardtanh" else Quantize(rule)),
                (name, Linear(vector(rng, neurons * depth).reshape(neurons, depth), bias=vector(rng, neurons))),
            ]
            break
        deviation = spread * h * np.sqrt(depth)
        bias = vector(rng, neurons, deviation / 4) if rng.random() < 0.7 else None
        scale = np.abs(vector(rng, neurons)) + np.float32(0.1) if rng.random() < 0.3 else None
        latent = random_latents(rng, neurons, depth, zeros=rule != "sign")
        layers.append((name, Linear(latent, rule, h, bias, scale)))
        # A head's scores are compared as floats: awkward channels there would only make them infinite.
        norm = random_batch_norm(rng, neurons, deviation, form, awkward=awkward and not last and not chains)
        layers.append(("bn", as_chain(norm) if chains else norm))
        if not last and not (float_tail and index == len(widths) - 3):
            layers.append((f"{name}.sign", Quantize(rule)))
        spread = 1.0
    return Net.chain(mapping, layers, profile)


def random_inputs(rng: np.random.Generator, mapping: InputMapping, rows: int, depth: int) -> NDArray[Any]:
    """Canonical inputs of a mapping: uint8, int8 signs or float32."""
    if isinstance(mapping, SignInput):
        return rng.choice(np.array([-1, 1], np.int8), (rows, depth))
    if isinstance(mapping, RealInput):
        return rng.standard_normal((rows, depth)).astype(np.float32)
    return rng.integers(0, 256, (rows, depth), dtype=np.uint8)

"""The tie rules: how a float becomes -1 or +1, which differs between frameworks at and near 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xnorinfer.float32 import F32, ONE

#: How a float becomes -1 or +1; `BINARIZE` gives the expressions.
Rule = Literal["round-even", "round-away", "sign", "ge", "gt"]
RULES: tuple[Rule, ...] = ("round-even", "round-away", "sign", "ge", "gt")

HALF, TWO = np.float32(0.5), np.float32(2)


def hard_sigmoid(x: F32) -> F32:
    """clip((x + 1) / 2, 0, 1) in float32 (BinaryNet `binary_net.hard_sigmoid`)."""
    return np.asarray(np.clip((x + ONE) / TWO, np.float32(0), ONE))


def round_half_away(x: F32) -> F32:
    """C's round() for values of 0 and above (Theano's `round_half_away_from_zero`)."""
    whole = np.floor(x)
    return np.where(x - whole >= HALF, whole + ONE, whole).astype(np.float32)


#: Binarization of float32 arrays; "sign" alone has a third value, 0.
BINARIZE: dict[Rule, Callable[[F32], F32]] = {
    "round-even": lambda x: TWO * np.round(hard_sigmoid(x)) - ONE,
    "round-away": lambda x: TWO * round_half_away(hard_sigmoid(x)) - ONE,
    "sign": lambda x: np.sign(x),
    "ge": lambda x: np.where(x >= 0, ONE, -ONE),
    "gt": lambda x: np.where(x > 0, ONE, -ONE),
}


def binarize(x: F32, rule: Rule) -> F32:
    """float32 values to -1, (0,) +1 by a tie rule, NaN to -1 by all of them; same shape, float32."""
    found = BINARIZE[rule](x)
    return np.where(np.isnan(found), -ONE, found)


@dataclass(frozen=True)
class Profile:
    """The tie rules of one family of training code: what binarization does at and near 0."""

    weights: Rule
    activations: Rule
    meaning: str


PROFILES: dict[str, Profile] = {
    "tf1-round": Profile("round-even", "round-even", "TF1 port of BinaryNet: 2*round((x+1)/2)-1; 0 -> -1"),
    "keras-round": Profile("round-even", "round-even", "Keras ports of BinaryNet (K.round); 0 -> -1"),
    "theano": Profile("round-away", "round-away", "BinaryNet on Theano before 0.9; 0 -> +1"),
    "theano-0.9": Profile("round-even", "round-away", "BinaryNet on Theano 0.9 and later; weights 0 -> -1"),
    "torch-sign": Profile("sign", "sign", "BinaryNet.pytorch and forks (tensor.sign()); 0 -> 0, reported"),
    "ge-zero": Profile("ge", "ge", "Larq ste_sign, Brevitas BINARY, QONNX BipolarQuant; 0 -> +1"),
    "gt-zero": Profile("gt", "gt", "strict comparators (BNN-PYNQ hardware); 0 -> -1"),
}


def profile_problems(profile: object) -> Iterator[str]:
    """What is wrong with the name of a profile."""
    if not isinstance(profile, str) or profile not in PROFILES:
        yield f"tie profile {profile!r} is none of {', '.join(PROFILES)}"

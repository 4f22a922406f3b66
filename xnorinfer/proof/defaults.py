"""What a conversion takes by default, nothing in the file or the options says it, and what other values would change.

The network is folded again under each other usual value, without packing anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from xnorinfer.converters.evidence.inputmapping import USUAL
from xnorinfer.converters.reading import EPSILON, INPUT, MAGNITUDE, NORM_ORDER, TIE_PROFILE, Reading, glorot
from xnorinfer.net.network import Net
from xnorinfer.net.ties import PROFILES
from xnorinfer.net.values import PixelInput
from xnorinfer.proof.alternatives import Alternative, epsilons, forms, inputs, magnitudes, profiles
from xnorinfer.proof.sensitivity import Effect, Folded

#: Mappings of pixels that are tried: BinaryNet and Larq, scripts that divide by 255, torchvision's MNIST example, raw pixels.
MAPPINGS = USUAL[:4]


@dataclass(frozen=True)
class Default:
    """Something that a source takes by default, nothing in the file or the options says it.

    option: what says otherwise.  alternatives: the network under each other usual value.  thresholds: how many it has in all.
    """

    what: str
    value: str
    option: str
    alternatives: tuple[Effect, ...]
    thresholds: int

    @property
    def changing(self) -> list[Effect]:
        """The alternatives that change anything."""
        return [other for other in self.alternatives if other.any]

    def warning(self) -> str:
        """A default that changes results: what it is, why it matters, and what to type."""
        return (
            f"{self.what} ({MEANINGS[self.what]}): the file does not say it, so the default is used: {self.value}. "
            f"{self.effect()} Your training code says which is right; give it with {self.option}"
        )

    def effect(self) -> str:
        """What other values would change, in a sentence."""
        values: dict[str, list[str]] = {}
        for other in self.changing:
            numbers = [
                f"{other.weight_bits:,} weights have the other sign" if other.weight_bits else "",
                f"{other.thresholds:,} of {self.thresholds:,} thresholds (where a neuron's sign turns) move"
                if other.thresholds
                else "",
                "only the last layer's scores differ" if not other.weight_bits and not other.thresholds else "",
            ]
            values.setdefault(" and ".join(filter(None, numbers)), []).append(other.value)
        listed = {
            changed: " or ".join([", ".join(those[:-1]), those[-1]][len(those) < 2 :]) for changed, those in values.items()
        }
        effects = "; ".join(f"with {those}: {changed}" for changed, those in listed.items())
        return f"A network that was trained otherwise gives other answers: {effects}."


#: What it is about, for somebody who trained a network and never looked into a framework.
MEANINGS = {
    TIE_PROFILE: "what the sign of exactly 0 is",
    NORM_ORDER: "float32 rounds them differently",
    EPSILON: "the small number that is added to a variance",
    MAGNITUDE: "they are -H or +H in the training code",
    INPUT: "what pixels become before the first layer",
}


def measure_defaults(reading: Reading) -> list[Default]:
    """What would change under other values of everything that a reading takes by default."""
    net = reading.net
    mappings = "--input-range, --input-normalize, --input-threshold, --input-signs or --input-real"
    usual: dict[str, tuple[str, Iterable[Alternative]]] = {
        TIE_PROFILE: ("--profile", _profiles(net)),
        NORM_ORDER: ("--profile or `form` in a net.toml", forms(net)),
        EPSILON: ("--bn-epsilon", epsilons(net)),
        MAGNITUDE: ("--h", _magnitudes(net)),
        INPUT: (mappings, inputs(net, MAPPINGS) if isinstance(net.input, PixelInput) else ()),
    }
    taken = {one.what: one.value for one in reading.assumptions if one.origin == "default"}
    values = taken | {TIE_PROFILE: net.profile, INPUT: net.input.describe()}
    tries = [(what, option, list(others)) for what, (option, others) in usual.items() if what in taken]
    if not any(others for *_, others in tries):
        return [Default(what, values[what], option, (), 0) for what, option, _ in tries]
    folded = Folded(net)
    found = []
    for what, option, others in tries:
        effects = tuple(folded.effect(Effect(what, one.value), one.change(net)) for one in others)
        found.append(Default(what, values[what], option, effects, folded.thresholds))
    return found


def _profiles(net: Net) -> Iterable[Alternative]:
    """Those of other rules than the network's profile, without torch.sign's, which is ge or gt wherever it has an answer."""
    for one in profiles(net):
        mine, other = ((p.weights, p.activations) for p in (PROFILES[net.profile], PROFILES[one.keywords["profile"]]))
        if mine != other and "sign" not in other:
            yield one


def _magnitudes(net: Net) -> Iterable[Alternative]:
    """Glorot's H, in the code that knows it and where training, which clips to -H..H, left no larger latent."""
    binary = [op for _, op in net.linears if op.binary]
    if all(str(op.rule).startswith("round") and np.abs(op.weight).max() <= glorot(*op.fans) for op in binary):
        yield from (one for one in magnitudes(net) if one.value == "glorot")

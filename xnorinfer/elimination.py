"""Which reading of a checkpoint the user's own answers prove, where they contradict the one that was taken.

A file leaves much unsaid: tie rules, epsilons, H, the input mapping, which layers are float, what stands between sum and
BatchNorm.  Each usual value of each is tried, on the float network and by the oracle, and then every two of them together.  A
reading that gives the expected classes is confirmed on all rows, with the options that say it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.agreement import Agreement, compare
from xnorinfer.answers import Answers
from xnorinfer.converters.base import ConvertOptions, Reading, function_named, glorot
from xnorinfer.converters.evidenceinput import USUAL, option_of
from xnorinfer.converters.latents import SCALES, ScaleBy, centred, magnitude
from xnorinfer.errors import InputError, NetworkError, XnorinferError
from xnorinfer.lower import lower
from xnorinfer.model import inputs_of
from xnorinfer.netspec import (
    PROFILES,
    BatchNorm,
    Dense,
    Elementwise,
    FloatDense,
    Hardtanh,
    InputMapping,
    Layer,
    NetSpec,
    PixelInput,
    RealInput,
    Rule,
    Sign,
    SignInput,
    ThresholdInput,
)
from xnorinfer.reference import forward
from xnorinfer.sensitivity import EPSILONS

Progress = Callable[[str, int, int], None]
Change = Callable[[NetSpec], NetSpec]

#: Rows that a reading is tried on first, and then; of the first, and of all, so many may be decided by rounding.
FIRST_ROWS, MORE_ROWS = 8, 64
SPARED = 0.03
#: Weights binarized in all tries together: about a minute's work.
MOST_WEIGHTS = 20_000_000_000
MOST_TRIES = 6000
#: Bits of information in the expected classes without which one of so many readings gives them by chance.
NEEDED_BITS = 24
#: Readings that fit on few rows and are confirmed on all of them, at most.
MOST_CONFIRMED = 24


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another reading.

    about: what it decides; two that decide the same are not combined.  option: how to say it on the command line or in a
    net.toml.  keywords: the same as fields of `ConvertOptions`, None if only a net.toml says it.  change: what it makes of the
    network.
    """

    about: str
    option: str
    change: Change
    keywords: dict[str, Any] | None = None


@dataclass(frozen=True)
class Explanation:
    """Alternatives that together give what is expected, and how well."""

    alternatives: tuple[Alternative, ...]
    agreement: Agreement

    @property
    def option(self) -> str:
        """What to type on the command line."""
        return " ".join(one.option for one in self.alternatives if one.keywords is not None) + "".join(
            f"{' and ' if index or any(o.keywords is not None for o in self.alternatives) else ''}{one.option}"
            for index, one in enumerate(one for one in self.alternatives if one.keywords is None)
        )

    @property
    def keywords(self) -> str:
        """What to write in Python."""
        given = [f"{name}={_python(value)}" for one in self.alternatives for name, value in (one.keywords or {}).items()]
        return ", ".join([*given, *(one.option for one in self.alternatives if one.keywords is None)])


def _python(value: Any) -> str:
    """A value of an option as Python code writes it."""
    if isinstance(value, ThresholdInput):
        return f"ThresholdInput({value.threshold})"
    if isinstance(value, SignInput | RealInput):
        return f"{type(value).__name__}()"
    if not isinstance(value, PixelInput):
        return repr(value)
    low, high = value.ends
    mean, std = (float(f"{number / 255:.6g}") for number in (-value.intercept, value.divisor))
    if value == PixelInput.range(low, high):
        return f"PixelInput.range({low:g}, {high:g})"
    if std > 0 and value == PixelInput.normalize(mean, std):
        return f"PixelInput.normalize({mean:g}, {std:g})"
    return f"PixelInput({value.slope!r}, {value.intercept!r}, {value.divisor!r})"


@dataclass
class Elimination:
    """explanations: what makes all rows equal, those with the fewest changes alone.  tried: number of readings.

    nearest: else the reading that is equal in most of the rows that were tried on, as (option, equal, of).  few: whether there
    were too few rows to try.
    """

    explanations: list[Explanation] = field(default_factory=list)
    tried: int = 0
    nearest: tuple[str, int, int] | None = None
    few: bool = False

    def text(self, *, python: bool = False) -> str:
        """In a sentence or two."""
        if self.explanations:
            ways = " or ".join(one.keywords if python else one.option for one in self.explanations[:4])
            verb = "makes all rows equal" if len(self.explanations) == 1 else "make all rows equal, each of them"
            return f"{ways} {verb}"
        if self.few:
            return "other readings are not tried on so few rows; give some 100"
        text = f"none of {self.tried} other readings explains it (tie rules, epsilons, H and scales, mappings of the input, "
        text += "float layers, functions before BatchNorm, orders of arrays and of layers, and two of these together)"
        if self.nearest is not None:
            text += f"; the nearest, {self.nearest[0]}, is right in {self.nearest[1]} of {self.nearest[2]} rows"
        return text


def eliminate(
    expected: Answers,
    reading: Reading,
    options: ConvertOptions,
    read: Callable[[ConvertOptions], Reading] | None = None,
    report: Progress = lambda what, done, total: None,
) -> Elimination:
    """Find the reading that gives what is expected.

    read: reads the source again with other options, to confirm that these say what was found.
    """
    found = Elimination()
    if len(expected.x) * math.log2(max(2, expected.classes.max() + 1)) < NEEDED_BITS:
        found.few = True
        return found
    trial = _Trial(expected, reading.net)
    others = list(alternatives(reading.net, options, expected.x))
    most = min(MOST_TRIES, max(2 * len(others), MOST_WEIGHTS // max(1, trial.weights)))
    groups: list[list[tuple[Alternative, ...]]] = [
        [(one,) for one in others],
        [pair for pair in itertools.combinations(others, 2) if pair[0].about != pair[1].about],
    ]
    total = min(most, sum(map(len, groups)))
    for group in groups:
        good: list[tuple[int, tuple[Alternative, ...]]] = []
        for changes in group:
            if found.tried >= most:
                break
            report("trying other readings", found.tried, total)
            found.tried += 1
            equal = trial.fitting(changes)
            if equal is not None:
                good.append((equal, changes))
        good.sort(key=lambda one: -one[0])
        tested = (_confirm(expected, reading, options, read, changes) for _, changes in good[:MOST_CONFIRMED])
        confirmed = [one for one in tested if one is not None]
        complete = [one for one in confirmed if one.agreement.complete]
        # Where scores are expected, a reading that gives the classes alone is no match for two that give the scores, too.
        if complete or not found.explanations:
            found.explanations = complete or confirmed
        if complete or (confirmed and expected.values.ndim == 1):
            break
    report("trying other readings", total, total)
    found.nearest = trial.nearest
    return found


def _confirm(
    expected: Answers,
    reading: Reading,
    options: ConvertOptions,
    read: Callable[[ConvertOptions], Reading] | None,
    changes: tuple[Alternative, ...],
) -> Explanation | None:
    """An explanation that holds on all rows, of the network as it is read with the options that say it."""
    keywords = {name: value for one in changes for name, value in (one.keywords or {}).items()}
    try:
        net = reading.net
        if read is not None and keywords:
            net = read(dataclasses.replace(options, **keywords)).net
        for one in changes:
            if read is None or one.keywords is None:
                net = one.change(net)
        net.require_valid()
        agreement = compare(expected, net, lower(net).packed)
    except XnorinferError:
        return None
    return Explanation(changes, agreement) if agreement.holds else None


class _Trial:
    """Readings, tried on few rows: those where the first reading is wrong before others."""

    def __init__(self, expected: Answers, net: NetSpec) -> None:
        self.expected = expected
        self.net = net
        self.weights = sum(layer.depth * layer.neurons for layer in net.layers if isinstance(layer, Dense | FloatDense))
        self.nearest: tuple[str, int, int] | None = None
        few = np.arange(min(len(expected.x), 4 * MORE_ROWS))
        right = self._right(net, few)
        order = few if right is None else np.concatenate([few[~right], few[right]])
        wrong = 0 if right is None else int((~right).sum())
        # Half of the rows are those where the first reading is right, if there are so many.
        half = order[: max(MORE_ROWS // 2, MORE_ROWS - (len(order) - wrong))]
        rest = order[max(wrong, len(half)) :]
        self.rows = np.concatenate([half, rest])[:MORE_ROWS]
        self.equal = 0 if right is None else int(right[self.rows].sum())

    def _right(self, net: NetSpec, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Rows whose class is the expected one; None where these cannot be inputs of the network."""
        try:
            x = inputs_of(net.input, net.depth, self.expected.x[rows])
        except InputError:
            return None
        with np.errstate(all="ignore"):
            return np.asarray(forward(net, x).argmax(axis=1) == self.expected.classes[rows])

    def fitting(self, changes: tuple[Alternative, ...]) -> int | None:
        """In how many rows a changed network gives the expected class, if that is better and in all but a few, which rounding
        may decide; else None."""
        try:
            net = self.net
            for one in changes:
                net = one.change(net)
            net.require_valid()
            right = self._right(net, self.rows[:FIRST_ROWS])
            if right is None or (~right).sum() > 1:
                return None
            right = self._right(net, self.rows)
        except NetworkError:
            return None
        assert right is not None
        equal = int(right.sum())
        if equal > max(self.equal, self.nearest[1] if self.nearest else 0):
            self.nearest = (Explanation(changes, Agreement("", 0)).option, equal, len(right))
        return equal if equal > self.equal and len(right) - equal <= max(1, int(SPARED * len(right))) else None


# ---------------------------------------------------------------- what a file leaves unsaid


#: Mappings of the input in use: the usual ones, torchvision's example for Fashion-MNIST, and inputs that are no pixels.
MAPPINGS: tuple[InputMapping, ...] = (*USUAL, PixelInput.normalize(0.286, 0.353), SignInput(), RealInput())


def alternatives(net: NetSpec, options: ConvertOptions, x: NDArray[Any]) -> Iterator[Alternative]:
    """Every other usual reading; an option that was given is one that the user may have wrong, too."""
    by_options = options.net is None
    yield from _inputs(net, x, by_options)
    yield from _profiles(net, by_options)
    yield from _epsilons(net, by_options)
    yield from _magnitudes(net, by_options)
    yield from _float_heads(net, by_options)
    yield from _arrays(net)
    yield from _orders(net)
    yield from _functions(net, by_options)
    yield from _weights(net, by_options)


def _inputs(net: NetSpec, x: NDArray[Any], by_options: bool) -> Iterator[Alternative]:
    for mapping in MAPPINGS:
        if mapping == net.input:
            continue
        try:
            inputs_of(mapping, net.depth, x[:MORE_ROWS])
        except InputError:
            continue
        if isinstance(mapping, RealInput) and x.dtype.kind != "f":
            continue
        text = option_of(mapping) if by_options else f"another [input] in the net.toml ({mapping.describe()})"
        yield Alternative("input", text, _with_input(mapping), {"input": mapping} if by_options else None)


def _with_input(mapping: InputMapping) -> Change:
    return lambda net: dataclasses.replace(net, input=mapping)


def _profiles(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    dense = {layer.rule for layer in net.layers if isinstance(layer, Dense)}
    signs = {layer.rule for layer in net.layers if isinstance(layer, Sign)}
    seen: set[tuple[Rule, Rule]] = set()
    for name, profile in PROFILES.items():
        rules = (profile.weights, profile.activations)
        if rules in seen or (dense <= {rules[0]} and signs <= {rules[1]}):
            continue
        seen.add(rules)
        text = f"--profile {name}" if by_options else f'profile = "{name}" in the net.toml'
        yield Alternative("profile", text, _with_rules(*rules), {"profile": name} if by_options else None)


def _with_rules(weights: Rule, activations: Rule) -> Change:
    def change(layer: Layer) -> Layer:
        if isinstance(layer, Dense):
            return dataclasses.replace(layer, rule=weights)
        return dataclasses.replace(layer, rule=activations) if isinstance(layer, Sign) else layer

    return _each(change)


def _each(change: Callable[[Layer], Layer]) -> Change:
    return lambda net: dataclasses.replace(net, layers=tuple(change(layer) for layer in net.layers))


def _epsilons(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    present = {layer.epsilon for layer in net.layers if isinstance(layer, BatchNorm) and layer.variance is not None}
    for epsilon in EPSILONS:
        if present and present != {epsilon}:
            text = f"--bn-epsilon {epsilon:g}" if by_options else f"epsilon = {epsilon:g} in the net.toml"
            yield Alternative("epsilon", text, _with_epsilon(epsilon), {"bn_epsilon": epsilon} if by_options else None)


def _with_epsilon(epsilon: float) -> Change:
    def change(layer: Layer) -> Layer:
        if isinstance(layer, BatchNorm) and layer.variance is not None:
            return dataclasses.replace(layer, epsilon=epsilon)
        return layer

    return _each(change)


def _magnitudes(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    layers = [layer for layer in net.layers if isinstance(layer, Dense)]
    for given, text in (("glorot", "glorot"), (1.0, "1")):
        wanted = {layer.name: glorot(layer.depth, layer.neurons) if given == "glorot" else 1.0 for layer in layers}
        if any(layer.h != wanted[layer.name] for layer in layers):
            option = f"--h {text}" if by_options else f"h = {text} in the net.toml"

            def change(layer: Layer, wanted: dict[str, float] = wanted) -> Layer:
                return dataclasses.replace(layer, h=wanted[layer.name]) if isinstance(layer, Dense) else layer

            yield Alternative("H and scale", option, _each(change), {"h": given} if by_options else None)


def _float_heads(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    """The last layer as ordinary float layer, reading what usual code gives it; or what a float layer reads."""
    dense = [layer for layer in net.layers if isinstance(layer, Dense | FloatDense)]
    head = dense[-1]
    if isinstance(head, Dense) and len(dense) > 1:
        text = f"--float-layer {head.name}" if by_options else f'kind = "float" for {head.name} in the net.toml'
        keywords = {"float_layers": (head.name,)} if by_options else None
        yield Alternative("head", text, lambda net: _float_head(net, Hardtanh("head.hardtanh")), keywords)
    readers: tuple[tuple[str, Layer | None], ...] = (
        ("sign", Sign("head.sign", PROFILES[net.profile].activations if net.profile in PROFILES else "ge")),
        ("hardtanh", Hardtanh("head.hardtanh")),
        ("none", None),
        ("relu", Elementwise("head.relu", "relu")),
    )
    for name, reads in readers:
        text = f'kind = "float" and activation = "{name}" for {head.name} in a net.toml'
        if len(dense) > 1 and (isinstance(head, FloatDense) or name != "hardtanh"):
            yield Alternative("head", text, lambda net, r=reads: _float_head(net, r))  # type: ignore[misc]


def _float_head(net: NetSpec, reads: Layer | None) -> NetSpec:
    at = max(index for index, layer in enumerate(net.layers) if isinstance(layer, Dense | FloatDense))
    head = net.layers[at]
    before = list(net.layers[:at])
    while before and isinstance(before[-1], Sign | Hardtanh | Elementwise):
        before.pop()
    if isinstance(head, Dense):
        head = FloatDense(head.name, head.latent, head.bias)
    return dataclasses.replace(net, layers=(*before, *(() if reads is None else (reads,)), head, *net.layers[at + 1 :]))


#: Layers that are put into every order, and orders that are tried; of more layers, two change places or one moves.
MOST_LAYERS, MOST_ORDERS = 6, 60


def _orders(net: NetSpec) -> Iterator[Alternative]:
    """The layers in every other order in which their shapes follow each other, with their BatchNorms or without them."""
    units, between = _units(net)
    names = [unit[0].name for unit in units]
    shapes = [(unit[0].depth, unit[0].neurons) for unit in units]  # type: ignore[union-attr]
    found = 0
    for order in dict.fromkeys(_places(len(units))):
        chain = [shapes[place] for place in order]
        ends = (chain[0][0], chain[-1][1]) == (shapes[0][0], shapes[-1][1])
        if order == tuple(sorted(order)) or not ends or any(a[1] != b[0] for a, b in itertools.pairwise(chain)):
            continue
        listed = ", ".join(names[place] for place in order)
        text = f"[[layers]] of a net.toml in the order {listed}"
        yield Alternative("order", text, _ordered([units[place] for place in order], between))
        kept = [(units[place][0], *units[index][1:]) for index, place in enumerate(order)]
        if any(len(unit) > 1 for unit in units):
            yield Alternative("order", f"{text}, each with the BatchNorm that was at its place", _ordered(kept, between))
        found += 1
        if found == MOST_ORDERS:
            return


def _places(count: int) -> Iterator[tuple[int, ...]]:
    """Orders of so many layers, those that differ least first."""
    given = tuple(range(count))
    for first, second in itertools.combinations(given, 2):
        yield (*given[:first], second, *given[first + 1 : second], first, *given[second + 1 :])
    for place, to in itertools.permutations(given, 2):
        rest = given[:place] + given[place + 1 :]
        yield (*rest[:to], place, *rest[to:])
    if count <= MOST_LAYERS:
        yield from itertools.permutations(given)


def _units(net: NetSpec) -> tuple[list[tuple[Layer, ...]], list[tuple[Layer, ...]]]:
    """Each dense layer with what follows it up to a sign or hardtanh; and what stands before the first, between, and at the
    end."""
    units: list[list[Layer]] = []
    between: list[list[Layer]] = [[]]
    for layer in net.layers:
        if isinstance(layer, Dense | FloatDense):
            units.append([layer])
            between.append([])
        elif not units or isinstance(layer, Sign | Hardtanh) or between[-1]:
            between[-1].append(layer)
        else:
            units[-1].append(layer)
    return [tuple(unit) for unit in units], [tuple(layers) for layers in between]


def _ordered(units: Sequence[tuple[Layer, ...]], between: Sequence[tuple[Layer, ...]]) -> Change:
    layers = [*between[0], *(layer for unit, then in zip(units, between[1:], strict=True) for layer in (*unit, *then))]
    return lambda net: dataclasses.replace(net, layers=tuple(layers)) if len(net.layers) == len(layers) else net


def _arrays(net: NetSpec) -> Iterator[Alternative]:
    """Arrays that another framework numbers otherwise: gamma, beta, mean, variance for beta, gamma, mean, inv_std."""
    norms = [layer for layer in net.layers if isinstance(layer, BatchNorm)]
    numbered = [layer for layer in norms if layer.inv_std is not None]
    for epsilon in EPSILONS if numbered and numbered == norms else ():

        def change(layer: Layer, epsilon: float = epsilon) -> Layer:
            if not isinstance(layer, BatchNorm) or layer.inv_std is None:
                return layer
            return BatchNorm(layer.name, layer.mean, layer.inv_std, None, layer.beta, layer.gamma, epsilon, "tf")

        text = f"a net.toml with Keras's order of the arrays (gamma, beta, mean, variance) and epsilon = {epsilon:g}"
        yield Alternative("arrays", text, _each(change))


#: Functions that usual code has between a layer's sum and its BatchNorm.
FUNCTIONS = ("relu", "hardtanh", "tanh", "sigmoid", "leaky-relu", "leaky-relu:0.1", "leaky-relu:0.2")


def _functions(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    for text in FUNCTIONS:
        option = f"--before-norm {text}" if by_options else f'before_norm = "{text}" in the net.toml'
        yield Alternative("function", option, _before_norm(text), {"before_norm": text} if by_options else None)


def _before_norm(text: str) -> Change:
    """With a function behind each hidden binary layer's sum."""

    def change(net: NetSpec) -> NetSpec:
        last = max(index for index, layer in enumerate(net.layers) if isinstance(layer, Dense | FloatDense))
        layers: list[Layer] = []
        for index, layer in enumerate(net.layers):
            layers.append(layer)
            if isinstance(layer, Dense) and index < last:
                layers.append(function_named(text, f"{layer.name}.function"))
        return dataclasses.replace(net, layers=tuple(layers))

    return change


def _weights(net: NetSpec, by_options: bool) -> Iterator[Alternative]:
    """What is made of latents before their sign, or of the sum after it."""
    option = "--center" if by_options else "center = true in the net.toml"
    binary = [layer for layer in net.layers if isinstance(layer, Dense)]
    if all(((layer.latent == 0) | (layer.latent == 1)).all() for layer in binary):
        yield Alternative("values", 'values = "bits" in a net.toml', _each(_as_signs))
    yield Alternative("centre", option, _each(_centred), {"center": True} if by_options else None)
    for by in SCALES:
        option = f"--scale-by {by}" if by_options else f'scale_by = "{by}" in the net.toml'
        yield Alternative("H and scale", option, _scaled(by), {"scale_by": by} if by_options else None)


def _as_signs(layer: Layer) -> Layer:
    return dataclasses.replace(layer, latent=2 * layer.latent - 1) if isinstance(layer, Dense) else layer


def _centred(layer: Layer) -> Layer:
    return dataclasses.replace(layer, latent=centred(layer.latent)) if isinstance(layer, Dense) else layer


def _scaled(by: ScaleBy) -> Change:
    def change(layer: Layer) -> Layer:
        return dataclasses.replace(layer, scale=magnitude(layer.latent, by)) if isinstance(layer, Dense) else layer

    return _each(change)

"""Which reading of a checkpoint the user's own answers prove, where they contradict the one that was taken.

A file leaves much unsaid: tie rules, epsilons, H, the input mapping, which layers are float, what stands between sum and
BatchNorm.  Each usual value of each is tried, on the float network and by the oracle, and then every two of them together.  A
reading that gives the expected classes is confirmed on all rows, with the options that say it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.agreement import Agreement, compare
from xnorinfer.answers import Answers
from xnorinfer.converters.base import ConvertOptions, Reading, function_named
from xnorinfer.converters.evidenceinput import USUAL, option_of
from xnorinfer.converters.latents import SCALES, ScaleBy, centred, magnitude
from xnorinfer.errors import InputError, NetworkError, XnorinferError
from xnorinfer.lower import lower
from xnorinfer.model import inputs_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Linear, Named, Norm, Op, Quantize, Steps
from xnorinfer.net.reference import forward
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.sensitivity import EPSILONS, norms_of, with_epsilon, with_glorot, with_rule

Progress = Callable[[str, int, int], None]
Change = Callable[[Net], Net]

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

    def __init__(self, expected: Answers, net: Net) -> None:
        self.expected = expected
        self.net = net
        self.weights = sum(op.depth * op.neurons for _, op in net.linears)
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

    def _right(self, net: Net, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
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


def alternatives(net: Net, options: ConvertOptions, x: NDArray[Any]) -> Iterator[Alternative]:
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


def _inputs(net: Net, x: NDArray[Any], by_options: bool) -> Iterator[Alternative]:
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


def _profiles(net: Net, by_options: bool) -> Iterator[Alternative]:
    dense = {op.rule for _, op in net.linears if op.binary}
    signs = {node.op.rule for node in net.nodes if isinstance(node.op, Quantize)}
    seen: set[tuple[Rule, Rule]] = set()
    for name, profile in PROFILES.items():
        rules = (profile.weights, profile.activations)
        if rules in seen or (dense <= {rules[0]} and signs <= {rules[1]}):
            continue
        seen.add(rules)
        text = f"--profile {name}" if by_options else f'profile = "{name}" in the net.toml'
        yield Alternative("profile", text, _with_rules(*rules), {"profile": name} if by_options else None)


def _with_rules(weights: Rule, activations: Rule) -> Change:
    return _each(lambda op: with_rule(with_rule(op, Linear, weights), Quantize, activations))


def _each(change: Callable[[Op], Op]) -> Change:
    return lambda net: net.mapped(change)


def _epsilons(net: Net, by_options: bool) -> Iterator[Alternative]:
    present = {norm.epsilon for norm in norms_of(net)}
    for epsilon in EPSILONS:
        if present and present != {epsilon}:
            text = f"--bn-epsilon {epsilon:g}" if by_options else f"epsilon = {epsilon:g} in the net.toml"
            yield Alternative(
                "epsilon",
                text,
                _each(functools.partial(with_epsilon, epsilon=epsilon)),
                {"bn_epsilon": epsilon} if by_options else None,
            )


def _magnitudes(net: Net, by_options: bool) -> Iterator[Alternative]:
    changes: tuple[tuple[float | str, str, Callable[[Op], Op]], ...] = (
        ("glorot", "glorot", with_glorot),
        (1.0, "1", _without_h),
    )
    for given, text, change in changes:
        if any(op.h != other.h for (_, op), (_, other) in zip(net.linears, net.mapped(change).linears, strict=True)):
            option = f"--h {text}" if by_options else f"h = {text} in the net.toml"
            yield Alternative("H and scale", option, _each(change), {"h": given} if by_options else None)


def _without_h(op: Op) -> Op:
    return dataclasses.replace(op, h=1.0) if isinstance(op, Linear) else op


def _float_heads(net: Net, by_options: bool) -> Iterator[Alternative]:
    """The last layer as ordinary float layer, reading what usual code gives it; or what a float layer reads."""
    name, head = net.linears[-1]
    inner = len(net.linears) > 1
    if head.binary and inner:
        text = f"--float-layer {name}" if by_options else f'kind = "float" for {name} in the net.toml'
        keywords = {"float_layers": (name,)} if by_options else None
        yield Alternative("head", text, lambda net: _float_head(net, ("head.hardtanh", HARDTANH)), keywords)
    readers: tuple[tuple[str, Named | None], ...] = (
        ("sign", ("head.sign", Quantize(PROFILES[net.profile].activations if net.profile in PROFILES else "ge"))),
        ("hardtanh", ("head.hardtanh", HARDTANH)),
        ("none", None),
        ("relu", ("head.relu", Steps.of(("relu",)))),
    )
    for activation, reads in readers:
        text = f'kind = "float" and activation = "{activation}" for {name} in a net.toml'
        if inner and (not head.binary or activation != "hardtanh"):
            yield Alternative("head", text, lambda net, r=reads: _float_head(net, r))  # type: ignore[misc]


def _float_head(net: Net, reads: Named | None) -> Net:
    ops = net.named
    at = max(index for index, (_, op) in enumerate(ops) if isinstance(op, Linear))
    name, head = ops[at]
    assert isinstance(head, Linear)
    before = ops[:at]
    while before and _is_activation(before[-1][1]):
        before.pop()
    if head.binary:
        head = Linear(head.weight, bias=head.bias)
    return _chained(net, [*before, *([] if reads is None else [reads]), (name, head), *ops[at + 1 :]])


def _is_activation(op: Op) -> bool:
    """Whether usual code calls it the activation: a sign or a function; a BatchNorm that is spelled out is none."""
    return isinstance(op, Quantize) or (isinstance(op, Steps) and not op.may_be_norm)


def _chained(net: Net, ops: Iterable[Named]) -> Net:
    return Net.chain(net.input, ops, net.profile)


#: Layers that are put into every order, and orders that are tried; of more layers, two change places or one moves.
MOST_LAYERS, MOST_ORDERS = 6, 60


def _orders(net: Net) -> Iterator[Alternative]:
    """The layers in every other order in which their shapes follow each other, with their BatchNorms or without them."""
    units, between = _units(net)
    names = [name for name, _ in net.linears]
    shapes = [(op.depth, op.neurons) for _, op in net.linears]
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


def _units(net: Net) -> tuple[list[tuple[Named, ...]], list[tuple[Named, ...]]]:
    """Each dense layer with what follows it up to a sign or hardtanh; and what stands before the first, between, and at the
    end."""
    units: list[list[Named]] = []
    between: list[list[Named]] = [[]]
    for name, op in net.named:
        if isinstance(op, Linear):
            units.append([(name, op)])
            between.append([])
        elif not units or isinstance(op, Quantize) or _is_hardtanh(op) or between[-1]:
            between[-1].append((name, op))
        else:
            units[-1].append((name, op))
    return [tuple(unit) for unit in units], [tuple(ops) for ops in between]


def _is_hardtanh(op: Op) -> bool:
    return isinstance(op, Steps) and all(step.is_hardtanh for step in op.steps)


def _ordered(units: Sequence[tuple[Named, ...]], between: Sequence[tuple[Named, ...]]) -> Change:
    ops = [*between[0], *(op for unit, then in zip(units, between[1:], strict=True) for op in (*unit, *then))]
    return lambda net: _chained(net, ops) if len(net.nodes) == len(ops) else net


def _arrays(net: Net) -> Iterator[Alternative]:
    """Arrays that another framework numbers otherwise: gamma, beta, mean, variance for beta, gamma, mean, inv_std."""
    norms = [node.op for node in net.nodes if isinstance(node.op, Norm)]
    numbered = [norm for norm in norms if norm.inv_std is not None]
    for epsilon in EPSILONS if numbered and numbered == norms else ():

        def change(op: Op, epsilon: float = epsilon) -> Op:
            if not isinstance(op, Norm) or op.inv_std is None:
                return op
            return Norm(op.mean, op.inv_std, None, op.beta, op.gamma, epsilon, "tf")

        text = f"a net.toml with Keras's order of the arrays (gamma, beta, mean, variance) and epsilon = {epsilon:g}"
        yield Alternative("arrays", text, _each(change))


#: Functions that usual code has between a layer's sum and its BatchNorm.
FUNCTIONS = ("relu", "hardtanh", "tanh", "sigmoid", "leaky-relu", "leaky-relu:0.1", "leaky-relu:0.2")


def _functions(net: Net, by_options: bool) -> Iterator[Alternative]:
    for text in FUNCTIONS:
        option = f"--before-norm {text}" if by_options else f'before_norm = "{text}" in the net.toml'
        yield Alternative("function", option, _before_norm(text), {"before_norm": text} if by_options else None)


def _before_norm(text: str) -> Change:
    """With a function behind each hidden binary layer's sum."""

    def change(net: Net) -> Net:
        last, _ = net.linears[-1]
        ops: list[Named] = []
        for name, op in net.named:
            ops.append((name, op))
            if isinstance(op, Linear) and op.binary and name != last:
                ops.append((f"{name}.function", function_named(text)))
        return _chained(net, ops)

    return change


def _weights(net: Net, by_options: bool) -> Iterator[Alternative]:
    """What is made of latents before their sign, or of the sum after it."""
    option = "--center" if by_options else "center = true in the net.toml"
    if all(((op.weight == 0) | (op.weight == 1)).all() for _, op in net.linears if op.binary):
        yield Alternative("values", 'values = "bits" in a net.toml', _each(_as_signs))
    yield Alternative("centre", option, _each(_centred), {"center": True} if by_options else None)
    for by in SCALES:
        option = f"--scale-by {by}" if by_options else f'scale_by = "{by}" in the net.toml'
        yield Alternative("H and scale", option, _scaled(by), {"scale_by": by} if by_options else None)


def _as_signs(op: Op) -> Op:
    return dataclasses.replace(op, weight=2 * op.weight - 1) if isinstance(op, Linear) and op.binary else op


def _centred(op: Op) -> Op:
    return dataclasses.replace(op, weight=centred(op.weight)) if isinstance(op, Linear) and op.binary else op


def _scaled(by: ScaleBy) -> Change:
    def change(op: Op) -> Op:
        return dataclasses.replace(op, scale=magnitude(op.weight, by)) if isinstance(op, Linear) and op.binary else op

    return _each(change)

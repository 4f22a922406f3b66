"""Other readings of a network: every usual value of everything that a checkpoint leaves unsaid.

Tie rules, epsilons, orders of operations, H, the input mapping, which layers are float, what stands between sum and BatchNorm.
`sensitivity` and `defaults` measure what they would change, `elimination` finds the one that gives the user's own answers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from xnorinfer.converters.evidence.inputmapping import USUAL, option_of
from xnorinfer.converters.latents import SCALES, centred, magnitude
from xnorinfer.converters.reading import NORM_ORDER, function_named, glorot
from xnorinfer.graph import chain
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Linear, Named, Norm, NormForm, Op, Quantize, Steps
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput

#: Epsilons in use: torch, the TF1 reference script, TensorFlow's and Keras' layers.
EPSILONS = (1e-5, 1e-4, 1e-3)
#: Orders of BatchNorm's operations in use, and one of maps alone.
FORMS: tuple[NormForm, ...] = ("tf", "torch")
FORM_OF_MAPS: NormForm = "tf-fused"
#: One rule for each answer that there is to sign(0), and the one whose threshold lies at 2^-24.
RULES: tuple[Rule, ...] = ("ge", "gt", "round-even")
#: Mappings of the input in use: the usual ones, torchvision's example for Fashion-MNIST, and inputs that are no pixels.
MAPPINGS: tuple[InputMapping, ...] = (*USUAL, PixelInput.normalize(0.286, 0.353), SignInput(), RealInput())
#: Functions that usual code has between a layer's sum and its BatchNorm.
FUNCTIONS = ("relu", "hardtanh", "tanh", "sigmoid", "leaky-relu", "leaky-relu:0.1", "leaky-relu:0.2")
#: Layers that are put into every order, and orders that are tried; of more layers, two change places or one moves.
MOST_LAYERS, MOST_ORDERS = 6, 60

Change = Callable[[Net], Net]
#: What has a tie rule, or another value that is changed.
Kind: TypeAlias = type[Linear] | type[Norm] | type[Quantize]


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another reading.

    about: what it decides; two that decide the same are not combined.  value: what it is instead.  change: what it makes of the
    network.  option, line: how to say it on the command line, and in a net.toml, where that alone can.  keywords: the option as
    fields of `ConvertOptions`.
    """

    about: str
    value: str
    change: Change
    line: str
    option: str | None = None
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def said(self) -> str:
        """How to say it."""
        return self.line if self.option is None else self.option

    @property
    def in_toml(self) -> Alternative:
        """The same for a source with a net.toml, which must say it."""
        return dataclasses.replace(self, option=None, keywords={})


def every(net: Net) -> Iterator[Alternative]:
    """All that a user may have meant, those that are likely first."""
    # Where branches meet, a graph said so: its layers have no other order, nor other functions between them.
    of_chains = (float_heads, orders, functions)
    for those in (inputs, profiles, epsilons, magnitudes, float_heads, arrays, orders, functions, weights):
        if not (net.branches and those in of_chains):
            yield from those(net)


def _set(kind: Kind, **fields: Any) -> Change:
    """With other values in all ops of a kind; a value may be a function of the op.

    Of dense layers the binary ones, of BatchNorms those whose epsilon and order of operations count.
    """

    def change(op: Op) -> Op:
        if not isinstance(op, kind) or not _counts(op):
            return op
        return dataclasses.replace(op, **{name: value(op) if callable(value) else value for name, value in fields.items()})

    return lambda net: net.mapped(change)


def _counts(op: Op) -> bool:
    return (not isinstance(op, Linear) or op.binary) and (not isinstance(op, Norm) or op.variance is not None)


def _present(net: Net, kind: Kind, name: str) -> set[Any]:
    return {getattr(node.op, name) for node in net.nodes if isinstance(node.op, kind) and _counts(node.op)}


def inputs(net: Net, mappings: Sequence[InputMapping] = MAPPINGS) -> Iterator[Alternative]:
    """Other mappings of the input."""
    for mapping in mappings:
        if mapping != net.input:
            value = _briefly(mapping)
            line = f"another [input] in the net.toml ({mapping.describe()})"
            yield Alternative("input", value, _with_input(mapping), line, option_of(mapping), {"input": mapping})


def _briefly(mapping: InputMapping) -> str:
    if not isinstance(mapping, PixelInput):
        return mapping.describe()
    if mapping.normalized is None:
        return "{:.3g}..{:.3g}".format(*mapping.ends)
    return "(p/255 - {:g}) / {:g}".format(*mapping.normalized)


def _with_input(mapping: InputMapping) -> Change:
    return lambda net: dataclasses.replace(net, input=mapping)


def profiles(net: Net) -> Iterator[Alternative]:
    """Other tie profiles; those of the same rules are one."""
    alike: dict[tuple[Rule, Rule], list[str]] = {}
    for name, profile in PROFILES.items():
        alike.setdefault((profile.weights, profile.activations), []).append(name)
    for (weights, signs), names in alike.items():
        if not (_present(net, Linear, "rule") <= {weights} and _present(net, Quantize, "rule") <= {signs}):
            line = f'profile = "{names[0]}" in the net.toml'
            change = _both(_set(Linear, rule=weights), _set(Quantize, rule=signs))
            yield Alternative("profile", "/".join(names), change, line, f"--profile {names[0]}", {"profile": names[0]})


def _both(first: Change, second: Change) -> Change:
    return lambda net: second(first(net))


def rules(net: Net) -> Iterator[Alternative]:
    """Other tie rules of weights alone, and of activations alone."""
    kinds: tuple[tuple[Kind, str], ...] = ((Linear, "tie rule of weights"), (Quantize, "tie rule of activations"))
    for kind, what in kinds:
        for rule in RULES:
            if _present(net, kind, "rule") - {rule}:
                yield Alternative(what, rule, _set(kind, rule=rule), "another `profile` in a net.toml")


def epsilons(net: Net) -> Iterator[Alternative]:
    """Other epsilons of BatchNorm."""
    for epsilon in EPSILONS:
        if _present(net, Norm, "epsilon") - {epsilon}:
            text = f"{epsilon:g}"
            line, option = f"epsilon = {text} in the net.toml", f"--bn-epsilon {text}"
            yield Alternative("epsilon", text, _set(Norm, epsilon=epsilon), line, option, {"bn_epsilon": epsilon})


def forms(net: Net) -> Iterator[Alternative]:
    """BatchNorm's operations in another framework's order."""
    of_maps = any(isinstance(node.op, Norm) and len(value.shape) > 1 for node, value in zip(net.nodes, net.values, strict=True))
    for form in (*FORMS, FORM_OF_MAPS) if of_maps else FORMS:
        if _present(net, Norm, "form") - {form}:
            yield Alternative(NORM_ORDER, form, _set(Norm, form=form), f'form = "{form}" in a net.toml')


def magnitudes(net: Net) -> Iterator[Alternative]:
    """Other magnitudes H of binary weights."""
    changes: dict[str | float, Change] = {
        "glorot": _set(Linear, h=lambda op: glorot(*op.fans)),
        1.0: _set(Linear, h=1.0),
    }
    for h, change in changes.items():
        if any(op.h != other.h for (_, op), (_, other) in zip(net.linears, change(net).linears, strict=True)):
            text = h if isinstance(h, str) else f"{h:g}"
            yield Alternative("H and scale", text, change, f"h = {text} in the net.toml", f"--h {text}", {"h": h})


def float_heads(net: Net) -> Iterator[Alternative]:
    """The last layer as ordinary float layer, reading what usual code gives it; or what a float layer reads."""
    name, head = net.linears[-1]
    if len(net.linears) == 1:
        return
    readers: dict[str, Named | None] = {
        "sign": ("head.sign", Quantize(PROFILES[net.profile].activations if net.profile in PROFILES else "ge")),
        "hardtanh": ("head.hardtanh", HARDTANH),
        "none": None,
        "relu": ("head.relu", Steps.of(("relu",))),
    }
    if head.binary:
        change = _with_float_head(readers.pop("hardtanh"))
        line = f'kind = "float" for {name} in the net.toml'
        yield Alternative("head", "float", change, line, f"--float-layer {name}", {"float_layers": (name,)})
    for activation, reads in readers.items():
        line = f'kind = "float" and activation = "{activation}" for {name} in a net.toml'
        yield Alternative("head", activation, _with_float_head(reads), line)


def _with_float_head(reads: Named | None) -> Change:
    def change(net: Net) -> Net:
        ops = net.named
        at = max(index for index, (_, op) in enumerate(ops) if isinstance(op, Linear))
        name, head = ops[at]
        assert isinstance(head, Linear)
        before = ops[:at]
        while before and _is_activation(before[-1][1]):
            before.pop()
        if head.binary:
            head = dataclasses.replace(head, rule=None, h=1.0, scale=None, pad=0)
        return _chained(net, [*before, *([] if reads is None else [reads]), (name, head), *ops[at + 1 :]])

    return change


def _is_activation(op: Op) -> bool:
    """Whether usual code calls it the activation: a sign or a function; a BatchNorm that is spelled out is none."""
    return isinstance(op, Quantize) or (isinstance(op, Steps) and not op.may_be_norm)


def _chained(net: Net, ops: Iterable[Named]) -> Net:
    return dataclasses.replace(net, nodes=chain(ops))


def orders(net: Net) -> Iterator[Alternative]:
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
        line = f"[[layers]] of a net.toml in the order {listed}"
        yield Alternative("order", listed, _ordered([units[place] for place in order], between), line)
        if any(len(unit) > 1 for unit in units):
            kept = [(units[place][0], *units[index][1:]) for index, place in enumerate(order)]
            line += ", each with the BatchNorm that was at its place"
            yield Alternative("order", listed, _ordered(kept, between), line)
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


def arrays(net: Net) -> Iterator[Alternative]:
    """Arrays that another framework numbers otherwise: gamma, beta, mean, variance for beta, gamma, mean, inv_std."""
    norms = [node.op for node in net.nodes if isinstance(node.op, Norm)]
    for epsilon in EPSILONS if norms and all(norm.inv_std is not None for norm in norms) else ():

        def change(op: Op, epsilon: float = epsilon) -> Op:
            if not isinstance(op, Norm) or op.inv_std is None:
                return op
            return Norm(op.mean, op.inv_std, None, op.beta, op.gamma, epsilon, "tf")

        line = f"a net.toml with Keras's order of the arrays (gamma, beta, mean, variance) and epsilon = {epsilon:g}"
        yield Alternative("arrays", f"{epsilon:g}", lambda net, c=change: net.mapped(c), line)  # type: ignore[misc]


def functions(net: Net) -> Iterator[Alternative]:
    """Functions between each hidden binary layer's sum and its BatchNorm."""
    for text in FUNCTIONS:
        line, option = f'before_norm = "{text}" in the net.toml', f"--before-norm {text}"
        yield Alternative("function", text, _before_norm(text), line, option, {"before_norm": text})


def _before_norm(text: str) -> Change:
    def change(net: Net) -> Net:
        last, _ = net.linears[-1]
        ops: list[Named] = []
        for name, op in net.named:
            ops.append((name, op))
            if isinstance(op, Linear) and op.binary and name != last:
                ops.append((f"{name}.function", function_named(text)))
        return _chained(net, ops)

    return change


def weights(net: Net) -> Iterator[Alternative]:
    """What is made of latents before their sign, or of the sum after it."""
    if all(((op.weight == 0) | (op.weight == 1)).all() for _, op in net.linears if op.binary):
        bits = _set(Linear, weight=lambda op: 2 * op.weight - 1)
        yield Alternative("values", "bits", bits, 'values = "bits" in a net.toml')
    centre = _set(Linear, weight=lambda op: centred(op.weight))
    yield Alternative("centre", "true", centre, "center = true in the net.toml", "--center", {"center": True})
    for by in SCALES:
        scale = _set(Linear, scale=lambda op, by=by: magnitude(op.weight, by))
        yield Alternative("H and scale", by, scale, f'scale_by = "{by}" in the net.toml', f"--scale-by {by}", {"scale_by": by})

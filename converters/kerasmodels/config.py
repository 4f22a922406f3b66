"""A Keras model's config (JSON) -> its layers in the order in which they are computed, each with what it reads.

Sequential and functional models, one inside the other.  Nothing in a config is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.graphs.structure import output_lines
from xnorinfer.converters.kerasmodels.lambdas import is_identity
from xnorinfer.converters.reading import net_line
from xnorinfer.errors import OptionError, SourceError
from xnorinfer.net.values import is_finite_number

MODELS = ("Sequential", "Functional", "Model")
#: Layers that read several values, which all others do not.
JOINS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate", "Dot")
#: Takes the place of a layer's name where an operation of Keras 2 reads a number first.
CONSTANT = "_CONSTANT_VALUE"
#: What a layer takes in memory beside its place.
LAYER_BYTES = 512
#: A value of a model: the name of the layer that gives it, and in which of its calls.
Given: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class KerasLayer:
    """One layer.  path: its name below the names of the models it lies in; kind: its class, without package;
    place: where Keras 3 puts its weights (`layers/dense_1`, counted by class); built: for which shape of inputs it was built,
    where the file says it, whatever that is.  reads: what it takes, nothing for the input of the model; call: which
    of its calls, where a model has it several times.  number: what a sum, difference or product of one value has beside it, and
    whether that comes first."""

    path: tuple[str, ...]
    kind: str
    config: Mapping[str, Any]
    place: str
    built: Any = None
    reads: tuple[Given, ...] = ()
    call: int = 0
    number: tuple[float, bool] | None = None

    @property
    def name(self) -> str:
        return "/".join(self.path)

    @property
    def gives(self) -> Given:
        return self.name, self.call

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


#: What is read instead of a value that no layer gives, or one that is computed from itself; either is told.
LOST: Given = ("", 0)


class NoLayers(SourceError):
    """The config of a model whose own code says what it computes."""


def read_config(
    text: str | bytes, about: str, problems: list[str], output: str | None = None, left: list[str] | None = None
) -> list[KerasLayer]:
    """The layers of a model.  What is no chain goes to `problems`.  output: the layer whose value is the model's, of several;
    names and places of layers that lead to others alone go to `left`.

    Raises SourceError on what is no model's config, NoLayers where it is of a subclassed model; OptionError for an output that
    is none.
    """
    try:
        model = json.loads(text)
        if not isinstance(model, dict) or class_name(model) not in MODELS:
            found = class_name(model) if isinstance(model, dict) else type(model).__name__
            raise (NoLayers if isinstance(model, dict) and found else SourceError)(
                f"the config of {about} is of a {found or 'unknown kind'}, needed is a Sequential or functional model"
            )
        reader = _Model(about, problems, output, [] if left is None else left)
        if output is not None and (class_name(model) == "Sequential" or not isinstance(model.get("config"), dict)):
            raise OptionError(f"--output-name {output}: {about} is a chain of layers, whose last gives the one output")
        return reader.layers_of(model, (), "", ())[0]
    except RecursionError:
        raise SourceError(f"the config of {about} is nested too deeply") from None
    except ValueError as error:
        raise SourceError(f"the config of {about} is damaged: {error}") from None


def lists_functional(config: Any) -> bool:
    """Whether it lists layers and what they read, as the config of a functional model does."""
    return isinstance(config, dict) and all(
        isinstance(config.get(key), list) and config[key] for key in ("layers", "input_layers", "output_layers")
    )


def class_name(value: Mapping[str, Any]) -> str:
    """The class of a serialised object without its package: `Custom>BinaryDense` -> BinaryDense."""
    return str(value.get("class_name", "")).rpartition(">")[2]


@dataclass(frozen=True)
class _Reference:
    """What a config says that a layer reads: a layer, in which of its calls, which of the values that it gives."""

    name: str
    call: int
    place: int

    def __str__(self) -> str:
        return self.name


class _Model:
    """Reads models of one config."""

    def __init__(self, about: str, problems: list[str], output: str | None, left: list[str]) -> None:
        self.about = about
        self.problems = problems
        self.output = output
        self.left = left
        self.calls: dict[tuple[str, ...], int] = {}  # of each layer, so far

    def layers_of(
        self, model: Mapping[str, Any], path: tuple[str, ...], place: str, entering: Sequence[Given]
    ) -> tuple[list[KerasLayer], list[Given]]:
        """The layers of a model that reads some values, in order, and what it gives.  path, place: of the model itself."""
        config = model.get("config")
        listed = config.get("layers") if isinstance(config, dict) else config  # early Sequential models: the list alone
        if not isinstance(listed, list) or not all(
            isinstance(e, dict) and isinstance(e.get("config"), dict | list) for e in listed
        ):
            raise SourceError(f"the config of {self.about} is damaged: {'/'.join(path) or 'the model'} has no list of layers")
        entries: dict[str, tuple[Mapping[str, Any], str]] = {}
        counts: dict[str, int] = {}
        for entry in listed:
            kind = class_name(entry)
            name = str(entry["config"].get("name") if isinstance(entry["config"], dict) else "")
            name = name or str(entry.get("name") or kind)
            snake = _snake_case(kind)
            number = counts.get(snake, 0)
            counts[snake] = number + 1
            here = f"{place}layers/{snake}" + (f"_{number}" if number else "")
            spend_bytes(LAYER_BYTES + len(here), f"the place {here[:80]} of a layer")  # models can be nested deeply
            if name in entries:
                raise SourceError(f"the config of {self.about} holds two layers called {name}")
            entries[name] = entry, here
        if class_name(model) != "Sequential" and isinstance(config, dict):
            return self._functional(config, entries, path, entering)
        layers: list[KerasLayer] = []
        given = list(entering)
        for name, (entry, here) in entries.items():
            found, given = self._one(entry, (*path, name), here, given)
            layers += found
        return layers, given

    def _one(
        self, entry: Mapping[str, Any], path: tuple[str, ...], here: str, reads: Sequence[Given]
    ) -> tuple[list[KerasLayer], list[Given]]:
        """A layer, or the layers of a model that is one, in one of their calls."""
        kind, config = class_name(entry), entry["config"]
        if _is_training(entry.get("inbound_nodes")):
            how = "is called with training=True, so that it works as in training"
            self.problems.append(f"{'/'.join(path)} ({kind}) {how}, which is not supported in a binary network")
        if kind in MODELS:
            return self.layers_of(entry, path, f"{here}/", reads)
        if not isinstance(config, dict):
            self.problems.append(f"{'/'.join(path)} ({kind}) has no config: is malformed")
            return [], list(reads)
        kind, config = _operation(kind, config, entry.get("inbound_nodes"))
        if kind == "Lambda" and is_identity(config):
            kind = "Identity"
        built = entry.get("build_config")
        shape = built.get("input_shape") if isinstance(built, dict) else None
        if len(reads) > 1 and kind not in (*JOINS, "Lambda"):  # which is refused, whatever it reads
            names = ", ".join(name for name, _ in reads)
            self.problems.append(f"{'/'.join(path)} takes the values of {names}, where a layer of the kind {kind} reads one")
        call = self.calls[path] = self.calls.get(path, -1) + 1
        number = _number(entry.get("inbound_nodes")) if kind in JOINS and len(reads) == 1 else None
        layer = KerasLayer(path, kind, config, here, shape, tuple(reads), call, number)
        return [layer], [layer.gives]

    def _functional(
        self,
        config: Mapping[str, Any],
        entries: Mapping[str, tuple[Mapping[str, Any], str]],
        path: tuple[str, ...],
        entering: Sequence[Given],
    ) -> tuple[list[KerasLayer], list[Given]]:
        inbound = {
            name: [_references(call) for call in entry.get("inbound_nodes") or []] for name, (entry, _) in entries.items()
        }
        outputs = _references(config.get("output_layers"))
        inner = {name: len(inbound[name]) for name, (entry, _) in entries.items() if class_name(entry) in MODELS}
        inbound, outputs = _counted_from_0(inbound, outputs, inner)
        names = [str(one) for one in outputs]
        if not path and self.output is not None:
            if self.output not in names:
                raise OptionError(f"--output-name {self.output}: {self.about} gives {', '.join(names)}")
            outputs = [outputs[names.index(self.output)]]
        elif not path and len(outputs) > 1:
            told = f"the model gives the values of {', '.join(names)}; one output is supported"
            self.problems.append(told + output_lines([name for name in names if name in inbound] or names))
        known = len(self.problems)
        order = self._order(inbound, outputs)
        used = {name for name, _ in order}
        unused = [name for name in inbound if name not in used]
        if not path and self.output is not None and len(names) > 1:
            self.left += [*unused, *(entries[name][1] for name in unused)]
            unused = []
        if (unused or not order) and len(self.problems) == known:
            self.problems.append(
                f"the layers {', '.join(unused) or '(none)'} do not lead to the model's output"
                + net_line('ignore = ["LAYER*"] beside [[layers]] for the others')
            )
        inputs = [one.name for one in _references(config.get("input_layers"))]
        if len(inputs) > 1 and not path:
            self.problems.append(f"the model takes the inputs {', '.join(inputs)}; one is supported")
        layers: list[KerasLayer] = []
        given: dict[Given, list[Given]] = {}
        for name, call in order:
            entry, here = entries[name]
            reads = [self._of(one, given) for one in inbound[name][call]] if inbound[name] else []
            if not reads and path and name in inputs and len(inputs) == len(entering):
                reads = [entering[inputs.index(name)]]
            elif not reads and path:
                reads = list(entering)
            found, given[name, call] = self._one(entry, (*path, name), here, reads)
            layers += found
        return layers, [self._of(one, given) for one in outputs]

    def _of(self, one: _Reference, given: Mapping[Given, list[Given]]) -> Given:
        values = given.get((one.name, one.call)) or [LOST]
        if not 0 <= one.place < len(values):
            problem = f"{one.name} gives several values, which is not supported"
            self.problems += [] if problem in self.problems else [problem]
            return values[0]
        return values[one.place]

    def _order(self, inbound: Mapping[str, list[list[_Reference]]], outputs: Sequence[_Reference]) -> list[Given]:
        """The calls of layers that lead to the outputs, each behind those that it reads, but for those that are not there, and
        where layers read what is computed from them."""
        order: dict[Given, None] = {}
        begun: set[Given] = set()
        absent: set[Given] = set()
        waiting: list[tuple[_Reference, str]] = [(one, "the model gives") for one in reversed(outputs)]
        while waiting:
            spend_steps(what="ordering the layers of a model")
            one, user = waiting[-1]
            here = one.name, one.call
            calls = inbound.get(one.name)
            if calls is None or not 0 <= one.call < max(len(calls), 1):
                self.problems.append(f"{user} the values of {one}, which no layer is or none gives so often")
                absent.add(here)
                waiting.pop()
                continue
            reads = calls[one.call] if calls else []
            missing = [read for read in reads if (read.name, read.call) not in order and (read.name, read.call) not in absent]
            if here in order or not missing:
                order.setdefault(here)
                waiting.pop()
            elif here in begun:
                back = ", ".join(str(read) for read in missing if (read.name, read.call) in begun)
                self.problems.append(f"{one} takes the values of {back}, which are computed from it")
                order.setdefault(here)
                waiting.pop()
            else:
                begun.add(here)
                waiting += [(read, f"{one} takes") for read in reversed(missing)]
        return list(order)


#: Operations of TensorFlow on the values of layers, which Keras 2 has as layers of the kind TFOpLambda, as layers.
_OPERATIONS = {
    **dict.fromkeys(("__operators__.add", "math.add"), "Add"),
    **dict.fromkeys(("__operators__.sub", "math.subtract"), "Subtract"),
    **dict.fromkeys(("__operators__.mul", "math.multiply"), "Multiply"),
    **{"concat": "Concatenate", "nn.relu": "ReLU", "math.maximum": "Maximum", "math.minimum": "Minimum"},
}


def _operation(kind: str, config: Mapping[str, Any], inbound: Any) -> tuple[str, Mapping[str, Any]]:
    """An operation as the layer that does the same; the kind and the config of other layers as they are."""
    if kind not in ("TFOpLambda", "SlicingOpLambda"):
        return kind, config
    function = str(config.get("function"))
    axes = {axis for axis in _settings(inbound, "axis") if type(axis) is int}
    if function == "concat" and len(axes) == 1:
        config = {**config, "axis": axes.pop()}
    elif isinstance(inbound, list) and len(inbound) == 1 and isinstance(inbound[0], list) and len(inbound[0]) == 4:
        said = inbound[0][3]  # what the function was called with besides the value
        config = {**config, **said} if isinstance(said, dict) else config
    return _OPERATIONS.get(function, f"tf.{function}"), {key: value for key, value in config.items() if key != "function"}


def _settings(value: Any, name: str) -> list[Any]:
    """What calls say of an argument."""
    if isinstance(value, dict):
        return [value[name]] if name in value else []
    return [one for inner in value for one in _settings(inner, name)] if isinstance(value, list) else []


def _is_training(inbound: Any) -> bool:
    """Whether a call of a layer of Keras 2 says so, `[name, node, tensor, {"training": true}]`; Keras 3 overrules it."""
    return any(said not in (None, False, 0) for said in _settings(inbound, "training"))


def _number(inbound: Any) -> tuple[float, bool] | None:
    """The number beside the one value that an operation reads, and whether it comes first; None for what is no such call.

    `[name, node, tensor, {"y": 0.5}]` or `["_CONSTANT_VALUE", -1, 0.5, {"y": [...]}]` in Keras 2, `{"args": [..., 0.5]}` in
    Keras 3.
    """
    call = inbound[0] if isinstance(inbound, list) and len(inbound) == 1 else None
    if isinstance(call, dict):
        operands = [*_listed(call.get("args")), *_listed(call.get("kwargs"))]
    elif isinstance(call, list) and len(call) == 4 and isinstance(call[3], dict):
        operands = [call[2] if call[0] == CONSTANT else None, call[3].get("y")]
    else:
        return None
    numbers = [is_finite_number(one) for one in operands]
    if len(operands) != 2 or numbers.count(True) != 1:
        return None
    return float(operands[numbers.index(True)]), numbers[0]


def _listed(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _references(value: Any) -> list[_Reference]:
    """The values that are used, in both forms of `inbound_nodes`: [name, node, tensor] and keras_history."""
    if isinstance(value, dict):
        history = value.get("keras_history")
        return _references(history) if history else [one for inner in value.values() for one in _references(inner)]
    if not isinstance(value, list):
        return []
    if value[:1] == [CONSTANT]:
        return [one for inner in value[3:] for one in _references(inner)]
    if len(value) >= 3 and isinstance(value[0], str) and all(isinstance(number, int) for number in value[1:3]):
        return [_Reference(*value[:3]), *(one for inner in value[3:] for one in _references(inner))]
    return [one for inner in value for one in _references(inner)]


def _counted_from_0(
    inbound: Mapping[str, list[list[_Reference]]], outputs: list[_Reference], inner: Mapping[str, int]
) -> tuple[dict[str, list[list[_Reference]]], list[_Reference]]:
    """References to the calls of models within a model as to those of layers: Keras 2 counts them from 1, the first being that
    of the model by itself.  inner: how often each is called."""
    used: dict[str, set[int]] = {name: set() for name in inner}
    for one in (*outputs, *(read for calls in inbound.values() for call in calls for read in call)):
        if one.name in inner:
            used[one.name].add(one.call)
    later = {name for name, count in inner.items() if count in used[name] and 0 not in used[name] and count}

    def counted(references: list[_Reference]) -> list[_Reference]:
        return [replace(one, call=one.call - 1) if one.name in later else one for one in references]

    return {name: [counted(call) for call in calls] for name, calls in inbound.items()}, counted(outputs)


def _snake_case(name: str) -> str:
    """As `keras.src.utils.naming.to_snake_case`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()

"""A Keras model's config (JSON) -> its layers in the order in which they are computed.

Sequential and functional models, one inside the other; the functional ones must be a chain.  Nothing in a config is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.reading import net_line
from xnorinfer.errors import SourceError

MODELS = ("Sequential", "Functional", "Model")
#: What a layer takes in memory beside its place.
LAYER_BYTES = 512


@dataclass(frozen=True)
class KerasLayer:
    """One layer.  path: its name below the names of the models it lies in; kind: its class, without package;
    place: where Keras 3 puts its weights (`layers/dense_1`, counted by class); built: for which shape of inputs it was built,
    where the file says it, whatever that is."""

    path: tuple[str, ...]
    kind: str
    config: Mapping[str, Any]
    place: str
    built: Any = None

    @property
    def name(self) -> str:
        return "/".join(self.path)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class NoLayers(SourceError):
    """The config of a model whose own code says what it computes."""


def read_config(text: str | bytes, about: str, problems: list[str]) -> list[KerasLayer]:
    """The layers of a model.  What is no chain goes to `problems`.

    Raises SourceError on what is no model's config, NoLayers where it is of a subclassed model.
    """
    try:
        model = json.loads(text)
        if not isinstance(model, dict) or class_name(model) not in MODELS:
            found = class_name(model) if isinstance(model, dict) else type(model).__name__
            raise (NoLayers if isinstance(model, dict) and found else SourceError)(
                f"the config of {about} is of a {found or 'unknown kind'}, needed is a Sequential or functional model"
            )
        return _layers(model, (), "", about, problems)
    except RecursionError:
        raise SourceError(f"the config of {about} is nested too deeply") from None
    except ValueError as error:
        raise SourceError(f"the config of {about} is damaged: {error}") from None


def class_name(value: Mapping[str, Any]) -> str:
    """The class of a serialised object without its package: `Custom>BinaryDense` -> BinaryDense."""
    return str(value.get("class_name", "")).rpartition(">")[2]


def _layers(model: Mapping[str, Any], path: tuple[str, ...], place: str, about: str, problems: list[str]) -> list[KerasLayer]:
    config = model.get("config")
    listed = config.get("layers") if isinstance(config, dict) else config  # early Sequential models: the list alone
    if not isinstance(listed, list) or not all(
        isinstance(e, dict) and isinstance(e.get("config"), dict | list) for e in listed
    ):
        raise SourceError(f"the config of {about} is damaged: {'/'.join(path) or 'the model'} has no list of layers")
    groups: dict[str, list[KerasLayer]] = {}
    counts: dict[str, int] = {}
    for entry in listed:
        kind = class_name(entry)
        name = str(entry["config"].get("name") if isinstance(entry["config"], dict) else "") or str(entry.get("name") or kind)
        snake = _snake_case(kind)
        number = counts.get(snake, 0)
        counts[snake] = number + 1
        here = f"{place}layers/{snake}" + (f"_{number}" if number else "")
        spend_bytes(LAYER_BYTES + len(here), f"the place {here[:80]} of a layer")  # models can be nested deeply
        if name in groups:
            raise SourceError(f"the config of {about} holds two layers called {name}")
        if kind in MODELS:
            groups[name] = _layers(entry, (*path, name), f"{here}/", about, problems)
        elif isinstance(entry["config"], dict):
            built = entry.get("build_config")
            shape = built.get("input_shape") if isinstance(built, dict) else None
            groups[name] = [KerasLayer((*path, name), kind, entry["config"], here, shape)]
    if class_name(model) != "Sequential" and isinstance(config, dict):
        inbound = {name: entry.get("inbound_nodes") or [] for name, entry in zip(groups, listed, strict=True)}
        order = _chain(inbound, _references(config.get("output_layers")), problems)
    else:
        order = list(groups)
    return [layer for name in order for layer in groups[name]]


def _chain(inbound: Mapping[str, list[Any]], outputs: list[str], problems: list[str]) -> list[str]:
    """The layers of a functional model from its input to its one output; all layers in the file's order if it is no chain."""
    order: dict[str, None] = {}
    here = outputs
    while here:
        if len(here) != 1 or here[0] in order or here[0] not in inbound:
            what = f"{next(reversed(order))} takes" if order else "the model gives"
            problems.append(f"{what} the values of {', '.join(here)}: only chains of layers can be converted")
            return list(inbound)
        order[here[0]] = None
        here = _references(inbound[here[0]])
    unused = [name for name in inbound if name not in order]
    if unused or not order:
        problems.append(
            f"the layers {', '.join(unused) or '(none)'} do not lead to the model's output"
            + net_line('ignore = ["LAYER*"] beside [[layers]] for the others')
        )
    return list(order)[::-1]


def _references(value: Any) -> list[str]:
    """Names of the layers whose values are used, in both forms of `inbound_nodes`: [name, node, tensor] and keras_history."""
    if isinstance(value, dict):
        history = value.get("keras_history")
        return _references(history) if history else [name for inner in value.values() for name in _references(inner)]
    if not isinstance(value, list):
        return []
    if len(value) >= 3 and isinstance(value[0], str) and all(isinstance(number, int) for number in value[1:3]):
        return [value[0], *(name for inner in value[3:] for name in _references(inner))]
    return [name for inner in value for name in _references(inner)]


def _snake_case(name: str) -> str:
    """As `keras.src.utils.naming.to_snake_case`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()

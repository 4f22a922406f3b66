"""Live Keras models: their weights as a file's, read by the config that they give, or by the graph that TensorFlow makes."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from xnorinfer.converters.containers.arrays import Entry, RawTensor
from xnorinfer.converters.containers.protowire import WireError
from xnorinfer.converters.keras import Reader
from xnorinfer.converters.kerasmodels.config import MODELS
from xnorinfer.converters.kerasmodels.kerasweights import BIAS, KERNEL, NORM_ROLES, POINTWISE, Weights, role_of
from xnorinfer.converters.reading import DEFAULT_INPUT, ConvertOptions, Reading
from xnorinfer.converters.tfgraphs.tfmodel import frozen_reading
from xnorinfer.converters.tfgraphs.tfnodes import parse_frozen
from xnorinfer.converters.usual import KERAS
from xnorinfer.errors import MissingExtraError, OptionError, SourceError

_ROLES = (KERNEL, POINTWISE, BIAS, "alpha", *NORM_ROLES)


class LiveWeights(Weights):
    """The weights of a model in memory, by the layers that hold them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        for path, layer in _leaves(model, ()):
            found = self._of(path, layer)
            if found:
                self._scopes["/".join(path)] = found
                self.entries |= {entry.name: entry for entry in found.values()}

    def _of(self, path: tuple[str, ...], layer: Any) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for variable in layer.weights:
            leaf = str(variable.name).rpartition("/")[2].partition(":")[0]
            name = "/".join([*path, leaf])
            if "seed" in leaf or leaf in found:  # the state of random numbers in Keras 3; a layer inside this one
                name = f"{name}_{len(found)}"
            array = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
            role = role_of(leaf)
            role = role if role in _ROLES and role not in found else name
            found[role] = Entry.of(RawTensor(name, array, str(array.dtype)))
        return found


def _leaves(layer: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """The layers of a model that hold no models, with their names below those of the models around them."""
    inner = getattr(layer, "layers", None)
    if inner is None:
        return [(path, layer)]
    return [leaf for child in inner for leaf in _leaves(child, (*path, str(child.name)))]


def of_output(model: Any, about: str, name: str) -> Any:
    """A model of one of the values that a model gives, which is the layer of that name.  Raises OptionError."""
    names = list(getattr(model, "output_names", None) or ())
    if name not in names:
        raise OptionError(f"--output-name {name}: {about} gives {', '.join(names) or 'what its own code says'}")
    keras = sys.modules[type(model).__module__.partition(".")[0]]
    return keras.Model(model.inputs, model.outputs[names.index(name)])


def lists_layers(model: Any) -> bool:
    """Whether a model's config can list its layers: not that of a subclassed one, whose code says what it does."""
    return any(kind.__name__ in MODELS and kind is type(model) for kind in type(model).__mro__)


def read_config_of(model: Any, about: str, options: ConvertOptions) -> Reading:
    """By the model's own config.  Raises SourceError (a subclassed model among them), OptionError or NetworkError."""
    if not hasattr(model, "to_json") or not hasattr(model, "weights"):
        raise OptionError(f"from_keras takes a Keras model, not a {about}")
    if not getattr(model, "built", True) or not model.weights:
        raise SourceError(f"the model {about} has no weights yet: call it once on inputs")
    weights = LiveWeights(model)
    try:
        config = model.to_json()
    except (NotImplementedError, TypeError, ValueError) as error:  # subclassed models without get_config
        raise SourceError(f"{about}: it gives no config ({str(error).splitlines()[0][:200]})") from None
    return Reader(weights, weights.entries, about, options).read(config, about)


def read_graph_of(model: Any, about: str, shape: tuple[int, ...], options: ConvertOptions) -> Reading:
    """By the graph that TensorFlow makes of the model at inference.  shape: of a sample.  Its input is -1..1 by default.

    Raises SourceError (what cannot be traced among it), OptionError, NetworkError, MissingExtraError (TensorFlow).
    """
    try:
        tensorflow: Any = importlib.import_module("tensorflow")
        convert: Any = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    except ModuleNotFoundError:
        raise MissingExtraError(f"the graph of {about}", "tensorflow") from None
    spec = tensorflow.TensorSpec((None, *shape), tensorflow.float32)
    try:
        traced = tensorflow.function(lambda x: model(x, training=False)).get_concrete_function(spec)
        frozen = convert.convert_variables_to_constants_v2(traced)
    except Exception as error:  # whatever the model's own code raises
        text = next(iter(str(error).splitlines()), "")[:300]
        raise SourceError(f"TensorFlow makes no graph of {about}: {type(error).__name__}: {text}") from None
    try:
        graph = parse_frozen(frozen.graph.as_graph_def().SerializeToString())
    except WireError as error:
        raise SourceError(f"the graph of {about} {error}") from None
    if options.input is not None:
        return frozen_reading("keras", about, graph, options)
    reading = frozen_reading("keras", about, graph, dataclasses.replace(options, input=DEFAULT_INPUT))
    told = (dataclasses.replace(a, origin="default") if a.what == "input of the graph" else a for a in reading.assumptions)
    warnings = (*reading.warnings, *((KERAS.input_warning,) if KERAS.input_warning else ()))
    return dataclasses.replace(reading, assumptions=tuple(told), warnings=warnings)


def shape_of(model: Any, example: Any) -> tuple[int, ...] | None:
    """The shape of a sample, of an example or as the model says; None if nothing says it."""
    if example is not None and np.ndim(example) > 1:
        return tuple(np.shape(example)[1:])
    declared = getattr(model, "input_shape", None) if getattr(model, "inputs", None) else None
    if declared is None:
        built: Any = getattr(model, "_build_shapes_dict", None) or {}
        declared = getattr(model, "_build_input_shape", None) or next(iter(built.values()), None)
    dims = None if isinstance(declared, Mapping) or declared is None else tuple(declared)[1:]
    if dims is None or not all(isinstance(dim, int | np.integer) for dim in dims):  # open, or of several inputs
        return None
    return tuple(int(dim) for dim in dims)

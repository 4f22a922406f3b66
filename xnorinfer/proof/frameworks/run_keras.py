"""Keras and Larq models: those of Keras 2 in tf_keras, those of Keras 3 in keras."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer import budget
from xnorinfer.converters.containers.hdf5 import CONFIG, open_h5
from xnorinfer.converters.containers.ziparchive import names_in, open_archive
from xnorinfer.converters.reading import DEFAULT_INPUT, ConvertOptions, Reading
from xnorinfer.float32 import F32
from xnorinfer.net.values import InputMapping, PixelInput, ThresholdInput
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, Wanted, framework, refusing, sample_of
from xnorinfer.proof.frameworks.tfsession import FrozenFunction


def open_keras(path: Path, reading: Reading, options: ConvertOptions) -> Program:
    """Raises NotRunnable and MissingExtraError."""
    config, version = _described(path)
    larq = any(entry.get("class_name", "").startswith(("Larq>", "Quant")) for entry in _objects(config))
    if version.startswith("2") or larq:
        keras = framework("tf_keras", path)
        if larq:
            with refusing("larq"):
                framework("larq", path)  # registers its layers and quantizers
    else:
        keras = framework("keras", path)
    name = keras.__name__
    with refusing(name):
        model = keras.models.load_model(str(path), compile=False, safe_mode=True)
        if options.output_name is not None and len(model.outputs) > 1:
            model = keras.Model(model.inputs, model.get_layer(options.output_name).output)
        if len(model.inputs) != 1:
            raise NotRunnable(f"it has {len(model.inputs)} inputs; one is supported")
        batch, shape = sample_of(list(model.inputs[0].shape), reading)

    def call(x: F32) -> Array:
        given = reading.as_source(x).reshape(-1, *shape)
        answer = model(given, training=False)
        return reading.scores_of(keras.ops.convert_to_numpy(answer) if name == "keras" else answer.numpy())

    inner = _inner(model, name, call, lambda x: reading.as_source(x).reshape(-1, *shape), reading.scores_of)
    return Program(name, keras.__version__, entering_mapping(reading, options), batch, shape, call, inner=inner)


def live_program(model: Any, reading: Reading, entry: InputMapping, shape: tuple[int, ...] | None) -> Program:
    """A live model.  entry: what enters it.  shape: of a sample, None if it is not known: inputs are flat."""
    name = "keras" if type(model).__module__.startswith("keras") or hasattr(model, "export_archive") else "tf_keras"
    sample = shape if shape is not None and math.prod(shape) == reading.net.depth else (reading.net.depth,)

    def call(x: F32) -> Array:
        answer = model(reading.as_source(x).reshape(-1, *sample), training=False)
        return reading.scores_of(_as_array(answer))

    inner = _inner(model, name, call, lambda x: reading.as_source(x).reshape(-1, *sample), reading.scores_of)
    return Program(name, "", entry, None, sample, call, inner=inner)


def _inner(
    model: Any, name: str, call: Callable[[F32], Array], entering: Callable[[F32], Array], scores_of: Callable[[Array], Array]
) -> Callable[[F32, Wanted], list[Array]]:
    """What a model computes: every operation of the graph that TensorFlow makes of it, if that gives what the model gives; else
    its layers, where it is a graph of those.

    name: of its Keras.  call: as `Program.call`.  entering: rows as it takes them.  scores_of: what it gives as scores.
    """
    graphs: list[FrozenFunction | None] = []

    def by_graph(x: F32, wanted: Wanted) -> list[Array]:
        given = entering(x)
        if not graphs:
            graphs.append(None)
            graphs[0] = _graph_of(model, name, given.shape[1:])
        if graphs[0] is None or len(graphs[0].keys) != 1:
            return []
        found = graphs[0].inner(given, wanted, 0, scores_of)
        return found if np.array_equal(found[0], call(x)[wanted.rows]) else []

    def by_layers(x: F32, wanted: Wanted) -> list[Array]:
        if not getattr(model, "inputs", None):
            raise NotRunnable("only its own code knows what it calls")
        outputs = [out for layer in model.layers for out in _listed(getattr(layer, "output", None))]
        every = importlib.import_module(name).Model(model.inputs, [*model.outputs, *outputs])(entering(x), training=False)
        answer, *values = map(_as_array, _listed(every))
        return [scores_of(answer)[wanted.rows], *wanted.of(values, len(x))]

    return lambda x, wanted: by_graph(x, wanted) or by_layers(x, wanted)


def _graph_of(model: Any, name: str, shape: tuple[int, ...]) -> FrozenFunction | None:
    """Of samples of a shape; None where TensorFlow makes none, or another package computes."""
    if name == "keras" and importlib.import_module(name).backend.backend() != "tensorflow":
        return None
    tensorflow = importlib.import_module("tensorflow")
    spec = tensorflow.TensorSpec((None, *shape), tensorflow.float32)
    try:
        traced = tensorflow.function(lambda x: model(x, training=False)).get_concrete_function(spec)
        return FrozenFunction(tensorflow, traced)
    except Exception:  # whatever the model's own code raises
        return None


def _listed(one: Any) -> list[Any]:
    return list(one) if isinstance(one, tuple | list) else [] if one is None else [one]


def _as_array(tensor: Any) -> Array:
    if hasattr(tensor, "detach"):  # Keras 3 on PyTorch
        tensor = tensor.detach().cpu()
    return np.asarray(tensor)


def _described(path: Path) -> tuple[Any, str]:
    """The config of a model and the version of its Keras.  Raises NotRunnable where the file has no config."""
    if names_in(path) is not None:
        with budget.reading(path), open_archive(path, ".keras archive") as archive:
            return archive.json(CONFIG), str(archive.json("metadata.json")["keras_version"])
    with open_h5(path) as file:
        config, written_by = file.text("model_config"), file.text("keras_version")
    if config is None:
        raise NotRunnable("it holds weights without a config, so that Keras does not know the layers; save the whole model")
    return json.loads(config), written_by or "2"


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Every serialised object in a config."""
    if isinstance(value, Mapping):
        inner = [found for item in value.values() for found in _objects(item)]
        return [value, *inner] if isinstance(value.get("class_name"), str) else inner
    return [found for item in value for found in _objects(item)] if isinstance(value, list) else []


def entering_mapping(reading: Reading, options: ConvertOptions) -> InputMapping:
    """What enters the model, where it rescales or binarizes its input itself: as the converter takes it."""
    if options.input is not None:
        return options.input
    if any(assumption.what == "input of the model" for assumption in reading.assumptions):
        return PixelInput.range(0, 255)
    return DEFAULT_INPUT if isinstance(reading.net.input, ThresholdInput) else reading.net.input

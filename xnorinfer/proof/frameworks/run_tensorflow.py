"""TensorFlow's files that hold a whole graph: SavedModels by their signature, frozen graphs, TensorFlow Lite models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.converters.tfgraphs.tfmodel import is_frozen, saved_model
from xnorinfer.converters.tfgraphs.tfnetwork import network_of
from xnorinfer.converters.tfgraphs.tfnodes import read_frozen
from xnorinfer.converters.tfgraphs.tfvalues import NotFollowed
from xnorinfer.float32 import F32
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, Wanted, framework, refusing, sample_of
from xnorinfer.proof.frameworks.run_tf1 import open_tf1
from xnorinfer.proof.frameworks.tfsession import FrozenFunction, as_written, inner_of


def open_tensorflow(path: Path, reading: Reading, options: ConvertOptions) -> Program:
    """Raises NotRunnable and MissingExtraError."""
    model = saved_model(path)
    if model is not None:
        return _open_saved(model.parent, reading, options.output_name)
    return _open_frozen(path, reading, options.output_name) if is_frozen(path) else open_tf1(path, reading, options)


def _open_saved(folder: Path, reading: Reading, output: str | None) -> Program:
    tensorflow = framework("tensorflow", folder)
    with refusing("tensorflow"):
        loaded = tensorflow.saved_model.load(str(folder))
        signatures = dict(loaded.signatures)
        if not signatures:
            raise NotRunnable("it has no signature that says how it is called")
        function = signatures.get("serving_default") or next(iter(signatures.values()))
        inputs = function.structured_input_signature[1]
        if len(inputs) != 1:
            raise NotRunnable(f"its signature takes {', '.join(sorted(inputs)) or 'nothing'}; one input is supported")
        ((name, spec),) = inputs.items()
        dims = [None, None] if spec.shape.rank is None else spec.shape.as_list()
        batch, shape = sample_of(dims, reading)

    entering, version = reading.entry or reading.net.input, tensorflow.__version__

    def chosen(given: dict[str, Any]) -> str:
        """Which of its outputs are the scores."""
        keys = [key for key in given if output in (None, key)]
        wide = [key for key in keys if reading.scores_of(np.asarray(given[key])).shape[1:] == (reading.net.values[-1].width,)]
        return wide[0] if len(wide) == 1 else keys[0]

    try:
        with refusing("tensorflow"):
            frozen = FrozenFunction(tensorflow, function)
    except NotRunnable:  # as it is it can be run all the same
        frozen = None

    def call(x: F32) -> Array:
        rows = reading.as_source(x).reshape(-1, *shape)
        if frozen is not None:
            given = dict(zip(frozen.keys, frozen.call(rows), strict=True))
        else:
            given = function(**{name: tensorflow.constant(rows)})
        return reading.scores_of(np.asarray(given[chosen(given)]))

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        rows = reading.as_source(x).reshape(-1, *shape)
        if frozen is None:
            raise NotRunnable("its graph does not show its values")
        place = frozen.keys.index(chosen(dict(zip(frozen.keys, frozen.call(rows), strict=True))))
        return frozen.inner(rows, wanted, place, reading.scores_of)

    call.loaded = loaded  # type: ignore[attr-defined]  # the function does not keep its variables
    return Program("tensorflow", version, entering, batch, shape, call, inner=inner)


def _open_frozen(path: Path, reading: Reading, output: str | None) -> Program:
    tensorflow = framework("tensorflow", path)
    tf1 = tensorflow.compat.v1
    try:
        network = network_of(read_frozen(path), lambda name: None, output).graph
    except NotFollowed as reason:  # it has been read
        raise NotRunnable(str(reason)) from None
    with refusing("tensorflow"):
        definition = tf1.GraphDef()
        definition.ParseFromString(path.read_bytes())
        graph = tf1.Graph()
        with graph.as_default():
            tf1.import_graph_def(definition, name="")
        entry, scores = (graph.get_tensor_by_name(n if ":" in n else f"{n}:0") for n in (*network.inputs, *network.outputs))
        session = tf1.Session(graph=graph, config=as_written(tensorflow))
        dims = [None, None] if entry.shape.rank is None else entry.shape.as_list()
        batch, shape = sample_of(dims, reading)

    def call(x: F32) -> Array:
        return reading.scores_of(session.run(scores, {entry: reading.as_source(x).reshape(-1, *shape)}))

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        answer, *values = inner_of(session, scores, {entry: reading.as_source(x).reshape(-1, *shape)}, wanted)
        return [reading.scores_of(answer), *values]

    entering = reading.entry or reading.net.input
    return Program("tensorflow", tensorflow.__version__, entering, batch, shape, call, inner=inner)


def open_tflite(path: Path, reading: Reading, options: ConvertOptions) -> Program:
    """Raises NotRunnable (Larq's own operators among it) and MissingExtraError."""
    tensorflow = framework("tensorflow", path)
    with refusing("tensorflow"):
        # Its own kernels one by one, so that each shows what it gives.
        resolver = tensorflow.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter: Any = tensorflow.lite.Interpreter(
            model_content=path.read_bytes(), experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=True
        )
        (entry,) = interpreter.get_input_details()
        output = interpreter.get_output_details()[reading.place or 0]
        interpreter.allocate_tensors()  # where operators are missing, it says which
        _, shape = sample_of([None, *(int(n) for n in entry["shape"][1:])], reading)
        computed = [one["index"] for one in interpreter.get_tensor_details() if one["dtype"] is np.float32]

    def run(row: F32) -> None:
        interpreter.set_tensor(entry["index"], row[None])
        interpreter.invoke()

    def call(x: F32) -> Array:
        found = []
        for row in x:
            run(row)
            found.append(np.array(interpreter.get_tensor(output["index"])).reshape(1, -1))
        return np.concatenate(found)

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        found = []
        one = wanted._replace(rows=np.zeros(1, np.int64))
        for row in x[wanted.rows]:
            run(row)
            answer = np.array(interpreter.get_tensor(output["index"])).reshape(1, -1)
            found.append([answer, *one.of(map(interpreter.get_tensor, computed), 1)])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    entering = reading.entry or reading.net.input
    return Program("tensorflow-lite", tensorflow.__version__, entering, None, shape, call, inner=inner)

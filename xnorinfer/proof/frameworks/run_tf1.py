"""TensorFlow 1 checkpoints with a graph (`.meta`), restored by tf.train.Saver and run in a session.

The scores are the first value of the graph, in the order in which it was made, that has a column, or a channel, for each class
and depends on every variable of the network.  Flags of training are fed with False; what else a flag could mean shows in
`program.require`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xnorinfer.converters.containers.tfcheckpoint import find_checkpoint
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.float32 import F32
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, Wanted, framework, refusing, sample_of
from xnorinfer.proof.frameworks.tfsession import as_written, inner_of, ops_before

#: Parts of the names of flags that are True when a network is used, not trained: False would be wrong for them.
_INFERENCE = ("test", "eval", "infer", "predict")


def open_tf1(path: Path, reading: Reading, options: ConvertOptions) -> Program:
    """Raises NotRunnable and MissingExtraError."""
    prefix = find_checkpoint(path)
    assert prefix is not None, "it has been read"
    meta = prefix.with_name(f"{prefix.name}.meta")
    if not meta.is_file():
        raise NotRunnable(f"there is no graph {meta.name} beside it")
    if options.ema:
        raise NotRunnable("its graph computes with the weights themselves, not with their moving averages (--ema)")
    tensorflow = framework("tensorflow", path)
    tf1 = tensorflow.compat.v1
    with refusing("tensorflow"):
        graph = tf1.Graph()
        session = tf1.Session(graph=graph, config=as_written(tensorflow))
        with graph.as_default():  # outside of it TensorFlow 2 has no graphs
            saver = tf1.train.import_meta_graph(str(meta), clear_devices=True)
            if saver is None:
                raise NotRunnable(f"{meta.name} has no Saver, and no variables to restore")
            saver.restore(session, str(prefix))
        scores = _scores(graph, {tensor.name for tensor in reading.tensors if not tensor.ignored}, reading.net.classes)
        entry, fed = _placeholders(scores, reading.net.depth)
        declared = [None, None] if entry.shape.rank is None else entry.shape.as_list()
        batch, shape = sample_of(declared, reading)

    def call(x: F32) -> Array:
        return reading.scores_of(session.run(scores, {entry: reading.as_source(x).reshape(-1, *shape), **fed}))

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        given = {entry: reading.as_source(x).reshape(-1, *shape), **fed}
        answer, *values = inner_of(session, scores, given, wanted)
        return [reading.scores_of(answer), *values]

    entering = reading.entry or reading.net.input
    return Program("tensorflow", tensorflow.__version__, entering, batch, shape, call, inner=inner)


def _scores(graph: Any, variables: set[str], classes: int) -> Any:
    operations = graph.get_operations()
    missing = sorted(variables - {op.name for op in operations})
    if missing:
        raise NotRunnable(f"its graph has no variable {missing[0]}")
    behind: dict[str, frozenset[str]] = {}
    for op in operations:
        found = frozenset({op.name} & variables).union(*(behind.get(source.op.name, frozenset()) for source in op.inputs))
        behind[op.name] = found
        if found == variables:
            for value in op.outputs:
                if value.shape.rank in (2, 4) and value.shape[-1] == classes and value.dtype.is_floating:
                    return value
    raise NotRunnable(f"no value of its graph has {classes} columns and depends on all variables of the network")


def _placeholders(scores: Any, depth: int) -> tuple[Any, dict[Any, bool]]:
    """The placeholder of the input, and those of flags with what they are fed."""
    seen = ops_before(scores.op)
    found = sorted((op.outputs[0] for op in seen if op.type == "Placeholder"), key=lambda value: str(value.name))
    found += [op.outputs[0] for op in seen if op.type == "PlaceholderWithDefault" and op.outputs[0].dtype.name == "bool"]
    flags = [value for value in found if value.dtype.name == "bool" and value.shape.rank in (0, None)]
    entries = [value for value in found if value.dtype.name == "float32" and value.shape.rank != 0]
    others = [value.op.name for value in found if all(value is not known for known in (*flags, *entries))]
    if len(entries) != 1 or others:
        names = ", ".join([*(value.op.name for value in entries), *others]) or "(none)"
        raise NotRunnable(f"its graph computes the scores from the placeholders {names}; needed is one of {depth} inputs")
    told = [flag.op.name for flag in flags if any(part in flag.op.name.lower() for part in _INFERENCE)]
    if told:
        raise NotRunnable(f"what its flag {told[0]} does is not known; flags of training alone can be told")
    return entries[0], dict.fromkeys(flags, False)

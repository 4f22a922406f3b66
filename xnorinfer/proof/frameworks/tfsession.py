"""Graphs of TensorFlow run in a session, each operation as it is written, so that all that they compute can be asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from xnorinfer.proof.frameworks.program import Array, NotRunnable, Wanted


def as_written(tensorflow: Any) -> Any:
    """Settings by which a session runs the operations of a graph as they are, whichever of their values are asked for."""
    config = tensorflow.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def inner_of(session: Any, scores: Any, fed: dict[Any, Any], wanted: Wanted) -> list[Array]:
    """The scores of the wanted samples, and what the operations before them give, as `Program.inner` does."""
    values = [value for op in ops_before(scores.op) for value in _given(op) if value.dtype.name == "float32"]
    sized = [value for value in values if value.shape.rank is None or value.shape[1:].num_elements() in {None, *wanted.widths}]
    answer, *found = session.run([scores, *sized], fed)
    return [answer[wanted.rows], *wanted.of(found, len(answer))]


def _given(op: Any) -> list[Any]:
    """What an operation computes at inference, where FusedBatchNorm has other outputs that are none."""
    return list(op.outputs[:1] if op.type.startswith("FusedBatchNorm") else op.outputs)


def ops_before(op: Any) -> list[Any]:
    """An operation, and all that it depends on."""
    seen = {op: None}
    waiting = [op]
    while waiting:
        for source in waiting.pop().inputs:
            if source.op not in seen:
                seen[source.op] = None
                waiting.append(source.op)
    return list(seen)


class FrozenFunction:
    """A function of TensorFlow as a graph whose variables are constants: it gives the same, and shows what it computes.

    keys: of its outputs, in order; one that gives a tensor alone has "" for it.
    """

    def __init__(self, tensorflow: Any, concrete: Any) -> None:
        """concrete: of one input.  Raises NotRunnable where it has control flow or state that no constant stands for."""
        convert: Any = importlib.import_module("tensorflow.python.framework.convert_to_constants")
        tf1 = tensorflow.compat.v1
        try:
            frozen = convert.convert_variables_to_constants_v2(concrete)
            graph = tf1.Graph()
            with graph.as_default():
                tf1.import_graph_def(frozen.graph.as_graph_def(), name="")
            self._entry = graph.get_tensor_by_name(frozen.inputs[0].name)
            self._outputs = [graph.get_tensor_by_name(output.name) for output in frozen.outputs]
            self._session = tf1.Session(graph=graph, config=as_written(tensorflow))
        except Exception as error:  # whatever it finds that it cannot freeze
            text = next(iter(str(error).splitlines()), "")[:200]
            raise NotRunnable(f"TensorFlow freezes no graph of it: {type(error).__name__}: {text}") from None
        given = concrete.structured_outputs
        self.keys = sorted(given) if isinstance(given, dict) else [""] * len(self._outputs)

    def call(self, given: Array) -> list[Array]:
        """What it gives for a batch (rows, ...), by `keys`."""
        return list(self._session.run(self._outputs, {self._entry: given}))

    def inner(self, given: Array, wanted: Wanted, place: int, scores_of: Callable[[Array], Array]) -> list[Array]:
        """One output of the wanted samples, as scores, and what is computed before it, as `Program.inner` does."""
        answer, *values = inner_of(self._session, self._outputs[place], {self._entry: given}, wanted)
        return [scores_of(answer), *values]

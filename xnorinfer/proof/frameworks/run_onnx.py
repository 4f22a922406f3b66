"""ONNX graphs by onnx's own reference evaluator, QONNX's operations in them by qonnx.

qonnx.core.onnx_exec.execute_onnx would need an onnxruntime that knows the newest version of ONNX, which there need not be.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.float32 import F32
from xnorinfer.memory import in_rows
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, Wanted, framework, refusing, sample_of

#: Domains of operations that the reference evaluator has.
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")


def open_onnx(path: Path, reading: Reading, options: ConvertOptions) -> Program:
    """Raises NotRunnable and MissingExtraError."""
    onnx = framework("onnx", path)
    reference = framework("onnx.reference", path)
    name, version = "onnx", onnx.__version__
    with refusing(name):
        model = onnx.load(str(path))
        entry, dims = _entry(model, onnx.TensorProto.FLOAT)
        batch, shape = sample_of(dims, reading)
        foreign = {(node.domain, node.op_type) for node in model.graph.node if node.domain not in _STANDARD}
        if foreign:
            framework("qonnx", path)
            name, version = "onnx with qonnx", f"{version}, {metadata.version('qonnx')}"
            known = {opset.domain for opset in model.opset_import}
            for domain in sorted({domain for domain, _ in foreign} - known):  # files of old exporters leave it out
                model.opset_import.add(domain=domain, version=1)
        operations = [_operation(reference, domain, kind, path) for domain, kind in sorted(foreign)]
        operations += [_batch_norm(reference, path)] if _opset(model) < 14 else []
        evaluator = reference.ReferenceEvaluator(model, new_ops=operations)

    wanted = None if options.output_name is None else [options.output_name]

    def call(x: F32) -> Array:
        return reading.scores_of(_chosen(evaluator.run(wanted, {entry: reading.as_source(x).reshape(-1, *shape)})))

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        every = evaluator.run(None, {entry: reading.as_source(x).reshape(-1, *shape)}, intermediate=True)
        answer = reading.scores_of(_chosen([every[name] for name in evaluator.output_names]))
        return [answer[wanted.rows], *wanted.of(every.values(), len(x))]

    with refusing(name):
        if batch is not None and _takes_any_batch(call, batch, shape):
            batch = None
    return Program(name, version, reading.entry or reading.net.input, batch, shape, call, inner=inner)


def _entry(model: Any, float32: int) -> tuple[str, list[int | None]]:
    """Name and shape of the one input that is no parameter.  Raises NotRunnable."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (value for value in model.graph.input if value.name not in parameters)
    declared = entry.type.tensor_type
    if declared.elem_type not in (0, float32):
        raise NotRunnable(f"its input {entry.name} is of the ONNX type {declared.elem_type}, needed is float32")
    return entry.name, [dim.dim_value or None for dim in declared.shape.dim] or [None, None]


def _operation(reference: Any, domain: str, kind: str, path: Path) -> Any:
    """An operation of QONNX for the reference evaluator."""
    registry = framework("qonnx.custom_op.registry", path)

    def run(self: Any, *inputs: Array, **attributes: Any) -> tuple[Array]:
        node = self.onnx_node
        context = dict(zip(node.input, inputs, strict=True))
        registry.getCustomOp(node).execute_node(context, None)
        return (np.asarray(context[node.output[0]], np.float32),)

    return type(kind, (reference.op_run.OpRun,), {"op_domain": domain, "_run": run})


def _opset(model: Any) -> int:
    return max((int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=1)


def _batch_norm(reference: Any, path: Path) -> Any:
    """BatchNormalization before opset 14: with one output it is inference by ONNX's specification, while the evaluator takes
    the moments of the batch wherever the node has a momentum."""
    compute = framework("onnx.reference.ops.op_batch_normalization", path)._batchnorm_test_mode

    def run(self: Any, *inputs: Array, epsilon: float = 1e-5, **attributes: Any) -> tuple[Array]:
        if len(self.onnx_node.output) != 1:
            raise NotRunnable("it holds BatchNormalization as in training")
        return (compute(*inputs, epsilon=epsilon),)

    return type("BatchNormalization", (reference.op_run.OpRun,), {"op_domain": "", "_run": run})


def _takes_any_batch(call: Any, batch: int, shape: tuple[int, ...]) -> bool:
    """Whether a graph that declares a fixed batch, as of the example that it was exported with, computes others as well."""
    x = np.random.default_rng(0).random((2 * batch, *shape)).astype(np.float32)
    apart = np.concatenate([call(x[:batch]), call(x[batch:])])
    try:
        together = call(x)
    except Exception:  # whatever the evaluator finds wrong with it
        return False
    return together.shape == apart.shape and bool(np.allclose(together, apart, rtol=1e-3, atol=1e-3))


def _chosen(outputs: list[Any]) -> Array:
    """The one output; of TopK's two the classes."""
    classes = [value for value in outputs if value.dtype.kind in "iu"]
    if len(outputs) != 1 and len(classes) != 1:
        raise NotRunnable(f"it gives {len(outputs)} outputs; needed is one, scores or classes")
    answer: Array = (classes or outputs)[0]
    return in_rows(answer)[:, :1] if classes else answer

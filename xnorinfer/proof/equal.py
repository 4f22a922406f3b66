"""Prove a packed model against its checkpoint as it is read: every threshold, every weight, and layer by layer on data.

Two arguments, both about the *reading* of the source, the float network that the converter takes it for, whose float32
expressions are those of `reference`:

- *proof*: per layer, packed weights equal the binarized latents (or their exact negation, with the compare mirrored), and the
  packed decision equals the source's float32 expression at every accumulator value.  Dots of bits are enumerated.  Where that
  is too many (sums of pixels, real sums) the decision is checked at both ends of the range, on both sides of the limit and at
  values between; being monotone in the sum, it then agrees everywhere.
- *comparison*: the plan that really runs, with its kernel and threads, against `reference` on data, every bit of every layer.

Neither can tell whether the reading is the user's network.  That takes the network itself: answers that it gave
(`answers`), or the file run by its own framework, where it holds a program (`frameworks`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.conversion import digest_of
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.float32 import differing
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.imageaxes import channels_last
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.reference import binary_weights, mapped_input, node_outputs
from xnorinfer.net.values import InputMapping, ThresholdInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.canonical import canonical_mapping
from xnorinfer.packing.fusedpart import Part, outside_of_moved, places_of
from xnorinfer.packing.lower import low_of, parts_of, stored_form
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
)
from xnorinfer.proof.agreement import affordable_rows, rows_at_once
from xnorinfer.proof.agreement import compare as compare_answers
from xnorinfer.proof.answers import Answers, Progress, best_of
from xnorinfer.proof.frameworks import framework_answers
from xnorinfer.proof.layerproofs import prove_bits, prove_parts
from xnorinfer.proof.sensitivity import sensitivity
from xnorinfer.proof.verification import LayerProof, Verification
from xnorinfer.proof.wording import words_of

if TYPE_CHECKING:
    from xnorinfer.converters.reading import ConvertOptions


#: Random samples that are compared if nobody says how many, and products in all of them together.
RANDOM_ROWS, RANDOM_PRODUCTS = 1024, 1 << 36


def _judge_input(result: Verification, net: Net, data: NDArray[Any]) -> None:
    """Compare the first BatchNorm's statistics with the sums that the data makes, where there is enough of it."""
    from xnorinfer.converters.evidence.inputmapping import FEWEST, judge_mapping

    evidence = judge_mapping(net, data) if len(data) >= FEWEST else None
    if evidence is not None:
        result.input_evidence = evidence.describe()
        result.input_fits = evidence.confirmed


@budget.memory_errors("verifying")
def verify(
    model_path: str | Path,
    source_path: str | Path,
    data: NDArray[Any] | None = None,
    *,
    rows: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    kernel: str | None = None,
    max_memory: int | None = None,
    with_sensitivity: bool = False,
    with_framework: bool = False,
    expected: Answers | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a model file against its checkpoint, read again with the options recorded in the model.

    data: inputs as `Model.scores` takes them, all of them are compared; None: `rows` random inputs, 1,024 if that is None, but
    fewer where one takes much work.
    with_sensitivity: also tell what other assumptions would change (see `sensitivity`).  with_framework: also run the data in
    the checkpoint's framework, or in PyTorch (see `frameworks`).  expected: answers of the trained network itself (see
    `answers`).  max_memory: what may be made of the checkpoint (see `budget`).
    progress: called with (what, done, total).  Raises ModelFileError, SourceError, OptionError, NetworkError, InputError, or
    MissingExtraError (the framework).
    """
    from xnorinfer.converters import read_source
    from xnorinfer.converters.reading import ConvertOptions

    model = Model(modelfile.load(model_path), threads=threads, kernel=kernel)
    packed = model.packed
    options: ConvertOptions = ConvertOptions.from_json(packed.provenance.get("options", {}))
    reading = read_source(Path(source_path), dataclasses.replace(options, max_memory=max_memory))
    reading.net.require_valid()
    header, source_digest = modelfile.header_of(packed), digest_of(Path(source_path))
    result = Verification(
        model=Path(model_path).name,
        source=Path(source_path).name,
        source_unchanged=packed.provenance.get("sha256") == source_digest,
        source_digest=source_digest,
        source_format=reading.source,
        content_digest=header["content_digest"],
        header_digest=header["header_digest"],
        input=packed.input.describe(),
        profile=packed.profile,
        options=options.to_json(),
        assumptions=[[one.what, one.value, one.origin] for one in reading.assumptions],
        reading=list(words_of(reading.net)),
        kernel=model.kernel,
        threads=model.threads,
    )
    report = progress or (lambda what, done, total: None)
    stored = _as_stored(packed, reading.net)
    result.first_difference = _structure_difference(packed, stored)
    if result.first_difference is None:
        if stored is not reading.net:
            result.layers.append(_prove_threshold(packed.input, stored, reading.net))
        result.layers += prove_parts(packed, stored, report)
        result.first_difference = next((f"{p.name}: {p.first}" for p in result.layers if p.differences), None)
        count = affordable_rows(reading.net, RANDOM_ROWS, RANDOM_PRODUCTS) if rows is None else rows
        x = random_inputs(packed, count, seed) if data is None else canonical_input(packed, data)
        result.data = "random" if data is None else "given"
        _compare(result, model, reading.net, x, report)
        if data is not None:
            # What is compared with statistics may be none of the mapped pixels that the network takes.
            images = len(packed.shape) == 3
            first = reading.channels_first
            given = channels_last("data", reading.net.shape, data, source_first=first) if images else data
            _judge_input(result, reading.net, given)
        if with_sensitivity:
            result.sensitivity = sensitivity(reading.net, packed, x, report)
        if with_framework:
            answers = framework_answers(Path(source_path), reading, options, x, report)
            result.framework = compare_answers(answers, reading.net, packed, threads, report)
        if expected is not None:
            result.expected = compare_answers(expected, reading.net, packed, threads, report)
    return result


def _as_stored(packed: PackedModel, net: Net) -> Net:
    """The network as a model has it whose inputs one threshold binarizes; models of old versions keep a limit for each."""
    return net if packed.own_limits is not None else stored_form(net)


def _prove_threshold(mapping: InputMapping, stored: Net, net: Net) -> LayerProof:
    """A threshold for all inputs: what it decides about every pixel, negated where the first layer takes its negation."""
    assert isinstance(mapping, ThresholdInput)
    first, source = (spec.linears[0][1] for spec in (stored, net))
    rises = bool((binary_weights(first) == binary_weights(source)).all())
    limit = -mapping.threshold if rises else mapping.threshold - 1
    part = parts_of(net)[0]
    bits = Binarize(np.full(part.channels, limit, np.int32), np.full(part.channels, rises))
    return prove_bits(part.name, bits, part, net)


def _structure_difference(packed: PackedModel, net: Net) -> str | None:
    """Where model and source are not even the same network."""
    if canonical_mapping(packed.input) != canonical_mapping(net.input):
        return f"the model takes {packed.input.describe()}, the source {net.input.describe()}"
    parts = parts_of(net)
    if (packed.own_limits is None) == (parts[0].compares_inputs):
        return "only one of model and source binarizes inputs one by one"
    if len(parts) != len(packed.nodes):
        leading = packed.binarize is not None
        return f"the model has {len(packed.nodes) - leading} layers, the source {len(parts) - leading}"
    if packed.shape != parts[0].read.shape:
        return f"the model takes inputs of shape {packed.shape}, the source of {parts[0].read.shape}"
    for index, (node, part, value) in enumerate(zip(packed.nodes, parts, packed.values, strict=True)):
        if _kind(node) != _kind_of_part(part) or value != part.gives or node.inputs != part.inputs:
            number = index - (packed.binarize is not None)
            return f"layer {number} ({node.name}) has other shapes, kinds or inputs than the source's {part.name}"
    return None


#: Op -> what must be the same of the part that it stands for.
_kind: Interpretation[[], tuple[Any, ...]] = Interpretation("the structure of packed networks", PACKED_OPS)


@_kind.of(Dot)
def _(op: Dot) -> tuple[Any, ...]:
    return (Dot, op.binary, op.depth, op.window, op.groups, op.pad, op.low)


@_kind.of(Pool)
def _(op: Pool) -> tuple[Any, ...]:
    return (Pool, op.kind, op.window, op.padded)


@_kind.of(Binarize, Digitize, Elementwise, Mapped)
def _(op: Binarize | Digitize | Elementwise | Mapped) -> tuple[Any, ...]:
    return (type(op),)


@_kind.of(Multiply)
def _(op: Multiply) -> tuple[Any, ...]:
    return (Multiply,)


@_kind.of(Moved)
def _(op: Moved) -> tuple[Any, ...]:
    return (Moved, tuple(op.channels.tolist()), op.padding, op.value)


@_kind.of(Concat)
def _(op: Concat) -> tuple[Any, ...]:
    return (Concat, op.flat)


def _kind_of_part(part: Part) -> tuple[Any, ...]:
    if part.layer is not None:
        layer, padded = part.layer, part.window is not None and any(part.window.padding)
        return (Dot, layer.binary, layer.depth, part.window, layer.groups, layer.pad if padded else 0, low_of(part))
    if part.pool is not None:
        return (Pool, part.pool.kind, part.window, part.pool.padded)
    if part.concat is not None:
        return (Concat, part.flat)
    if part.product is not None:
        return (Multiply,)
    if part.moves is not None:
        return (Moved, *places_of(part.moves, part.read), outside_of_moved(part))
    if part.levels is not None:
        return (Digitize,)
    if part.sign is not None:
        return (Binarize,)
    return (Mapped,) if part.enters or part.numbers is not None else (Elementwise,)


# ---------------------------------------------------------------- comparison


def _compare(result: Verification, model: Model, net: Net, x: NDArray[Any], report: Progress) -> None:
    """Every bit of every layer, so many rows at a time as memory allows."""
    packed, stored = model.packed, _as_stored(model.packed, net)
    gone = len(net.nodes) - len(stored.nodes)
    parts = parts_of(stored)
    ends = [None if part.enters or part.end is None else part.end + gone for part in parts]
    rows = rows_at_once(net)
    for start in range(0, len(x), rows):
        report("comparing on data", start, len(x))
        chunk = x[start : start + rows]
        every = [in_rows(value) for _, value in node_outputs(net, chunk)]
        canonical = canonical_input(packed, chunk)
        same = np.ones(len(chunk), np.bool_)
        tied = np.zeros(len(chunk), np.bool_)
        traced = zip(packed.nodes, packed.values, parts, model.plan.trace(canonical), ends, strict=True)
        for node, value, part, out, end in traced:
            if end is None:  # bits that a pool takes, and inputs
                continue
            want, bits = every[end], value.kind == "bits"
            got = value.signs(out.view(np.uint64)) if bits else out
            if part.coded is not None:
                got = mapped_input(part.coded, value.codes(out.view(np.uint64)) + np.float32(part.coded.low))
            # After an exact 0 before sign, which bits cannot hold, a row has no answer to compare with.
            source = part if part.pool is None or part.inputs[0] == INPUT else parts[part.inputs[0]]
            tied |= (want == 0).any(axis=1) & (bits or source.ties)
            wrong = differing(got, want) & ~tied[:, None]
            if wrong.any() and result.first_difference is None:
                row, neuron = (int(i) for i in np.argwhere(wrong)[0])
                result.first_difference = (
                    f"layer {node.name}, sample {start + row}, neuron {neuron}: the source gives {want[row, neuron]:g}, "
                    f"the model {got[row, neuron]:g}"
                )
            same &= ~wrong.any(axis=1)
        scores = model.plan.run(canonical)
        predicted = (best_of(every[-1], net.classes) == best_of(scores, net.classes)).all(axis=1)
        same &= ~differing(scores, every[-1]).any(axis=1) | tied
        result.differing_rows += int((~same).sum())
        result.differing_predictions += int((~predicted & ~tied).sum())
        result.tie_rows += int(tied.sum())
        if result.differing_rows and result.first_difference is None:
            result.first_difference = f"scores of sample {start + int(np.argmin(same))} differ from its traced layers"
        result.rows += len(chunk)
    report("comparing on data", len(x), len(x))

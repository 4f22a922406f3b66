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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.bits import bitunpack
from xnorinfer.conversion import digest_of
from xnorinfer.engine.margins import constant
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.float32 import F32
from xnorinfer.graph import Interpretation, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import OPS, Linear, Norm, Op, Quantize, Steps
from xnorinfer.net.reference import binary_weights, finish_linear, follow, node_outputs
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import InputMapping, ThresholdInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.canonical import canonical_mapping
from xnorinfer.packing.folding import Counts
from xnorinfer.packing.lower import Block, blocks_of, counts_of, input_counts, input_of, lower_input, with_threshold
from xnorinfer.packing.packed import Affine, Binarize, Dot, PackedModel, Threshold
from xnorinfer.packing.threshold import I64, find_limits
from xnorinfer.proof.agreement import compare as compare_answers
from xnorinfer.proof.answers import Answers, Progress
from xnorinfer.proof.frameworks import framework_answers
from xnorinfer.proof.sensitivity import sensitivity
from xnorinfer.proof.verification import LayerProof, Verification
from xnorinfer.proof.wording import words_of

if TYPE_CHECKING:
    from xnorinfer.converters.reading import ConvertOptions


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
    rows: int = 1024,
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

    data: inputs as `Model.scores` takes them, all of them are compared; None: `rows` random inputs.
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
        result.layers += _prove_layers(packed, stored, report)
        result.first_difference = next((f"{p.name}: {p.first}" for p in result.layers if p.differences), None)
        x = random_inputs(packed, rows, seed) if data is None else canonical_input(packed, data)
        result.data = "random" if data is None else "given"
        _compare(result, model, reading.net, x, report)
        if data is not None:
            _judge_input(result, reading.net, data)
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
    if packed.own_limits is not None or input_of(net) is None:
        return net
    return with_threshold(net, lower_input(net)) or net


def _structure_difference(packed: PackedModel, net: Net) -> str | None:
    """Where model and source are not even the same network."""
    if canonical_mapping(packed.input) != canonical_mapping(net.input):
        return f"the model takes {packed.input.describe()}, the source {net.input.describe()}"
    if (packed.own_limits is None) == (input_of(net) is not None):
        return "only one of model and source binarizes inputs one by one"
    blocks = blocks_of(net)
    if len(blocks) != len(packed.layers):
        return f"the model has {len(packed.layers)} layers, the source {len(blocks)}"
    for index, (node, block) in enumerate(zip(packed.layers, blocks, strict=True)):
        layer = node.op
        ours = (not layer.binary, layer.depth, layer.neurons, layer.gives == "bits")
        theirs = (not block.dense.binary, block.dense.depth, block.dense.neurons, block.gives_bits)
        if ours != theirs:
            return f"layer {index} ({node.name}) has other shapes or kinds than the source's {block.name}"
    return None


# ---------------------------------------------------------------- proof


def _prove_layers(packed: PackedModel, net: Net, report: Progress) -> Iterator[LayerProof]:
    if packed.own_limits is not None:
        yield _prove_input(packed.own_limits.name, packed.own_limits.op, net)
    for node, block in zip(packed.layers, blocks_of(net), strict=True):
        yield _prove_dense(node, block, net, report) if node.op.binary else _prove_float(node, block)


def _prove_input(name: str, bits: Binarize, net: Net) -> LayerProof:
    """Pixels: all 256 values of each; reals: both sides of each limit, and values between."""
    inputs = input_of(net)
    assert inputs is not None
    proof = LayerProof(name, "input", net.depth, "every value")
    counts = input_counts(net)
    if counts.reals:
        proof.method = "ends, both sides of the limit, samples (monotone)"
        beside = _around_limits(counts, _limit_counts(bits.limits), bits.mirrored)
        beside = np.concatenate([beside, _beside_bends(counts, inputs.before, counts.accumulator)])
    else:
        beside = np.repeat(np.arange(256)[:, None], net.depth, axis=1)
    proof.values = len(beside)
    with np.errstate(all="ignore"):
        value = follow(inputs.before, counts.accumulator(beside))
        _compare_decisions(proof, counts, bits.mirrored, _limit_counts(bits.limits), beside, value, inputs.sign.rule)
    return proof


def _prove_threshold(mapping: InputMapping, stored: Net, net: Net) -> LayerProof:
    """A threshold for all inputs: what it decides about every pixel, negated where the first layer takes its negation."""
    assert isinstance(mapping, ThresholdInput)
    first, source = (spec.linears[0][1] for spec in (stored, net))
    rises = bool((binary_weights(first) == binary_weights(source)).all())
    limit = -mapping.threshold if rises else mapping.threshold - 1
    inputs = input_of(net)
    assert inputs is not None
    return _prove_input(inputs.name, Binarize(np.full(net.depth, limit, np.int32), np.full(net.depth, rises)), net)


def source_values(block: Block, dot: F32) -> F32:
    """What the source has at the end of a block (before a sign that gives bits) for given dots, (values, neurons) float32."""
    return follow(block.before_sign, finish_linear(block.dense, dot))


def _block_bends(counts: Counts, block: Block) -> I64:
    return _beside_bends(counts, block.after, lambda count: finish_linear(block.dense, counts.accumulator(count)))


def _beside_steps(counts: Counts, output: Affine) -> I64:
    """The counts on both sides of where steps that end in a comparison change, (values, neurons)."""
    beside = []
    for sign in (1, -1):
        change = find_limits(lambda c, s=sign: output.apply(counts.accumulator(c)) == s, counts.low, counts.high, 0)  # type: ignore[misc]
        last = np.where(change.flipped, -change.limits - 1, change.limits)
        beside += [np.clip(last + step, counts.low, counts.high) for step in (-1, 0, 1, 2)]
    return np.stack(beside)


#: (op) -> for each place where it is not monotone what it does before that.
before_bends: Interpretation[[], Iterator[Steps]] = Interpretation("the proof", OPS)


@before_bends.of(Linear, Norm, Quantize)
def _(op: Op) -> Iterator[Steps]:
    yield from ()


@before_bends.of(Steps)
def _(op: Steps) -> Iterator[Steps]:
    return (Steps(op.steps[:place]) for place, step in enumerate(op.steps) if step.bent)


def _beside_bends(counts: Counts, nodes: Sequence[Node[Op]], entering: Callable[[I64], F32]) -> I64:
    """The counts on both sides of where a function that is not monotone turns, (values, neurons).

    entering: what a count becomes before the nodes.
    """
    beside = [counts.low]
    bends = [(*nodes[:at], dataclasses.replace(node, op=op)) for at, node in enumerate(nodes) for op in before_bends(node)]
    for before in bends:
        with np.errstate(all="ignore"):
            side = find_limits(lambda c, b=before: follow(b, entering(c)) > 0, counts.low, counts.high, 0)  # type: ignore[misc]
        last = np.where(side.flipped, -side.limits - 1, side.limits)
        beside += [np.clip(last + step, counts.low, counts.high) for step in (0, 1)]
    return np.stack(beside)


def _prove_float(node: Node[Dot], block: Block) -> LayerProof:
    layer = node.op
    proof = LayerProof(node.name, "float", layer.neurons, "weights equal; steps at sampled values")
    assert isinstance(layer.output, Affine)
    proof.weights = layer.weights.size
    wrong = layer.weights != block.dense.weight
    if wrong.any():
        proof.differ(int(wrong.sum()), f"float weight {tuple(np.argwhere(wrong)[0].tolist())} differs")
    samples = np.linspace(-1000, 1000, SAMPLES, dtype=np.float32)[:, None].repeat(layer.neurons, 1)
    _compare_values(proof, samples, source_values(block, samples), layer.output.apply(samples))
    return proof


def _prove_dense(node: Node[Dot], block: Block, net: Net, report: Progress) -> LayerProof:
    layer = node.op
    proof = LayerProof(node.name, "binary", layer.neurons)
    signs = binary_weights(block.dense)
    mine = bitunpack(layer.weights, layer.depth)
    flipped = (mine == -signs).all(axis=1) & isinstance(layer.output, Threshold)
    proof.weights, proof.flipped = mine.size, int(flipped.sum())
    if (ends := constant(node)) is not None:
        proof.never, proof.always = (int(neurons.sum()) for neurons in ends)
    wrong = ~((mine == signs).all(axis=1) | flipped)
    if wrong.any():
        neuron = int(np.argmax(wrong))
        column = int(np.argmax(mine[neuron] != signs[neuron]))
        proof.differ(int(wrong.sum()), f"weight bits of neuron {neuron} differ from its latents, first at input {column}")
    counts = counts_of(net, layer.reads, block.dense)
    for chunk in _chunks(proof, layer, block, counts, flipped, report):
        _prove_chunk(proof, layer, block, counts, flipped, chunk)
    return proof


#: Values per neuron between the ends of a range too large to enumerate, and values per chunk of an enumeration.
SAMPLES = 256
CHUNK = 128


def _chunks(
    proof: LayerProof, layer: Dot, block: Block, counts: Counts, flipped: NDArray[np.bool_], report: Progress
) -> Iterator[I64]:
    """Blocks of counts to check, (values, neurons) int64, unmirrored."""
    if layer.reads == "bits":
        proof.method, proof.values = "every value", layer.depth + 1
        for start in range(0, layer.depth + 1, CHUNK):
            report(f"proving {proof.name}", start, layer.depth + 1)
            stop = min(start + CHUNK, layer.depth + 1)
            yield np.repeat(np.arange(start, stop)[:, None], layer.neurons, axis=1)
        report(f"proving {proof.name}", layer.depth + 1, layer.depth + 1)
        return
    if isinstance(layer.output, Threshold):
        proof.method = "ends, both sides of the limit, samples (monotone)"
        every = _around_limits(counts, _limit_counts(layer.output.limits), flipped)
        every = np.concatenate([every, _block_bends(counts, block)])
    else:
        proof.method = "both ends and samples"
        every = _samples(counts)
        if layer.output.ops and layer.output.ops[-1] == "step":
            proof.method = "ends, both sides of the steps, samples (monotone)"
            every = np.concatenate([every, _beside_steps(counts, layer.output), _block_bends(counts, block)])
    proof.values = len(every)
    for start in range(0, len(every), CHUNK):
        yield every[start : start + CHUNK]


def _samples(counts: Counts) -> I64:
    """Both ends of every range and values between, (values, neurons)."""
    parts = np.linspace(0, 1, SAMPLES + 2)[:, None]
    return np.asarray((counts.low + parts * (counts.high - counts.low)).astype(np.int64))


def _around_limits(counts: Counts, limits: I64, mirrored: NDArray[np.bool_]) -> I64:
    """The same, and the last count that fires, the first that does not, and one more on either side."""
    last = np.where(mirrored, counts.mirror - limits, limits)
    beside = np.array([-1, 0, 1])[:, None] + last
    return np.concatenate([_samples(counts), np.clip(beside, counts.low, counts.high)])


def _limit_counts(limits: NDArray[Any]) -> I64:
    """Limits as counts; for float limits the inverse of `threshold.ordered_to_float`."""
    if limits.dtype != np.float32:
        return np.asarray(limits, np.int64)
    magnitude = np.abs(limits).view(np.uint32).astype(np.int64)
    return np.asarray(np.where(limits < 0, -magnitude, magnitude))


def _prove_chunk(proof: LayerProof, layer: Dot, block: Block, counts: Counts, flipped: NDArray[np.bool_], chunk: I64) -> None:
    dot = counts.accumulator(chunk)
    with np.errstate(all="ignore"):
        value = source_values(block, dot)
        if isinstance(layer.output, Affine):
            _compare_values(proof, dot, value, layer.output.apply(dot))
            return
        assert block.sign is not None
        limits = _limit_counts(layer.output.limits)
        _compare_decisions(proof, counts, flipped, limits, chunk, value, block.sign.rule)


def _compare_decisions(
    proof: LayerProof, counts: Counts, mirrored: NDArray[np.bool_], limits: I64, chunk: I64, value: F32, rule: Rule
) -> None:
    """Decisions of the model at counts, (values, neurons), against the source's values before sign there."""
    dot = counts.accumulator(chunk)
    binarized = binarize(value, rule)
    fires = np.where(mirrored, counts.mirror - chunk, chunk) <= limits
    tie = binarized == 0
    proof.compared += fires.size
    proof.ties += int(tie.sum())
    wrong = (fires != (binarized > 0)) & ~(tie & fires) | np.isnan(value)
    if counts.reals:  # sums near the largest float, where the source itself overflows and has no answer
        wrong &= ~np.isnan(value)
    if wrong.any():
        at, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"neuron {neuron} at accumulator {dot[at, neuron]:g}: the source has {value[at, neuron]:g} before sign, "
            f"the model decides {'+1' if fires[at, neuron] else '-1'}",
        )


def _compare_values(proof: LayerProof, dot: F32, source: F32, model: F32) -> None:
    """Float results at given dots, equal in every bit but the sign of zero."""
    proof.values = max(proof.values, len(dot))
    proof.compared += dot.size
    wrong = (source != model) & ~(np.isnan(source) & np.isnan(model))
    if wrong.any():
        at, neuron = (int(i) for i in np.argwhere(wrong)[0])
        proof.differ(
            int(wrong.sum()),
            f"output {neuron} at accumulator {dot[at, neuron]:g}: the source has {source[at, neuron]!r}, "
            f"the model {model[at, neuron]!r}",
        )


# ---------------------------------------------------------------- comparison


#: Rows that the reference computes at once.
ROWS = 512


def _compare(result: Verification, model: Model, net: Net, x: NDArray[Any], report: Progress) -> None:
    """Every bit of every layer, `ROWS` rows at a time."""
    packed, inputs, ends = model.packed, input_of(net), [block.end for block in blocks_of(net)]
    for start in range(0, len(x), ROWS):
        report("comparing on data", start, len(x))
        chunk = x[start : start + ROWS]
        every = [value for _, value in node_outputs(net, chunk)]
        outputs = [every[end] for end in ends]
        canonical = canonical_input(packed, chunk)
        same = np.ones(len(chunk), np.bool_)
        tied = np.zeros(len(chunk), np.bool_)
        traced = list(zip(packed.nodes, packed.values, model.plan.trace(canonical), strict=True))
        if packed.own_limits is None:
            traced = traced[-len(outputs) :]
        elif inputs is not None:
            outputs.insert(0, every[inputs.end])
        for (node, value, out), want in zip(traced, outputs, strict=True):
            bits = value.kind == "bits"
            got = bitunpack(out.view(np.uint64), value.width) if bits else out
            # After an exact 0 before sign, which bits cannot hold, a row has no answer to compare with.
            tied |= (want == 0).any(axis=1) & bits
            wrong = (got != want) & ~tied[:, None]
            if wrong.any() and result.first_difference is None:
                row, neuron = (int(i) for i in np.argwhere(wrong)[0])
                result.first_difference = (
                    f"layer {node.name}, sample {start + row}, neuron {neuron}: the source gives {want[row, neuron]:g}, "
                    f"the model {got[row, neuron]:g}"
                )
            same &= ~wrong.any(axis=1)
        scores = model.plan.run(canonical)
        predicted = outputs[-1].argmax(axis=1) == scores.argmax(axis=1)
        same &= (scores == outputs[-1]).all(axis=1) | tied
        result.differing_rows += int((~same).sum())
        result.differing_predictions += int((~predicted & ~tied).sum())
        result.tie_rows += int(tied.sum())
        if result.differing_rows and result.first_difference is None:
            result.first_difference = f"scores of sample {start + int(np.argmin(same))} differ from its traced layers"
        result.rows += len(chunk)
    report("comparing on data", len(x), len(x))

"""The file's own evidence for and against a reading: what its weights and BatchNorm's statistics show.

A reading guesses what a file does not say.  What contradicts it beyond doubt is a problem, with the option that would answer
it; less is a warning.  What an option or a net.toml says is taken, with a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from xnorinfer.converters.evidence.firstsums import hint, judge_first
from xnorinfer.converters.evidence.hiddensums import follows, judge_sums, spread, untrained
from xnorinfer.converters.evidence.layerorder import judge_order
from xnorinfer.converters.evidence.sums import Sums, sums_of
from xnorinfer.converters.evidence.ternary import judge_ternary
from xnorinfer.converters.evidence.weightvalues import (
    Layer,
    are_bits,
    is_halved,
    is_ternary,
    judge_last,
    judge_weights,
    one_magnitude,
)
from xnorinfer.converters.finding import BETWEEN, WEIGHTS, Finding
from xnorinfer.converters.reading import INPUT, Assumption, ConvertOptions, Notes, Origin, Remark
from xnorinfer.graph import INPUT as INPUT_VALUE
from xnorinfer.net.network import Net
from xnorinfer.net.opnumbers import Problem
from xnorinfer.net.ops import Flatten, Linear, Norm, Pool, Steps


@dataclass(frozen=True)
class Evidence:
    """What a file shows.  problems refuse, warnings do not; sums: the layers with statistics, in order.

    borne_out: whether statistics bear the reading out: sums of the right size in every such layer.
    """

    problems: tuple[str, ...]
    warnings: tuple[Remark, ...]
    sums: tuple[Sums, ...]
    borne_out: bool

    @property
    def first(self) -> Sums | None:
        """The first layer, where it has statistics."""
        return next((sums for sums in self.sums if sums.first), None)

    def followers(self, net: Net) -> set[str]:
        """Names of the layers that statistics show to follow the layer before them."""
        return {sums.name for sums in self.sums if follows(sums, net)}


def judge(net: Net, options: ConvertOptions, *, stated: Collection[str] = (), lenient: bool = False) -> Evidence:
    """The evidence of a valid network (`Net.check`).

    stated: names of layers whose kind, and what stands around them, the file says itself, a graph for example; only their
    inputs are judged.  lenient: nothing is refused, as a net.toml says everything.
    """
    guessed = _guessed(net, stated)
    layers = tuple(sums for sums in sums_of(net) if sums.telling)
    findings = [*judge_weights(guessed, net.profile), *judge_last(guessed, set(_with_norm(net)))]
    unsaid = [sums for sums in layers if sums.name not in stated]
    about_sums = [*judge_sums(unsaid)]
    findings += about_sums
    if not any(finding.proof for finding in findings):
        findings += judge_ternary(unsaid)
    first = next((sums for sums in layers if sums.first), None)
    if first is not None and not any(finding.proof for finding in about_sums):
        others = any(op.binary and name != first.name for name, op in net.linears)
        findings += judge_first(first, net.input, may_be_float=others and first.name not in stated)
    problems = [finding for finding in findings if finding.proof and not lenient and not _answered(finding, options)]
    warnings = [finding for finding in findings if finding not in problems]
    judged = [sums for sums in layers if not untrained(sums)]
    return Evidence(
        tuple(finding.text for finding in problems),
        tuple(Remark(finding.text, finding.about) for finding in warnings),
        layers,
        bool(judged) and not any(finding.about != INPUT for finding in findings) and all(spread(sums) > 0.1 for sums in judged),
    )


def _guessed(net: Net, stated: Collection[str]) -> list[Layer]:
    """The binary layers of which no file says that they are."""
    return [Layer(name, op) for name, op in net.linears if op.binary and name not in stated]


def _answered(finding: Finding, options: ConvertOptions) -> bool:
    """Whether an option that decides it was given."""
    return any(getattr(options, name) not in (None, False) for name in finding.answers)


def weigh(
    net: Net,
    options: ConvertOptions,
    notes: Notes,
    stated: Collection[str] = (),
    *,
    input_warning: str | None = None,
    lenient: bool = False,
) -> list[str]:
    """Check a network, judge it, and note what is assumed about it, with what supports that.  Returns all problems.

    stated, lenient: as for `judge`.  input_warning: said where nothing says how inputs enter, with what statistics leave.
    """
    checked = net.check()
    if any(problem.kind != "zeros" for problem in checked):
        return list(checked)
    evidence = judge(net, options, stated=stated, lenient=lenient or options.answered)
    dense = _guessed(net, stated)
    problems = [*evidence.problems, *_about_zeros(checked, dense)]
    notes.warnings.extend(evidence.warnings)
    if input_warning is not None and not any(warning.about == INPUT for warning in evidence.warnings):
        notes.warnings.append(Remark(f"{input_warning}; {hint(evidence.first)}", INPUT))
    if not lenient and dense:
        _assume(net, dense, evidence, options, notes)
        normed = set(_with_norm(net))
        judge_order(net.linears, normed, lambda: evidence.followers(net), notes, warn=not options.answered)
    return problems


def _about_zeros(problems: Sequence[Problem], layers: Sequence[Layer]) -> Iterator[str]:
    """Without those about weights that are bits or ternary, of which no tie rule makes a network."""
    for problem in problems:
        layer = next((one for one in layers if one.name == problem.node), None)
        if layer is None or not (are_bits(layer.op.weight) or is_ternary(layer.op.weight)):
            halved = layer is not None and is_halved(layer.op.weight)
            yield problem + ("; its numbers are exact in 16 bits: convert the checkpoint of 32 bits" if halved else "")


def _assume(net: Net, dense: Sequence[Layer], evidence: Evidence, options: ConvertOptions, notes: Notes) -> None:
    """What every reading of tensors alone takes for granted."""
    measured = {sums.name for sums in evidence.sums} if evidence.borne_out else set()
    guessed = [layer for layer in dense if layer.name not in measured and not one_magnitude(layer.op.weight)]
    origin: Origin = "default" if guessed else "statistics" if measured else "file"
    names = ", ".join(layer.name for layer in dense)
    notes.assumptions.append(Assumption(WEIGHTS, f"{names}: the signs of their weights count", origin))
    between: Origin = "statistics" if any(not sums.last for sums in evidence.sums) and evidence.borne_out else "default"
    if len(dense) > 1:
        notes.assumptions.append(Assumption(BETWEEN, "BatchNorm alone; the next layer reads signs", between))
    # A small layer's statistics show nothing, but a layer without any could be anything.
    followed = set(_with_norm(net))
    unseen = [layer.name for layer in guessed if layer.name not in followed]
    if unseen and followed and not evidence.problems:
        text = (
            f"{', '.join(unseen)}: no BatchNorm follows, and nothing else in the file shows that only the signs of these "
            f"weights count; where they are ordinary numbers, --float-layer {unseen[-1]} says so"
        )
        notes.warnings.append(Remark(text, WEIGHTS))


def _with_norm(net: Net) -> Iterator[str]:
    """Names of the dense layers with a BatchNorm, or a chain that may be one, before the next sign or layer."""
    newest: dict[int, str | None] = {INPUT_VALUE: None}  # of each value the layer that it comes from, up to a sign
    for index, node in enumerate(net.nodes):
        (read, *others) = node.inputs
        layer = None if others else newest[read]
        if isinstance(node.op, Norm) or (isinstance(node.op, Steps) and node.op.may_be_norm):
            if layer is not None:
                yield layer
        elif not isinstance(node.op, Steps | Pool | Flatten):
            layer = node.name if isinstance(node.op, Linear) and node.op.binary else None
        newest[index] = layer

"""From layer parts to a `Reading`: the steps that every source shares.

A source finds the parts (weights, bias, BatchNorm, in order of execution) and says what is usual for it (`Defaults`); this
module applies the options, puts the signs between the layers, and says what was assumed and how much it matters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.evidence.weighing import weigh
from xnorinfer.converters.latents import SCALES, centred, magnitude
from xnorinfer.converters.networkparts import Becomes, Follower, LayerPart, Sign, Wired, in_line
from xnorinfer.converters.reading import (
    DEFAULT_INPUT,
    EPSILON,
    INPUT,
    MAGNITUDE,
    TIE_PROFILE,
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    Remark,
    function_named,
    glorot,
    net_line,
)
from xnorinfer.errors import NetworkError, OptionError
from xnorinfer.float32 import F32
from xnorinfer.graph import Node
from xnorinfer.net.network import Net
from xnorinfer.net.opnumbers import Kind, Problem
from xnorinfer.net.ops import Linear, Norm, NormForm, Op, Quantize, Steps
from xnorinfer.net.ties import PROFILES, Profile, Rule, binarize
from xnorinfer.net.values import InputMapping, PixelInput, Shape

#: The assumption that a file without any BatchNorm is of a network without any.
NO_NORM = "BatchNorm"

#: Latents that are looked at together.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Defaults:
    """What is usual for a source and used when neither the file nor an option says.

    epsilon_reason: where the default epsilon comes from.  epsilon_warning: set where training code of this kind is known to use
    other values, so that the default is a warning and not only an assumption.  input_origin, profile_origin,
    epsilon_origin: where the input and the profile here, and the epsilons of the parts come from.
    """

    profile: str
    form: NormForm
    epsilon: float
    epsilon_reason: str
    epsilon_warning: str | None = None
    input: InputMapping = DEFAULT_INPUT
    input_warning: str | None = None
    input_origin: Literal["file", "graph", "default"] = "default"
    profile_origin: Literal["file", "graph", "default"] = "default"
    epsilon_origin: Literal["file", "graph"] = "file"


def pixel_step(ones: NDArray[np.bool_]) -> int | None:
    """The first of the pixels 0..255 that becomes +1, where `ones` (256,) rises from -1 to +1 in one step; else None."""
    first = int(np.argmax(ones))
    return first if ones[first:].all() and not ones.all() else None


def rescaled_pixels(who: str, slope: float, intercept: float, divisor: float, problems: list[str]) -> PixelInput | None:
    """The mapping of pixels that a network rescales itself; None, with the problem, if one value or infinities are left."""
    if not slope:
        problems.append(f"{who} maps every pixel to one value, so that all inputs get the same scores")
        return None
    try:
        return PixelInput(slope, intercept, divisor)
    except OptionError:
        problems.append(f"{who} takes pixels out of the range of float32; --input-range says what pixels are before it")
        return None


def assemble(
    source: str,
    about: str,
    parts: Sequence[LayerPart],
    options: ConvertOptions,
    defaults: Defaults,
    notes: Notes,
    problems: list[str],
    leading: Sequence[Follower] | None = None,
    leading_rule: Rule | None = None,
    *,
    wired: Sequence[Wired] | None = None,
    described: bool = True,
    shape: Shape | None = None,
    channels_first: bool = False,
) -> Reading:
    """Build the network.  `problems` are those the source found; all are raised together, as NetworkError about `about`.
    leading: what stands before a sign of the inputs themselves (of the rule `leading_rule`, None: the profile's); None if they
    are not binarized one by one.  wired: of a graph, all that becomes nodes, the parts among them.  described: a net.toml could
    say more than the source does.  shape: of a sample, (height, width, channels) of images; None: as many values as the first
    layer, a dense one, reads.  channels_first: whether the source itself has images as (channels, height, width).

    Raises NetworkError and OptionError (a float layer that does not exist, a shape that nothing takes).
    """
    if options.input_shape is not None:
        raise OptionError(f"--input-shape says what goes into a graph, and {about} holds none, or says it itself")
    if options.output_name is not None:
        raise OptionError(f"--output-name chooses among the values that a graph gives, and {about} holds no graph")
    if options.sign_of_signs:
        raise OptionError(f"--sign-of-signs is about signs in a graph, and {about} holds none")
    parts = _as_options_say(_in_groups(choose_float_layers(parts, options, notes)), options, notes, problems)
    profile_name = options.profile or defaults.profile
    profile = PROFILES[profile_name]
    origin = "option" if options.profile else defaults.profile_origin
    notes.assumptions.append(Assumption(TIE_PROFILE, f"{profile_name} ({profile.meaning})", origin))
    guessed = options.profile is None and defaults.profile_origin == "default"
    if wired is None:
        wired = in_line(parts, leading, leading_rule, notes)
    else:
        chosen = iter(parts)
        wired = [replace(one, what=next(chosen)) if isinstance(one.what, LayerPart) else one for one in wired]
    nodes = tuple(Node(one.name, _op(one.what, options, defaults, profile), one.inputs) for one in wired)
    unplaced = tuple(part.name for part in parts if part.unplaced)
    if not unplaced:
        _judge_norms(parts, notes, problems)
    _remark_latents(parts, options, profile_name, guessed, notes)
    _assume_h(parts, options, notes)
    _assume_epsilon(wired, options, defaults, notes)
    mapping = options.input or defaults.input
    notes.assumptions.append(Assumption(INPUT, mapping.describe(), "option" if options.input else defaults.input_origin))
    if shape is None:  # the first layer reads all of it
        shape = next((tuple(part.weight.shape[1:]) for part in parts), ())
    net = Net(mapping, shape, nodes, profile_name)
    if unplaced:  # whether it is a network, nobody knows
        problems.append(_lines_for(parts))
    elif parts:
        stated = [part.name for part in parts if part.explicit]
        unsaid = defaults.input_warning if options.input is None else None
        found = weigh(net, options, notes, stated, input_warning=unsaid)
        problems.extend(_with_way_out(problem) if described else problem for problem in found)
    elif not problems:
        problems.append("it holds no dense layer and no convolution" + net_line('[[layers]] weight = "..."'))
    said = tuple(notes.tensors), tuple(notes.assumptions), tuple(notes.warnings)
    reading = Reading(source, net, *said, channels_first=channels_first, unplaced=unplaced)
    if problems:
        raise NetworkError(problems, about=about, understood=reading)
    return reading


def _in_groups(parts: Sequence[LayerPart]) -> list[LayerPart]:
    """With the groups of convolutions that are not placed, and read a part of the channels of the one before."""
    found = list(parts)
    for index, part in enumerate(parts[1:], start=1):
        given, read = parts[index - 1].neurons, part.channels
        if part.unplaced and read and given > read and not given % read and not part.neurons % (given // read):
            found[index] = replace(part, groups=given // read)
    return found


def _lines_for(parts: Sequence[LayerPart]) -> str:
    """What is wrong where nothing says how convolutions go over images: every line that is missing."""
    unplaced = [part for part in parts if part.unplaced]
    flat = all(part.window is not None and part.window.size[0] == 1 for part in unplaced)
    shape = f"[{'WIDTH' if flat else 'HEIGHT, WIDTH'}, {parts[0].channels}]"
    lines = [f"`shape = {shape}` in [input]"] if parts[0].unplaced else []
    names = ", ".join(part.name for part in unplaced)
    lines.append(f"`stride` and `padding` of {names}, and `pool` of those that one stands behind")
    lines += [
        f"`flatten` of {after.name}, which reads {after.depth} values: {after.depth // before.neurons} pixels of "
        f"{before.neurons} channels"
        for before, after in itertools.pairwise(parts)
        if before.unplaced and after.window is None and after.depth > before.neurons and not after.depth % before.neurons
    ]
    return (
        "its tensors do not say how its convolutions go over images, and nothing is guessed: a net.toml (--net) must say "
        f"{'; '.join(lines)}. --write-net drafts one with all that the file does say"
    )


#: What an option or a net.toml can do about problems of a kind that `Net.check` finds.
_WAYS_OUT: dict[Kind, str] = {
    "width": "the order of [[layers]] in a net.toml (--net) decides what follows what, `layout` which axis is which",
    "floats": "where its weights are binarized in use, `kind` in a net.toml (--net) says so",
    "length": "`norm`, `bias` and `scale` in a net.toml (--net) say which array is whose",
}


def _with_way_out(problem: str) -> str:
    way = _WAYS_OUT.get(problem.kind) if isinstance(problem, Problem) else None
    return problem if way is None else f"{problem}; {way}"


def choose_float_layers(parts: Sequence[LayerPart], options: ConvertOptions, notes: Notes) -> list[LayerPart]:
    """Mark the layers named by --float-layer.  Raises OptionError for names that are not there."""
    names = [part.name for part in parts]
    unknown = [name for name in options.float_layers if name not in names]
    if unknown:
        raise OptionError(
            f"--float-layer {', '.join(unknown)}: there is no such layer; the layers are {', '.join(names) or '(none)'}"
        )
    if options.float_layers:
        notes.assumptions.append(Assumption("float layers", ", ".join(options.float_layers), "option"))
    return [replace(part, is_float=True) if part.name in options.float_layers else part for part in parts]


def _as_options_say(parts: list[LayerPart], options: ConvertOptions, notes: Notes, problems: list[str]) -> list[LayerPart]:
    """The parts with what --center, --scale-by and --before-norm say about them, which a graph would say itself."""
    given = {"--center": options.center, "--scale-by": options.scale_by, "--before-norm": options.before_norm}
    said = ", ".join(name for name, value in given.items() if value)
    if not said:
        return parts
    binary = [part for part in parts if not part.is_float]
    spelled_out = next((part for part in binary if part.explicit), None)
    if spelled_out is not None:
        problems.append(
            f"{said}: what is computed between {spelled_out.name}'s weights and the next sign is in the file itself"
        )
        return parts
    scaled = next((part for part in binary if part.scale is not None), None)
    if options.scale_by is not None and scaled is not None:
        problems.append(f"--scale-by: the file holds a scale of {scaled.name} itself")
        return parts
    if options.center:
        notes.assumptions.append(Assumption("binary weights", "signs of the latents minus their neuron's mean", "option"))
    if options.scale_by is not None:
        notes.assumptions.append(Assumption("scale of the sums", SCALES[options.scale_by], "option"))
    if options.before_norm is not None:
        notes.assumptions.append(Assumption("between a hidden sum and BatchNorm", options.before_norm, "option"))
    changed = []
    for index, part in enumerate(parts):
        if part.is_float or part.weight.ndim < 2 or not part.weight.size:
            changed.append(part)
            continue
        weight = centred(part.weight) if options.center else part.weight
        scale = part.scale
        if options.scale_by is not None:
            scale = magnitude(weight, options.scale_by)
            if options.center and (beyond := int((np.abs(weight) > 1).sum())):
                what = f"{part.name}: {beyond} centred weights lie beyond -1..1, where XNOR-Net-PyTorch clips before the mean"
                notes.warnings.append(what + net_line("clip_weights = 1"))
        part = replace(part, weight=weight, scale=scale)
        if options.before_norm is not None and index + 1 < len(parts):
            function = (f"{part.name}.{options.before_norm.partition(':')[0]}", function_named(options.before_norm))
            part = replace(part, after=(function, *part.after))
        changed.append(part)
    return changed


def _may_be_norm(follower: Follower) -> bool:
    """A BatchNorm, or operations that one may be spelled out in."""
    _, op = follower
    return isinstance(op, Norm) or (isinstance(op, Steps) and op.may_be_norm)


def _judge_norms(parts: Sequence[LayerPart], notes: Notes, problems: list[str]) -> None:
    """Hidden binary layers without BatchNorm: taken as they are if no layer has one, else one is missing."""
    hidden = [part for part in parts[:-1] if not part.is_float and not part.explicit]
    lacking = [part for part in hidden if not any(map(_may_be_norm, part.after))]
    if not lacking:
        return
    if not any(_may_be_norm(follower) for part in parts for follower in part.after):
        sums = "sums and biases" if any(part.bias is not None for part in lacking) else "sums"
        notes.assumptions.append(Assumption(NO_NORM, f"none in the file: hidden bits are the signs of {sums}", "default"))
        notes.warnings.append(
            f"the file holds no BatchNorm: the hidden bits are taken to be the signs of the {sums} themselves. An ordinary "
            "network, whose weights are floats in use, looks alike"
            + net_line("norm = {...}", "threshold = {...}", "steps = [...]")
        )
        return
    for part in lacking:
        after = parts[parts.index(part) + 1].name
        problems.append(
            f"{part.name}: no BatchNorm between this hidden binary layer and {after}, while other layers have one"
            + net_line("norm = {...}", "threshold = {...}", 'activation = "sign"')
        )


def _op(what: Becomes, options: ConvertOptions, defaults: Defaults, profile: Profile) -> Op:
    """With what the options, or else the file, or else its framework says of a layer, a sign or a BatchNorm."""
    if isinstance(what, LayerPart):
        placed = what.window, what.groups, what.pad
        if what.is_float:
            return Linear(what.weight, None, 1.0, what.bias, None, *placed)
        return Linear(what.weight, what.rule or profile.weights, _magnitude(what, options), what.bias, what.scale, *placed)
    if isinstance(what, Sign):
        return Quantize(what.rule or profile.activations)
    if not isinstance(what, Norm):
        return what
    if what.inv_std is not None:
        return replace(what, epsilon=None, form="lasagne")
    epsilon = options.bn_epsilon
    if epsilon is None:
        epsilon = defaults.epsilon if what.epsilon is None else what.epsilon
    form = what.form if what.form == "tf-fused" else defaults.form  # which a graph says of single ones
    return replace(what, epsilon=float(epsilon), form=form)


def _magnitude(part: LayerPart, options: ConvertOptions) -> float:
    if options.h == "glorot":
        return glorot(*part.fans)
    if options.h is None:
        return 1.0 if part.h is None else part.h
    return float(np.float32(options.h))


def _assume_h(parts: Sequence[LayerPart], options: ConvertOptions, notes: Notes) -> None:
    if options.h == "glorot":
        values = ", ".join(f"{part.name} {glorot(*part.fans):.6g}" for part in parts if not part.is_float)
        notes.assumptions.append(Assumption(MAGNITUDE, f"glorot: {values}", "option"))
    elif options.h is None and any(part.h is not None for part in parts):
        values = ", ".join(f"{part.name} {part.h or 1.0:.6g}" for part in parts if not part.is_float)
        notes.assumptions.append(Assumption(MAGNITUDE, values, "file"))
    else:
        value = f"{1.0 if options.h is None else options.h:g}"
        notes.assumptions.append(Assumption(MAGNITUDE, value, "default" if options.h is None else "option"))


def _assume_epsilon(wired: Sequence[Wired], options: ConvertOptions, defaults: Defaults, notes: Notes) -> None:
    first = next((index for index, one in enumerate(wired) if isinstance(one.what, LayerPart)), 0)
    norms = [one.what for one in wired[first:] if isinstance(one.what, Norm)]
    with_variance = [norm for norm in norms if norm.inv_std is None]
    if not with_variance:
        if options.bn_epsilon is not None and norms:
            notes.warnings.append("--bn-epsilon has no effect: inv_std already contains the epsilon")
        return
    if options.bn_epsilon is not None:
        notes.assumptions.append(Assumption(EPSILON, f"{options.bn_epsilon:g}", "option"))
        return
    known = sorted({norm.epsilon for norm in with_variance if norm.epsilon is not None})
    if known:
        notes.assumptions.append(Assumption(EPSILON, ", ".join(f"{e:g}" for e in known), defaults.epsilon_origin))
    if any(norm.epsilon is None for norm in with_variance):
        value = f"{defaults.epsilon:g} ({defaults.epsilon_reason})"
        notes.assumptions.append(Assumption(EPSILON, value, "default"))
        if defaults.epsilon_warning:
            notes.warnings.append(Remark(f"{defaults.epsilon_warning}{_epsilon_weight(with_variance)}", EPSILON))


def _epsilon_weight(norms: Sequence[Norm]) -> str:
    """How much an epsilon can matter: the smallest variance, beside which it is added."""
    variances = [norm.variance for norm in norms if norm.variance is not None]
    smallest = min((float(variance.min()) for variance in variances if variance.size), default=0.0)
    return f"; the smallest variance it is added to is {smallest:.3g}"


def _on_ties(latent: F32, h: float) -> F32:
    """Latents on or beside the tie, divided by H: where 1 + latent/H rounds to 1 in float32.

    There the rules of different frameworks disagree, beyond it they all agree.  In pieces, which take little memory.
    """
    found = []
    flat = latent.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        x = flat[start : start + _PIECE] / np.float32(h)
        found.append(x[(x + np.float32(1)) == 1])
    return np.concatenate(found) if found else flat


def _tie_signs(x: F32, rule: Rule) -> dict[str, int]:
    """The signs that values on or beside the tie get: {"+1": n, "-1": n, "0": n}."""
    signs = binarize(x, rule)
    return {"+1": int((signs > 0).sum()), "-1": int((signs < 0).sum()), "0": int((signs == 0).sum())}


def _remark_latents(parts: Sequence[LayerPart], options: ConvertOptions, profile: str, is_default: bool, notes: Notes) -> None:
    """Warn where signs of latents hang on the profile that nobody chose, and where latents that are clipped contradict H."""
    known = [
        (part, h)
        for part in parts
        if not part.is_float and np.isfinite(part.weight).all() and (h := _magnitude(part, options)) > 0
    ]
    if is_default:
        _remark_ties(known, profile, notes)
    # A source that says H itself may leave latents where they are: Larq does not clip unless told to.
    clipped = not (options.center or options.scale_by)
    beyond = [(part, h) for part, h in known if clipped and part.h != h and _largest(part.weight) > np.float32(h)]
    if beyond:
        count = sum(int((p.weight > np.float32(h)).sum()) + int((p.weight < -np.float32(h)).sum()) for p, h in beyond)
        largest = max(_largest(part.weight) for part, _ in beyond)
        magnitudes = ", ".join(dict.fromkeys(f"{h:g}" for _, h in beyond))
        notes.warnings.append(
            f"{_names(beyond)}: {count} latents are larger than H = {magnitudes} (up to {largest:g}); training that clips to "
            "-H..H leaves none, so check --h"
        )


def _largest(weight: F32) -> float:
    return max(float(weight.max()), -float(weight.min())) if weight.size else 0.0


def _remark_ties(known: Sequence[tuple[LayerPart, float]], profile: str, notes: Notes) -> None:
    """One warning for all layers: latents on the tie, and what each profile makes of them."""
    on_ties = [(part, h, x) for part, h in known if (x := _on_ties(part.weight, h)).size]
    if not on_ties:
        return
    tied = [(part, h) for part, h, _ in on_ties]
    values = np.concatenate([x for *_, x in on_ties])
    mine = _tie_signs(values, PROFILES[profile].weights)
    others: dict[str, list[str]] = {}
    for name, other in PROFILES.items():
        theirs = _tie_signs(values, other.weights)
        if theirs != mine and not theirs["0"]:
            others.setdefault(_list_signs(theirs), []).append(name)
    elsewhere = "; ".join(f"{what} under {', '.join(names)}" for what, names in others.items())
    notes.warnings.append(
        f"{_names(tied)}: {values.size} of {sum(part.weight.size for part, _ in tied)} latents lie on the tie and become "
        f"{_list_signs(mine)} under {profile}" + (f" (but {elsewhere}); --profile decides" if elsewhere else "")
    )


def _names(layers: Sequence[tuple[LayerPart, float]]) -> str:
    return ", ".join(part.name for part, _ in layers)


def _list_signs(counts: dict[str, int]) -> str:
    return " and ".join(f"{n} x {sign}" for sign, n in counts.items() if n) or "nothing"

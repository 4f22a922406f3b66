"""Which of several state dicts in a checkpoint is the network, and which are moving averages of its weights.

Averages are found by the names that training code gives them, and only where they are averages of something: each has the name
and the shape of a tensor beside it.

    two dicts            model / ema, model / model_ema, state_dict / state_dict_ema (timm), average_model_state (Lightning)
    names in one dict    model_ema.fc1weight (LitEma, without dots), ema_fc1_weight (mmcv, with underscores),
                         net_ema.module.fc1.weight, ema_model.fc1.weight
    the whole dict       module.fc1.weight and n_averaged: torch.optim.swa_utils.AveragedModel itself

sign(average) is not the average of signs, so the raw weights are used unless `--ema` says otherwise.  Two tools write the
averages under the name of the weights when they save (mmengine and mmcv swap them, Lightning's WeightAveraging keeps the
weights as `current_model_state`): there the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from xnorinfer.converters.containers.checkpointtree import Contents, Leaf, StateDict
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, TensorUse
from xnorinfer.errors import OptionError, SourceError

#: What the assumption about averages is called; `--ema` asks for it.
AVERAGES = "moving averages"
_WORDS = {"ema", "swa", "average", "averages", "averaged", "averaging", "shadow", "polyak", "avg"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Numbers that averaging code keeps beside the averages.
_BOOKKEEPING = {"decay", "num_updates", "n_averaged", "initted", "step", "steps", "updates"}
#: Prefixes within the averages that the weights do not have.
_INNER = ("module.", "ema_model.", "model.")
_IGNORED = "a moving average; --ema would use it"


def is_average(name: str) -> bool:
    """Whether a part of a name says "moving average"."""
    return any(word.lower() in _WORDS for word in _WORD.findall(name))


def choose_state(contents: Contents, options: ConvertOptions, notes: Notes, about: str) -> StateDict:
    """The state dict that is the network; everything else is noted as ignored.

    Raises SourceError where it is not clear which one it is, OptionError for a `state` that is not there.
    """
    states = contents.states
    if options.state is not None:
        chosen = next((state for state in states if options.state in (state.key, state.where)), None)
        if chosen is None:
            raise OptionError(f"--state {options.state}: {about} holds no such state dict; there are {_listed(states)}")
        notes.assumptions.append(Assumption("state dict", chosen.key, "option"))
    else:
        chosen = _chosen(states, options, notes, about)
        if chosen.where:
            notes.assumptions.append(Assumption("state dict", chosen.key, "option" if options.ema else "file"))
    for state in states:
        if state is not chosen:
            reason = _IGNORED if _averaged(state) and not options.ema else "of another state dict; --state would use it"
            _ignore(notes, state.where, state.tensors, reason)
    for name, leaf, reason in contents.others:
        _ignore(notes, "", {name: leaf}, reason)
    return chosen


def _ignore(notes: Notes, where: str, tensors: Mapping[str, Leaf], reason: str) -> None:
    for name, leaf in tensors.items():
        notes.tensors.append(TensorUse(where + name, leaf.shape, leaf.dtype, reason, ignored=True))


def _averaged(state: StateDict) -> bool:
    return any(is_average(part) for part in state.where.split("."))


def _listed(states: Sequence[StateDict]) -> str:
    named = [f"{state.key}{' (the top level)' if state.key == '.' else ''}" for state in states]
    return ", ".join(f"{name} ({len(state.tensors)} tensors)" for name, state in zip(named, states, strict=True))


def _chosen(states: Sequence[StateDict], options: ConvertOptions, notes: Notes, about: str) -> StateDict:
    _require_no_swap(states, options, about)
    modules = [state for state in states if _of_modules(state)]
    states = modules or states
    averages = [state for state in states if _averaged(state)]
    raw = [state for state in states if not _averaged(state)]
    swapped = _swapped(states)
    if swapped is not None and options.ema:
        averages, raw = [swapped[1]], [swapped[0]]
    if options.ema and len(averages) == 1:
        notes.assumptions.append(Assumption(AVERAGES, f"used: {averages[0].key}", "option"))
        return _completed(averages[0], raw, notes)
    wanted = averages if options.ema and averages else raw or averages
    if len(wanted) != 1:
        raise SourceError(
            f"{about} holds {len(wanted)} state dicts{' of moving averages' if wanted is averages else ''}: {_listed(wanted)}; "
            f"--state KEY says which one is the network, as in --state {wanted[0].key}"
        )
    if averages and wanted is raw:
        notes.assumptions.append(Assumption(AVERAGES, "not used", "default"))
        notes.warnings.append(
            f"the checkpoint also holds moving averages of the weights ({', '.join(state.key for state in averages)}); the raw "
            f"ones are used ({wanted[0].key}). For scripts that evaluate with the averages, give --ema"
        )
    elif averages and not options.ema:
        notes.assumptions.append(Assumption(AVERAGES, f"{wanted[0].key} is the only state dict", "file"))
    return wanted[0]


def _of_modules(state: StateDict) -> bool:
    """Whether its names are those of modules, and not of arrays that a training script noted (a confusion matrix)."""
    return any(name.rpartition(".")[2].startswith(("weight", "running_")) for name in state.tensors)


def _swapped(states: Sequence[StateDict]) -> tuple[StateDict, StateDict] | None:
    """(the weights, their averages), where a tool keeps the averages under the name of the weights."""
    by_key = {state.key: state for state in states}
    for key, state in by_key.items():
        above, _, last = key.rpartition(".")
        usual = by_key.get(f"{above}.state_dict" if above else "state_dict")
        if usual is None:
            continue
        if last == "current_model_state" or (last == "ema_state_dict" and "steps" in state.tensors):
            return state, usual
    return None


def _require_no_swap(states: Sequence[StateDict], options: ConvertOptions, about: str) -> None:
    swapped = None if options.ema else _swapped(states)
    if swapped is not None:
        weights, averages = swapped
        raise SourceError(
            f"{about}: whoever wrote it (mmengine's EMAHook, Lightning's WeightAveraging) keeps the moving averages as "
            f"{averages.key} and the weights of the last step as {weights.key}: give --ema for the averages, which these tools "
            f"evaluate, or --state {weights.key}"
        )


def _completed(average: StateDict, raw: Sequence[StateDict], notes: Notes) -> StateDict:
    """Averages of parameters alone take what is no parameter (BatchNorm's statistics) from the weights beside them."""
    if len(raw) != 1:
        return average
    names = {_plain(name) for name in average.tensors}
    missing = {n: leaf for n, leaf in raw[0].tensors.items() if _plain(n) not in names and _plain(n) not in _BOOKKEEPING}
    shared = names & {_plain(name) for name in raw[0].tensors}
    if not missing or not shared:
        return average
    lead = "module." if all(name.startswith("module.") or name in _BOOKKEEPING for name in average.tensors) else ""
    tensors = dict(average.tensors)
    order = {_plain(name): name for name in average.tensors}
    full: dict[str, Leaf] = {}
    for name, leaf in raw[0].tensors.items():
        if _plain(name) in _BOOKKEEPING:
            continue
        own = order.get(_plain(name))
        full[own if own is not None else lead + _plain(name)] = leaf if own is None else tensors.pop(own)
    notes.assumptions.append(
        Assumption("tensors without a moving average", f"{', '.join(missing)}: those of {raw[0].key}", "file")
    )
    return replace(average, tensors=full | tensors, facts=None)


def _plain(name: str) -> str:
    return name.removeprefix("module.").removeprefix("_orig_mod.")


# ---------------------------------------------------------------- averages in the same dict


def split_averages(state: StateDict, options: ConvertOptions, notes: Notes) -> StateDict:
    """A state dict without the moving averages that stand in it under names of their own, or with their numbers (`--ema`)."""
    groups: dict[tuple[str, bool], dict[str, str]] = {}
    for name in state.tensors:
        parts = name.split(".")
        place = next((index for index, part in enumerate(parts) if is_average(part)), None)
        if place is None:
            continue
        if place + 1 < len(parts):
            groups.setdefault((".".join(parts[: place + 1]), False), {})[".".join(parts[place + 1 :])] = name
        elif parts[place].startswith("ema_"):
            groups.setdefault((".".join([*parts[:place], "ema_"]), True), {})[parts[place].removeprefix("ema_")] = name
    inside = {name for group in groups.values() for name in group.values()}
    raw = {name: leaf for name, leaf in state.tensors.items() if name not in inside}
    found: dict[str, str] = {}
    kept: list[str] = []
    for (label, _), group in groups.items():
        matched = _matched(state.tensors, raw, group)
        if matched is None:
            return state
        found |= matched
        kept += [name for rest, name in group.items() if rest in _BOOKKEEPING]
        value = f"{'used' if options.ema else 'not used'}, {label}: {len(matched)} tensors"
        notes.assumptions.append(Assumption(AVERAGES, value, "option" if options.ema else "default"))
    if not found:
        return _averaged_model(state, notes)
    if not options.ema:
        notes.warnings.append(
            f"the checkpoint also holds moving averages of {len(found)} tensors ({next(iter(found.values()))}, ...); the raw "
            "ones are used. For scripts that evaluate with the averages, give --ema"
            + (" (mmcv swaps the two when it saves)" if any(underscored for _, underscored in groups) else "")
        )
        _ignore(notes, state.where, {name: state.tensors[name] for name in found.values()}, _IGNORED)
    else:
        for name, average in found.items():
            leaf = raw[name] = state.tensors[average]
            use = f"moving average, used in the place of {state.where}{name}"
            notes.tensors.append(TensorUse(state.where + average, leaf.shape, leaf.dtype, use))
    reason = "counts for the moving averages, no part of inference"
    _ignore(notes, state.where, {name: state.tensors[name] for name in kept}, reason)
    return replace(state, tensors=raw)


def _matched(tensors: Mapping[str, Leaf], raw: Mapping[str, Leaf], group: Mapping[str, str]) -> dict[str, str] | None:
    """Raw name -> name of its average, where every average of a group belongs to one tensor of its shape; else None."""
    wanted = {rest: name for rest, name in group.items() if rest not in _BOOKKEEPING or len(tensors[name].shape) > 0}
    if not wanted:
        return None
    for depth in range(3):
        for spelled in (str, lambda name: name.replace(".", ""), lambda name: name.replace(".", "_")):
            for lead in ("", *_INNER):
                known = {lead + spelled(".".join(name.split(".")[depth:])): name for name in raw if name.count(".") >= depth}
                if all(rest in known and raw[known[rest]].shape == tensors[name].shape for rest, name in wanted.items()):
                    return {known[rest]: name for rest, name in wanted.items()}
    return None


def _averaged_model(state: StateDict, notes: Notes) -> StateDict:
    """A state dict of an AveragedModel: nothing but averages."""
    counters = {name: leaf for name, leaf in state.tensors.items() if name in _BOOKKEEPING and len(leaf.shape) <= 1}
    rest = {name: leaf for name, leaf in state.tensors.items() if name not in counters}
    if not counters or not all(name.startswith("module.") for name in rest):
        return state
    _ignore(notes, state.where, counters, "counts averaged models, no part of inference")
    if "n_averaged" in counters:
        notes.assumptions.append(Assumption(AVERAGES, "all weights are those of an AveragedModel", "file"))
    return replace(state, tensors=rest)

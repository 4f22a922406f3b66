"""What a checkpoint holds beside and around its weights: the tree of dicts, lists and objects, and the state dicts in it.

A state dict is a dict of named tensors with a matrix among them, wherever it stands, or a module that was saved whole.  Walking
is iterative and visits each object once; names are joined only where a tensor has them, and charged to the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import Entry, RawTensor
from xnorinfer.converters.containers.pickled import Global, Key, Thing
from xnorinfer.converters.containers.pickledarrays import PickledArray
from xnorinfer.converters.containers.torchpickle import PickledTensor
from xnorinfer.errors import SourceError

#: Deep enough for any training dict and any module; a pickle can nest without end.
MAX_NESTING = 200
#: Functions that run what they are given, in Python's own modules; loading such a file in Python would call them.
_RUNS = (
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "runpy",
    "shutil",
    "socket",
    "pty",
    "commands",
    "importlib",
    "ctypes",
    "code",
)
_BUILTINS = ("eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "breakpoint", "input")

Leaf = PickledTensor | PickledArray | RawTensor


@dataclass(eq=False)
class ModuleFacts:
    """A module that was saved whole: its class and its plain attributes (`eps`, `min_val`, `training`, ...)."""

    kind: str
    attributes: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.kind.rpartition(".")[2]


@dataclass(eq=False)
class StateDict:
    """Named tensors with a matrix among them.

    where: its place in the checkpoint, as a prefix of its names ("" or "model.").  kept: names of all modules, as `state_dict`
    keeps them beside the tensors.  facts: the modules by path, where a module was saved whole.
    """

    where: str
    tensors: dict[str, Leaf]
    kept: tuple[str, ...] = ()
    facts: dict[str, ModuleFacts] | None = None

    @property
    def key(self) -> str:
        """How `--state` names it: "." for the top level."""
        return self.where.rstrip(".") or "."


@dataclass
class Contents:
    """A checkpoint: its state dicts, the tensors outside of them with the reason to leave each out, and the objects."""

    states: list[StateDict] = field(default_factory=list)
    others: list[tuple[str, Leaf, str]] = field(default_factory=list)
    objects: list[tuple[str, str]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


def is_leaf(value: Any) -> bool:
    """A tensor, or an array of numbers."""
    return isinstance(value, PickledTensor | RawTensor) or (isinstance(value, PickledArray) and value.elements is None)


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dict, or an object of a class made from dict."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Thing) and (value.table or value.kind in _DICTS):
        return value.table
    return None


_DICTS = ("collections.OrderedDict", "collections.defaultdict")
_SETTINGS = ("argparse.Namespace", "types.SimpleNamespace")


def is_module(value: Any) -> bool:
    """A torch.nn.Module that was saved whole."""
    if not isinstance(value, Thing):
        return False
    return all(as_mapping(value.attributes.get(name)) is not None for name in ("_parameters", "_buffers", "_modules"))


# ---------------------------------------------------------------- whole modules


def module_state(root: Thing) -> tuple[dict[str, Leaf], dict[str, ModuleFacts]]:
    """The state dict of a module that was saved whole, as `Module.state_dict` orders it, and its modules by path.

    Raises SourceError for modules that hold each other.
    """
    tensors: dict[str, Leaf] = {}
    facts: dict[str, ModuleFacts] = {}
    stack: list[tuple[str, Thing, int]] = [("", root, 0)]
    while stack:
        path, module, depth = stack.pop()
        budget.spend_steps(1, "walking its modules")
        budget.spend_bytes(len(path), "names of its modules")
        if depth > MAX_NESTING:
            raise SourceError("its modules hold each other, or are nested too deeply")
        facts[path] = ModuleFacts(module.kind, module.attributes)
        prefix = f"{path}." if path else ""
        hidden = module.attributes.get("_non_persistent_buffers_set")
        hidden = [name for name in hidden.elements if isinstance(name, str)] if isinstance(hidden, Thing) else []
        for group in ("_parameters", "_buffers"):
            for name, value in (as_mapping(module.attributes.get(group)) or {}).items():
                if not is_leaf(value) or not isinstance(name, str) or (group == "_buffers" and name in hidden):
                    continue
                tensors[prefix + name] = value
                for extra, hung in value.attributes.items() if isinstance(value, PickledTensor) else ():
                    if is_leaf(hung):
                        tensors[f"{prefix}{name}.{extra}"] = hung
        inner = as_mapping(module.attributes.get("_modules")) or {}
        children = [(f"{prefix}{name}", one) for name, one in inner.items() if is_module(one) and isinstance(name, str)]
        stack.extend((name, one, depth + 1) for name, one in reversed(children))
    return tensors, facts


# ---------------------------------------------------------------- the walk


@dataclass(eq=False)
class _Place:
    """Where something stands: a key behind another place."""

    above: _Place | None
    key: str
    depth: int

    def text(self) -> str:
        keys = []
        place: _Place | None = self
        while place is not None and place.above is not None:
            keys.append(place.key)
            place = place.above
        budget.spend_bytes(sum(map(len, keys)) + len(keys), "names in it")
        return ".".join(reversed(keys))

    def prefix(self) -> str:
        text = self.text()
        return f"{text}." if text else ""


def walk(root: Any) -> Contents:
    """Everything that a checkpoint holds.  Raises SourceError where it is nested without end."""
    found = Contents()
    top = _Place(None, "", 0)
    stack: list[tuple[_Place, Any, str]] = [(top, root, "")]
    seen: set[int] = set()
    runs: dict[str, None] = {}
    while stack:
        place, value, reason = stack.pop()
        budget.spend_steps(1, "walking it")
        if is_leaf(value):
            if id(value) not in seen:
                found.others.append((place.text() or "tensor", value, reason or NOWHERE))
            continue
        if not isinstance(value, dict | list | tuple | Thing | PickledArray) or id(value) in seen:
            continue
        if isinstance(value, Thing) and id(value.attributes) in seen and is_module(value):
            continue  # registered in a module that was noted
        seen.add(id(value))
        if place.depth > MAX_NESTING:
            raise SourceError(f"it is nested more than {MAX_NESTING} levels deep, at {place.text()[:100]}")
        if isinstance(value, Thing):
            reason = _remark(value, place, reason, found, runs)
        if isinstance(value, Thing) and is_module(value):
            stack.extend(_module(value, place, reason, found, seen))
            continue
        mapping = as_mapping(value)
        if mapping is None and isinstance(value, Thing):
            mapping = value.attributes  # a class of someone's own, with matrices as attributes
        if mapping is not None and "param_groups" in mapping and "state" in mapping:
            reason = "optimizer state, no part of inference"
        if mapping is not None and not reason and _is_state(mapping):
            tensors = {key: one for key, one in mapping.items() if is_leaf(one)}
            odd = [key for key in tensors if not isinstance(key, str)]  # None may be among them
            if odd:
                kind = type(odd[0].value if isinstance(odd[0], Key) else odd[0]).__name__
                raise SourceError(f"it holds a state dict with a tensor whose name is no text but {kind}")
            found.states.append(StateDict(place.prefix(), tensors, _kept(value)))
            seen.update(id(one) for one in tensors.values())
        children = list(_children(value))
        stack.extend((_Place(place, _key(key), place.depth + 1), inner, reason) for key, inner in reversed(children))
    found.runs = list(runs)
    return _joined(found)


def _module(module: Thing, place: _Place, reason: str, found: Contents, seen: set[int]) -> list[tuple[_Place, Any, str]]:
    """Note a module that was saved whole.  Gives what else hangs on it and the modules in it: no parameter and no buffer."""
    tensors, facts = module_state(module)
    if any(len(one.shape) >= 2 for one in tensors.values()) and not reason:
        found.states.append(StateDict(place.prefix(), tensors, tuple(facts), facts))
    else:
        reason = reason or f"of {module.kind}, no layer with weights"
        found.others += [(place.prefix() + name, one, reason) for name, one in tensors.items()]
    seen.update(id(one) for one in tensors.values())
    seen.update(id(fact.attributes) for fact in facts.values())
    rest = []
    for path, fact in facts.items():
        above = _Place(place, path, place.depth + 1) if path else place
        why = f"an attribute of {fact.name}, no parameter and no buffer"
        for name, value in fact.attributes.items():
            if name not in _REGISTERED and isinstance(value, dict | list | tuple | Thing | PickledTensor | PickledArray):
                rest.append((_Place(above, _key(name), above.depth + 1), value, reason or why))
    return rest


#: Attributes of a module whose content is its state dict.
_REGISTERED = ("_parameters", "_buffers", "_modules")


def _is_state(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and is_leaf(value) and len(value.shape) >= 2 for key, value in mapping.items())


def _kept(value: Any) -> tuple[str, ...]:
    """`Module.state_dict` keeps the version of every module, by name."""
    kept = as_mapping(value.attributes.get("_metadata")) if isinstance(value, Thing) else None
    return tuple(name for name in kept or {} if isinstance(name, str))


def _key(key: Any) -> str:
    if isinstance(key, Key):
        return str(key.value)[:50] if isinstance(key.value, int | float | str | bytes) else f"({type(key.value).__name__})"
    return str(key)


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, PickledArray):
        if value.shape == () and value.elements and len(value.elements) == 1:
            yield "", value.elements[0]
        else:
            yield from enumerate(value.elements or ())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        yield from (as_mapping(value) or {}).items()
    if isinstance(value, Thing):
        yield from (item for item in value.attributes.items() if item[0] != "_metadata")
        yield from enumerate(value.elements)
        if value.kind not in _DICTS:
            yield from ((f"argument {index}", one) for index, one in enumerate(value.arguments))
        if not isinstance(value.state, dict):
            yield "state", value.state


def _remark(thing: Thing, place: _Place, reason: str, found: Contents, runs: dict[str, None]) -> str:
    """Note an object that is none of the usual containers; gives the reason to leave out the tensors in it."""
    module, _, name = thing.kind.rpartition(".")
    if module.partition(".")[0] in _RUNS or (module in ("builtins", "__builtin__", "io", "_io") and name in _BUILTINS):
        runs[thing.kind[:100]] = None
    if thing.kind in _DICTS:
        return reason
    if not is_module(thing) and len(found.objects) < MAX_OBJECTS:
        found.objects.append((place.text()[:200], thing.kind[:200]))
    if thing.kind.startswith("torch.optim."):
        return "optimizer state, no part of inference"
    return reason


NOWHERE = "stands in no state dict"
#: Objects that are listed by name.
MAX_OBJECTS = 1000


def _joined(found: Contents) -> Contents:
    """Dicts that hold one layer each, side by side, are one state dict: {"fc1": {"weight": ..., "bias": ...}, ...}."""
    parents: dict[str, list[StateDict]] = {}
    for state in found.states:
        parents.setdefault(_above(state.where.rstrip(".")), []).append(state)
    layers = {where: states for where, states in parents.items() if len(states) > 1 and all(map(_is_layer, states))}
    tensors: dict[str, dict[str, Leaf]] = {
        where: {state.where[len(where) :] + name: one for state in states for name, one in state.tensors.items()}
        for where, states in layers.items()
    }
    others = []
    for name, one, reason in found.others:
        inside, dot, _ = name.rpartition(".")
        where = _above(inside)
        if reason == NOWHERE and dot and where in tensors:  # of a layer without a matrix, such as a BatchNorm
            tensors[where][name[len(where) :]] = one
        else:
            others.append((name, one, reason))
    found.others = others
    joined = {id(state) for states in layers.values() for state in states}
    found.states = [state for state in found.states if id(state) not in joined]
    found.states += [StateDict(where, held) for where, held in tensors.items()]
    return found


def _above(where: str) -> str:
    """The prefix of the names beside this one."""
    above, dot, _ = where.rpartition(".")
    return above + dot


def _is_layer(state: StateDict) -> bool:
    """Whether a state dict may be one layer of several."""
    matrices = sum(len(one.shape) >= 2 for one in state.tensors.values())
    return state.facts is None and state.where != "" and matrices == 1 and not any("." in name for name in state.tensors)


def tensors_of(root: Any, prefix: str = "") -> Iterator[Entry]:
    """Every tensor of a checkpoint under its dotted name, as a net.toml names them; modules as their state dicts."""

    def entry(name: str, leaf: Leaf) -> Entry:
        return Entry(prefix + name, leaf.dtype, leaf.shape, lambda: leaf.tensor(prefix + name).array)

    found = walk(root)
    for state in found.states:
        yield from (entry(state.where + name, leaf) for name, leaf in state.tensors.items())
    yield from (entry(name, leaf) for name, leaf, _ in found.others)


def describe(root: Any) -> str:
    """What the outermost object is, for messages."""
    if isinstance(root, Thing | Global):
        return (root.kind if isinstance(root, Thing) else root.name)[:200]
    if isinstance(root, PickledTensor):
        return "Tensor"
    return "ndarray" if isinstance(root, PickledArray) else type(root).__name__

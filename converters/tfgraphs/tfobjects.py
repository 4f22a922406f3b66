"""TensorFlow 2's object-based checkpoints: variables by the attributes that lead to them, and the graph of the objects.

    layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE      the n-th layer with weights of a Keras model
    fc1/kernel/.ATTRIBUTES/VARIABLE_VALUE                       a subclassed model's, by its attributes
    _CHECKPOINTABLE_OBJECT_GRAPH                                which name each variable had (full_name)

tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.arrays import Entry, natural_key
from xnorinfer.converters.containers.protowire import Message, WireError
from xnorinfer.converters.kerasmodels.kerasweights import NORM_ROLES, Weights, role_of
from xnorinfer.errors import SourceError

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_NUMBERED = re.compile(r"(^|/)layer_with_weights-(\d+)(/|$)")
_APART = re.compile(r"(^|/)(optimizer|_?optimizers?|keras_api|save_counter|global_step|metrics?|_?compile_metrics)(/|$)")
_ROLES = ("kernel", "bias", *NORM_ROLES)


def is_object_based(names: Mapping[str, Entry]) -> bool:
    """Whether variables are called by objects."""
    return any(name.endswith(ENDING) for name in names)


def full_names(message: bytes) -> dict[str, str]:
    """Full name of a variable, as a graph calls it -> its key in the checkpoint.  Raises SourceError."""
    found: dict[str, str] = {}
    try:
        for node in Message(memoryview(message)).messages(1):
            for attribute in node.messages(2):
                spend_steps(what="reading its objects")
                if 2 in attribute and 3 in attribute:
                    found.setdefault(attribute.text(2), attribute.text(3))
    except WireError as error:
        raise SourceError(f"the checkpoint is damaged: its object graph {error}") from None
    return found


class ObjectWeights(Weights):
    """The weights of a Keras model in an object-based checkpoint, as `variables` reads them."""

    def __init__(self, entries: Mapping[str, Entry], names: Mapping[str, str]) -> None:
        super().__init__()
        self._labels = {key: name.rpartition("/")[0] for name, key in names.items()}
        self.apart: dict[str, str] = {}
        for name, entry in sorted(entries.items(), key=lambda item: natural_key(item[0])):
            if _SLOT in name or _APART.search(name):
                self.apart[name] = "state of the training"
            elif not name.endswith(ENDING):
                self.apart[name] = "no variable" if name == OBJECT_GRAPH else "no variable of an object"
            else:
                path = name.removesuffix(ENDING)
                scope, _, leaf = path.rpartition("/")
                leaf = role_of(leaf)
                if leaf not in _ROLES and len(entry.shape) == 2:  # a matrix without a layer around it
                    self._scopes[path] = {"kernel": entry}
                else:
                    self._scopes.setdefault(scope, {})[leaf if leaf in _ROLES else name] = entry

    def scopes(self) -> dict[str, dict[str, Entry]]:
        return dict(sorted(self._scopes.items(), key=lambda item: natural_key(item[0])))

    def ordered(self) -> bool:
        """Keras counts the layers of Sequential and functional models; functional ones in the order of their depth."""
        return bool(self._scopes) and all(_NUMBERED.search(scope) for scope in self._scopes)

    def label(self, scope: str) -> str:
        entry = next(iter(self._scopes.get(scope, {}).values()), None)
        return (self._labels.get(entry.name) if entry is not None else None) or scope

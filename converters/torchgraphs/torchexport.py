"""Archives of `torch.export.save` (`.pt2`), read without torch and without running anything.

Such an archive is a zip: `models/NAME.json` holds the graph of ATen operations (torch._export.serde.schema), and
`data/weights/NAME_weights_config.json` says in which files beside it the tensors are, as plain bytes.  Its graph is walked, so
that order, signs, ties and epsilons are those of the exported program.  Archives from before torch 2.8 hold pickles instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.arrays import STORED, RawTensor, numbered_types
from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.containers.torchpickle import strided
from xnorinfer.converters.containers.ziparchive import Archive, open_archive
from xnorinfer.converters.torchgraphs.torchmaps import counted, size_of
from xnorinfer.converters.torchgraphs.torchops import Recorder
from xnorinfer.converters.torchgraphs.torchvalues import Parts, Ref, Unknown
from xnorinfer.errors import SourceError

#: torch._export.serde.schema.ScalarType, from 1 on.
TYPES = numbered_types("uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool bfloat16")
_KINDS = ("parameter", "buffer", "tensor_constant")


def read_export(path: Path) -> OnnxGraph:
    """The graph of an archive, its tensors under the names they have in the module.  Raises SourceError."""
    try:
        with open_archive(path) as archive:
            return _read(archive)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise SourceError(f"{path.name} is a malformed archive of torch.export ({type(error).__name__}: {error})") from None


def _read(archive: Archive) -> OnnxGraph:
    about, names = archive.about, archive.entries
    if any(name.rpartition("/")[2] == "serialized_exported_program.json" for name in names):
        raise SourceError(
            f"{about} is an archive of torch.export from before torch 2.8, whose weights are pickled; load it with "
            "torch.export.load and save it again with torch.export.save"
        )
    models = [name for name in names if "/models/" in name and name.endswith(".json")]
    if len(models) != 1:
        raise SourceError(f"{about} holds {len(models)} models; needed is one")
    root = models[0].partition("models/")[0]
    model = archive.json(models[0])
    version = model["schema_version"]["major"]
    if version != 8:
        raise SourceError(f"{about} has version {version} of torch.export's format; known is 8 (torch 2.8 and later)")
    name = models[0].rpartition("/")[2].removesuffix(".json")
    tensors: dict[str, RawTensor] = {}
    for folder in ("weights", "constants"):
        config = f"{root}data/{folder}/{name}_{folder}_config.json"
        for key, entry in archive.json(config)["config"].items() if config in names else ():
            tensors[key] = _tensor(archive, f"{root}data/{folder}/", key, entry)
    return _Program(about, model["graph_module"], tensors).graph(f"torch {model.get('torch_version', '')}")


def _tensor(archive: Archive, folder: str, name: str, entry: Mapping[str, Any]) -> RawTensor:
    spend_steps(what="listing its tensors")
    about = f"{archive.about}: tensor {name}"
    if entry["use_pickle"] is not False:
        raise SourceError(f"{about} is pickled, which could run code; load and save it again with torch 2.8 or later")
    meta = entry["tensor_meta"]
    kind = TYPES.get(meta["dtype"], "")
    if kind not in STORED or meta["layout"] != 7:
        raise SourceError(f"{about} is no ordinary dense tensor of real numbers")
    shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    content = archive.memory(folder + str(entry["path_name"]))
    return strided(about, name, content, kind, shape, strides, meta["storage_offset"]["as_int"])


def _module_of(node: Mapping[str, Any]) -> str:
    """The module whose code a node is of, as a/b: the path in the last of `KEY,PATH,CLASS;...`; "" of the whole program."""
    said = node.get("metadata", {}).get("nn_module_stack", "")
    parts = said.rpartition(";")[2].split(",") if isinstance(said, str) else []
    return parts[1].replace(".", "/") if len(parts) == 3 else ""


#: Arguments that are what they say.
_PLAIN = ("as_int", "as_float", "as_bool", "as_ints", "as_floats", "as_scalar_type", "as_string")


class _Program:
    """A graph module, told to a recorder."""

    def __init__(self, about: str, module: Mapping[str, Any], tensors: Mapping[str, RawTensor]) -> None:
        self.about = about
        self.module = module
        self.recorder = Recorder(about, tensors, (7,))
        self.values: dict[str, Any] = {}

    def graph(self, producer: str) -> OnnxGraph:
        entry = self._inputs()
        for node in self.module["graph"]["nodes"]:
            self._node(node)
        results = []
        for spec in self.module["signature"]["output_specs"]:
            if "user_output" not in spec:
                what = ", ".join(spec)
                raise SourceError(f"{self.about}: the program changes its own buffers ({what}): call eval() before the export")
            results.append(self._argument(spec["user_output"]["arg"]))
        tensors = [result for result in results if isinstance(result, Ref)]
        if not results or len(tensors) < len(results):
            raise SourceError(f"{self.about}: the program gives {len(results)} results; needed is one tensor")
        return self.recorder.graph(entry, tensors, producer, self._shape(entry))

    def _shape(self, name: str) -> tuple[int | None, ...]:
        """The shape of a tensor; None where it is open."""
        sizes = self.module["graph"]["tensor_values"][name]["sizes"]
        return tuple(size["as_int"] if isinstance(size.get("as_int"), int) else None for size in sizes)

    def _inputs(self) -> str:
        entries = []
        for spec in self.module["signature"]["input_specs"]:
            ((kind, what),) = spec.items()
            if kind in _KINDS:
                name = str(what[f"{kind}_name"])
                if name not in self.recorder.constants:
                    raise SourceError(f"{self.about}: the archive holds no tensor {name}, which its graph uses")
                self.values[what["arg"]["name"]] = Ref(name, name)
            elif kind == "user_input" and "as_tensor" in what["arg"]:
                entries.append(what["arg"]["as_tensor"]["name"])
                self.values[entries[-1]] = Ref(entries[-1])
            else:
                raise SourceError(f"{self.about}: the program has an input of the kind {kind}, which is not supported")
        if len(entries) != 1:
            raise SourceError(f"{self.about} has the inputs {', '.join(entries) or '(none)'}; one is supported")
        return str(entries[0])

    def _node(self, node: Mapping[str, Any]) -> None:
        outputs = [output for output in node["outputs"] if "as_tensor" in output or "as_tensors" in output]
        if not outputs:  # arithmetic with sizes, assertions about them
            for output in node["outputs"]:
                names = [value["as_name"] for value in output.values() if isinstance(value, dict) and "as_name" in value]
                self.values.update((name, self._size(node)) for name in names)
            return
        target = str(node["target"])
        operation = target.removeprefix("torch.ops.aten.").partition(".")[0]
        self.recorder.module = _module_of(node)
        named = {argument["name"]: self._argument(argument["arg"]) for argument in node["inputs"]}
        ours = target.startswith("torch.ops.aten.")
        result: Any = self.recorder.record(operation, [], named) if ours else self.recorder.of_others(target, [*named.values()])
        tensors = [one for output in outputs for one in output.get("as_tensors", [output.get("as_tensor")])]
        for place, tensor in enumerate(tensors):
            if isinstance(result, list) and place >= len(result):
                self.recorder.refuse(operation, "gives fewer parts than the program takes")
            apart = isinstance(result, Parts | list)
            self.values[tensor["name"]] = result[place] if apart else result

    def _size(self, node: Mapping[str, Any]) -> Unknown:
        """What a node gives that computes with sizes."""
        given = [self._argument(argument["arg"]) for argument in node["inputs"]]
        target = str(node["target"])
        if target == "torch.ops.aten.sym_size.int" and len(given) == 2 and isinstance(given[0], Ref):
            return size_of(self.recorder, *given)
        return counted(self.recorder, target.removeprefix("_operator."), given)

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_tensor":
            if value["name"] not in self.values:
                raise SourceError(f"{self.about}: the graph uses a tensor {value['name']} that nothing computes")
            return self.values[value["name"]]
        if kind == "as_none":
            return None
        if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
            return [self._argument(one if "name" not in one else {"as_tensor": one}) for one in value]
        if kind == "as_sym_int":
            return self._argument(value)
        if kind == "as_name":
            return self.values.get(value, Unknown())
        if kind == "as_float":  # a text where it is infinite
            return float(value)
        return value if kind in _PLAIN else Unknown()

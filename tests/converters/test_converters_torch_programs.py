"""TorchScript and torch.export archives: what PyTorch saved is walked and gives PyTorch's scores; the rest is refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from refusals import assert_resolvable

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.containers.pickled import Thing, unpickle
from xnorinfer.converters.containers.torchpickle import script_rules
from xnorinfer.errors import NetworkError, SourceError, XnorinferError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.values import PixelInput, SignInput, ThresholdInput

torch = pytest.importorskip("torch")
F = np.float32
WIDTHS = (24, 17, 12, 5)
nn, functional = torch.nn, torch.nn.functional

#: torch.jit warns that it will go, the tracer of branches.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class SignLinear(nn.Linear):  # type: ignore[misc, name-defined]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, torch.sign(self.weight), self.bias)


class WhereLinear(nn.Linear):  # type: ignore[misc, name-defined]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


class ScaledLinear(nn.Linear):  # type: ignore[misc, name-defined]
    """A learned scale for each neuron."""

    def __init__(self, depth: int, neurons: int) -> None:
        super().__init__(depth, neurons)
        self.alpha = nn.Parameter(2.0 ** torch.arange(-2.0, neurons - 2.0)[:, None].clamp(max=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x, (torch.sign(self.weight) * self.alpha).t()) + self.bias


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """Flatten, three layers with BatchNorm, and signs written in several ways; a float head on hardtanh, or a binary one."""

    def __init__(self, layer: Any, activation: str, *, float_head: bool) -> None:
        super().__init__()
        self.activation = activation
        self.float_head = float_head
        self.layers = nn.ModuleList(layer(depth, neurons) for depth, neurons in itertools.pairwise(WIDTHS[:3]))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(neurons, eps=eps) for neurons, eps in zip(WIDTHS[1:3], (1e-3, 1e-5), strict=True)
        )
        self.head = (nn.Linear if float_head else layer)(*WIDTHS[2:])
        self.squash = nn.Hardtanh(inplace=True)
        self.drop = nn.Dropout(0.3)

    def sign(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "where":
            return torch.where(x >= 0, 1.0, -1.0)
        if self.activation == "float":
            return (x >= 0).float() * 2 - 1
        return torch.sign(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(-1, 24)
        x = self.sign(self.squash(self.norms[0](self.layers[0](x))))
        x = self.squash(self.norms[1](self.layers[1](self.drop(x))))
        x = self.head(x if self.float_head else self.sign(x))
        return functional.log_softmax(x, dim=1) if self.float_head else x


def build(layer: Any = SignLinear, activation: str = "sign", *, float_head: bool = False, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    net = Net(layer, activation, float_head=float_head)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight.normal_()
                module.weight[:4] = torch.tensor([-0.5, 0.0, 3e-7, -3e-7])
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 2)
                module.running_var.uniform_(0.5, 9)
            elif isinstance(module, nn.Linear) and not (float_head and module is net.head):
                module.weight.uniform_(-1, 1)
                if layer is WhereLinear:
                    module.weight[0, :3] = torch.tensor([0.0, -0.0, 1e-9])
                module.bias.copy_((module.bias * 16).round() / 16 + 1 / 32)  # sums stay exact in any order, and off 0
    return net.eval()


EXAMPLE = torch.zeros(2, 1, 4, 6)


def scripted(net: Any, path: Path) -> Path:
    torch.jit.script(net).save(str(path))
    return path


def traced(net: Any, path: Path) -> Path:
    torch.jit.trace(net, EXAMPLE).save(str(path))
    return path


def frozen(net: Any, path: Path) -> Path:
    torch.jit.freeze(torch.jit.trace(net, EXAMPLE), optimize_numerics=False).save(str(path))
    return path


def exported(net: Any, path: Path) -> Path:
    torch.export.save(torch.export.export(net, (EXAMPLE,)), path.with_suffix(".pt2"))
    return path.with_suffix(".pt2")


def decomposed(net: Any, path: Path) -> Path:
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (EXAMPLE,), dynamic_shapes=({0: batch},))
    torch.export.save(program.run_decompositions(), path.with_suffix(".pt2"))
    return path.with_suffix(".pt2")


SAVED: dict[str, Callable[[Any, Path], Path]] = {f.__name__: f for f in (scripted, traced, frozen, exported, decomposed)}


def save(how: str, net: Any, tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SAVED[how](net, tmp_path / "net.pt")


def inputs() -> Any:
    return np.random.default_rng(2).choice(np.array([-1, 1], np.int8), (300, WIDTHS[0]))


def scores_of(net: Any) -> Any:
    with torch.inference_mode():
        return net(torch.from_numpy(inputs().astype(F)).reshape(-1, 1, 4, 6)).numpy()


def kinds(reading: Reading, kind: type[Any]) -> list[Any]:
    return [layer for layer in reading.net.ops if isinstance(layer, kind)]


CASES = [(how, SignLinear) for how in SAVED] + [(how, WhereLinear) for how in ("scripted", "decomposed")]


@pytest.mark.parametrize(("how", "layer"), [*CASES, ("traced", ScaledLinear), ("exported", ScaledLinear)])
def test_scores_are_those_of_pytorch(tmp_path: Path, how: str, layer: Any) -> None:
    activation = {SignLinear: "sign", WhereLinear: "where", ScaledLinear: "float"}[layer]
    net = build(layer, activation)
    reading = read_source(save(how, net, tmp_path), ConvertOptions(input=SignInput()))
    np.testing.assert_array_equal(reference.forward(reading.net, inputs()), scores_of(net))
    assert [(norm.form, norm.epsilon) for norm in kinds(reading, Norm)] == [("torch", 1e-3), ("torch", 1e-5)]
    assert reading.net.profile == ("torch-sign" if layer is SignLinear else "ge-zero")
    used = {t.name for t in reading.tensors if not t.ignored}
    left = {t.name for t in reading.tensors if t.ignored}
    if how != "frozen":
        assert {name for name in used | left if not name.startswith("CONSTANTS")} == set(net.state_dict())
        assert left == {f"norms.{i}.num_batches_tracked" for i in range(2)}
        assert networks.names_of(reading.net, Linear) == ["layers.0", "layers.1", "head"]
    assert next(a.origin for a in reading.assumptions if a.what == "tie profile") == "graph"


@pytest.mark.parametrize("how", ["scripted", "exported"])
def test_float_heads_on_hardtanh(tmp_path: Path, how: str) -> None:
    """Float32 products are rounded in other orders: scores agree to rounding, and the scores' softmax is left out."""
    net = build(float_head=True)
    reading = read_source(save(how, net, tmp_path), ConvertOptions(input=SignInput()))
    assert [layer.binary for layer in kinds(reading, Linear)] == [True, True, False]
    ours, theirs = reference.forward(reading.net, inputs()), scores_of(net)
    np.testing.assert_allclose(ours - ours.max(axis=1, keepdims=True), theirs - theirs.max(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("how", ["scripted", "exported"])
def test_the_input_is_that_of_the_graph(tmp_path: Path, how: str) -> None:
    """Steps before the first layer are a part of the network: torchvision's Normalize, thresholds."""

    class Front(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, net: Any, binary: bool) -> None:
            super().__init__()
            self.net, self.binary = net, binary

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = 2 * x - 1
            if self.binary:
                x = torch.where(x >= 0, 1.0, -1.0)
            return self.net(x)

    readings = [read_source(save(how, Front(build(activation="where"), binary).eval(), tmp_path)) for binary in (False, True)]
    assert [r.net.input for r in readings] == [PixelInput.range(-1, 1), ThresholdInput(128)]
    assert all("pixels / 255" in " ".join(r.warnings) for r in readings)


# ---------------------------------------------------------------- programs that are refused


class Tail(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, what: str) -> None:
        super().__init__()
        self.net, self.what = build(), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.what == "gelu":
            return functional.gelu(self.net(x))
        if self.what == "softplus":
            return functional.softplus(self.net(x), threshold=1)
        if self.what == "type":
            return self.net(x).type_as(x > 0)
        if self.what == "hidden":
            x = self.net.layers[0](x.view(-1, 24))
            return x + self.net.layers[1](torch.sign(x)).sum()
        if self.what == "two":
            return self.net(x) + self.net(-x)
        if self.what == "loop":
            total = self.net(x)
            for _ in range(x.size(0)):
                total = total * 2
            return total
        if self.what == "write":
            self.net.head.weight.mul_(2)
            return self.net(x)
        if self.what == "view":
            y = x.view(-1, 24)
            y.sign_()
            return self.net(x)
        if self.what == "rows":
            return self.net(x).argmax(dim=0)
        return self.net(x)


REFUSED = {
    "gelu": r"\(gelu\) is not supported in a binary network",
    "softplus": r"\(softplus\) is not supported in a binary network",
    "type": r"type_as changes the type of numbers to something else than float32",
    "two": r"reads the input in another way than net\.layers\.0 does",
    "hidden": r"\(ReduceSum\) is not supported in a binary network",
    "loop": r"(?s)its code is not straight: for .*torch\.jit\.trace\(module, example\) write down what is computed alone",
    "write": r"operation mul_ writes into the tensor net\.head\.weight of the file",
    "rows": r"\(ArgMax\) takes the axis 0, not that of the channels",
    "view": r"view of a tensor that was written into through another",
}


@pytest.mark.parametrize("what", REFUSED)
def test_programs_that_are_no_binary_network(tmp_path: Path, what: str) -> None:
    with pytest.raises((SourceError, NetworkError), match=REFUSED[what]):
        read_source(save("scripted", Tail(what).eval(), tmp_path))


@pytest.mark.parametrize("how", ["scripted", "traced", "exported"])
def test_training_mode(tmp_path: Path, how: str) -> None:
    with pytest.raises(SourceError, match=r"call eval\(\) first"):
        read_source(save(how, build().train(), tmp_path))


def test_no_refusal_sends_a_user_to_a_file_that_says_less(tmp_path: Path) -> None:
    """Tensors alone do not say what the program computes, and a rule of ties is none of the questions here."""
    net = build()
    with torch.no_grad():
        net.head.weight[0, :2] = 0
    net.head.weight.requires_grad_(False).sign_()
    net.head.forward = lambda x: functional.linear(x, net.head.weight, net.head.bias)
    with pytest.raises(NetworkError, match=r"2 of 60 weights are 0") as error:
        read_source(save("traced", net, tmp_path), ConvertOptions(input=SignInput()))
    assert_resolvable(error.value)
    assert "state_dict" not in str(error.value)
    assert "weight_rule" not in str(error.value)


def test_names_of_tensors_are_not_enough_for_a_net_file(tmp_path: Path) -> None:
    path = save("scripted", build(), tmp_path)
    toml = 'profile = "ge-zero"\nlayout = "out_in"\n[[layers]]\nweight = "head.weight"\n'
    with pytest.raises(SourceError, match=r"holds a program, which says more than its tensors: .*without --net"):
        read_source(path, ConvertOptions(net=toml))


# ---------------------------------------------------------------- hostile archives


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with other entries; None drops one."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    target = path.with_name(f"changed{path.suffix}")
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return target


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("archives")
    return {how: save(how, build(), folder / how) for how in ("scripted", "exported") if not (folder / how).mkdir()}


class Exploit:
    def __reduce__(self) -> Any:
        return (eval, ("1/0",))


def replaced(name: str, data: bytes) -> Callable[[str, bytes], bytes | None]:
    return lambda entry, old: data if entry.endswith(name) else old


#: Where the classes of this file are.
CODE = f"code/__torch__/{__name__}.py"
SCRIPTS: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "a call": (replaced("/data.pkl", pickle.dumps(Exploit(), 2)), r"wants to run code or to build.*eval"),
    "a call, newer pickle": (replaced("/data.pkl", pickle.dumps(Exploit(), 4)), r"wants to run code or to build.*eval"),
    "a class": (replaced("/data.pkl", b"\x80\x02cos\nsystem\n)\x81."), "wants to run code.*os.system"),
    "no module": (replaced("/data.pkl", b"\x80\x02}."), "holds no module"),
    "cut pickle": (lambda name, old: old[:200] if name.endswith("/data.pkl") else old, "damaged pickle"),
    "itself": (replaced("/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."), "hold each other"),
    "no memory": (lambda name, old: None if "/data/0" in name else old, r"memory \S*data/0 of a tensor is missing"),
    "short memory": (lambda name, old: old[:8] if name.endswith("/data/0") else old, "but its data has 8 bytes"),
    "big endian": (replaced("/byteorder", b"big"), "big-endian"),
    "no code": (lambda name, old: None if name.endswith(".py") else old, r"holds no code of __torch__\.\w+\.Net\.forward"),
    "odd code": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return (" + b"(" * 100),
        "no code of",
    ),
    "no text": (replaced(CODE, b"\xff\xfe"), "no code of TorchScript"),
    "long line": (replaced(CODE, b"x = " + b"-" * 20_000 + b"1"), "no code of TorchScript"),
    "calls itself": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return (s).forward(x, )"),
        "calls forward in a way that is not supported",
    ),
    "calls twice": (
        replaced(
            CODE,
            b"class Net(Module):\n  def forward(s, x):\n    return (s).f0(x, )\n"
            + b"".join(
                b"  def f%d(s, x):\n    y = (s).f%d(x, )\n    return (s).f%d(y, )\n" % (i, i + 1, i + 1) for i in range(40)
            )
            + b"  def f40(s, x):\n    return x\n",
        ),
        "more than 50000 statements",
    ),
    "other attributes": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return s.__class__"),
        "asks for an attribute that the archive does not hold",
    ),
    "attributes of tensors": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return x.real"),
        "asks for an attribute in a way",
    ),
    "other calls": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return eval('1')"),
        "calls what is not supported",
    ),
    "lambda": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return (lambda: x)()"),
        "an expression that is not supported",
    ),
    "no tensor": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return 3"),
        "returns no tensor",
    ),
    "constant": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return torch.linear(x, CONSTANTS.c7)"),
        "uses a constant that the archive does not hold",
    ),
    "power": (
        replaced(CODE, b"class Net(Module):\n  def forward(s, x):\n    return torch.mul('a', 10)"),
        "computes in a way that is not supported|returns no tensor",
    ),
    "huge product": (
        replaced(
            CODE,
            b"class Net(Module):\n  def forward(s, x):\n    a = 999999999\n"
            + b"    a = torch.mul(a, a)\n" * 40
            + b"    return x",
        ),
        "computes in a way that is not supported",
    ),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_hostile_scripts(archives: dict[str, Path], case: str) -> None:
    change, message = SCRIPTS[case]
    with pytest.raises((SourceError, NetworkError), match=message) as error:
        read_source(rewritten(archives["scripted"], change))
    assert "\n" not in str(error.value)


def in_json(name: str, change: Callable[[Any], Any]) -> Callable[[str, bytes], bytes | None]:
    """Change a JSON entry in place, or to what `change` returns."""

    def apply(entry: str, old: bytes) -> bytes:
        if not entry.endswith(name):
            return old
        content = json.loads(old)
        result = change(content)
        return json.dumps(content if result is None else result).encode()

    return apply


def set_at(*place: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


CONFIG, MODEL = "model_weights_config.json", "models/model.json"
HEAD = ("config", "head.weight")
EXPORTS: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "pickled tensor": (
        in_json(CONFIG, set_at(*HEAD, "use_pickle", value=True)),
        "head.weight is pickled, which could run code",
    ),
    "larger": (
        in_json(CONFIG, set_at(*HEAD, "tensor_meta", "sizes", value=[{"as_int": 1 << 40}, {"as_int": 12}])),
        "but its data has",
    ),
    "negative": (
        in_json(CONFIG, set_at(*HEAD, "tensor_meta", "strides", value=[{"as_int": -1}, {"as_int": 1}])),
        "has the sizes",
    ),
    "beyond": (in_json(CONFIG, set_at(*HEAD, "tensor_meta", "storage_offset", value={"as_int": 9})), "but its data has"),
    "repeated": (in_json(CONFIG, set_at(*HEAD, "tensor_meta", "strides", value=[{"as_int": 12}, {"as_int": 0}])), ""),
    "type": (in_json(CONFIG, set_at(*HEAD, "tensor_meta", "dtype", value=9)), "no ordinary dense tensor"),
    "elsewhere": (
        in_json(CONFIG, set_at(*HEAD, "path_name", value="../../../etc/passwd")),
        "malformed archive of torch.export",
    ),
    "no config": (lambda name, old: None if name.endswith(CONFIG) else old, r"holds no tensor layers\.0\.weight"),
    "no JSON": (replaced(MODEL, b"{"), "is no JSON"),
    "deep JSON": (replaced(MODEL, b"[" * 100_000), "is no JSON"),
    "a list": (in_json(MODEL, lambda content: [1]), "malformed archive of torch.export"),
    "version": (in_json(MODEL, set_at("schema_version", "major", value=99)), "version 99 of torch.export's format; known is 8"),
    "unknown value": (
        in_json(MODEL, set_at("graph_module", "graph", "nodes", 0, "inputs", 0, "arg", value={"as_tensor": {"name": "y"}})),
        "tensor y that nothing computes",
    ),
    "other operation": (
        in_json(MODEL, set_at("graph_module", "graph", "nodes", 0, "target", value="torch.ops.evil.run.default")),
        r"\(torch.ops.evil.run.default\) is not supported",
    ),
    "no models": (lambda name, old: None if name.endswith(MODEL) else old, "holds 0 models"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_hostile_exports(archives: dict[str, Path], case: str) -> None:
    change, message = EXPORTS[case]
    path = rewritten(archives["exported"], change)
    if not message:
        read_source(path, ConvertOptions(input=SignInput()))  # odd, but inside its bytes
        return
    with pytest.raises((SourceError, NetworkError), match=message) as error:
        read_source(path, ConvertOptions(format="torch"))
    assert "\n" not in str(error.value)


def test_archives_from_before_torch_2_8(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", pickle.dumps(Exploit()))
    with pytest.raises(SourceError, match=r"before torch 2\.8, whose weights are pickled; load it with torch\.export\.load"):
        read_source(tmp_path / "old.pt2")


@pytest.mark.parametrize("how", ["scripted", "exported"])
def test_damaged_archives(archives: dict[str, Path], tmp_path: Path, how: str) -> None:
    """Cut anywhere, or with a flipped bit: an error in one line, or a reading, never another exception."""
    whole = archives[how].read_bytes()
    rng = np.random.default_rng(6)
    path = tmp_path / archives[how].name
    options = ConvertOptions(format="torch", input=SignInput())
    for place in rng.integers(0, len(whole), 20).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            with contextlib.suppress(XnorinferError):
                read_source(path, options)


def test_a_cut_archive_is_not_one_of_its_entries(archives: dict[str, Path], tmp_path: Path) -> None:
    """torch.export keeps the example's tensors in an archive of its own, whose end a cut makes the end of the file."""
    whole = archives["exported"].read_bytes()
    with zipfile.ZipFile(archives["exported"]) as archive:
        inner = {info.header_offset: info.file_size for info in archive.infolist() if archive.read(info).startswith(b"PK")}
    assert inner
    path = tmp_path / "net.pt2"
    for start, size in inner.items():
        begin = whole.index(b"PK\x03\x04", start + 4)
        path.write_bytes(whole[: begin + size])
        assert zipfile.is_zipfile(path)
        with pytest.raises(SourceError, match=r"truncated or damaged archive: .* bytes come before its first entry"):
            read_source(path, ConvertOptions(profile="ge-zero"))


def test_damaged_inside(archives: dict[str, Path]) -> None:
    """The same where the checksums are right: bytes of pickles, code and descriptions are exchanged."""
    rng = np.random.default_rng(7)
    for how, ends in (("scripted", (".pkl", ".py")), ("exported", (".json",))):
        for _ in range(40):

            def spoil(name: str, old: bytes, ends: tuple[str, ...] = ends) -> bytes:
                changed = bytearray(old)
                if name.endswith(ends) and old:
                    for place in rng.integers(0, len(old), 2).tolist():
                        changed[place] = int(rng.integers(256))
                return bytes(changed)

            path = rewritten(archives[how], spoil)
            with contextlib.suppress(XnorinferError):
                read_source(path, ConvertOptions(format="torch", input=SignInput()))


def test_pickles_as_plain_data() -> None:
    rules = script_rules(lambda storage: np.empty(0, np.uint8))
    thing = unpickle(
        "a.pt",
        b"\x80\x02c__torch__.deep\nNet\n)\x81}(X\x01\x00\x00\x00aK\x03X\x01\x00\x00\x00b]q\x00(G?\xe0\0\0\0\0\0\0\x88eub.",
        rules,
    )
    assert isinstance(thing, Thing)
    assert (thing.kind, thing.state) == ("__torch__.deep.Net", {"a": 3, "b": [0.5, True]})
    for data in (
        b"",
        b".",
        b"\x80\x02u.",
        b"\x80\x02h\x05.",
        b"\x80\x02(",
        struct.pack("<B", 0x80),
        b"\x80\x02cposix\nsystem\n.",
    ):
        with pytest.raises(SourceError):
            unpickle("a.pt", data, rules)

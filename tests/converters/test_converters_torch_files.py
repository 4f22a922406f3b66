"""What PyTorch users really have in a file: other objects beside the weights, averages, several state dicts, whole modules."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from checkpoints import random_layers, state_arrays

from xnorinfer.converters import ConvertOptions, Reading, from_torch_module, read_source
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.values import PixelInput

torch = pytest.importorskip("torch")
nn = torch.nn

RAW = PixelInput.range(0, 255)
LAYERS = random_layers((20, 16, 33, 5), 1)
AVERAGED = random_layers((20, 16, 33, 5), 2)


def state(layers: Any = LAYERS, prefix: str = "") -> dict[str, Any]:
    arrays = state_arrays(layers, prefix=prefix)
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def dense(reading: Reading) -> list[Any]:
    return [layer.weight for layer in reading.net.ops if isinstance(layer, Linear)]


def assert_is(reading: Reading, layers: Any = LAYERS, *, norms: Any = None) -> None:
    """The network is this one, to the last number."""
    for mine, theirs in zip(dense(reading), layers, strict=True):
        np.testing.assert_array_equal(mine, theirs.weight)
    found = [layer for layer in reading.net.ops if isinstance(layer, Norm)]
    for norm, theirs in zip(found, norms or layers, strict=True):
        np.testing.assert_array_equal(norm.mean, theirs.mean)
        np.testing.assert_array_equal(norm.variance, theirs.variance)


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def old(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


DOORS: dict[str, Callable[[Any, Path], None]] = {"zip": zipped, "old": old, "plain": plain}

OBJECTS = {
    "array": np.array([0.5, 0.4]),
    "confusion": np.eye(5),
    "scalar": np.float64(98.2),
    "path": pathlib.PurePosixPath("runs/1"),
    "time": datetime.datetime(2026, 1, 1),
    "namespace": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")),
    "defaultdict": collections.defaultdict(list, loss=[1, 2]),
    "counter": collections.Counter("aab"),
    "generator": np.random.default_rng(0),
    "generator state": np.random.RandomState(3).get_state(),
    "torch generator state": torch.get_rng_state(),
    "loss": nn.CrossEntropyLoss(weight=torch.ones(5)),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(3, 3))], lr=0.1, momentum=0.9),
    "partial": functools.partial(print, 1),
    "kinds": [torch.float32, torch.device("cpu"), torch.Size([3, 4]), {1, 2}, frozenset(), 1j, range(3)],
    "sparse": torch.eye(3).to_sparse(),
    "complex": torch.zeros(2, 2, dtype=torch.complex64),
}


@pytest.mark.parametrize("door", DOORS)
def test_other_objects_beside_the_weights(tmp_path: Path, door: str) -> None:
    for index, (name, value) in enumerate(OBJECTS.items()):
        path = tmp_path / f"{index}.pth.tar"
        DOORS[door]({"epoch": 3, "state_dict": state(), name: value}, path)
        reading = read_source(path)
        assert_is(reading)
        assert not any("would run" in warning for warning in reading.warnings)
        used = [use.name for use in reading.tensors if not use.ignored]
        assert len(used) == 18
        assert all(use.startswith("state_dict.") for use in used)
    listed = {a.what: a.value for a in read_source(tmp_path / "5.pth.tar").assumptions}["objects that are no tensors"]
    assert "namespace (argparse.Namespace)" in listed
    assert "namespace.path (pathlib" in listed


def test_types_and_views_are_torchs(tmp_path: Path) -> None:
    """Every type, strides, offsets and shared memory, in each door, against torch itself."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    kinds = (
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "bool",
        "uint16",
        "uint32",
    )
    content = {kind: (base % 7).to(getattr(torch, kind)) for kind in kinds}
    content |= {"t": base.permute(2, 0, 1), "view": base[1:, ::2, 1], "one": base[0, 0], "scalar": base[1, 1, 1]}
    content |= {"parameter": nn.Parameter(base[2]), "empty": torch.empty(0, 3), "buffer": nn.Buffer(base[0])}
    for door, write in DOORS.items():
        path = tmp_path / f"{door}.pt"
        write(content, path)
        _, entries = open_container(path)
        for name, wanted in content.items():
            theirs = wanted.detach()
            theirs = theirs.float() if name == "bfloat16" else theirs
            assert entries[name].shape == tuple(theirs.shape)
            np.testing.assert_array_equal(entries[name].load(), theirs.numpy(), err_msg=f"{door} {name}")


def test_torch_is_not_needed(tmp_path: Path) -> None:
    """All doors in a process in which torch cannot be imported."""
    content = {"epoch": 3, "state_dict": state(prefix="module."), "when": datetime.datetime(2026, 1, 1)}
    for door, write in DOORS.items():
        write(content, tmp_path / f"{door}.pt")
    torch.save(Net(), tmp_path / "module.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, which will go
        torch.jit.script(nn.Sequential(nn.Linear(4, 3))).save(str(tmp_path / "script.pt"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from xnorinfer.converters import ConvertOptions, read_source\n"
        "from xnorinfer.errors import NetworkError\n"
        f"for name in {[*DOORS, 'module']!r}:\n"
        f"    print(name, len(read_source({str(tmp_path)!r} + '/' + name + '.pt').net.ops))\n"
        f"try: read_source({str(tmp_path / 'script.pt')!r})\n"
        "except NetworkError as error: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["zip", "8", "old", "8", "plain", "8", "module", "8", "refused"]


# ---------------------------------------------------------------- several state dicts and averages

TWO_DICTS = {
    "ema": {"model": state(), "ema": state(AVERAGED)},
    "timm": {"state_dict": state(), "state_dict_ema": state(AVERAGED, "module.")},
    "model_ema": {"epoch": 1, "nested": {"model": state(), "model_ema": state(AVERAGED)}},
    "a callback": {"state_dict": state(), "callbacks": {"StochasticWeightAveraging": {"average_model_state": state(AVERAGED)}}},
    "shadow": {"model": state(), "ema": {"decay": 0.9, "shadow": state(AVERAGED)}},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", TWO_DICTS)
def test_averages_in_a_dict_of_their_own(tmp_path: Path, case: str, door: str) -> None:
    path = tmp_path / "net.pt"
    DOORS[door](TWO_DICTS[case], path)
    reading = read_source(path)
    assert_is(reading)
    assert any("--ema" in warning for warning in reading.warnings)
    assert sum("--ema would use it" in use.use for use in reading.tensors) == 21
    averaged = read_source(path, ConvertOptions(ema=True))
    assert_is(averaged, AVERAGED)
    assert not any("--ema" in warning for warning in averaged.warnings)
    names = {use.name for use in reading.tensors}
    assert names == {use.name for use in averaged.tensors}
    assert len(names) == len(reading.tensors) == 42


def test_averages_of_parameters_alone_take_the_rest_from_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    averages = {name: value for name, value in state(AVERAGED).items() if "running" not in name and "num" not in name}
    torch.save({"model": state(), "ema": averages}, path)
    assert_is(read_source(path, ConvertOptions(ema=True)), AVERAGED, norms=LAYERS)
    assert_is(read_source(path))


def flat(prefix: str, joint: str, layers: Any = AVERAGED, *, parameters: bool = False) -> dict[str, Any]:
    found = {prefix + name.replace(".", joint): value for name, value in state(layers).items()}
    return {name: v for name, v in found.items() if not parameters or ("running" not in name and "num_batches" not in name)}


ONE_DICT = {
    "mmcv": {**state(), **flat("ema_", "_")},
    "LitEma": {
        **state(prefix="model."),
        **flat("model_ema.", "", parameters=True),
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(5),
    },
    "AveragedModel beside its model": {
        **state(prefix="net."),
        **flat("net_ema.module.", "."),
        "net_ema.n_averaged": torch.tensor(5),
    },
    "a module ema": {**state(prefix="online."), **flat("ema.", ".")},
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("case", ONE_DICT)
def test_averages_in_the_same_dict(tmp_path: Path, case: str, wrapped: bool) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": ONE_DICT[case]} if wrapped else ONE_DICT[case], path)
    reading = read_source(path)
    assert_is(reading)
    assert any("--ema" in warning for warning in reading.warnings)
    names = sorted(use.name for use in reading.tensors)
    assert names == sorted(("state_dict." if wrapped else "") + name for name in ONE_DICT[case])
    averaged = read_source(path, ConvertOptions(ema=True))
    assert_is(averaged, AVERAGED, norms=LAYERS if case == "LitEma" else AVERAGED)
    assert sorted(use.name for use in averaged.tensors) == names


def test_what_is_called_ema_but_is_no_average_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({**state(), "ema.weight": torch.randn(7, 9)}, path)
    with pytest.raises(NetworkError, match=r"ema"):
        read_source(path)
    torch.save(state(), path)
    with pytest.raises(OptionError, match="holds no moving averages"):
        read_source(path, ConvertOptions(ema=True))


def test_averaged_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"n_averaged": torch.tensor(3), **state(prefix="module.")}, path)
    for ema in (False, True):
        reading = read_source(path, ConvertOptions(ema=ema))
        assert_is(reading)
        assert any(a.what == "moving averages" for a in reading.assumptions)


SWAPPED = {
    "mmengine": {
        "state_dict": state(AVERAGED),
        "ema_state_dict": {"steps": torch.tensor(9), **state(LAYERS, "module.")},
    },
    "Lightning": {
        "state_dict": state(AVERAGED),
        "current_model_state": state(),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
}


@pytest.mark.parametrize("case", SWAPPED)
def test_tools_that_keep_averages_under_the_name_of_the_weights(tmp_path: Path, case: str) -> None:
    path = tmp_path / "net.pt"
    torch.save(SWAPPED[case], path)
    weights = next(key for key in SWAPPED[case] if key not in ("state_dict", "averaging_state"))
    with pytest.raises(SourceError, match=f"give --ema for the averages.* or --state {weights}"):
        read_source(path)
    assert_is(read_source(path, ConvertOptions(ema=True)), AVERAGED)
    assert_is(read_source(path, ConvertOptions(state=weights)))


@pytest.mark.parametrize("door", DOORS)
def test_one_of_several_state_dicts(tmp_path: Path, door: str) -> None:
    path = tmp_path / "net.pt"
    DOORS[door]({"best": state(), "last": {"net": state(AVERAGED)}, **state(AVERAGED)}, path)
    with pytest.raises(SourceError, match=r"holds 3 state dicts: .*--state KEY"):
        read_source(path)
    with pytest.raises(OptionError, match=r"--state first: .*best \(21 tensors\)"):
        read_source(path, ConvertOptions(state="first"))
    assert_is(read_source(path, ConvertOptions(state="best")))
    for key in ("last.net", "."):
        reading = read_source(path, ConvertOptions(state=key))
        assert_is(reading, AVERAGED)
        assert ("state dict", key, "option") in [(a.what, a.value, a.origin) for a in reading.assumptions]
        assert len(reading.tensors) == 63
    assert ConvertOptions.from_json(ConvertOptions(state="last.net").to_json()).state == "last.net"


def test_state_needs_a_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **state_arrays(LAYERS))
    with pytest.raises(OptionError, match="--state best"):
        read_source(tmp_path / "net.npz", ConvertOptions(state="best"))


def test_one_dict_for_each_layer(tmp_path: Path) -> None:
    nested: dict[str, Any] = {}
    for name, value in state().items():
        module, _, leaf = name.partition(".")
        nested.setdefault(module, {})[leaf] = value
    for content in ({"net": nested, "epoch": 1}, nested, list(nested.values())):
        torch.save(content, tmp_path / "net.pt")
        assert_is(read_source(tmp_path / "net.pt"))


# ---------------------------------------------------------------- whole modules


class BinarizeLinear(nn.Linear):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return nn.functional.linear(x if self.in_features == 20 else x.sign(), self.weight.sign(), self.bias)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, float_head: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.fc1, self.bn1, self.tanh1 = BinarizeLinear(20, 16), nn.BatchNorm1d(16, eps=epsilon), nn.Hardtanh()
        self.fc2, self.bn2, self.tanh2 = BinarizeLinear(16, 33), nn.BatchNorm1d(33, eps=epsilon), nn.Hardtanh()
        self.drop = nn.Dropout(0.2)
        self.fc3 = (nn.Linear if float_head else BinarizeLinear)(33, 5)
        self.layers_again = [self.fc1, self.fc2]
        if not float_head:
            self.bn3 = nn.BatchNorm1d(5, eps=epsilon)
        self.loss = nn.CrossEntropyLoss()
        for name, value in self.state_dict().items():
            if "running_var" in name:
                value.copy_(torch.rand(value.shape) * 30 + 0.1)
            elif value.dtype.is_floating_point:
                value.copy_(torch.randn(value.shape))

    def forward(self, x: Any) -> Any:
        x = self.tanh2(self.bn2(self.fc2(self.tanh1(self.bn1(self.fc1(x))))))
        return self.fc3(x) if not hasattr(self, "bn3") else self.bn3(self.fc3(x))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("float_head", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_modules_saved_whole_say_what_live_ones_say(tmp_path: Path, door: str, float_head: bool) -> None:
    torch.manual_seed(1)
    net = Net(float_head, 0.25).eval()
    live = from_torch_module(net, ConvertOptions(input=RAW))
    x = np.random.default_rng(0).integers(0, 256, (64, 20), dtype=np.uint8)
    for content in (net, {"epoch": 2, "model": nn.DataParallel(net), "criterion": net.loss}):
        DOORS[door](content, tmp_path / "net.pt")
        reading = read_source(tmp_path / "net.pt", ConvertOptions(input=RAW))
        np.testing.assert_array_equal(reference.forward(reading.net, x), reference.forward(live.net, x))
        assert {norm.epsilon for norm in reading.net.ops if isinstance(norm, Norm)} == {0.25}
        assert networks.kinds(reading.net)[-2:] == (["hardtanh", "float"] if float_head else ["binary", "norm"])
    with torch.no_grad():
        scores = net(torch.from_numpy(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(reference.forward(live.net, x), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_sequentials_saved_whole_are_read_in_order(tmp_path: Path, door: str) -> None:
    torch.manual_seed(2)
    stack = [BinarizeLinear(20, 16), nn.ReLU(), nn.BatchNorm1d(16, eps=0.5), BinarizeLinear(16, 5), nn.LogSoftmax(dim=1)]
    net = nn.Sequential(*stack).eval()
    DOORS[door](net, tmp_path / "net.pt")
    reading = read_source(tmp_path / "net.pt", ConvertOptions(input=RAW))
    x = np.random.default_rng(0).integers(0, 256, (64, 20), dtype=np.uint8)
    with torch.no_grad():
        scores = net[:-1](torch.from_numpy(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-4, atol=1e-4)
    DOORS[door](nn.Sequential(*stack[:3], nn.GELU(), stack[3]), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match="module 3 is a GELU"):
        read_source(tmp_path / "net.pt", ConvertOptions(input=RAW))

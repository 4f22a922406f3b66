"""The torch source against real torch: same decisions, same scores; hostile and unclear files refused in one line."""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import checkpoints
import networks
import numpy as np
import pytest
from refusals import assert_resolvable

from xnorinfer.converters import ConvertOptions, Reading, from_torch_module, read_source
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm, Op
from xnorinfer.net.values import PixelInput

torch = pytest.importorskip("torch")
nn = torch.nn

#: Raw pixels: torch's float32 sums over them are exact integers, so that every decision can be compared for equality.
RAW = PixelInput.range(0, 255)
WIDTHS = (20, 16, 33, 5)


class BinarizeLinear(nn.Linear):  # type: ignore[misc, name-defined]
    """As in BinaryNet.pytorch: signs of weights, and of inputs in all but the first layer."""

    def __init__(self, depth: int, neurons: int, bias: bool, first: bool) -> None:
        super().__init__(depth, neurons, bias)
        self.first = first

    def forward(self, x: Any) -> Any:
        return nn.functional.linear(x if self.first else x.sign(), self.weight.sign(), self.bias)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """fc1, htanh1, bn1, ... as in BinaryNet.pytorch's mnist.py; float_head: the last layer is a plain Linear on hardtanh."""

    def __init__(self, *, bias: bool = True, affine: bool = True, float_head: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.count = len(WIDTHS) - 1
        for number, (depth, neurons) in enumerate(itertools.pairwise(WIDTHS), start=1):
            last = number == self.count
            layer = nn.Linear(depth, neurons) if last and float_head else BinarizeLinear(depth, neurons, bias, number == 1)
            self.add_module(f"fc{number}", layer)
            if not (last and float_head):
                self.add_module(f"htanh{number}", nn.Hardtanh())
                self.add_module(f"bn{number}", nn.BatchNorm1d(neurons, eps=epsilon, affine=affine))
        self.float_head = float_head

    def forward(self, x: Any) -> Any:
        for number in range(1, self.count + 1):
            x = getattr(self, f"fc{number}")(x)
            if number == self.count and self.float_head:
                return x
            x = getattr(self, f"bn{number}")(x)
            if number < self.count:
                x = getattr(self, f"htanh{number}")(x)
        return x


def awkward(net: Any, seed: int) -> Any:
    """Weights as after training, with negative, zero and tiny gammas and biases; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if not value.dtype.is_floating_point:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(noise.abs() * 30 + 1e-3)
        elif name.endswith("running_mean"):
            value.copy_(noise * 5)
        else:
            value.copy_(noise)
        if ".weight" in name and value.ndim == 1:
            value[:4] = torch.tensor([-0.5, 0.0, 3e-7, -3e-7])
    return net.eval()


def pixels(rows: int = 200) -> Any:
    return np.random.default_rng(0).integers(0, 256, (rows, WIDTHS[0]), dtype=np.uint8)


def torch_scores(net: Any, x: Any) -> Any:
    with torch.no_grad():
        return net(torch.from_numpy(x.astype(np.float32))).numpy()


def contracts() -> bool:
    """Whether this torch build fuses multiply and add in BatchNorm: its AVX2 and AVX-512 code paths do."""
    return str(torch.backends.cpu.get_cpu_capability()) in ("AVX2", "AVX512")


needs_contraction = pytest.mark.skipif(not contracts(), reason="torch without AVX2 does not fuse BatchNorm's multiply-adds")


def layers_of(reading: Reading, kind: type[Op]) -> list[Any]:
    return [layer for layer in reading.net.ops if isinstance(layer, kind)]


def saved(tmp_path: Path, content: Any, name: str = "net.pt") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


# ---------------------------------------------------------------- equality with torch


@needs_contraction
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_batch_norm_is_torchs_bit_for_bit(affine: bool, rows: int) -> None:
    rng = np.random.default_rng(rows)
    neurons = 67

    def vector(scale: float) -> Any:
        return (rng.standard_normal(neurons) * scale).astype(np.float32)

    module = nn.BatchNorm1d(neurons, eps=1e-5, affine=affine).eval()
    mean, variance = vector(30), (np.abs(vector(200)) + 1e-3).astype(np.float32)
    module.running_mean.copy_(torch.from_numpy(mean))
    module.running_var.copy_(torch.from_numpy(variance))
    gamma = beta = None
    if affine:
        gamma, beta = vector(1), vector(1)
        gamma[:4] = [-0.5, 0.0, 3e-7, -3e-7]
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(gamma))
            module.bias.copy_(torch.from_numpy(beta))
    x = rng.integers(-900, 901, (rows, neurons)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(x)).numpy()
    mine = reference.batch_norm(Norm(mean, variance, None, gamma, beta, 1e-5, "torch"), x)
    np.testing.assert_array_equal(mine, theirs)


@needs_contraction
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_binary_networks_give_torchs_own_scores(tmp_path: Path, seed: int, bias: bool, affine: bool) -> None:
    net = awkward(Net(bias=bias, affine=affine), seed)
    reading = read_source(saved(tmp_path, net.state_dict()), ConvertOptions(input=RAW))
    x = pixels()
    np.testing.assert_array_equal(reference.forward(reading.net, x), torch_scores(net, x))
    assert sorted(t.name for t in reading.tensors) == sorted(net.state_dict())
    assert {t.name for t in reading.tensors if t.ignored} == {f"bn{i}.num_batches_tracked" for i in (1, 2, 3)}


@pytest.mark.parametrize("seed", range(3))
def test_float_head_reads_hardtanh(tmp_path: Path, seed: int) -> None:
    net = awkward(Net(float_head=True), seed)
    path = saved(tmp_path, net.state_dict())
    reading = read_source(path, ConvertOptions(input=RAW, float_layers=("fc3",)))
    assert networks.kinds(reading.net) == ["binary", "norm", "sign", "binary", "norm", "hardtanh", "float"]
    x = pixels()
    np.testing.assert_allclose(reference.forward(reading.net, x), torch_scores(net, x), rtol=1e-4, atol=1e-4)
    assert any(a.what == "input of float layer fc3" and a.origin == "default" for a in reading.assumptions)


def test_decisions_equal_an_independent_float64_forward(tmp_path: Path) -> None:
    layers = checkpoints.random_layers(WIDTHS, 2)
    state = {name: torch.tensor(value) for name, value in checkpoints.state_arrays(layers).items()}
    reading = read_source(saved(tmp_path, state), ConvertOptions(input=PixelInput.normalize(0.1307, 0.3081)))
    x = pixels()
    scores, closest = checkpoints.decide(layers, (x / 255 - 0.1307) / 0.3081, epsilon=1e-5)
    assert closest > 1e-6
    np.testing.assert_allclose(reference.forward(reading.net, x), scores, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- containers and names


def state(seed: int = 1, **kinds: Any) -> Any:
    return awkward(Net(**kinds), seed).state_dict()


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("name", ["net.pt", "net.pth", "model_best.pth.tar"])
def test_training_dicts(tmp_path: Path, key: str, name: str) -> None:
    net = awkward(Net(), 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(4, WIDTHS[0])).sum().backward()
    optimizer.step()
    prefixed = OrderedDict((f"module.{k}", v) for k, v in net.state_dict().items())
    content = {
        "epoch": 3,
        "arch": "mnist",
        "best_prec1": torch.tensor(98.2),
        "best": np.float64(98.2),
        "args": argparse.Namespace(lr=0.1),
        key: prefixed,
        "optimizer": optimizer.state_dict(),
    }
    reading = read_source(saved(tmp_path, content, name))
    assert networks.names_of(reading.net, Linear) == ["fc1", "fc2", "fc3"]
    used = [t.name for t in reading.tensors if not t.ignored]
    assert all(n.startswith(f"{key}.module.") for n in used)
    assert len(used) == 18
    ignored = {t.name: t.use for t in reading.tensors if t.ignored}
    assert "best_prec1" in ignored
    assert "optimizer" in ignored["optimizer.state.0.exp_avg"]
    assert len({t.name for t in reading.tensors}) == len(reading.tensors) == 18 + 3 + 1 + 3 * 12


def test_legacy_container(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    assert read_source(path).source == "torch"


def test_safetensors_without_torch_in_any_order(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    layers = checkpoints.random_layers((6, *[4] * 11, 3), 1)  # twelve layers: fc2 must come before fc10
    path = tmp_path / "net.safetensors"
    save_file(checkpoints.state_arrays(layers), path)
    reading = read_source(path)
    assert networks.names_of(reading.net, Linear) == [f"fc{i}" for i in range(1, 13)]
    assert networks.names_of(reading.net, Norm) == [f"bn{i}" for i in range(1, 13)]
    for mine, theirs in zip(layers_of(reading, Linear), layers, strict=True):
        np.testing.assert_array_equal(mine.weight, theirs.weight)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from xnorinfer.converters import read_source\n"
        f"print(len(read_source({str(path)!r}).net.ops))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(12 * 3 - 1)


def test_sources_are_light() -> None:
    code = "import sys, xnorinfer.converters; print([m for m in ('torch', 'tensorflow', 'h5py', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_other_float_types(tmp_path: Path, dtype: str, container: str) -> None:
    kind = getattr(torch, dtype)
    content = {name: value.to(kind) if value.dtype.is_floating_point else value for name, value in state().items()}
    path = tmp_path / f"net.{container}"
    if container == "pt":
        torch.save(content, path)
    else:
        from safetensors.torch import save_file

        save_file(content, path)
    options = ConvertOptions(profile="ge-zero")  # gammas may underflow in half precision, weights too
    latent = layers_of(read_source(path, options), Linear)[1].weight
    np.testing.assert_array_equal(latent, content["fc2.weight"].to(torch.float32).numpy())


@pytest.mark.parametrize("naming", [("layers.{}.linear", "layers.{}.norm"), ("{}_a", "{}_b"), ("dense{}", "batchnorm{}")])
def test_any_naming(tmp_path: Path, naming: tuple[str, str]) -> None:
    arrays = checkpoints.state_arrays(checkpoints.random_layers(WIDTHS, 1), *naming)
    reading = read_source(saved(tmp_path, {name: torch.tensor(value) for name, value in arrays.items()}))
    assert networks.names_of(reading.net, Linear) == [naming[0].format(i) for i in (1, 2, 3)]


@pytest.mark.parametrize("norms", [2, 3])
def test_layers_registered_before_all_batch_norms(tmp_path: Path, norms: int) -> None:
    arrays = checkpoints.state_arrays(checkpoints.random_layers(WIDTHS, 1, head_norm=norms == 3))
    blocks = sorted(arrays, key=lambda name: name.startswith("bn"))
    reading = read_source(saved(tmp_path, {name: torch.tensor(arrays[name]) for name in blocks}))
    order = networks.names_of(reading.net, Linear, Norm)
    assert order == ["fc1", "bn1", "fc2", "bn2", "fc3", "bn3"][: 3 + norms]
    assert any(a.what.startswith("order of BatchNorms") for a in reading.assumptions)


def test_epsilon_and_h_options(tmp_path: Path) -> None:
    path = saved(tmp_path, state())
    assert {norm.epsilon for norm in layers_of(read_source(path), Norm)} == {1e-5}
    assert {norm.epsilon for norm in layers_of(read_source(path, ConvertOptions(bn_epsilon=1e-3)), Norm)} == {1e-3}
    assert len(read_source(path, ConvertOptions(h="glorot")).warnings) > 1


# ---------------------------------------------------------------- refusals


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.parametrize("container", ["zip", "legacy", "plain"])
def test_nothing_in_a_pickle_runs(tmp_path: Path, container: str) -> None:
    """What would run is named in a warning; the weights beside it are read."""
    marker, path = tmp_path / "ran", tmp_path / "net.pt"
    content = {"state_dict": state(), "extra": Evil(marker)}
    if container == "plain":
        path.write_bytes(pickle.dumps(Evil(marker)))
        with pytest.raises(SourceError, match=r"net\.pt holds posix\.system without any state dict"):
            read_source(path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
        reading = read_source(path)
        assert any("would run posix.system" in warning for warning in reading.warnings)
        assert len(layers_of(reading, Linear)) == 3
    assert not marker.exists()


@pytest.mark.parametrize("keep", [5, 40, 1000, -1, -200])
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_truncated(tmp_path: Path, container: str, keep: int) -> None:
    path = tmp_path / ("net.safetensors" if container == "safetensors" else "net.pt")
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=container == "zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError) as error:
        read_source(path)
    assert "\n" not in str(error.value)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_text("these are no weights")
    for options in (ConvertOptions(), ConvertOptions(format="torch")):
        with pytest.raises(SourceError, match=r"net\.pt"):
            read_source(path, options)
    for content in (torch.ones(3), {"epoch": 3}, [1, 2], {"a": torch.ones(3)}):
        with pytest.raises(SourceError, match="without any state dict"):
            read_source(saved(tmp_path, content))


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    path, packed = saved(tmp_path, {"fc1.weight": torch.zeros(2000, 2000)}), tmp_path / "small.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(SourceError, match="compressed"):
        read_source(packed)


def test_expanded_tensors_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"fc1.weight": torch.ones(1).expand(100000, 100000)})
    with pytest.raises(SourceError, match=r"net\.pt: tensor fc1\.weight says .* but its data has 4 bytes"):
        read_source(path)


def test_ambiguous_training_dict(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds 2 state dicts: .*") as error:
        read_source(saved(tmp_path, {"best": state(), "last": state(2)}))
    assert "best (" in str(error.value)
    assert "last (" in str(error.value)


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    content = state() | {"fc2.weight": torch.ones(33, 16).to_sparse()}
    with pytest.raises(SourceError, match=r"fc2.weight is torch.sparse"):
        read_source(saved(tmp_path, content))


def without(names: str, content: Any) -> Any:
    return {name: value for name, value in content.items() if not name.startswith(names)}


REFUSED: dict[str, tuple[Any, str]] = {
    "missing BatchNorm": (lambda s: without("bn2", s), "fc2: no BatchNorm between this hidden binary layer and fc3"),
    "shapes do not chain": (
        lambda s: s | {"fc2.weight": torch.randn(33, 17)},
        "fc2: takes 17 inputs but fc1 gives 16",
    ),
    "nan": (lambda s: s | {"bn2.running_mean": torch.full((33,), float("nan"))}, "bn2: mean"),
    "zero latents": (lambda s: s | {"fc2.weight": torch.zeros(33, 16)}, "fc2: all weights are 0: the layer was never trained"),
    "convolution": (
        lambda s: s | {"conv1.weight": torch.randn(4, 1, 3, 3)},
        "its tensors do not say how its convolutions go over images",
    ),
    "unknown vector": (lambda s: s | {"fc2.alpha": torch.randn(33)}, "beside weights and bias: fc2.alpha"),
    "two matrices": (lambda s: s | {"fc2.weight_org": torch.randn(33, 16)}, "holds 2 matrices"),
    "LayerNorm": (lambda s: s | {"ln.weight": torch.randn(33), "ln.bias": torch.randn(33)}, "neither a dense layer nor"),
    "PReLU": (lambda s: s | {"act.slope": torch.randn(1)}, "act.slope"),
    "BatchNorm of another width first": (
        lambda s: {"bn0.running_mean": torch.zeros(21), "bn0.running_var": torch.ones(21)} | s,
        "not clear which BatchNorm belongs to which layer",
    ),
    "negative variance": (lambda s: s | {"bn1.running_var": torch.full((16,), -1.0)}, "bn1: variance is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_networks(tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read_source(saved(tmp_path, change(dict(state()))))
    assert str(error.value).startswith("net.pt cannot be converted")
    assert_resolvable(error.value)


def test_unknown_float_layer_lists_the_layers(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="fc4: there is no such layer; the layers are fc1, fc2, fc3"):
        read_source(saved(tmp_path, state()), ConvertOptions(float_layers=("fc4",)))


def test_packed_model_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"layers.0.bits": np.zeros((2, 1), np.uint64)}, path, metadata={"xnorinfer": "{}"})
    with pytest.raises(SourceError, match="is an xnorinfer model already"):
        read_source(path)


# ---------------------------------------------------------------- live modules


@needs_contraction
def test_live_module_uses_its_own_epsilon() -> None:
    net = awkward(Net(epsilon=0.5), 4)
    reading = from_torch_module(net, ConvertOptions(input=RAW))
    assert {norm.epsilon for norm in layers_of(reading, Norm)} == {0.5}
    assert reading.source == "Net"
    x = pixels()
    np.testing.assert_array_equal(reference.forward(reading.net, x), torch_scores(net, x))


@pytest.mark.parametrize("wrap", [False, True])
def test_live_float_head_is_recognized(wrap: bool) -> None:
    net = awkward(Net(float_head=True), 4)
    reading = from_torch_module(nn.DataParallel(net) if wrap else net, ConvertOptions(input=RAW))
    assert networks.kinds(reading.net)[-2:] == ["hardtanh", "float"]
    x = pixels()
    np.testing.assert_allclose(reference.forward(reading.net, x), torch_scores(net, x), rtol=1e-4, atol=1e-4)


def test_live_sequential_activations_are_known() -> None:
    def build(*between: Any) -> Any:
        return awkward(nn.Sequential(BinarizeLinear(20, 16, True, True), *between, nn.Linear(16, 5)), 4)

    x = pixels()
    norm = nn.BatchNorm1d(16, eps=0.1)
    for extra, tail in {
        (norm, nn.Hardtanh()): ["norm", "hardtanh", "float"],
        (norm,): ["binary", "norm", "float"],
        (nn.Hardtanh(-30, 20), norm, nn.Dropout(), nn.Sigmoid()): ["clip", "norm", "sigmoid", "float"],
        (nn.ReLU(), norm, nn.Hardtanh()): ["relu", "norm", "hardtanh", "float"],
        (nn.LeakyReLU(0.25), nn.Sequential(norm, nn.Tanh())): ["prelu", "norm", "tanh", "float"],
        (nn.Hardtanh(), norm): ["hardtanh", "norm", "float"],
    }.items():
        net = build(*extra)
        reading = from_torch_module(net, ConvertOptions(input=RAW))
        assert networks.kinds(reading.net)[-len(tail) :] == tail
        np.testing.assert_allclose(reference.forward(reading.net, x), torch_scores(net, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(NetworkError, match="module 2 is a GELU"):
        from_torch_module(build(norm, nn.GELU()), ConvertOptions())


def test_functions_before_norms_of_hidden_binary_layers() -> None:
    net = nn.Sequential(
        BinarizeLinear(20, 16, True, True), nn.ReLU(), nn.BatchNorm1d(16), BinarizeLinear(16, 33, True, False),
        nn.Hardtanh(-9, 5), nn.BatchNorm1d(33), nn.Hardtanh(), BinarizeLinear(33, 5, True, False), nn.BatchNorm1d(5),
    )  # fmt: skip
    net = awkward(net, 5)
    reading = from_torch_module(net, ConvertOptions(input=RAW, profile="torch-sign"))
    x = pixels()
    np.testing.assert_allclose(reference.forward(reading.net, x), torch_scores(net, x), rtol=1e-4, atol=1e-4)


def test_functions_of_other_modules_are_asked_for() -> None:
    class WithRelu(Net):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            for number in range(1, self.count + 1):
                x = getattr(self, f"fc{number}")(x)
                x = getattr(self, f"bn{number}")(self.relu(x) if number < self.count else x)
                x = getattr(self, f"htanh{number}")(x) if number < self.count else x
            return x

    net = awkward(WithRelu(), 1)
    with pytest.raises(NetworkError, match=r"module relu is a ReLU.*--before-norm") as error:
        from_torch_module(net, ConvertOptions(input=RAW))
    assert_resolvable(error.value)
    reading = from_torch_module(net, ConvertOptions(input=RAW, before_norm="relu", profile="ge-zero"))
    assert networks.kinds(reading.net).count("relu") == 2
    ours, theirs = reference.forward(reading.net, pixels()), torch_scores(net, pixels())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(NetworkError, match=r"module relu is a ReLU"):
        from_torch_module(net, ConvertOptions(input=RAW, before_norm="tanh"))


def test_live_plain_linears_are_binary_with_a_warning() -> None:
    net = awkward(nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)), 4)
    reading = from_torch_module(net, ConvertOptions())
    assert len(layers_of(reading, Linear)) == 2
    assert any("plain torch.nn.Linear" in warning for warning in reading.warnings)


def test_live_module_is_not_changed() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    from_torch_module(net, ConvertOptions(profile="ge-zero"))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

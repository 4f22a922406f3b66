"""The same network through every source is the same packed model: input, bits, limits and head, byte for byte.

Once for pixels in -1..1 and once for thresholded ones; names of layers and provenance may differ, nothing else.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet_files
import numpy as np
import pytest
from checkpoints import decide, lasagne_arrays, named_arrays, state_arrays, write_npz
from one_network import EPSILON, NORM, WIDTHS, described, flat, graph, one_network, tf1_variables, with_epsilon, with_inv_std
from places import TOOLS
from safetensors.numpy import save_file
from tf1_writer import write_bundle

import xnorinfer
from xnorinfer.conversion import Conversion, convert_file, pack_reading
from xnorinfer.converters import ConvertOptions, from_torch_module
from xnorinfer.net.values import InputMapping, PixelInput, ThresholdInput
from xnorinfer.packing.modelfile import header_of, load, save
from xnorinfer.packing.packed import Affine, PackedModel

F = np.float32
LAYERS = one_network()
INPUTS = {"pixels": PixelInput.range(-1, 1), "threshold": ThresholdInput(128)}
#: The network in the documented arrays, which every other source is compared with.
REFERENCE = "npz, documented names"
Reader = Callable[..., Conversion]


def reader(path: Path, **given: Any) -> Reader:
    """Converts a file with the options that it needs, and what the caller adds."""
    return lambda **options: convert_file(path, ConvertOptions(**given, **options))


def described_reader(path: Path, toml: str) -> Reader:
    """The same for a net.toml, where the input is a part of the text."""

    def convert(input: InputMapping) -> Conversion:
        said = "range = [-1, 1]" if isinstance(input, PixelInput) else "threshold = 128"
        text = toml.replace("[[layers]]", f"[input]\n{said}\n[[layers]]", 1)
        return convert_file(path, ConvertOptions(net=text))

    return convert


def ungraphed(folder: Path) -> dict[str, Reader]:
    """Files that the tests write themselves."""
    state = state_arrays(LAYERS)
    save_file(state, folder / "net.safetensors")
    save_file(flat(LAYERS), folder / "flat.safetensors")
    (folder / "raw").mkdir()
    for name, array in flat(LAYERS).items():
        array.tofile(folder / "raw" / f"{name.replace('/', '_')}.f32")
    stacked = {f"bn{i}": np.stack([getattr(layer, what) for what in NORM], axis=1) for i, layer in enumerate(LAYERS)}
    write_npz(folder / "stacked.npz", **stacked, **{f"w{i}": o.weight.T for i, o in enumerate(LAYERS)}, **biases("b{}"))
    return {
        REFERENCE: reader(write_npz(folder / "named.npz", **with_epsilon(LAYERS))),
        "npz, Lasagne's order": reader(write_npz(folder / "lasagne.npz", *lasagne_arrays(with_inv_std(LAYERS)))),
        "npz, documented names, inv_std": reader(write_npz(folder / "inverse.npz", **named_arrays(with_inv_std(LAYERS)))),
        "npz, a state dict": reader(write_npz(folder / "state.npz", **state), bn_epsilon=EPSILON),
        "safetensors, a state dict": reader(folder / "net.safetensors", bn_epsilon=EPSILON),
        "TF1 bundle written here": reader(write_bundle(folder, tf1_variables(LAYERS)), bn_epsilon=EPSILON),
        "QONNX graph": reader(graph(folder / "quantized.onnx", LAYERS, "quantized")),
        "ONNX graph of weights binarized before": reader(graph(folder / "signs.onnx", LAYERS, "signs")),
        "ONNX graph, BatchNorm in four steps": reader(graph(folder / "textbook.onnx", LAYERS, "textbook")),
        "MXNet symbol and parameters": reader(mxnet_model(folder)),
        "net.toml, safetensors": described_reader(folder / "flat.safetensors", described(lambda i, what: f"{i}/{what}")),
        "net.toml, stacked BatchNorm": described_reader(folder / "stacked.npz", stacked_toml()),
        "net.toml, raw files": described_reader(folder / "raw", raw_toml()),
    }


def mxnet_model(folder: Path) -> Path:
    """Layers whose weights are signs: BMXNet's own count agreements, and take the signs of their inputs."""
    net = mxnet_files.Symbol()
    for index, layer in enumerate(LAYERS):
        if index:
            net.add("QActivation", f"sign{index}", act_bit=1)
        signs = np.where(layer.weight > 0, F(1), F(-1))
        net.dense(f"fc{index}", signs, layer.bias, binary=False)
        norm = (layer.mean, layer.variance, layer.gamma, layer.beta)
        net.norm(f"bn{index}", *norm, fix_gamma=False, eps=EPSILON)
    return net.write(folder)


def biases(name: str) -> dict[str, Any]:
    return {name.format(i): layer.bias for i, layer in enumerate(LAYERS)}


def stacked_toml() -> str:
    text = 'profile = "gt-zero"\nlayout = "in_out"\n'
    for i in range(len(LAYERS)):
        order = ", ".join(f'"{what}"' for what in NORM)
        norm = f'norm = {{stacked = "bn{i}", order = [{order}], axis = 1, epsilon = {EPSILON}, form = "torch"}}'
        text += f'[[layers]]\nweight = "w{i}"\nbias = "b{i}"\n{norm}\n'
    return text


def raw_toml() -> str:
    text = described(lambda i, what: f"{i}_{what}")
    for name, array in flat(LAYERS).items():
        file = name.replace("/", "_")
        text += f'[arrays.{file}]\nfile = "{file}.f32"\nformat = "raw"\ndtype = "float32"\nshape = {list(array.shape)}\n'
    return text


def digest(packed: PackedModel) -> str:
    return str(header_of(packed)["content_digest"])


def check(readers: dict[str, Reader], folder: Path) -> None:
    """Every source gives the reference's model: equal digests, and the digest covers everything that the file holds."""
    wanted = reader(write_npz(folder / "reference.npz", **with_epsilon(LAYERS)))
    for input in INPUTS.values():
        first = wanted(input=input).packed
        for name, convert in readers.items():
            packed = convert(input=input).packed
            assert packed.input == first.input, name
            for (ours, a), (theirs, b) in zip(packed.tensors(), first.tensors(), strict=True):
                assert (name, ours, a.dtype, a.shape) == (name, theirs, b.dtype, b.shape)
                assert a.tobytes() == b.tobytes(), (name, ours)
            assert digest(packed) == digest(first), name


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Reader]:
    return ungraphed(tmp_path)


def test_sources_that_need_no_framework(files: dict[str, Reader], tmp_path: Path) -> None:
    check(files, tmp_path)


def test_the_network_is_what_it_is_meant_to_be(files: dict[str, Reader]) -> None:
    """Against float64 arithmetic: every decision is certain, and the head's floats are exact."""
    x = np.random.default_rng(3).integers(0, 256, (300, WIDTHS[0]), dtype=np.uint8)
    packed = files[REFERENCE](input=INPUTS["pixels"]).packed
    scores, closest = decide(LAYERS, 2 * x.astype(np.float64) / 255 - 1, epsilon=EPSILON)
    assert closest > 1e-6
    np.testing.assert_array_equal(xnorinfer.Model(packed, threads=1).scores(x), scores.astype(F))
    assert np.unique(scores.argmax(axis=1)).size >= 3
    output = packed.layers[-1].op.output
    assert isinstance(output, Affine)
    assert output.ops == ("mul", "add")


def test_model_files_differ_in_provenance_only(files: dict[str, Reader], tmp_path: Path) -> None:
    """The tensors of two model files are the same bytes; the digest is kept when they are loaded."""
    ends = []
    for number, name in enumerate((REFERENCE, "QONNX graph")):
        path = tmp_path / f"{number}.safetensors"
        save(files[name](input=INPUTS["pixels"]).packed, path)
        raw = path.read_bytes()
        ends.append(raw[8 + int.from_bytes(raw[:8], "little") :])
        assert digest(load(path)) == digest(files[name](input=INPUTS["pixels"]).packed)
    assert ends[0] == ends[1]
    assert (tmp_path / "0.safetensors").read_bytes() != (tmp_path / "1.safetensors").read_bytes()


def test_ways_to_say_the_input(files: dict[str, Reader]) -> None:
    """torchvision's Normalize(0.5, 0.5) is the mapping to -1..1."""
    usual, torchvision = (files[REFERENCE](input=i).packed for i in (INPUTS["pixels"], PixelInput.normalize(0.5, 0.5)))
    assert digest(usual) == digest(torchvision)


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers[0].weight.__setitem__((3, 5), -layers[0].weight[3, 5]),
        lambda layers: layers[1].bias.__setitem__(0, layers[1].bias[0] + 2),
        lambda layers: layers[2].beta.__setitem__(0, layers[2].beta[0] + F(2.0**-20)),
        lambda layers: layers[2].gamma.__setitem__(4, F(-1.0000001)),
    ],
    ids=["weight", "threshold", "shift", "scale"],
)
def test_another_network_is_another_model(files: dict[str, Reader], tmp_path: Path, change: Callable[[Any], None]) -> None:
    layers = one_network()
    change(layers)
    other = reader(write_npz(tmp_path / "other.npz", **with_epsilon(layers)))
    assert digest(other(input=INPUTS["pixels"]).packed) != digest(files[REFERENCE](input=INPUTS["pixels"]).packed)


def test_folded_networks(tmp_path: Path, files: dict[str, Reader]) -> None:
    """A folder made for an FPGA holds thresholds only: hidden layers are the same bits and limits, predictions those of a head
    that compares popcounts with thresholds."""
    first = files[REFERENCE](input=INPUTS["threshold"]).packed
    folder = tmp_path / "folded"
    folder.mkdir()
    for index, layer in enumerate(node.op for node in first.layers):
        # popcount > T is mismatches < depth - T; one neuron per element, one word per 24 inputs at most.
        limits = np.zeros(layer.neurons, np.int64) if isinstance(layer.output, Affine) else layer.output.limits
        for neuron in range(layer.neurons):
            layer.weights[neuron, :1].astype("<u8").tofile(folder / f"{index}-{neuron}-weights.bin")
            threshold = np.array([layer.depth - int(limits[neuron]) - 1], "<i8")
            threshold.tofile(folder / f"{index}-{neuron}-thres.bin")
    folded = convert_file(folder, ConvertOptions(input=INPUTS["threshold"])).packed
    assert folded.input == first.input
    (*hidden, head), (*wanted, last) = ([node.op for node in packed.layers] for packed in (folded, first))
    for ours, theirs in zip(hidden, wanted, strict=True):
        for a, b in ((ours.weights, theirs.weights), (ours.output.limits, theirs.output.limits)):  # type: ignore[union-attr]
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
    assert head.weights.tobytes() == last.weights.tobytes()


# ---------------------------------------------------------------- PyTorch


def torch_module(torch: Any, layers: Any = LAYERS) -> Any:
    """The network as a module that computes it; TorchScript takes arguments without a type for tensors."""

    class Sign(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x):
            return torch.sign(x)

    class BinarizeLinear(torch.nn.Linear):  # type: ignore[misc, name-defined]
        def forward(self, x):
            return torch.nn.functional.linear(x, torch.sign(self.weight), self.bias)

    stack: list[Any] = []
    for index, layer in enumerate(layers):
        dense = BinarizeLinear(layer.weight.shape[1], layer.weight.shape[0])
        norm = torch.nn.BatchNorm1d(layer.weight.shape[0], eps=EPSILON)
        names = {"weight": layer.gamma, "bias": layer.beta, "running_mean": layer.mean, "running_var": layer.variance}
        dense.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
        norm.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in names.items()}, strict=False)
        stack += [dense, norm, Sign()] if index + 1 < len(layers) else [dense, norm]
    return torch.nn.Sequential(*stack).eval()


def live(module: Any) -> Reader:
    def convert(**given: Any) -> Conversion:
        options = ConvertOptions(**given)
        return pack_reading(from_torch_module(module, options), options, "Sequential", None)

    return convert


def test_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch_module(torch)
    state = module.state_dict()
    torch.save(state, tmp_path / "state.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "training.pth.tar")
    torch.save({k.replace("/", "."): torch.from_numpy(v.copy()) for k, v in flat(LAYERS).items()}, tmp_path / "flat.pt")
    example = torch.zeros(2, WIDTHS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, which will go
        torch.jit.script(module).save(str(tmp_path / "scripted.pt"))
        torch.jit.trace(module, example).save(str(tmp_path / "traced.pt"))
        torch.export.save(torch.export.export(module, (example,)), tmp_path / "exported.pt2")
    check(
        {
            **{name: reader(tmp_path / name) for name in ("scripted.pt", "traced.pt", "exported.pt2")},
            **{name: reader(tmp_path / name, bn_epsilon=EPSILON) for name in ("state.pt", "legacy.pt", "training.pth.tar")},
            "net.toml, torch": described_reader(tmp_path / "flat.pt", described(lambda i, what: f"{i}.{what}")),
            "live module": live(module),
        },
        tmp_path,
    )


def test_heads_that_frameworks_round_differently_stay_different(tmp_path: Path) -> None:
    """With a scale of many digits PyTorch's fused head and TensorFlow's are two networks: each is its framework's, exactly."""
    torch = pytest.importorskip("torch")
    layers = one_network()
    rng = np.random.default_rng(1)
    layers[-1].gamma, layers[-1].mean = (rng.standard_normal(WIDTHS[-1]).astype(F) for _ in "gm")
    module = torch_module(torch, layers)
    fused = live(module)(input=INPUTS["threshold"]).packed
    plain = reader(write_npz(tmp_path / "tf.npz", **with_epsilon(layers)))(input=INPUTS["threshold"]).packed
    assert digest(fused) != digest(plain)
    heads = [packed.layers[-1].op.output for packed in (fused, plain)]
    assert [output.ops for output in heads if isinstance(output, Affine)] == [
        ("add", "fma"),
        ("add", "mul", "add"),
    ]
    x = rng.integers(0, 256, (200, WIDTHS[0]), dtype=np.uint8)
    signs = np.where(x >= 128, F(1), F(-1))
    with torch.inference_mode():
        scores = module(torch.from_numpy(signs)).numpy()
        hidden = module[:-1](torch.from_numpy(signs)).numpy()
    np.testing.assert_array_equal(xnorinfer.Model(fused, threads=1).scores(x), scores)
    head = layers[-1]
    assert head.variance is not None
    scale = F(1) / np.sqrt(head.variance + F(EPSILON)) * head.gamma
    theirs = hidden * scale + (head.beta - head.mean * scale)  # tf.nn.batch_normalization
    np.testing.assert_array_equal(xnorinfer.Model(plain, threads=1).scores(x), theirs)
    assert (scores != theirs).any()


# ---------------------------------------------------------------- TensorFlow, Keras, Larq


def test_tensorflow_keras_and_larq(tmp_path: Path) -> None:
    for name in ("tensorflow", "tf_keras", "keras", "larq", "h5py"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    script = TOOLS / "every_source.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    readers = {name: reader(tmp_path / name, bn_epsilon=EPSILON) for name in ("v2", "v1", "v2.index")}
    for file in sorted(tmp_path.glob("*.h5")) + sorted(tmp_path.glob("*.keras")):
        told = file.suffix == ".keras" or file.name in ("port2.h5", "larq.h5")  # the others hold weights alone
        readers[file.name] = reader(file, **({} if told else {"bn_epsilon": EPSILON}))
    assert len(readers) == 13
    check(readers, tmp_path)


# ---------------------------------------------------------------- exporters


def test_exported_by_torch(tmp_path: Path) -> None:
    """torch.onnx's exporter; `sign` of weights is folded into numbers by it, or stays in the graph."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(torch_module(torch), (torch.zeros(1, WIDTHS[0]),), str(tmp_path / "net.onnx"), dynamo=False)
    check({"torch.onnx": reader(tmp_path / "net.onnx")}, tmp_path)


def test_exported_by_brevitas(tmp_path: Path) -> None:
    """export_qonnx, with the pixels mapped in the graph."""
    for name in ("torch", "brevitas", "onnxoptimizer", "qonnx"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    script = TOOLS / "every_source_brevitas.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    exports = {name: reader(tmp_path / name) for name in ("mapped.onnx", "cleaned.onnx")}
    pixels = INPUTS["pixels"]
    wanted = reader(write_npz(tmp_path / "reference.npz", **with_epsilon(LAYERS)))(input=pixels).packed
    for name, convert in exports.items():
        assert digest(convert(input=PixelInput.range(0, 1)).packed) == digest(wanted), name

"""The bnnpynq source: folders packed here from known weights, and the published MNIST network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_networks import checkpoint, mnist_test_set

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.errors import OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear
from xnorinfer.net.values import ThresholdInput

#: (inputs, neurons, SIMD, PE) per layer; the first has 50 real inputs, the last 5 real classes.
LAYERS = [(64, 32, 16, 4), (32, 24, 32, 8), (24, 8, 8, 2)]
INPUTS, CLASSES = 50, 5


def network(seed: int = 0) -> list[tuple[Any, Any]]:
    """Bits (neurons, inputs) and thresholds (neurons,) of every layer, with neurons that are always or never on."""
    rng = np.random.default_rng(seed)
    layers = []
    for inputs, neurons, _, _ in LAYERS:
        thresholds = rng.integers(inputs // 3, inputs * 2 // 3, neurons).astype(np.int64)
        thresholds[:3] = [-5, inputs, inputs - 1]
        layers.append((rng.integers(0, 2, (neurons, inputs)).astype(np.uint8), thresholds))
    layers[0][0][:, INPUTS:] = 1
    layers[0][0][0, INPUTS - 1] = 0
    layers[-1][1][CLASSES:] = 32767
    layers[-1][1][:CLASSES] = rng.integers(5, 15, CLASSES)
    return layers


def write(folder: Path, layers: list[tuple[Any, Any]], sizes: list[tuple[int, int, int, int]] = LAYERS) -> Path:
    for index, ((bits, thresholds), (inputs, neurons, simd, elements)) in enumerate(zip(layers, sizes, strict=True)):
        for element in range(elements):
            words = [
                sum(int(bit) << place for place, bit in enumerate(bits[neuron, start : start + simd]))
                for neuron in range(element, neurons, elements)
                for start in range(0, inputs, simd)
            ]
            np.array(words, "<u8").tofile(folder / f"{index}-{element}-weights.bin")
            if thresholds is not None:
                thresholds[element::elements].astype("<i8").tofile(folder / f"{index}-{element}-thres.bin")
    return folder


def forward(layers: list[tuple[Any, Any]], pixels: Any) -> Any:
    """The hardware's arithmetic: XNOR, popcount, strict comparison."""
    value = np.zeros((len(pixels), LAYERS[0][0]), np.uint8)
    value[:, :INPUTS] = pixels >= 128
    for index, (bits, thresholds) in enumerate(layers):
        counts = (value[:, None, :] == bits[None]).sum(axis=2)
        if index == 0:  # padding inputs are 0 and padding weights 1: they never match
            assert (value[:, None, INPUTS:] != bits[None, :, INPUTS:]).all()
        value = (counts > thresholds).astype(np.uint8)
    return (counts - thresholds)[:, :CLASSES]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_popcounts_minus_thresholds(tmp_path: Path, seed: int) -> None:
    layers = network(seed)
    reading = read_source(write(tmp_path, layers))
    x = np.random.default_rng(1).integers(0, 256, (200, INPUTS), dtype=np.uint8)
    np.testing.assert_array_equal(reference.forward(reading.net, x), forward(layers, x))
    assert reading.net.input == ThresholdInput(128)
    assert reading.net.profile == "gt-zero"
    assert [(layer.neurons, layer.depth) for layer in reading.net.ops if isinstance(layer, Linear)] == [
        (32, INPUTS),
        (24, 32),
        (CLASSES, 24),
    ]
    kinds = [(t.name, t.shape[0]) for t in reading.tensors]
    elements = [elements for *_, elements in LAYERS]
    assert kinds == [(f"{i}-[0-{n - 1}]-{kind}.bin", n) for i, n in enumerate(elements) for kind in ("weights", "thres")]
    assert {a.what for a in reading.assumptions} >= {"inputs", "classes", "tie profile"}


def test_published_network(mnist_folder: Path) -> None:
    reading = read_source(checkpoint(mnist_folder, "bnnpynq_lfc_w1a1"))
    images, labels = mnist_test_set(mnist_folder)
    right = sum(
        int((reference.forward(reading.net, images[i : i + 2000]).argmax(axis=1) == labels[i : i + 2000]).sum())
        for i in range(0, 10000, 2000)
    )
    assert right == 9834


def test_a_folder_says_its_tie_profile_itself(tmp_path: Path) -> None:
    conversion = convert_file(write(tmp_path, network()), ConvertOptions())
    assert not conversion.warnings
    assert next(a.origin for a in conversion.reading.assumptions if a.what == "tie profile") == "file"


#: (inputs, neurons, SIMD, PE) per layer of cnvW1A1, folded otherwise than the published one.
CNV = [
    (27, 64, 27, 8),
    (576, 64, 64, 4),
    (576, 128, 36, 8),
    (1152, 128, 32, 16),
    (1152, 256, 64, 4),
    (2304, 256, 24, 2),
    (256, 512, 64, 1),
    (512, 512, 16, 4),
    (512, 64, 8, 2),
]


def cnv(seed: int = 0) -> list[tuple[Any, Any]]:
    """Random bits, and thresholds in the middle of what is counted; the first layer's are of 1/256."""
    rng = np.random.default_rng(seed)
    layers: list[tuple[Any, Any]] = []
    for index, (inputs, neurons, _, _) in enumerate(CNV):
        spread, middle = (700, 0) if index == 0 else (int(inputs**0.5), inputs // 2)
        thresholds = (middle + rng.integers(-spread, spread, neurons)).astype(np.int64)
        layers.append((rng.integers(0, 2, (neurons, inputs)).astype(np.uint8), thresholds if index < 8 else None))
    return layers


def cnv_counts(layers: list[tuple[Any, Any]], images: Any) -> Any:
    """The hardware's arithmetic: fixed point of eight bits, then matching bits of windows, (rows, 64)."""
    fixed = np.clip(np.floor((2 * images.astype(np.float64) / 255 - 1) * 128), -128, 127).astype(np.int64)
    value = fixed
    for index, (bits, thresholds) in enumerate(layers):
        if index == 6:
            value = value.reshape(len(value), -1)
        if index < 6:
            windows = np.lib.stride_tricks.sliding_window_view(value, (3, 3), axis=(1, 2))  # type: ignore[call-overload]
            value = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], -1)
        signs = 2 * bits.astype(np.int64) - 1
        if index == 0:
            value = 2 * (value @ signs.T) > thresholds
        else:
            counts = ((2 * value - 1) @ signs.T + bits.shape[1]) // 2
            if thresholds is None:
                return counts
            value = counts > thresholds
        if index in (1, 3):
            rows, height, width, channels = value.shape
            value = value.reshape(rows, height // 2, 2, width // 2, 2, channels).any(axis=(2, 4))
        value = value.astype(np.int64)
    raise AssertionError


def test_fixed_point_of_pixels() -> None:
    """2p/255 - 1 as ap_fixed<8,1>, in float32 as in the driver, is (p - 128)/128 for every pixel."""
    pixels = np.arange(256, dtype=np.float32)
    fixed = np.clip(np.floor((pixels / np.float32(255) * np.float32(2) - np.float32(1)) * np.float32(128)), -128, 127)
    np.testing.assert_array_equal(fixed, pixels - 128)


def test_convolutions_count_what_the_hardware_counts(tmp_path: Path) -> None:
    layers = cnv()
    (write(tmp_path, layers, CNV) / "classes.txt").write_text("20 km/h\n50 km/h\nstop\n\n")
    reading = read_source(tmp_path)
    x = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(reference.forward(reading.net, x.reshape(4, -1)), cnv_counts(layers, x)[:, :3])
    assert reading.net.shape == (32, 32, 3)
    said = {one.what: one for one in reading.assumptions}
    assert said["windows"].origin == said["input"].origin == said["classes"].origin == "file"
    assert not reading.warnings


def test_published_convolutions(mnist_folder: Path) -> None:
    reading = read_source(checkpoint(mnist_folder, "bnnpynq_cnv_w1a1_cifar10"))
    with np.load(mnist_folder.parent / "images" / "cifar10_20.npz") as data:
        images, labels = data["x"], data["y"]
    scores = reference.forward(reading.net, images.reshape(20, -1))
    np.testing.assert_array_equal(scores.argmax(axis=1), labels)
    model = xnorinfer.convert(mnist_folder.parent / "checkpoints" / "bnnpynq_cnv_w1a1_cifar10", threads=1)
    np.testing.assert_array_equal(model.scores(images), scores)


def test_convolutions_of_other_shapes_are_told_by_what_they_are(tmp_path: Path) -> None:
    layers = cnv()
    write(tmp_path, layers, CNV)
    with pytest.raises(SourceError, match=r"its last layer has 64 neurons, .* classes\.txt, a name a line, must say"):
        read_source(tmp_path)
    (tmp_path / "classes.txt").write_text("a\n" * 65)
    with pytest.raises(SourceError, match=r"classes\.txt, a name a line, must say"):
        read_source(tmp_path)
    (tmp_path / "3-5-thres.bin").unlink()
    with pytest.raises(SourceError, match=r"^[^ ]+: .*3-5-thres\.bin is missing|layer 1 takes 9 times"):
        read_source(tmp_path)
    for file in tmp_path.glob("2-*"):
        file.unlink()
    for file in tmp_path.glob("[3-8]-*"):
        file.rename(tmp_path / f"{int(file.name[0]) - 1}{file.name[1:]}")
    with pytest.raises(SourceError, match=r"layer 1 takes 9 times the 64 values .* \(a 3x3 convolution\); only dense networks"):
        read_source(tmp_path)


@pytest.mark.parametrize("thresholds", [1, 2])
def test_networks_of_several_bits(tmp_path: Path, thresholds: int) -> None:
    """Two thresholds per neuron; or weights of two bits each, with one."""
    rng = np.random.default_rng(2)
    for layer, (depth, neurons) in enumerate([(128, 64), (64, 64), (64, 64)]):
        bits = depth * (3 - thresholds) if layer else depth
        words = rng.integers(1 << 62, 1 << 63, neurons * bits // 64, dtype=np.uint64) << np.uint64(1)
        words.tofile(tmp_path / f"{layer}-0-weights.bin")
        np.sort(rng.integers(0, depth, (neurons, thresholds)), axis=1).astype("<i8").tofile(tmp_path / f"{layer}-0-thres.bin")
    what = "has several thresholds per neuron" if thresholds == 2 else r"takes 2 times .* \(weights of two bits\)"
    with pytest.raises(SourceError, match=f"layer 1 {what}"):
        read_source(tmp_path)


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "missing weights": ("1-3-weights.bin", None, "1-3-weights.bin is missing"),
    "missing thresholds": ("0-2-thres.bin", None, "0-2-thres.bin is missing"),
    "odd size": ("1-0-weights.bin", b"123", "1-0-weights.bin has 3 bytes"),
    "empty": ("1-0-thres.bin", b"", "1-0-thres.bin has 0 bytes"),
    "different sizes": ("1-0-weights.bin", bytes(800), "files of layer 1 differ in size"),
    "too many bits": ("2-0-weights.bin", b"\xff" * 96, "layer 2 has 3 words of 64 bits for the 24 values"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(tmp_path: Path, case: str) -> None:
    name, content, message = DAMAGE[case]
    write(tmp_path, network())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_source(tmp_path)


def test_not_such_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder, no checkpoint of the kind bnnpynq"):
        read_source(tmp_path, ConvertOptions(format="bnnpynq"))
    write(tmp_path, network())
    with pytest.raises(OptionError, match="folded already"):
        read_source(tmp_path, ConvertOptions(h=2.0))


def test_layers_whose_sums_float32_does_not_hold_are_refused(tmp_path: Path) -> None:
    np.full((1 << 16) + 1, 1 << 63, "<u8").tofile(tmp_path / "0-0-weights.bin")
    np.zeros(1, "<i8").tofile(tmp_path / "0-0-thres.bin")
    with pytest.raises(SourceError, match=r"layer 0 has 4194368 inputs; float32, .*, holds those of 4194304 exactly"):
        read_source(tmp_path)

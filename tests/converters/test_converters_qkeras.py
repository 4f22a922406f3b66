"""QKeras models: QDense and QActivation with binary quantizers, against the scores that QKeras gave."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_files import QKERAS, QKERAS_MAPS
from places import unpack
from refusals import assert_resolvable

import xnorinfer
from xnorinfer.converters import read_source
from xnorinfer.converters.kerasmodels.quantizers import (
    Rounded,
    Signs,
    Unsupported,
    dorefa_signs,
    quantized_bias,
    quantizer,
    rounded,
    scale_of,
    signs,
)
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Levels
from xnorinfer.net.values import LevelValues

pytest.importorskip("h5py", reason="Keras's files are read through h5py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(QKERAS, tmp_path_factory.mktemp("qkeras"))


@pytest.mark.parametrize(
    "file", ["alpha1.h5", "text.h5", "scaled.keras", "auto.keras", "bits.h5", "stochastic.h5", "norm.h5", "zero_one.h5"]
)
def test_scores_are_those_of_qkeras(folder: Path, file: str) -> None:
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs["x"], outputs[file.partition(".")[0]]
    model = xnorinfer.convert(folder / file)
    np.testing.assert_array_equal(model.predict(x), wanted.argmax(axis=1))
    # A bit that differs moves a score by far more; sums of floats are rounded otherwise.
    np.testing.assert_allclose(model.scores(x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("file", ["added.h5", "joined.keras", "joined-saved"])
def test_blocks_of_levels_and_pools(tmp_path: Path, file: str) -> None:
    """Sums of levels, joined signs, QKeras' averages and averages of signs: every score is the same float."""
    with np.load(unpack(QKERAS_MAPS, tmp_path) / "outputs.npz") as outputs:
        x, wanted = outputs["images"], outputs[file.partition(".")[0].removesuffix("-saved")]
    assert len(np.unique(wanted, axis=0)) > 20
    np.testing.assert_array_equal(xnorinfer.convert(tmp_path / file, input_range=(-1, 1)).scores(x), wanted)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("QGlobalAveragePooling2D", {"average_quantizer": "quantized_bits(4)"}, r"quantizes a pixel's share"),
        (
            "QAveragePooling2D",
            {"average_quantizer": "quantized_po2(4)"},
            "the average_quantizer quantizedpo2, which is no quantized_bits",
        ),
        ("QAveragePooling2D", {"activation": "quantized_tanh(2)"}, "quantized_tanh has more than two values"),
    ],
)
def test_averages_that_are_refused(tmp_path: Path, kind: str, config: dict[str, Any], message: str) -> None:
    folder = unpack(QKERAS_MAPS, tmp_path)
    with zipfile.ZipFile(folder / "joined.keras") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    model = json.loads(parts["config.json"])
    (pool,) = (layer for layer in model["config"]["layers"] if layer["class_name"] == "QAveragePooling2D")
    pool["class_name"] = kind
    pool["config"] |= config
    with zipfile.ZipFile(folder / "net.keras", "w") as file:
        for name, content in (parts | {"config.json": json.dumps(model).encode()}).items():
            file.writestr(name, content)
    with pytest.raises(NetworkError, match=message) as error:
        xnorinfer.convert(folder / "net.keras")
    assert_resolvable(error.value)


def test_a_quantized_relu(folder: Path) -> None:
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs["x"], outputs["relu"]
    net = read_source(folder / "relu.h5").net
    assert {op.domain for op in net.ops if isinstance(op, Levels)} == {LevelValues(0, 7, step=0.125)}
    np.testing.assert_allclose(reference.forward(net, x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("quantized_relu(2)", Rounded(4.0, 0, 3, 0.25)),
        ("quantized_relu(4, 2)", Rounded(4.0, 0, 15, 0.25)),
        ("quantized_bits(2, 0, 1)", Rounded(2.0, -1, 1, 0.5)),
        ("quantized_bits(3, 1)", Rounded(2.0, -4, 3, 0.5)),
        ("quantized_bits(2, keep_negative=0)", Rounded(4.0, 0, 3, 0.25)),
        ({"class_name": "DoReFa", "config": {"k_bit": 2, "mode": "activations"}}, Rounded(3, 0, 3, divisor=3)),
        ("DoReFaQuantizer", Rounded(3, 0, 3, divisor=3)),
        ("quantized_relu(8)", None),
        ("quantized_bits(1)", None),
        ("quantized_tanh(2)", None),
        ({"class_name": "DoReFa", "config": {"k_bit": 2, "mode": "weights"}}, "with mode 'weights' is for kernels"),
        ("quantized_relu(2, use_sigmoid=1)", "with use_sigmoid 1 is not supported"),
        ("quantized_relu(2, negative_slope=0.25)", "with negative_slope 0.25 is not supported"),
        ("quantized_relu(2, relu_upper_bound=0.5)", "with relu_upper_bound 0.5 is not supported"),
        ("quantized_bits(2, alpha='auto')", "with alpha 'auto' is not supported"),
        ("quantized_bits(2, 0.5)", r"has the setting integer 0\.5, needed is a whole number"),
        ("quantized_bits(2, 99)", "has the setting integer 99, needed is a whole number"),
    ],
)
def test_activations_of_a_few_bits(value: object, wanted: Rounded | str | None) -> None:
    found = quantizer(value)
    assert found is not None
    if isinstance(wanted, str):
        with pytest.raises(Unsupported, match=wanted):
            rounded(found)
    else:
        assert rounded(found) == wanted


def test_dorefas_kernels_of_one_bit() -> None:
    """`2*round(tanh(w) / (2*max|tanh(w)|) + 0.5) - 1`: what is next to 0.5 is rounded to it, and that to 0."""
    found = dorefa_signs(np.array([[-1, -1e-9, 0], [1e-9, 2e-7, 2]], np.float32))
    np.testing.assert_array_equal(found, [[-1, -1, -1], [-1, 1, 1]])
    np.testing.assert_array_equal(dorefa_signs(np.zeros((2, 2), np.float32)), np.full((2, 2), -1))
    with pytest.raises(Unsupported, match="has 1 weights whose sign rounding decides"):
        dorefa_signs(np.array([[20, 2**-24]], np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ternary", r"fc9 \(QDense\): the kernel_quantizer ternary is ternary .* \(also: fc8 \(QDense\), fc5 \(QDense\)\)$"),
        ("two_bits", r"the kernel_quantizer quantized_bits has more than two values \(2 bits\)"),
        ("nothing", "makes every weight 0"),
        ("quantized_norm", r"quantizes its own values \(gamma_quantizer quantizedrelupo2"),
    ],
)
def test_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as error:
        xnorinfer.convert(folder / f"{name}.h5")
    assert_resolvable(error.value)


@pytest.mark.parametrize(
    ("value", "kernel", "wanted"),
    [
        ("binary(alpha=1)", True, Signs("ge", 1.0)),
        ("binary( False , 'auto' )", True, Signs("ge", "auto")),
        ({"class_name": "binary", "config": {"use_01": False, "alpha": 0.25}}, False, Signs("ge", 0.25)),
        ("binary", True, Signs("ge", "auto_po2")),
        ("binary()", False, Signs("ge", 1.0)),
        ("stochastic_binary(alpha='auto_po2',temperature=2)", True, Signs("ge", "auto_po2")),
        ("quantized_bits(1, 3, alpha=2.0)", True, Signs("ge", 2.0)),
        ("quantized_bits(bits=1)", False, Signs("ge", 1.0)),
        ("binary_tanh", False, Signs("round-even")),
        ("binary(use_01=1, alpha=0.5)", False, Signs("ge", 0.5, zero_one=True)),
        ("binary(use_01=True)", True, "gives 0 and 1"),
        ("ste_heaviside", True, "gives 0 and 1"),
        ("mine(3)", False, None),
        ("binary(alpha='auto')", False, "scales by a mean over the batch"),
        ("binary(alpha=-1)", True, "a number above 0"),
        ("binary(alpha=[1, 2])", True, "needed is a number above 0"),
        ("quantized_bits(1,0,0,0,1.0)", False, "without negative values"),
        ("quantized_bits()", False, "8 bits"),
        ({"class_name": "quantized_bits", "config": {"bits": 1, "alpha": 1, "qnoise_factor": 0.5}}, True, "mixes in"),
        ("bernoulli()", False, "is random"),
    ],
)
def test_quantizers(value: object, kernel: bool, wanted: Signs | str | None) -> None:
    found = quantizer(value)
    assert found is not None
    if isinstance(wanted, str):
        with pytest.raises(Unsupported, match=wanted):
            signs(found, kernel=kernel)
    else:
        assert signs(found, kernel=kernel) == wanted


def test_scales_between_two_powers_of_two_are_refused() -> None:
    weight = np.full((3, 4), 0.5, np.float32)
    scale, _ = scale_of("auto_po2", weight)
    np.testing.assert_array_equal(scale, np.full(3, 0.5, np.float32))
    weight[1] = np.float32(2**-0.5)
    with pytest.raises(Unsupported, match="1 scales that lie between two powers of two"):
        scale_of("auto_po2", weight)


def test_a_quantized_bias_is_on_the_grid() -> None:
    bias = np.array([-3, -0.3, -0.13, 0, 0.12, 0.125, 0.38, 5], np.float32)
    found = quantized_bias("quantized_bits(4, 0, 1)", bias)  # steps of 1/8, -7/8 to 7/8, halves to even
    np.testing.assert_array_equal(found, np.array([-0.875, -0.25, -0.125, 0, 0.125, 0.125, 0.375, 0.875], np.float32))
    for other in ("quantized_po2(4)", "quantized_bits(4, alpha='auto')"):
        with pytest.raises(Unsupported):
            quantized_bias(other, bias)

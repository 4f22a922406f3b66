"""Larq's DoReFa, in configs, in TensorFlow's graphs and in TensorFlow Lite's models, against the scores of the framework."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.converters import Reading, read_source
from xnorinfer.converters.livekeras import read_config_of, read_graph_of
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Levels, Linear
from xnorinfer.net.values import LevelValues, PixelInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
missing = [name for name in ("tensorflow", "tf_keras", "larq") if importlib.util.find_spec(name) is None]
if missing:
    pytest.skip(f"{', '.join(missing)} not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import larq
    import tensorflow as tf
    import tf_keras as keras

pytestmark = pytest.mark.filterwarnings("ignore")
layers, quantizers = keras.layers, larq.quantizers
SHAPE = (10, 12, 3)
OPTIONS = ConvertOptions(input=PixelInput.range(-1, 1))


def build(bits: int, *, of_kernels: bool) -> Any:
    """A convolution that is read by others and by a dense layer through DoReFa.  of_kernels: whose kernels are its, too."""

    def quantized(kind: Any, *args: Any, **settings: Any) -> Any:
        kernel = quantizers.DoReFa(1, mode="weights") if of_kernels else "ste_sign"
        return kind(*args, kernel_quantizer=kernel, use_bias=False, **settings)

    def inner(kind: Any, *args: Any, **settings: Any) -> Any:
        return quantized(kind, *args, input_quantizer=quantizers.DoReFa(bits), **settings)

    model = keras.Sequential(
        [
            layers.Input(SHAPE),
            quantized(larq.layers.QuantConv2D, 8, 3, padding="same"),
            layers.BatchNormalization(scale=False),
            inner(larq.layers.QuantConv2D, 9, 3, padding="same"),
            layers.MaxPool2D(2),
            layers.BatchNormalization(),
            layers.Flatten(),
            inner(larq.layers.QuantDense, 20),
            layers.BatchNormalization(),
            layers.Dense(5),
        ]
    )
    random = np.random.default_rng(bits)
    for variable in model.weights:
        leaf, shape = variable.name.rpartition("/")[2], tuple(variable.shape)
        low, high = {"moving_variance:0": (2, 20), "beta:0": (0, 0.8)}.get(leaf, (-0.7, 0.7))
        variable.assign(random.uniform(low, high, shape))
    return model


def compared(reading: Reading, model: Any, wanted: int) -> None:
    x = np.random.default_rng(1).integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    theirs = model.predict((x / 127.5 - 1).astype(np.float32), verbose=0)
    ours = reference.forward(reading.net, reading.as_network(x))
    assert sum(isinstance(op, Levels) for op in reading.net.ops) == wanted
    assert [op.binary for op in reading.net.ops if isinstance(op, Linear)] == [True, True, True, False]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


@pytest.mark.parametrize(
    ("bits", "of_kernels"),
    [
        (1, True),
        (2, False),
        (4, True),
        *(
            pytest.param(bits, kernels, marks=pytest.mark.long)
            for bits, kernels in ((1, False), (2, True), (3, False), (4, False))
        ),
    ],
)
def test_configs(bits: int, of_kernels: bool) -> None:
    model = build(bits, of_kernels=of_kernels)
    reading = read_config_of(model, "model", OPTIONS)
    compared(reading, model, 2 if bits > 1 else 0)
    most = 2**bits - 1
    assert {op.domain for op in reading.net.ops if isinstance(op, Levels)} <= {LevelValues(0, most, divisor=most)}


@pytest.mark.parametrize("of_kernels", [pytest.param(False, marks=pytest.mark.long), True], ids=["signs", "kernels"])
def test_graphs(of_kernels: bool) -> None:
    model = build(2, of_kernels=of_kernels)
    compared(read_graph_of(model, "model", SHAPE, OPTIONS), model, 2)


def test_tensorflow_lite(tmp_path: Path) -> None:
    """Its converter multiplies factors of levels into kernels: what is left rounds to the same whole numbers."""
    model = build(3, of_kernels=False)
    path = tmp_path / "model.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    compared(read_source(path, OPTIONS), model, 2)


@pytest.mark.parametrize(
    ("kernel", "bits", "message"),
    [
        (
            quantizers.DoReFa(2, mode="weights"),
            2,
            r"the kernel_quantizer DoReFa is DoReFa, which has more than two values \(2 bits\)",
        ),
        ("ste_sign", 5, r"DoReFa is DoReFa, which has more than two values \(5 bits\)"),
    ],
)
def test_more_bits_are_refused(kernel: Any, bits: int, message: str) -> None:
    layer = larq.layers.QuantDense(4, kernel_quantizer=kernel, input_quantizer=quantizers.DoReFa(bits), use_bias=False)
    model = keras.Sequential([layers.Input((6,)), larq.layers.QuantDense(5, kernel_quantizer="ste_sign"), layer])
    with pytest.raises(NetworkError, match=message):
        read_config_of(model, "model", OPTIONS)

"""Blocks of larq_zoo's networks in plain Keras and Larq, live and from files: gates, scaled kernels, values that are named by a
Lambda layer, zeros around real maps, convolutions of flattened maps.

larq_zoo itself takes numpy below 2 alone, so that it stands in no list of dependencies: `tests/tools/zoo_networks.py` runs all
of its networks, and `test_networks_of_larq_zoo` some where the package is installed.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters import read_source
from xnorinfer.converters.kerasmodels.lambdas import is_identity
from xnorinfer.converters.livekeras import read_config_of, read_graph_of
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Multiply, Pad
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.modelfile import header_of

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
layers = keras.layers
OPTIONS = ConvertOptions(input=PixelInput.range(-1, 1))
X = np.random.default_rng(5).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)


@keras.utils.register_keras_serializable("xnorinfer_tests", "xnor_weight_scale")  # type: ignore[untyped-decorator]
def xnor_weight_scale(x: Any) -> Any:
    """As larq_zoo has it."""
    x = tf.clip_by_value(x, -1, 1)
    return tf.reduce_mean(tf.abs(x), axis=[0, 1, 2], keepdims=True) * larq.quantizers.ste_sign(x)


def convolution(neurons: int, size: int = 3, kernel: Any = "ste_sign", **settings: Any) -> Any:
    settings = {"padding": "same", "use_bias": False, "input_quantizer": "ste_sign", **settings}
    return larq.layers.QuantConv2D(neurons, size, kernel_quantizer=kernel, **settings)


def norm() -> Any:
    return layers.BatchNormalization()


def gated(x: Any) -> Any:
    """Real-to-Binary's block, named by an identity."""
    read = norm()(x)
    gate = layers.Dense(4, activation="relu", use_bias=False)(layers.GlobalAveragePooling2D()(read))
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid", use_bias=False)(gate))
    made = layers.PReLU(shared_axes=[1, 2])(layers.Multiply()([convolution(8)(read), gate]))
    return layers.Lambda(lambda value: value)(layers.Add()([made, x]))


def scaled(x: Any) -> Any:
    """XNOR-Net's."""
    return layers.ReLU()(convolution(8, kernel=xnor_weight_scale)(norm()(x)))


def flattened(x: Any) -> Any:
    """Binary AlexNet's: dense layers that are convolutions of one pixel."""
    x = layers.Reshape((1, 1, 12 * 10 * 8))(norm()(x))
    x = norm()(convolution(16, 1)(x))
    return convolution(8, 1)(x)


def nested(x: Any) -> Any:
    """Models within a model, one of them within another, whose calls Keras 2 counts from 1; a product of three values."""
    start = layers.Input(x.shape[1:])
    inner = keras.Model(start, [norm()(convolution(8)(start)), layers.GlobalAveragePooling2D(keepdims=True)(start)])
    again = layers.Input(x.shape[1:])
    body = keras.Sequential([convolution(8), norm()])
    made, gate = inner(again)
    outer = keras.Model(again, layers.Multiply()([body(made), made, gate]))
    return layers.Add()([outer(x), x])


def model_of(block: Any) -> Any:
    keras.utils.set_random_seed(1)
    start = layers.Input((12, 10, 3))
    value = block(norm()(layers.Conv2D(8, 3, padding="same", use_bias=False)(start)))
    value = layers.Dense(5)(layers.GlobalAveragePooling2D()(norm()(convolution(8, 1)(value))))
    model = keras.Model(start, value)
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            scales = [any(part in one.name for part in ("gamma", "variance")) for one in layer.weights]
            drawn = [rng.normal(0, 0.3, one.shape).astype(np.float32) for one in layer.weights]
            layer.set_weights([np.exp(one) if scale else one for one, scale in zip(drawn, scales, strict=True)])
    return model


@pytest.mark.parametrize("block", [gated, scaled, flattened, nested])
def test_blocks_are_those_of_keras(block: Any, tmp_path: Path) -> None:
    model = model_of(block)
    reading = read_config_of(model, "model", OPTIONS)
    ours = reference.forward(reading.net, X.reshape(len(X), -1))
    theirs = model(X.astype(np.float32) / 127.5 - 1, training=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    live = xnorinfer.from_keras(model, input_range=(-1, 1))
    np.testing.assert_array_equal(live.scores(X), ours)
    if block is not scaled:  # whose function the files know by name alone
        for ending in ("h5", "keras"):
            model.save(tmp_path / f"m.{ending}")
            packed = convert_file(tmp_path / f"m.{ending}", OPTIONS).packed
            assert header_of(packed)["content_digest"] == header_of(live.packed)["content_digest"]
    assert any(isinstance(op, Multiply) for op in reading.net.ops) == (block in (gated, nested))


@pytest.mark.parametrize("block", [gated, scaled, flattened])
def test_blocks_in_tensorflows_graphs(block: Any, tmp_path: Path) -> None:
    """Of the live model, and as TensorFlow Lite has it."""
    model = model_of(block)
    path = tmp_path / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    theirs = model(X.astype(np.float32) / 127.5 - 1, training=False)
    for reading in (read_graph_of(model, "model", (12, 10, 3), OPTIONS), read_source(path, OPTIONS)):
        ours = reference.forward(reading.net, reading.as_network(X.reshape(len(X), -1)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_zeros_around_real_maps() -> None:
    start = layers.Input((12, 10, 3))
    value = norm()(layers.Conv2D(8, 3, padding="same")(start))
    value = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(((1, 0), (2, 1)))(value))
    value = layers.Cropping2D(((1, 0), (0, 1)))(value)
    value = layers.Add()([layers.ZeroPadding2D(1)(value), layers.ZeroPadding2D(1)(norm()(convolution(8)(value)))])
    model = keras.Model(start, layers.Dense(5)(layers.Flatten()(convolution(4)(value))))
    reading = read_config_of(model, "model", OPTIONS)
    assert sum(isinstance(op, Pad) for op in reading.net.ops) == 4
    ours = reference.forward(reading.net, X.reshape(len(X), -1))
    np.testing.assert_allclose(ours, model(X.astype(np.float32) / 127.5 - 1, training=False), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(xnorinfer.pack(reading.net).scores(X), ours)


class Own(keras.Model):  # type: ignore[misc]
    """As larq_zoo has BinaryDenseNet: a functional model of a class of its own."""


def test_functional_models_of_a_class_of_their_own(tmp_path: Path) -> None:
    plain = model_of(lambda x: layers.Concatenate()([x, convolution(4)(norm()(x))]))
    plain.save(tmp_path / "plain.h5")
    Own(plain.inputs, plain.outputs).save(tmp_path / "own.h5")
    wanted, found = (convert_file(tmp_path / f"{name}.h5", OPTIONS) for name in ("plain", "own"))
    assert header_of(found.packed)["content_digest"] == header_of(wanted.packed)["content_digest"]
    (warning,) = set(found.warnings) - set(wanted.warnings)
    assert warning.startswith("the model is of a class of its own (Own), whose code is not in the file")


@pytest.mark.parametrize(
    ("function", "same"),
    [(lambda x: x, True), (lambda value: value, True), (lambda x: -x, False), (lambda x, y=1: x, False), (abs, False)],
)
def test_only_the_identity_is_one(function: Any, same: bool) -> None:
    config = layers.Lambda(function).get_config()
    assert is_identity(config) == same
    if not same:
        start = layers.Input((12, 10, 3))
        with pytest.raises(NetworkError, match="Lambda is not supported"):
            read_config_of(keras.Model(start, layers.Dense(2)(layers.Flatten()(layers.Lambda(function)(start)))), "m", OPTIONS)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"function": None},
        {"function": ["?", None, None]},
        {"function": ["4w==", None, None]},
        {"function": ["4wEA", [1], None]},
    ],
)
def test_damaged_functions_are_none(config: dict[str, Any]) -> None:
    assert not is_identity(config)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["RealToBinaryNet", "BinaryAlexNet", "XNORNet", "QuickNetSmall", "BinaryDenseNet28", "MeliusNet22"]
)
def test_networks_of_larq_zoo(name: str, tmp_path: Path) -> None:
    pytest.importorskip("larq_zoo", reason="larq_zoo takes numpy below 2; see tests/tools/zoo_networks.py")
    import zoo_networks

    model = zoo_networks.built(name, 224)
    # Signs that rounding turns change some percent of the scores of deep ones; layers are compared one by one.
    assert zoo_networks.check(model, zoo_networks.converted(model, tmp_path, "keras"), 224) < 0.1

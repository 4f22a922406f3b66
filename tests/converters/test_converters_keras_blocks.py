"""Layers of Keras and Larq that are called several times, separable, ternary, or join values otherwise than by a sum: from
files of Keras 2 and Keras 3, beside the scores of the framework."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.conversion import convert_file
from xnorinfer.converters import read_source
from xnorinfer.converters.livekeras import read_config_of
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
missing = [name for name in ("tensorflow", "tf_keras", "keras", "larq", "h5py") if importlib.util.find_spec(name) is None]
if missing:
    pytest.skip(f"{', '.join(missing)} not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras as keras3
    import larq
    import tensorflow as tf
    import tf_keras as keras2

pytestmark = pytest.mark.filterwarnings("ignore")
quant = larq.layers
OPTIONS = ConvertOptions(input=PixelInput.range(-1, 1))
X = np.random.default_rng(5).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)


def fill(model: Any) -> Any:
    rng = np.random.default_rng(11)
    for variable in model.weights:
        name, shape = str(getattr(variable, "path", variable.name)), tuple(variable.shape)
        variable.assign(rng.uniform(0.5, 20, shape) if "variance" in name else rng.normal(0.1, 1, shape))
    return model


def of_larq(block: Callable[[Any], Any]) -> Any:
    """A model of Keras 2 and Larq around a block of maps of 16 channels."""
    entering = keras2.Input(X.shape[1:])
    value = keras2.layers.Conv2D(16, 3, padding="same", use_bias=False)(entering)
    value = block(keras2.layers.BatchNormalization()(value))
    return fill(keras2.Model(entering, keras2.layers.Dense(5)(keras2.layers.GlobalAveragePooling2D()(value))))


def unit(neurons: int = 16, size: int = 3, **settings: Any) -> Callable[[Any], Any]:
    """A binary convolution and its BatchNorm, which may be called again."""
    signs = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "padding": "same", "use_bias": False}
    layer, norm = quant.QuantConv2D(neurons, size, **{**signs, **settings}), keras2.layers.BatchNormalization()
    return lambda value: norm(layer(value))


def called_twice(x: Any) -> Any:
    shared = unit()
    first = shared(x)
    return keras2.layers.Add()([first, shared(first)])


def model_called_twice(x: Any) -> Any:
    inner = keras2.Input(x.shape[1:])
    block = keras2.Model(inner, keras2.layers.Add()([inner, called_twice(inner)]), name="block")
    return block(block(x))


def separable(x: Any) -> Any:
    x = keras2.layers.SeparableConv2D(12, 3, padding="same", strides=2, depth_multiplier=2)(x)
    quantizers = {"input_quantizer": "ste_sign", "depthwise_quantizer": "ste_sign", "pad_values": 1.0}
    made = quant.QuantSeparableConv2D(
        10, 3, padding="same", depth_multiplier=3, pointwise_quantizer="magnitude_aware_sign", activation="relu", **quantizers
    )
    return keras2.layers.BatchNormalization()(made(x))


def ternary(x: Any) -> Any:
    return unit(input_quantizer=larq.quantizers.SteTern(threshold_value=0.3))(unit()(x))


def gates(x: Any) -> Any:
    gate = keras2.layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = keras2.layers.Conv2D(16, 1, activation="hard_sigmoid")(gate)
    return keras2.layers.Average()([unit()(keras2.layers.Multiply()([x, gate])), x, unit(size=1)(x)])


def numbers(x: Any) -> Any:
    return unit()(1 - tf.maximum(x * 0.5 + unit()(x) * 3.0, -1.0))


def falling(x: Any) -> Any:
    """A function of TensorFlow with a number of its own."""
    return unit()(tf.nn.leaky_relu(unit()(x), -0.3))


LARQ = (falling, called_twice, model_called_twice, separable, ternary, gates, numbers)


def agrees(reading: Any, wanted: Any) -> None:
    ours = reference.forward(reading.net, reading.as_network(X.reshape(len(X), -1)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("block", LARQ)
def test_blocks_of_larq(tmp_path: Path, block: Callable[[Any], Any]) -> None:
    model = of_larq(block)
    wanted = model(X.astype(np.float32) / np.float32(127.5) - 1, training=False).numpy()
    for ending in ("h5", "keras"):
        model.save(tmp_path / f"model.{ending}")
        agrees(read_source(tmp_path / f"model.{ending}", OPTIONS), wanted)
    agrees(read_config_of(model, "the model", OPTIONS), wanted)
    converted = convert_file(tmp_path / "model.h5", OPTIONS)
    rows = converted.reading.as_network(X.reshape(len(X), -1))
    np.testing.assert_array_equal(Model(converted.packed).scores(rows), reference.forward(converted.reading.net, rows))


def test_flattened_maps_side_by_side(tmp_path: Path) -> None:
    """Of unlike sizes, one with its channels first, beside the means of one."""
    layers = keras2.layers
    entering = keras2.Input(X.shape[1:])
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(entering))
    made = unit()(x)
    turned = layers.Permute((3, 1, 2))(unit(8, strides=2)(made))
    parts = [layers.Flatten()(made), layers.GlobalAveragePooling2D()(x), layers.Flatten()(turned)]
    model = fill(keras2.Model(entering, layers.Dense(5)(layers.BatchNormalization()(layers.Concatenate()(parts)))))
    model.save(tmp_path / "model.keras")
    wanted = model(X.astype(np.float32) / np.float32(127.5) - 1, training=False).numpy()
    converted = convert_file(tmp_path / "model.keras", OPTIONS)
    agrees(converted.reading, wanted)
    rows = converted.reading.as_network(X.reshape(len(X), -1))
    np.testing.assert_array_equal(Model(converted.packed).scores(rows), reference.forward(converted.reading.net, rows))


def test_what_is_shared_has_a_name_of_its_own_and_is_told_once() -> None:
    reading = read_config_of(of_larq(model_called_twice), "the model", OPTIONS)
    names = [node.name for node in reading.net.nodes]
    assert len(set(names)) == len(names)
    assert sum(".call" in name and "quant_conv2d" in name and "sign" not in name for name in names) == 3
    tensors = [tensor.name for tensor in reading.tensors]
    assert len(set(tensors)) == len(tensors)


def shuffled(x: Any) -> Any:
    """A channel shuffle, channels taken apart, and a gate without a reshape of its own."""
    first, second = tf.split(x, [4, 12], axis=-1)
    value = tf.concat([unit(12, size=1)(second), unit(4)(first)], -1)
    value = tf.reshape(tf.transpose(tf.reshape(value, [-1, 9, 8, 2, 8]), [0, 1, 2, 4, 3]), [-1, 9, 8, 16])
    gate = keras2.layers.Dense(16, activation="sigmoid")(keras2.layers.GlobalAveragePooling2D()(value))
    value = keras2.layers.Multiply()([unit()(value), keras2.layers.Reshape((1, 1, 16))(gate)])
    one, other = tf.split(value, 2, axis=-1)
    return tf.concat([one - other, tf.slice(other, [0, 0, 0, 2], [-1, 9, 8, 4])], -1)


def test_parts_and_gates_of_tensorflow_lite(tmp_path: Path) -> None:
    model = of_larq(shuffled)
    wanted = model(X.astype(np.float32) / np.float32(127.5) - 1, training=False).numpy()
    spec = tf.TensorSpec((1, *X.shape[1:]), tf.float32)
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    (tmp_path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], model).convert())
    agrees(read_source(tmp_path / "model.tflite", OPTIONS), wanted)


@keras3.saving.register_keras_serializable("xnorinfer_tests", "QuantConv2D")  # type: ignore[untyped-decorator]
class QuantConv2D(keras3.layers.Conv2D):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        signs = keras3.ops.where(inputs >= 0, 1.0, -1.0)
        return keras3.ops.conv(signs, keras3.ops.where(self.kernel >= 0, 1.0, -1.0), padding=self.padding)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{key: value for key, value in config.items() if "quantizer" not in key})


def test_blocks_of_keras_3(tmp_path: Path) -> None:
    layers = keras3.layers
    entering = keras3.Input((3, 9, 8))
    x = layers.Permute((2, 3, 1))(entering)
    x = layers.BatchNormalization()(layers.SeparableConv2D(16, 3, padding="same")(x))
    inner = keras3.Input(x.shape[1:])
    made = layers.BatchNormalization()(QuantConv2D(16, 3, padding="same", use_bias=False)(inner))
    block = keras3.Model(inner, layers.Average()([inner, made]), name="block")
    x = layers.Activation("hard_sigmoid")(block(block(x)))
    x = 1 - keras3.ops.multiply(2.0, x) - 0.25
    x = layers.BatchNormalization()(QuantConv2D(8, 3, padding="same", use_bias=False)(x))
    model = fill(keras3.Model(entering, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    turned = X.transpose(0, 3, 1, 2)
    wanted = np.asarray(model(turned.astype(np.float32) / np.float32(127.5) - 1, training=False))
    for ending in ("h5", "keras"):
        model.save(tmp_path / f"model.{ending}")
        converted = convert_file(tmp_path / f"model.{ending}", OPTIONS)
        np.testing.assert_allclose(Model(converted.packed).scores(turned), wanted, rtol=1e-4, atol=1e-5)


def test_a_threshold_of_the_batch_is_refused() -> None:
    model = of_larq(unit(input_quantizer=larq.quantizers.SteTern(ternary_weight_networks=True)))
    with pytest.raises(NetworkError, match="SteTern with ternary_weight_networks has a threshold of a mean over the batch"):
        read_config_of(model, "the model", OPTIONS)


@pytest.mark.parametrize(("between", "is_read"), [((9 * 8 * 16,), True), ((8, 9, 16), False)])
def test_a_reshape_of_keras_ops_is_one(between: tuple[int, ...], is_read: bool) -> None:
    """Its shape has rows before what the layer of that name says, and was passed over."""
    layers = keras3.layers
    entering = keras3.Input(X.shape[1:])
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(entering))
    x = keras3.ops.reshape(x, (-1, *between))
    x = keras3.ops.reshape(x, (-1, 9, 8, 16)) if is_read else x
    x = layers.BatchNormalization()(QuantConv2D(8, 3, padding="same", use_bias=False)(x))
    model = fill(keras3.Model(entering, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    if is_read:
        wanted = np.asarray(model(X.astype(np.float32) / np.float32(127.5) - 1, training=False))
        agrees(read_config_of(model, "the model", OPTIONS), wanted)
    else:
        with pytest.raises(NetworkError, match="another order than that of channels, height and width of the map before"):
            read_config_of(model, "the model", OPTIONS)

"""Saves small networks that branch with TensorFlow's frameworks: `python tests/tools/branch_files.py FOLDER`.

With tensorflow-cpu, tf_keras, larq and keras: blocks of the kinds that people publish, in Larq's layers, in both formats of
Keras, frozen and as TensorFlow Lite; sums and concatenations as operators; and one of Keras 3.  Maps are never square.
`outputs.npz` holds pixels (rows, height, width, channels) and the scores of each network.  tests/data/tf/branches.tar.xz holds
what this script wrote.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import keras as keras3
import larq
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

layers, conv = tf.keras.layers, larq.layers.QuantConv2D
RNG = np.random.default_rng(11)
ROWS, SAMPLE = 8, (12, 16, 3)
HIDDEN = {"padding": "same", "input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}
HIDDEN["kernel_constraint"] = "weight_clip"
SCALED = {**HIDDEN, "kernel_quantizer": "magnitude_aware_sign"}


def norm(x: Any, **kwargs: Any) -> Any:
    return layers.BatchNormalization(**kwargs)(x)


def float_conv(x: Any, neurons: int, size: int = 1, strides: int = 1) -> Any:
    return layers.Conv2D(neurons, size, strides, "same", use_bias=False)(x)


def stem(x: Any, neurons: int = 8) -> Any:
    return norm(float_conv(x, neurons, 3, 2))


def head(x: Any) -> Any:
    x = layers.AveragePooling2D(x.shape[1:3])(layers.Activation("relu")(x))
    return layers.Dense(5, activation="softmax")(layers.Flatten()(x))


def residual(x: Any, neurons: int, strides: int = 1, **kwargs: Any) -> Any:
    """Bi-RealNet, ResNetE."""
    shortcut = x
    if strides > 1:
        shortcut = norm(float_conv(layers.AvgPool2D(2, 2, padding="same")(x), neurons))
    return layers.add([norm(conv(neurons, 3, strides, **kwargs)(x)), shortcut])


def birealnet(x: Any) -> Any:
    x = layers.MaxPool2D(3, strides=1, padding="same")(stem(x))
    return head(residual(residual(residual(x, 8, **SCALED), 12, 2, **SCALED), 12, **SCALED))


def resnet_e(x: Any) -> Any:
    return head(residual(residual(stem(x), 8, **HIDDEN), 12, 2, **HIDDEN))


def quicknet(x: Any) -> Any:
    x = stem(x)
    for neurons in (8, 12):
        for _ in range(2):
            y = conv(neurons, 3, activation="relu", pad_values=1.0, **HIDDEN)(x)
            x = layers.Add()([x, norm(y)])
        if neurons == 8:
            x = layers.MaxPool2D(2, strides=1, padding="same")(layers.Activation("relu")(x))
            x = layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(x)
            x = norm(layers.Conv2D(12, 1)(x))
    return head(x)


def densenet(x: Any) -> Any:
    x = stem(x)
    for block in range(2):
        for _ in range(2):
            x = layers.Concatenate()([x, conv(8, 3, dilation_rate=1 + block, **HIDDEN)(norm(x))])
        if not block:
            x = float_conv(layers.ReLU()(layers.MaxPool2D(2)(norm(x))), 8)
    return head(norm(x))


def reactnet(x: Any) -> Any:
    """Two convolutions side by side, PReLU shared and of each channel, a difference."""
    x = layers.PReLU(shared_axes=[1, 2])(residual(stem(x), 8, **HIDDEN))
    both = [norm(conv(8, 1, **HIDDEN)(x)) for _ in range(2)]
    x = layers.concatenate([layers.Subtract()([both[0], x]), layers.Add()([both[1], x, both[0]])])
    return head(layers.PReLU(shared_axes=[1, 2, 3])(x))


def operators(x: Any) -> Any:
    """Sums and concatenations written as such, on a map that is cropped."""
    x = layers.Cropping2D(((0, 1), (1, 1)))(stem(x))
    y = norm(conv(8, 3, **HIDDEN)(x)) + x
    x = tf.nn.relu(tf.concat([y, x - y], axis=-1))
    return head(norm(conv(16, 3, **HIDDEN)(norm(x))) + x)


def meliusnet(x: Any) -> Any:
    """Of operators that no config says; its graph does."""
    x = stem(x)
    parts = tf.split(x, 2, axis=-1)
    x = tf.concat([layers.Conv2D(4, 3, padding="same", use_bias=False)(part) for part in parts], -1)
    x = tf.concat([x, conv(8, 3, **HIDDEN)(norm(x))], -1)
    y = conv(8, 3, **HIDDEN)(norm(x))
    x = layers.Lambda(lambda both: both[0] + tf.pad(both[1], [[0, 0], [0, 0], [0, 0], [8, 0]]))([x, y])
    y = conv(8, 3, **HIDDEN)(norm(x))
    return head(tf.concat([x[..., :8], x[..., 8:] + y, x[:, :, :, 3:5]], -1))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    made.__name__: made for made in (birealnet, resnet_e, quicknet, densenet, reactnet, operators, meliusnet)
}


@keras3.saving.register_keras_serializable()
class QuantConv2D(keras3.layers.Conv2D):
    """Larq's layer, which is not made for Keras 3."""

    def call(self, inputs: Any) -> Any:
        signs = tf.where(inputs >= 0, 1.0, -1.0)
        kernel = tf.where(tf.convert_to_tensor(self.kernel) >= 0, 1.0, -1.0)
        return tf.nn.conv2d(signs, kernel, self.strides, self.padding.upper())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}


def keras_3() -> Any:
    inner = keras3.layers
    given = keras3.Input(SAMPLE)
    x = inner.BatchNormalization()(inner.Conv2D(8, 3, 2, "same", use_bias=False)(given))
    x = inner.Add()([x, inner.BatchNormalization()(QuantConv2D(8, 3, padding="same", use_bias=False)(x))])
    y = inner.BatchNormalization()(QuantConv2D(8, 3, padding="same", use_bias=False)(x)) + x
    x = keras3.ops.relu(keras3.ops.concatenate([x - y, y], axis=-1))
    return keras3.Model(given, inner.Dense(5)(inner.GlobalAveragePooling2D()(x)))


def fill(model: Any) -> Any:
    for variable in model.weights:
        name, shape = getattr(variable, "path", variable.name), variable.shape
        if "seed" in name:
            continue
        value = RNG.uniform(-1, 1, shape)
        if "variance" in name:
            value = RNG.uniform(4, 40, shape)
        elif "mean" in name:
            value = RNG.standard_normal(shape) * 3
        variable.assign(value.astype(np.float32))
    return model


def scores_of(model: Any, pixels: Any) -> Any:
    x = (pixels / 127.5 - 1).astype(np.float32)
    last = model.layers[-1]
    if getattr(getattr(last, "activation", None), "__name__", "") == "softmax":
        last.activation = tf.keras.activations.linear
        scores = model(x, training=False).numpy()
        last.activation = tf.keras.activations.softmax
        return scores
    return np.asarray(model(x, training=False))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (ROWS, *SAMPLE), dtype=np.uint8)
    outputs: dict[str, Any] = {"x": pixels}
    for name, build in NETWORKS.items():
        given = tf.keras.Input(SAMPLE)
        model = fill(tf.keras.Model(given, build(given), name=name))
        outputs[name] = scores_of(model, pixels)
        for ending in () if name == "meliusnet" else ("h5", "keras"):
            model.save(folder / f"{name}.{ending}")
        traced = tf.function(lambda x, model=model: model(x, training=False))
        concrete = traced.get_concrete_function(tf.TensorSpec((None, *SAMPLE), tf.float32))
        graph = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
        (folder / f"{name}.pb").write_bytes(graph.SerializeToString())
        if name != "meliusnet":
            (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    model = fill(keras_3())
    outputs["keras_3"] = scores_of(model, pixels)
    model.save(folder / "keras_3.keras")
    model.save(folder / "keras_3.h5")
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

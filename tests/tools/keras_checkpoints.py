"""Saves Keras models with the real frameworks: `python tests/tools/keras_checkpoints.py FOLDER`.

With tensorflow-cpu, tf_keras and larq it saves Larq models and a port of BinaryNet on Keras 2, with keras one on Keras 3.  All
hold what hurts: latents at 0, -0.0 and 1e-9, negative, zero and tiny gammas, BatchNorms without gamma or beta.

`outputs.npz` holds the pixels `x` and, for each model, the scores that the framework makes of them (before a softmax), and what
it answers in `predict`.  tests/data/keras/models.tar.xz holds what this script wrote (versions.json).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # larq needs tf_keras; Keras 3 is imported by its own name

import keras as keras3
import larq
import numpy as np
import tensorflow as tf

keras2 = tf.keras
EPSILON = 1e-4
PIXELS = np.random.default_rng(5).integers(0, 256, (40, 12), dtype=np.uint8)
OUTPUTS: dict[str, Any] = {}

Q = larq.layers.QuantDense
SIGN = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}


def binary_tanh(x: Any) -> Any:
    """As nn_playground/binarynet has it, with the straight-through gradient."""
    soft = tf.clip_by_value(0.5 * x + 0.5, 0, 1)
    return 2 * (soft + tf.stop_gradient(tf.round(soft) - soft)) - 1


def binary_dense(base: Any) -> Any:
    """The BinaryDense layer of the Keras ports, on either Keras."""

    class BinaryDense(base.layers.Dense):  # type: ignore[misc]
        def __init__(self, units: int, H: Any = 1.0, kernel_lr_multiplier: Any = "Glorot", **settings: Any) -> None:
            super().__init__(units, **settings)
            self.H, self.kernel_lr_multiplier = H, kernel_lr_multiplier

        def call(self, inputs: Any) -> Any:
            fans = inputs.shape[-1] + self.units
            h = np.float32(np.sqrt(1.5 / fans)) if self.H == "Glorot" else self.H
            value = tf.matmul(inputs, h * binary_tanh(self.kernel / h))
            return value + self.bias if self.use_bias else value

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "H": self.H, "kernel_lr_multiplier": self.kernel_lr_multiplier}

    return BinaryDense


class DropoutNoScale(keras2.layers.Dropout):  # type: ignore[misc]
    """Of the same port."""


def fill(model: Any, seed: int) -> None:
    """Values that a training ends with, in the worst case."""
    rng = np.random.default_rng(seed)
    for layer in leaves(model):
        values = []
        for variable in layer.weights:
            name, shape = variable.name.rpartition("/")[2].partition(":")[0], tuple(variable.shape)
            if name == "kernel":
                value = rng.uniform(-0.4, 0.4, shape)
                value[:3, 0] = [0.0, -0.0, 1e-9]
            elif name == "moving_variance":
                value = rng.uniform(0.5, 40, shape)
            elif name == "gamma":
                value = rng.standard_normal(shape)
                value[:3] = [-0.5, 0.0, 3e-7]
            else:
                value = rng.standard_normal(shape) * (3 if name == "moving_mean" else 0.3)
            values.append(value.astype(np.float32))
        if "ropout" not in type(layer).__name__:  # Keras 3 keeps the state of its random numbers there
            layer.set_weights(values)


def leaves(model: Any) -> list[Any]:
    """All layers, those of inner models too."""
    return [leaf for layer in model.layers for leaf in (leaves(layer) if hasattr(layer, "layers") else [layer])]


def record(name: str, model: Any, inputs: Any, scores: Any = None) -> None:
    """What the framework makes of the pixels; scores: the model without its softmax."""
    OUTPUTS[f"{name}/scores"] = (scores or model).predict(inputs, verbose=0)
    OUTPUTS[f"{name}/answers"] = model.predict(inputs, verbose=0).argmax(axis=1)


def centred(pixels: Any) -> Any:
    """-1..1, as Larq's examples have it."""
    return (pixels.astype(np.float32) / 127.5 - 1).astype(np.float32)


def larq_model() -> Any:
    """Sequential; BatchNorms without gamma, without beta and with both; quantizers in every form."""
    norm = keras2.layers.BatchNormalization
    return keras2.Sequential(
        [
            keras2.layers.Flatten(input_shape=(3, 4, 1)),
            Q(9, **SIGN),
            norm(scale=False, momentum=0.9),
            Q(8, input_quantizer="ste_sign", kernel_quantizer=larq.quantizers.SwishSign(), use_bias=False),
            norm(center=False, epsilon=EPSILON),
            keras2.layers.Dropout(0.2),
            Q(7, input_quantizer=larq.quantizers.ApproxSign(), kernel_quantizer=larq.quantizers.SteSign(clip_value=1.3)),
            norm(),
            Q(5, input_quantizer=larq.quantizers.SteSign(), **SIGN, use_bias=False),
            norm(),
            keras2.layers.Activation("softmax"),
        ]
    )


def save_larq(folder: Path) -> None:
    model = larq_model()
    fill(model, 1)
    record("larq", model, centred(PIXELS).reshape(-1, 3, 4, 1), keras2.Model(model.inputs, model.layers[-2].output))
    model.save(folder / "larq.h5")
    model.save(folder / "larq.keras")
    model.save_weights(folder / "larq_names.h5")
    model.save_weights(folder / "larq_json.weights.h5")
    (folder / "larq_json.json").write_text(model.to_json())


def save_larq_variants(folder: Path) -> None:
    """Functional models: heads of floats, binarized inputs, scales, no BatchNorm; the last one trained for a step."""
    layers = keras2.layers
    sign = {**SIGN, "input_quantizer": "ste_sign"}
    norm = layers.BatchNormalization
    aware = {"kernel_quantizer": larq.quantizers.MagnitudeAwareSign()}
    variants: dict[str, list[Any]] = {
        "float_head": [Q(9, **SIGN), norm(), Q(8, **sign), norm(), layers.Activation("hard_tanh"), layers.Dense(5)],
        "sign_head": [Q(9, **SIGN), norm(), larq.quantizers.SteSign(), layers.Dense(6), norm()],
        "input_sign": [Q(9, **sign), norm(), Q(5, **sign)],
        "input_norm": [norm(), Q(9, **sign), norm(), Q(5, **sign), norm()],
        "no_norm": [Q(9, **SIGN), Q(8, **sign, activation=larq.quantizers.ApproxSign()), Q(5, **SIGN)],
        "magnitude": [
            Q(9, kernel_quantizer="magnitude_aware_sign"),
            norm(),
            Q(8, input_quantizer="ste_sign", **aware),
            norm(),
            Q(5, **sign),
        ],
    }
    for seed, (name, stack) in enumerate(variants.items(), start=20):
        x = value = keras2.Input((12,))
        for layer in stack:
            value = layer(value)
        model = keras2.Model(x, value)
        if name == "input_norm":  # slots of an optimizer and metrics
            model.compile("adam", "mse", metrics=["mae"])
            model.fit(centred(PIXELS), np.zeros((len(PIXELS), 5)), verbose=0)
        fill(model, seed)
        record(name, model, centred(PIXELS))
        model.save(folder / f"{name}.h5")
        model.save(folder / f"{name}.keras")


def save_activations(folder: Path) -> None:
    """Functions between a layer's sum, its BatchNorm and the next sign; PReLU's slopes are weights."""
    layers = keras2.layers
    sign = {**SIGN, "input_quantizer": "ste_sign"}
    norm = layers.BatchNormalization
    variants: dict[str, list[Any]] = {
        "heaviside": [
            *(Q(9, **SIGN), norm(), larq.quantizers.SteHeaviside(), Q(8, **SIGN), norm()),
            *(Q(7, input_quantizer="ste_heaviside", kernel_quantizer="magnitude_aware_sign"), norm(), Q(5, **sign)),
        ],
        "relu": [Q(9, **SIGN, activation="relu"), norm(), Q(8, **sign), layers.ReLU(), norm(), Q(5, **sign), norm()],
        "relu_layers": [
            Q(9, **SIGN),
            layers.ReLU(max_value=5.0),
            norm(),
            Q(8, **sign, activation=tf.nn.relu6),
            norm(),
            Q(7, **sign),
            layers.ReLU(negative_slope=0.125),
            norm(),
            Q(5, **sign),
        ],
        "prelu": [
            Q(9, **SIGN),
            layers.PReLU(),
            norm(),
            Q(8, **sign),
            norm(),
            layers.LeakyReLU(alpha=0.2),
            Q(5, **sign),
            norm(),
        ],
        "smooth": [Q(9, **SIGN, activation="tanh"), norm(), Q(8, **sign, activation="sigmoid"), norm(), Q(5, **sign)],
        "relu_head": [
            Q(9, **SIGN),
            norm(),
            Q(8, **sign),
            norm(),
            layers.Activation("relu"),
            layers.Dense(5, activation="sigmoid"),
        ],
    }
    for seed, (name, stack) in enumerate(variants.items(), start=40):
        model = keras2.Sequential([keras2.Input((12,)), *stack])
        fill(model, seed)
        for variable in model.weights:
            if "alpha" in variable.name:
                variable.assign(np.abs(variable))
        scores = None
        if name == "relu_head":
            scores = keras2.models.clone_model(model)
            scores.layers[-1].activation = keras2.activations.linear
            scores.set_weights(model.get_weights())
        record(name, model, centred(PIXELS), scores)
        model.save(folder / f"{name}.h5")
        model.save(folder / f"{name}.keras")


def save_port_keras2(folder: Path) -> None:
    """The Keras 2 port as its MNIST script has it; all BatchNorms are whole, so that names of weights alone tell everything."""
    layers, dense = keras2.layers, binary_dense(keras2)
    model = keras2.Sequential([DropoutNoScale(0.2, input_shape=(12,), name="drop0")])
    for index, (width, h) in enumerate([(9, 1.0), (8, 1.0), (5, 1.0)], start=1):
        model.add(dense(width, H=h, use_bias=index == 2, name=f"dense{index}"))
        model.add(layers.BatchNormalization(epsilon=1e-6, momentum=0.9, name=f"bn{index}"))
        if index < 3:
            model.add(layers.Activation(binary_tanh, name=f"act{index}"))
    fill(model, 3)
    record("port2", model, PIXELS.astype(np.float32) / np.float32(255))
    model.save(folder / "port2.h5")
    model.save_weights(folder / "port2_names.h5")
    model.save_weights(folder / "port2_numbers.weights.h5")


def save_port_keras3(folder: Path) -> None:
    """Functional on Keras 3, a model inside, H of Glorot, pixels rescaled in the model, a seeded Dropout; a step trained."""
    layers = keras3.layers
    dense = keras3.saving.register_keras_serializable()(binary_dense(keras3))
    keras3.saving.register_keras_serializable()(binary_tanh)
    x = keras3.Input((3, 4))
    value = layers.Flatten()(layers.Rescaling(1 / 127.5, offset=-1)(x))
    value = layers.BatchNormalization(epsilon=EPSILON)(dense(9, H="Glorot")(value))
    value = layers.Dropout(0.2, seed=1)(layers.Activation(binary_tanh)(value))
    inner = [dense(8, use_bias=False), layers.BatchNormalization(center=False), layers.Activation(binary_tanh)]
    value = keras3.Sequential(inner, name="inner")(value)
    logits = layers.BatchNormalization(scale=False)(dense(5, H=0.5, name="head")(value))
    model = keras3.Model(x, layers.Softmax()(logits))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    inputs = PIXELS.astype(np.float32).reshape(-1, 3, 4)
    model.fit(inputs, np.zeros(len(PIXELS)), verbose=0)
    fill(model, 4)
    record("port3", model, inputs, keras3.Model(x, logits))
    model.save(folder / "port3.keras")
    model.save(folder / "port3.h5")
    model.save_weights(folder / "port3_json.weights.h5")
    (folder / "port3_json.json").write_text(model.to_json())


def record_norm() -> None:
    """What BatchNorm computes, and the 1/sqrt in it, whose rounding depends on the CPU."""
    rng = np.random.default_rng(8)
    neurons = 40
    gamma, beta, mean = (rng.standard_normal((3, neurons)) * [[1], [1], [5]]).astype(np.float32)
    variance = np.exp(rng.uniform(-12, 6, neurons)).astype(np.float32)
    x = rng.integers(-100, 100, (6, neurons)).astype(np.float32)
    OUTPUTS["norm/tensors"] = np.stack([gamma, beta, mean, variance])
    OUTPUTS["norm/x"] = x
    OUTPUTS["norm/rsqrt"] = tf.math.rsqrt(variance + np.float32(EPSILON)).numpy()
    for name, keras in (("keras2", keras2), ("keras3", keras3)):
        model = keras.Sequential([keras.layers.Input((neurons,)), keras.layers.BatchNormalization(epsilon=EPSILON)])
        model.layers[-1].set_weights([gamma, beta, mean, variance])
        OUTPUTS[f"norm/{name}"] = model.predict(x, verbose=0)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_larq(folder)
    save_larq_variants(folder)
    save_activations(folder)
    save_port_keras2(folder)
    save_port_keras3(folder)
    record_norm()
    np.savez_compressed(folder / "outputs.npz", x=PIXELS, **OUTPUTS)
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow-cpu", "tf_keras", "keras", "larq")}
    (folder / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

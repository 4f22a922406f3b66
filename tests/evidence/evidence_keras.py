"""Networks trained for a moment in Larq, in ports of BinaryNet on Keras 2 and on Keras 3: `evidence_keras.py FOLDER MNIST`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras_checkpoints as models
import numpy as np
from evidence_record import (
    BATCH,
    WIDTHS,
    Array,
    Case,
    Layer,
    Mnist,
    centred,
    nudged_beta,
    signed_gamma,
    spoiled_gamma,
    spoiled_latents,
)
from keras_checkpoints import EPSILON, SIGN, Q, binary_dense, binary_tanh, keras2, keras3

CLIP_SIGN = {**SIGN, "input_quantizer": "ste_sign"}


def clip_to(keras: Any, h: float) -> Any:
    """A constraint; clipped after every step, as all these scripts do."""

    class Clip(keras.constraints.Constraint):  # type: ignore[misc]
        def __call__(self, weight: Any) -> Any:
            return models.tf.clip_by_value(weight, -h, h)

        def get_config(self) -> dict[str, Any]:
            return {}

    return Clip()


def norms(keras: Any, complete: bool, **settings: Any) -> list[Any]:
    """BatchNorms of the three layers; not complete: one without gamma, one without beta."""
    how = [{"scale": complete}, {"center": complete}, {}]
    return [keras.layers.BatchNormalization(momentum=0.8, **settings, **one) for one in how]


def larq_stack(case: str) -> list[Any]:
    norm = norms(keras2, case != "gamma or beta missing")
    first, second, head = WIDTHS[1:]
    if case == "scaled weights":
        aware = {"kernel_quantizer": "magnitude_aware_sign", "kernel_constraint": "weight_clip"}
        inner = {**aware, "input_quantizer": "ste_sign"}
        return [Q(first, **aware), norm[0], Q(second, **inner), norm[1], Q(head, **inner), norm[2]]
    stack = [Q(first, **SIGN), norm[0], Q(second, **CLIP_SIGN, use_bias=False), norm[1]]
    if case == "float head":
        return [*stack, keras2.layers.Activation("hard_tanh"), keras2.layers.Dense(head)]
    return [*stack, Q(head, **CLIP_SIGN), norm[2]]


def port_stack(keras: Any, case: str) -> list[Any]:
    norm = norms(keras, case != "gamma or beta missing", epsilon=EPSILON)
    dense = binary_dense(keras)
    if keras is keras3:
        dense = keras3.saving.register_keras_serializable()(dense)

    def binary(index: int) -> Any:
        h = glorot(index) if case == "H of Glorot" else 1.0
        start = keras.initializers.RandomUniform(-h, h, seed=index)
        magnitude = "Glorot" if case == "H of Glorot" else 1.0
        return dense(WIDTHS[index + 1], H=magnitude, kernel_constraint=clip_to(keras, h), kernel_initializer=start)

    act = keras.layers.Activation
    stack = [binary(0), norm[0], act(binary_tanh), binary(1), norm[1]]
    if case == "float head":
        last = act("hard_tanh") if keras is keras3 else keras2.layers.Activation(hard_tanh)
        return [*stack, last, keras.layers.Dense(WIDTHS[3])]
    return [*stack, act(binary_tanh), binary(2), norm[2]]


def hard_tanh(x: Any) -> Any:
    return models.tf.clip_by_value(x, -1.0, 1.0)


def glorot(index: int) -> float:
    return float(np.float32(np.sqrt(1.5 / (WIDTHS[index] + WIDTHS[index + 1]))))


def is_norm(layer: Any) -> bool:
    return type(layer).__name__ == "BatchNormalization"


def named(layer: Any) -> dict[str, Array]:
    return {variable.name.rpartition("/")[2].partition(":")[0]: variable.numpy() for variable in layer.weights}


def assign(layer: Any, **values: Array) -> None:
    """Put in other values of some variables."""
    layer.set_weights([values.get(name, value) for name, value in named(layer).items()])


def record(source: str, name: str, keras: Any, stack: list[Any], mnist: Mnist, file: Path) -> None:
    """Train, put in what hurts, save, and run."""
    keras.utils.set_random_seed(7)
    x = value = keras.Input((WIDTHS[0],))
    for layer in stack:
        value = layer(value)
    model = keras.Model(x, value)
    for index, layer in enumerate(one for one in stack if is_norm(one)):
        if "gamma" in named(layer):
            assign(layer, gamma=signed_gamma(WIDTHS[index + 1], index))
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(centred(mnist.train_x), mnist.train_y, batch_size=BATCH, epochs=1, verbose=0)

    is_larq = source == "larq"
    scaled = name == "scaled weights"
    layers: list[Layer] = []
    followers = [*stack[1:], None]
    for layer, after in zip(stack, followers, strict=True):
        if is_norm(layer) or "kernel" not in named(layer):
            continue
        index = len(layers)
        is_float = type(layer).__name__ == "Dense"
        if not is_float:
            assign(layer, kernel=spoiled_latents(named(layer)["kernel"]))
        found = named(layer)
        kernel, bias = found["kernel"], found.get("bias")
        part = Layer(kernel, bias, h=glorot(index) if name == "H of Glorot" else 1.0)
        if scaled:
            part.scale = np.abs(kernel.astype(np.float64)).mean(axis=0).astype(np.float32)
        if is_float:
            part.kind, part.reads = "float", "hardtanh"
        else:
            assert after is not None
            if index < 2 and "gamma" in named(after):
                assign(after, gamma=spoiled_gamma(named(after)["gamma"]))
            if index == 0:
                signs = np.where(kernel >= 0 if is_larq else kernel > 2.0**-24, part.h, -part.h)
                signs = signs if part.scale is None else signs * part.scale
                norm = described(after)
                assign(after, beta=nudged_beta(signs, np.zeros(WIDTHS[1]) if bias is None else bias, norm, mnist.test_x))
            part.norm = described(after)
        layers.append(part)

    hidden = [layer.output for layer in stack if is_norm(layer)][:2]
    inside = keras.Model(model.inputs, [*hidden, model.output])
    *values, scores = inside.predict(centred(mnist.test_x), batch_size=1000, verbose=0)
    for part, kept in zip(layers, values, strict=False):
        part.values = kept
    model.save(file)
    rule = "ge" if is_larq else "round-even"
    Case(source, name, file.name, layers, scores, rule, "tf").write(file.parent)


def described(norm: Any) -> dict[str, Any]:
    roles = {"gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "variance"}
    return {roles[name]: value for name, value in named(norm).items()} | {"epsilon": float(norm.epsilon)}


def main(folder: Path, mnist_folder: Path) -> None:
    mnist = Mnist.read(mnist_folder)
    keras3.saving.register_keras_serializable()(binary_tanh)
    for case in ("plain", "float head", "gamma or beta missing", "scaled weights"):
        record("larq", case, keras2, larq_stack(case), mnist, folder / f"larq-{case.replace(' ', '-')}.h5")
    for case in ("plain", "float head", "gamma or beta missing", "H of Glorot"):
        record("keras2 port", case, keras2, port_stack(keras2, case), mnist, folder / f"keras2-{case.replace(' ', '-')}.h5")
    for case in ("gamma or beta missing", "H of Glorot"):
        record("keras3 port", case, keras3, port_stack(keras3, case), mnist, folder / f"keras3-{case.replace(' ', '-')}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

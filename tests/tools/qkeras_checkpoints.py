"""Saves QKeras models with the real framework: `TF_USE_LEGACY_KERAS=1 python tests/tools/qkeras_checkpoints.py FOLDER`.

Needs qkeras 0.9, tensorflow-cpu, tf_keras and pyparsing.  `outputs.npz` holds the pixels `x` and the scores of each model, and
`images` for those on maps; tests/data/keras/qkeras.tar.xz and qkeras-maps.tar.xz hold what this script wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from qkeras import (
    QActivation,
    QAveragePooling2D,
    QBatchNormalization,
    QConv2D,
    QDense,
    QGlobalAveragePooling2D,
    binary,
    quantized_bits,
    stochastic_binary,
)

layers = tf.keras.layers
RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (60, 12), dtype=np.uint8)
UNQUANTIZED = dict.fromkeys(("beta_quantizer", "gamma_quantizer", "mean_quantizer", "variance_quantizer"))
#: Name -> kernel_quantizer, activation, settings of the dense layers, BatchNorm, another last layer.
CASES: dict[str, Any] = {
    "alpha1": (binary(alpha=1), binary(alpha=1), {}, layers.BatchNormalization, None),
    "text": ("binary(alpha=1)", "binary(alpha=1)", {}, layers.BatchNormalization, None),
    "scaled": (binary(), binary(alpha=0.5), {}, layers.BatchNormalization, None),
    "auto": ("binary(0,'auto')", "binary()", {"bias_quantizer": quantized_bits(4, 1)}, layers.BatchNormalization, None),
    "bits": ("quantized_bits(1,0,1,alpha=1)", "quantized_bits(1,alpha=2)", {}, layers.BatchNormalization, layers.Dense),
    "stochastic": (stochastic_binary(alpha=1), stochastic_binary(), {}, layers.BatchNormalization, QDense),
    "norm": (binary(alpha=1), binary(alpha=1), {}, lambda: QBatchNormalization(**UNQUANTIZED), None),
    "ternary": ("ternary(alpha=1)", "binary(alpha=1)", {}, layers.BatchNormalization, None),
    "two_bits": ("quantized_bits(2,0,1)", "binary", {}, layers.BatchNormalization, None),
    "relu": ("binary(alpha=1)", "quantized_relu(3)", {}, layers.BatchNormalization, None),
    "zero_one": ("binary(alpha=1)", "binary(use_01=1)", {}, layers.BatchNormalization, None),
    "nothing": ("quantized_bits(1)", "binary", {}, layers.BatchNormalization, None),
    "quantized_norm": (binary(alpha=1), binary(alpha=1), {}, QBatchNormalization, None),
}


def added(x: Any) -> Any:
    """A block with a shortcut, pools of QKeras'; the first sum is of levels of two kinds."""
    y = QConv2D(8, 3, padding="same", kernel_quantizer="binary(alpha=1)", use_bias=False)(QActivation("quantized_relu(2,1)")(x))
    y = QActivation("quantized_bits(3,1,0)")(layers.BatchNormalization()(y))
    y = layers.Add()([y, QActivation("quantized_relu(2)")(x)])
    y = QAveragePooling2D(2, average_quantizer=quantized_bits(4, 0, 1), activation="quantized_relu(4,2)")(y)
    y = QConv2D(24, 1, kernel_quantizer="quantized_bits(1,0,1,alpha=1)", use_bias=False)(y)
    y = QActivation("binary(use_01=1,alpha=1)")(layers.BatchNormalization()(y))
    return layers.Dense(5)(QGlobalAveragePooling2D()(y))


def joined(x: Any) -> Any:
    """Signs beside signs and levels beside them, pooled; averages of signs."""
    y = QConv2D(8, 3, padding="same", kernel_quantizer="binary(alpha='auto_po2')")(QActivation("binary(alpha=0.5)")(x))
    y = QActivation("quantized_bits(2,0,1)")(layers.BatchNormalization()(y))
    y = layers.MaxPooling2D(2, padding="same")(layers.Concatenate()([y, QActivation("binary(alpha=1)")(x)]))
    y = QConv2D(6, 2, kernel_quantizer="binary(alpha=1)", use_bias=False)(QActivation("quantized_relu(1,1)")(y))
    y = QAveragePooling2D(2, strides=1)(QActivation("binary(alpha=2.0)")(layers.BatchNormalization()(y)))
    return QDense(5, kernel_quantizer="binary(alpha=1)")(QActivation("quantized_bits(3,2)")(layers.Flatten()(y)))


def fill(model: Any) -> None:
    for variable in model.weights:
        shape, leaf = tuple(variable.shape), variable.name.rpartition("/")[2]
        if leaf.startswith("kernel"):
            value = RNG.uniform(-1, 1, shape) * RNG.uniform(0.05, 1, shape[-1])
            value.reshape(-1, shape[-1])[:3, 0] = [0.0, -0.0, 1e-9]
        else:
            value = RNG.uniform(2, 12, shape) if leaf.startswith("moving_variance") else RNG.normal(size=shape)
        variable.assign(value)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for name, (kernel, activation, settings, norm, last) in CASES.items():
        dense = [QDense(n, kernel_quantizer=kernel, name=f"fc{n}", **settings) for n in (9, 8, 5)]
        stack = [layers.Input((12,)), dense[0], norm(), QActivation(activation), dense[1], norm(), QActivation(activation)]
        model = tf.keras.Sequential([*stack, dense[2] if last is None else last(5)])
        fill(model)
        outputs[name] = model.predict((PIXELS / 127.5 - 1).astype(np.float32), verbose=0)
        model.save(folder / f"{name}.{'keras' if name in ('scaled', 'auto') else 'h5'}")
    images = RNG.integers(0, 256, (30, 6, 7, 3), dtype=np.uint8)
    for form in (added, joined):
        entry = layers.Input(images.shape[1:])
        stem = QConv2D(8, 3, kernel_quantizer="binary(alpha=1)", padding="same", use_bias=False)(entry)
        model = tf.keras.Model(entry, form(layers.BatchNormalization()(stem)))
        fill(model)
        outputs[form.__name__] = model.predict((images / 127.5 - 1).astype(np.float32), verbose=0)
        for ending in ("h5", "keras"):
            model.save(folder / f"{form.__name__}.{ending}")
        model.save(folder / f"{form.__name__}-saved", save_format="tf")
    np.savez_compressed(folder / "outputs.npz", x=PIXELS, images=images, **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

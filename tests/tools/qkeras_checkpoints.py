"""Saves QKeras models with the real framework: `TF_USE_LEGACY_KERAS=1 python tests/tools/qkeras_checkpoints.py FOLDER`.

Needs qkeras 0.9, tensorflow-cpu, tf_keras and pyparsing.  `outputs.npz` holds the pixels `x` and the scores of each model;
tests/data/keras/qkeras.tar.xz holds what this script wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from qkeras import QActivation, QBatchNormalization, QDense, binary, quantized_bits, stochastic_binary

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


def fill(model: Any) -> None:
    for variable in model.weights:
        shape, leaf = tuple(variable.shape), variable.name.rpartition("/")[2]
        if leaf.startswith("kernel"):
            value = RNG.uniform(-1, 1, shape) * RNG.uniform(0.05, 1, shape[-1])
            value[:3, 0] = [0.0, -0.0, 1e-9]
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
    np.savez_compressed(folder / "outputs.npz", x=PIXELS, **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

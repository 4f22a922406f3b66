"""Saves TensorFlow Lite models: `TF_USE_LEGACY_KERAS=1 python tests/tools/tflite_files.py FOLDER`.

With tensorflow-cpu, tf_keras and larq, Larq models by TensorFlow's converter; with larq-compute-engine 0.16 (tensorflow 2.16,
an environment of its own) by Larq's.  NAME.npz beside each holds the pixels `x` and the scores that the interpreter gave.
tests/data/tf/tflite.tar.xz holds what this script wrote in both.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import larq
import numpy as np
import tensorflow as tf

try:
    import larq_compute_engine
except ImportError:
    larq_compute_engine = None

layers = tf.keras.layers
PIXELS = np.random.default_rng(5).integers(0, 256, (60, 40), dtype=np.uint8)
INPUTS = (PIXELS / 127.5 - 1).astype(np.float32)
SIGN = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
HIDDEN = {**SIGN, "input_quantizer": "ste_sign"}


def dense(width: int, **settings: Any) -> Any:
    return larq.layers.QuantDense(width, **settings)


def conv(width: int, **settings: Any) -> Any:
    return larq.layers.QuantConv2D(width, 1, **settings)


def stacks() -> dict[str, tuple[tuple[int, ...], list[Any]]]:
    """Name -> shape of a sample and layers."""
    norm = layers.BatchNormalization
    return {
        "dense": ((40,), [dense(16, **SIGN), norm(), dense(16, **HIDDEN), norm(), dense(5, **HIDDEN), norm()]),
        "relu": (
            (40,),
            [dense(16, **SIGN), norm(), dense(16, activation="relu", **HIDDEN), norm(), dense(5, **HIDDEN), layers.Softmax()],
        ),
        "conv": (
            (1, 1, 40),
            [
                *(conv(40, **SIGN), norm(), conv(48, **HIDDEN), norm(), conv(33, activation="relu", **HIDDEN), norm()),
                *(conv(5, **HIDDEN), norm(), layers.Flatten()),
            ],
        ),
        "mixed": (
            (40,),
            [
                *(
                    dense(40, **SIGN),
                    norm(),
                    layers.Reshape((1, 1, 40)),
                    conv(48, **HIDDEN),
                    norm(),
                    conv(33, **HIDDEN),
                    norm(),
                ),
                *(layers.Flatten(), dense(5, **HIDDEN)),
            ],
        ),
    }


def fill(model: Any) -> None:
    rng = np.random.default_rng(3)
    for variable in model.weights:
        positive = "variance" in variable.name
        variable.assign(rng.uniform(4 if positive else -1, 16 if positive else 1, variable.shape))


def scores_of(content: bytes, x: Any) -> Any:
    if larq_compute_engine is not None:
        from larq_compute_engine.tflite.python.interpreter import Interpreter

        return np.concatenate([np.reshape(Interpreter(content).predict(row[None]), (1, -1)) for row in x])
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, stack) in stacks().items():
        model = tf.keras.Sequential([layers.Input(shape), *stack])
        fill(model)
        if larq_compute_engine is not None:
            name, content = f"larq_{name}", larq_compute_engine.convert_keras_model(model)
        elif len(shape) == 1 and name != "mixed":
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            content = converter.convert()
            if name == "dense":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: ([row[None]] for row in INPUTS)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                (folder / "quantized.tflite").write_bytes(converter.convert())
        else:
            continue
        (folder / f"{name}.tflite").write_bytes(content)
        np.savez_compressed(folder / f"{name}.npz", x=PIXELS, scores=scores_of(content, INPUTS.reshape(-1, *shape)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

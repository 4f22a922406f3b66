"""Saves one network with the real frameworks: `python tests/tools/every_source.py FOLDER`, with TensorFlow, tf_keras, larq.

`tf.train.Saver` in both formats; the port of BinaryNet on Keras 2 and on Keras 3, and Larq, in all of their files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from keras_checkpoints import Q, binary_dense, binary_tanh, keras2, keras3
from one_network import EPSILON, WIDTHS, one_network, tf1_variables
from tf1_checkpoints import tf1, variable

LAYERS = one_network()


def save_tf1(folder: Path) -> None:
    for version, name in ((tf1.train.SaverDef.V2, "v2"), (tf1.train.SaverDef.V1, "v1")):
        with tf1.Graph().as_default(), tf1.Session() as session:
            for key, value in tf1_variables(LAYERS).items():
                variable(key, np.ascontiguousarray(value))
            session.run(tf1.global_variables_initializer())
            tf1.train.Saver(write_version=version).save(session, str(folder / name), write_meta_graph=False)


def fill(model: Any) -> None:
    for layer in model.layers:
        found = {"d": "weight bias", "n": "gamma beta mean variance"}.get(layer.name[0])
        if found:
            values = [getattr(LAYERS[int(layer.name[1:])], what) for what in found.split()]
            layer.set_weights([value.T for value in values])


def port(keras: Any) -> Any:
    layers, dense = keras.layers, binary_dense(keras)
    if keras is keras3:
        dense = keras.saving.register_keras_serializable()(dense)
        keras.saving.register_keras_serializable()(binary_tanh)
    x = value = keras.Input((WIDTHS[0],))
    for index, width in enumerate(WIDTHS[1:]):
        value = layers.BatchNormalization(epsilon=EPSILON, name=f"n{index}")(dense(width, name=f"d{index}")(value))
        value = value if index + 2 == len(WIDTHS) else layers.Activation(binary_tanh)(value)
    return keras.Model(x, value)


def larq() -> Any:
    x = value = keras2.Input((WIDTHS[0],))
    for index, width in enumerate(WIDTHS[1:]):
        sign = {"input_quantizer": "ste_sign"} if index else {}
        value = Q(width, kernel_quantizer="ste_sign", name=f"d{index}", **sign)(value)
        value = keras2.layers.BatchNormalization(epsilon=EPSILON, name=f"n{index}")(value)
    return keras2.Model(x, value)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in {"port2": port(keras2), "port3": port(keras3), "larq": larq()}.items():
        fill(model)
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        if name != "port3":
            model.save(folder / f"{name}.h5")
            model.save_weights(folder / f"{name}_names.h5")
    tf1.disable_eager_execution()
    save_tf1(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Saves convolutional networks with TensorFlow's frameworks: `python tests/tools/convolution_files.py FOLDER`.

With tensorflow-cpu, tf_keras, larq and keras: Larq's layers and Keras's in both formats, a BinaryNet of the TF1 port's layers
as a checkpoint with its graph and frozen, SavedModels, frozen graphs, TensorFlow Lite models, and one of Larq's operators,
written by hand.  Maps are never square.
`outputs.npz` holds pixels (rows, height, width, channels) and scores of each.  tests/data/tf/convolutions.tar.xz holds what
this script wrote.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import flatbuffers
import keras as keras3
import larq
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as lite
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from xnorinfer.net.windows import Window

tf1, layers = tf.compat.v1, tf.keras.layers
RNG = np.random.default_rng(7)
OUTPUTS: dict[str, Any] = {}
ROWS = 24
SIGN = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
HIDDEN = {**SIGN, "input_quantizer": "ste_sign", "use_bias": False}
DEPTH = {"depthwise_quantizer": "ste_sign", "depthwise_constraint": "weight_clip"}
conv, dense, depthwise = larq.layers.QuantConv2D, larq.layers.QuantDense, larq.layers.QuantDepthwiseConv2D
norm = layers.BatchNormalization


def pixels(shape: tuple[int, ...]) -> Any:
    return RNG.integers(0, 256, (ROWS, *shape), dtype=np.uint8)


def centred(x: Any) -> Any:
    return (x / 127.5 - 1).astype(np.float32)


def value_of(name: str, shape: Any) -> Any:
    """Values that a training ends with."""
    if "variance" in name:
        return RNG.uniform(4, 40, shape).astype(np.float32)
    if "mean" in name:
        return (RNG.standard_normal(shape) * 3).astype(np.float32)
    value = RNG.uniform(-1, 1, shape).astype(np.float32)
    if "alpha" in name:
        value = np.abs(value)
    return value


def fill(model: Any) -> Any:
    for variable in model.weights:
        if "seed" not in variable.name:
            variable.assign(value_of(variable.name, variable.shape))
    return model


def stacks() -> dict[str, tuple[tuple[int, ...], list[Any]]]:
    """Larq's and Keras's layers: name -> shape of a sample, layers."""
    return {
        "same": (
            (9, 7, 3),
            [
                *(conv(8, 3, padding="same", **SIGN), layers.MaxPooling2D(2), norm()),
                *(conv(10, (3, 2), strides=2, padding="same", **HIDDEN), norm(scale=False)),
                *(conv(6, 3, padding="same", pad_values=1.0, **HIDDEN), norm()),
                *(conv(7, (2, 3), strides=(1, 2), padding="same", pad_values=-1.0, **HIDDEN), norm()),
                *(layers.Flatten(), dense(5, **HIDDEN), norm(), layers.Activation("softmax")),
            ],
        ),
        "valid": (
            (14, 11, 1),
            [
                *(conv(8, (3, 2), **SIGN), norm(), larq.quantizers.SteSign(), layers.MaxPooling2D((2, 3), strides=(1, 2))),
                *(conv(8, 2, groups=2, dilation_rate=(2, 1), **{**HIDDEN, "input_quantizer": None}), norm()),
                *(depthwise(2, depth_multiplier=2, input_quantizer="ste_sign", **DEPTH), layers.ReLU(), norm()),
                *(conv(6, 1, **{**HIDDEN, "kernel_quantizer": "magnitude_aware_sign"}), layers.AveragePooling2D(2), norm()),
                *(layers.Flatten(), dense(5, **HIDDEN)),
            ],
        ),
        "stem": (
            (8, 6, 3),
            [
                *(
                    layers.ZeroPadding2D(((1, 0), (2, 1))),
                    layers.Conv2D(6, 3, strides=2),
                    norm(),
                    layers.PReLU(shared_axes=[1, 2]),
                ),
                *(conv(8, 3, padding="same", **HIDDEN), norm(), layers.MaxPooling2D(2, padding="same")),
                *(conv(8, (1, 2), **HIDDEN), layers.GlobalAveragePooling2D(), norm(), layers.Dense(5)),
            ],
        ),
        "line": (
            (20, 4),
            [
                *(larq.layers.QuantConv1D(8, 3, padding="same", **SIGN), norm(), layers.MaxPooling1D(2)),
                *(larq.layers.QuantConv1D(8, 3, strides=2, **HIDDEN), norm()),
                *(larq.layers.QuantConv1D(8, 2, padding="causal", dilation_rate=2, **HIDDEN), layers.GlobalMaxPooling1D()),
                *(norm(), dense(5, **HIDDEN)),
            ],
        ),
        "zeros": (  # zeros that the sign behind them makes +1
            (7, 5, 3),
            [
                *(conv(8, 3, input_quantizer="ste_sign", padding="same", **SIGN), norm(), layers.ZeroPadding2D((1, 2))),
                *(conv(6, 3, **HIDDEN), layers.GlobalMaxPooling2D(keepdims=True), norm()),
                *(conv(5, 1, **HIDDEN), layers.Flatten()),
            ],
        ),
        "pixels": (  # a dense layer on the channels of every pixel
            (5, 8, 1),
            [
                *(conv(8, 2, **SIGN), norm(), dense(6, **HIDDEN), layers.MaxPooling2D((2, 3)), norm()),
                *(layers.Flatten(), dense(5, **HIDDEN)),
            ],
        ),
        "head": ((6, 5, 2), [conv(6, 2, **SIGN), norm(), conv(4, 3, padding="same", **HIDDEN), norm()]),
    }


def frozen(model: Any, shape: tuple[int, ...]) -> Any:
    spec = tf.TensorSpec((None, *shape), tf.float32)
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    return convert_variables_to_constants_v2(traced).graph.as_graph_def()


def save_larq(folder: Path) -> None:
    for name, (shape, stack) in stacks().items():
        model = fill(tf.keras.Sequential([layers.Input(shape), *stack]))
        x = pixels(shape)
        scores = model
        if name == "same":  # without its softmax
            scores = tf.keras.Model(model.input, model.layers[-2].output)
        OUTPUTS[f"{name}/x"], OUTPUTS[f"{name}/scores"] = x, scores.predict(centred(x), verbose=0).reshape(ROWS, -1)
        model.save(folder / f"{name}.h5")
        model.save(folder / f"{name}.keras")
        if name == "pixels":  # TensorFlow spells it by shapes that are computed
            continue
        (folder / f"{name}.pb").write_bytes(frozen(model, shape).SerializeToString())
        (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        if name == "same":
            model.save_weights(folder / "same_names.h5")
            model.save(str(folder / "same_saved"))
            shutil.rmtree(folder / "same_saved" / "assets", ignore_errors=True)


def binary_tanh(x: Any) -> Any:
    soft = tf.clip_by_value((x + 1.0) / 2.0, 0, 1)
    return 2.0 * (soft + tf.stop_gradient(tf.round(soft) - soft)) - 1.0


class BinaryConv2D(keras3.layers.Conv2D):  # type: ignore[misc]
    """Of the Keras ports of BinaryNet."""

    def __init__(self, filters: int, kernel_size: Any, H: Any = 1.0, **settings: Any) -> None:
        super().__init__(filters, kernel_size, **settings)
        self.H = H

    def call(self, inputs: Any) -> Any:
        taps = int(np.prod(self.kernel_size))
        h = np.float32(np.sqrt(1.5 / (taps * (inputs.shape[-1] + self.filters)))) if self.H == "Glorot" else self.H
        value = self.convolution_op(inputs, h * binary_tanh(self.kernel / h))
        return value + self.bias if self.use_bias else value

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "H": self.H}


def save_keras3(folder: Path) -> None:
    """A functional model on Keras 3: a port of BinaryNet with pools and pixels rescaled in the model."""
    stack = keras3.layers
    keras3.saving.register_keras_serializable()(binary_tanh)
    keras3.saving.register_keras_serializable()(BinaryConv2D)
    x = keras3.Input((7, 9, 3))
    value = stack.Rescaling(1 / 127.5, offset=-1)(x)
    value = stack.MaxPooling2D(2)(BinaryConv2D(8, 3, H="Glorot", padding="same")(value))
    value = stack.Activation(binary_tanh)(stack.BatchNormalization()(value))
    value = stack.BatchNormalization()(BinaryConv2D(8, (2, 3), H=0.5, strides=(2, 1), padding="same", use_bias=False)(value))
    value = stack.Dropout(0.5)(stack.Activation(binary_tanh)(value))
    value = stack.Dense(5)(stack.Flatten()(value))
    model = fill(keras3.Model(x, value))
    images = pixels((7, 9, 3))
    OUTPUTS["port/x"], OUTPUTS["port/scores"] = images, model.predict(images.astype(np.float32), verbose=0)
    model.save(folder / "port.keras")
    model.save(folder / "port.h5")


def variable(name: str, shape: tuple[int, ...]) -> Any:
    return tf1.get_variable(name, initializer=tf.constant(value_of(name, shape)))


def save_tf1(folder: Path) -> None:
    """BinaryNet's convolutional network by the TF1 port's layers, with flags of training, a loss and decoys."""
    graph = tf1.Graph()
    images = pixels((10, 8, 3))
    with graph.as_default(), tf1.Session() as session:
        x = value = tf1.placeholder(tf.float32, [None, 10, 8, 3])
        labels, flag = tf1.placeholder(tf.float32, [None, 5]), tf1.placeholder(tf.bool)
        count = 0

        def binary(name: str, shape: tuple[int, ...], h: Any) -> Any:
            return h * binary_tanh(variable("kernel", shape) / h)

        def normed(value: Any, pool: int) -> Any:
            nonlocal count
            if pool:
                value = tf1.layers.max_pooling2d(value, pool, pool)
            count += 1
            return tf1.layers.batch_normalization(value, epsilon=1e-4, momentum=0.9, training=flag)

        for index, (neurons, size, padding, pool) in enumerate([(8, 3, "SAME", 0), (8, 3, "SAME", 2), (10, 2, "VALID", 2)]):
            with tf1.variable_scope(f"conv2d__binary_layer_{index}" if index else "conv2d__binary_layer"):
                depth = int(value.shape[3])
                h = np.float32(np.sqrt(1.5 / (size * size * (depth + neurons)))) if index else np.float32(1)
                kernel = binary("kernel", (size, size, depth, neurons), h)
                value = tf.nn.bias_add(tf.nn.conv2d(value, kernel, [1, 1, 1, 1], padding), variable("bias", (neurons,)))
            value = binary_tanh(normed(value, pool))
        value = tf1.layers.flatten(value)
        for index, neurons in enumerate((12, 5)):
            with tf1.variable_scope(f"dense__binary_layer_{index}" if index else "dense__binary_layer"):
                depth = int(value.shape[1])
                variable("binary_weight", (depth, neurons))
                value = tf.matmul(value, binary("kernel", (depth, neurons), np.float32(1))) + variable("bias", (neurons,))
            value = normed(value, 0)
            value = value if index else binary_tanh(value)
        loss = tf.reduce_mean(tf.square(tf.maximum(0.0, 1.0 - labels * value)))
        tf1.train.AdamOptimizer().minimize(loss)
        session.run(tf1.global_variables_initializer())
        for one in tf1.global_variables():
            if "batch_normalization" in one.name and "Adam" not in one.name:
                one.load(value_of(one.name, one.shape.as_list()), session)
        OUTPUTS["vgg/x"] = images
        OUTPUTS["vgg/scores"] = session.run(value, {x: centred(images), flag: False})
        saver = tf1.train.Saver([one for one in tf1.global_variables() if "Adam" not in one.name and "power" not in one.name])
        saver.save(session, str(folder / "vgg"))
        constants = tf1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [value.op.name])
        (folder / "vgg.pb").write_bytes(constants.SerializeToString())


def save_channels_first(folder: Path) -> None:
    """A graph of maps with their channels first, which TensorFlow runs on GPUs alone; scores are its twin's."""
    images = pixels((7, 6, 3))
    weights = [value_of("kernel", shape) for shape in ((3, 2, 3, 8), (2, 2, 8, 6), (6, 5))]
    norms = [[value_of(name, (width,)) for name in ("gamma", "beta", "mean", "variance")] for width in (8, 6)]
    bias = value_of("bias", (8,))

    def network(x: Any, first: bool) -> Any:
        form = "NCHW" if first else "NHWC"

        def placed(pair: tuple[int, int]) -> list[int]:
            return [1, 1, *pair] if first else [1, *pair, 1]

        def sign(value: Any) -> Any:
            return tf.where(value >= 0, tf.ones_like(value), -tf.ones_like(value))

        value = tf.nn.conv2d(x, tf.sign(tf.constant(weights[0])), placed((2, 1)), "SAME", data_format=form)
        value = tf.nn.bias_add(value, bias, data_format=form)
        value = tf.nn.max_pool2d(value, placed((1, 2)), placed((1, 2)), "VALID", data_format=form)
        value = sign(tf1.nn.fused_batch_norm(value, *norms[0], data_format=form, is_training=False)[0])
        value = tf.nn.conv2d(value, tf.sign(tf.constant(weights[1])), placed((1, 1)), "VALID", data_format=form)
        value = tf1.nn.fused_batch_norm(value, *norms[1], data_format=form, is_training=False)[0]
        value = tf.reduce_mean(value, [2, 3] if first else [1, 2])
        return tf.matmul(value, tf.constant(weights[2]))

    OUTPUTS["first/x"], OUTPUTS["first/scores"] = images, network(centred(images), False).numpy()
    graph = tf1.Graph()
    with graph.as_default():
        network(tf1.placeholder(tf.float32, [None, 3, 7, 6]), True)
    (folder / "first.pb").write_bytes(graph.as_graph_def().SerializeToString())


class LarqFile:
    """A TensorFlow Lite model of Larq's operators, written by hand as Larq's converter writes them, and what they compute.

    larq_compute_engine/mlir/ir/lce_ops.td, larq_compute_engine/tflite/kernels/bconv2d.cc: bits are 1 below 0, 32 in a word; a
    multiplication and an addition follow a sum, or more mismatches than a threshold are -1.
    """

    CUSTOM = ("LceQuantize", "LceBconv2d", "LceBMaxPool2d")

    def __init__(self, images: Any) -> None:
        self.model = lite.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [lite.BufferT()], []
        self.graph = lite.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.value = centred(images)
        self.last = self.tensor("input", (1, *images.shape[1:]), np.float32)
        self.graph.inputs = [self.last]

    def tensor(self, name: str, shape: Any, dtype: Any, data: Any = None) -> int:
        tensor = lite.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = lite.TensorType.FLOAT32 if dtype == np.float32 else lite.TensorType.INT32
        if data is not None:
            tensor.buffer = len(self.model.buffers)
            buffer = lite.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, data: Any) -> int:
        data = np.asarray(data)
        return self.tensor(name, data.shape, np.float32 if data.dtype.kind == "f" else np.int32, data)

    def add(self, kind: Any, inputs: list[int], shape: Any, options: Any = None, dtype: Any = np.float32) -> None:
        code = lite.OperatorCodeT()
        operator = lite.OperatorT()
        if isinstance(kind, str):
            code.builtinCode, code.customCode = lite.BuiltinOperator.CUSTOM, kind
            operator.customOptions = np.frombuffer(flexbuffers.Dumps(options or {}), np.uint8)
        else:
            code.builtinCode = kind
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(lite.BuiltinOptions, type(options).__name__[:-1]) if options else 0
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        self.last = self.tensor(f"value {len(self.graph.operators)}", (1, *shape), dtype)
        operator.inputs, operator.outputs = inputs, [self.last]
        self.graph.operators.append(operator)

    def words(self, shape: Any) -> Any:
        return (*shape[:-1], -(-shape[-1] // 32))

    def quantize(self) -> None:
        self.value = np.where(self.value < 0, -1, 1).astype(np.float32)
        self.add("LceQuantize", [self.last], self.words(self.value.shape[1:]), dtype=np.int32)

    def stem(self, neurons: int) -> None:
        kernel, bias = value_of("kernel", (neurons, 3, 3, self.value.shape[3])), value_of("bias", (neurons,))
        self.value = tf.nn.conv2d(self.value, kernel.transpose(1, 2, 3, 0), 1, "SAME").numpy() + bias
        options = lite.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = lite.Padding.SAME, 1, 1
        inputs = [self.last, self.constant("stem", kernel), self.constant("stem's bias", bias)]
        self.add(lite.BuiltinOperator.CONV_2D, inputs, self.value.shape[1:], options)

    def pool(self) -> None:
        self.value = tf.nn.max_pool2d(self.value, (2, 1), (2, 1), "SAME").numpy()
        said = {"padding": 0, "stride_width": 1, "stride_height": 2, "filter_width": 1, "filter_height": 2}
        self.add("LceBMaxPool2d", [self.last], self.words(self.value.shape[1:]), said, np.int32)

    def convolve(
        self, neurons: int, size: Any, strides: Any, same: bool, pad: int, groups: int = 1, bits: bool = False
    ) -> None:
        channels = self.value.shape[3]
        signs = np.where(value_of("kernel", (neurons, *size, channels // groups)) < 0, -1, 1).astype(np.float32)
        packed = np.zeros((*signs.shape[:3], -(-signs.shape[3] // 32) * 32), np.uint8)
        packed[..., : signs.shape[3]] = signs < 0
        number, value = len(self.graph.operators), self.value
        if same and pad:
            padding = Window(size, strides).same(*value.shape[1:3]).padding
            value = np.pad(value, ((0, 0), padding[:2], padding[2:], (0, 0)), constant_values=1)
        form = "SAME" if same and not pad else "VALID"
        value = tf.nn.conv2d(value, signs.transpose(1, 2, 3, 0), strides, form).numpy()
        said = {"channels_in": channels, "dilation_height_factor": 1, "dilation_width_factor": 1}
        said |= {"fused_activation_function": 0, "pad_values": pad, "padding": 0 if same else 1}
        said |= {"stride_height": strides[0], "stride_width": strides[1]}
        inputs = [self.last, self.constant(f"filter {number}", np.packbits(packed, -1, bitorder="little").view(np.int32))]
        if bits:
            limits = RNG.integers(50, 80, neurons).astype(np.int32)
            self.value = np.where((signs[0].size - value) / 2 > limits, -1, 1).astype(np.float32)
            self.add(
                "LceBconv2d",
                [*inputs, -1, -1, self.constant(f"limits {number}", limits)],
                self.words(value.shape[1:]),
                said,
                np.int32,
            )
        else:
            times, plus = (value_of("norm", (neurons,)) for _ in range(2))
            self.value = value * times + plus
            names = [self.constant(f"{name} {number}", vector) for name, vector in (("times", times), ("plus", plus))]
            self.add("LceBconv2d", [*inputs, *names, -1], value.shape[1:], said)

    def dense(self, neurons: int) -> None:
        flat = self.value.reshape(len(self.value), -1)
        self.add(
            lite.BuiltinOperator.RESHAPE, [self.last, self.constant("shape", np.array([-1, flat.shape[1]]))], flat.shape[1:]
        )
        kernel = value_of("kernel", (neurons, flat.shape[1]))
        self.value = flat @ kernel.T
        self.add(lite.BuiltinOperator.FULLY_CONNECTED, [self.last, self.constant("head", kernel)], (neurons,))

    def content(self) -> bytes:
        self.graph.outputs = [self.last]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def save_larq_lite(folder: Path) -> None:
    images = pixels((9, 7, 3))
    file = LarqFile(images)
    file.stem(32)
    file.quantize()
    file.convolve(64, (3, 2), (1, 1), same=True, pad=1)
    file.quantize()
    file.pool()
    file.convolve(34, (2, 2), (1, 2), same=False, pad=0, groups=2, bits=True)
    file.convolve(8, (3, 3), (2, 1), same=True, pad=0)
    file.dense(5)
    (folder / "lce.tflite").write_bytes(file.content())
    OUTPUTS["lce/x"], OUTPUTS["lce/scores"] = images, file.value


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_larq(folder)
    save_keras3(folder)
    save_tf1(folder)
    save_channels_first(folder)
    save_larq_lite(folder)
    np.savez_compressed(folder / "outputs.npz", **OUTPUTS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

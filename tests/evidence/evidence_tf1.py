"""Networks trained in TensorFlow 1 for a moment, saved by the real tf.train.Saver: `evidence_tf1.py FOLDER MNIST`."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tf.layers needs the package tf_keras since Keras 3

import numpy as np
import tensorflow as tf
from evidence_record import (
    BATCH,
    STEPS,
    WIDTHS,
    Case,
    Layer,
    Mnist,
    centred,
    nudged_beta,
    signed_gamma,
    spoiled_gamma,
    spoiled_latents,
)

tf1 = tf.compat.v1
EPSILON = 1e-4


def binary_tanh(x: Any) -> Any:
    """With the straight-through gradient."""
    soft = tf.clip_by_value((x + 1.0) / 2.0, 0, 1)
    return 2.0 * (soft + tf.stop_gradient(tf.round(soft) - soft)) - 1.0


class Network:
    """The TF1 port of BinaryNet, its variables named as its automatic names are; decoys included."""

    def __init__(self, *, glorot: bool = False, float_head: bool = False, gammas: bool = True) -> None:
        self.x = tf1.placeholder(tf.float32, [None, WIDTHS[0]])
        self.y = tf1.placeholder(tf.int64, [None])
        self.training = tf1.placeholder(tf.bool, [])
        self.kernels: list[Any] = []
        self.biases: list[Any] = []
        self.norms: list[dict[str, Any]] = []
        self.values: list[Any] = []
        self.h: list[float] = []
        self.float_head = float_head
        value = self.x
        rng = np.random.default_rng(1)
        for index, (depth, neurons) in enumerate(itertools.pairwise(WIDTHS)):
            suffix = f"_{index}" if index else ""
            last = neurons == WIDTHS[-1]
            h = float(np.float32(np.sqrt(1.5 / (depth + neurons)))) if glorot else 1.0
            start = rng.uniform(-h, h, (depth, neurons)).astype(np.float32)
            is_float = last and float_head
            with tf1.variable_scope(f"dense{suffix}" if is_float else f"dense__binary_layer{suffix}"):
                kernel = tf1.get_variable("kernel", initializer=tf.constant(start / np.float32(8 if is_float else 1)))
                bias = tf1.get_variable("bias", initializer=tf.zeros(neurons))
                if not is_float:
                    tf1.get_variable("binary_weight", initializer=tf.constant(-start), trainable=False)
            value = tf.matmul(value, kernel if is_float else h * binary_tanh(kernel / h)) + bias
            self.kernels.append(kernel)
            self.biases.append(bias)
            self.h.append(h)
            if is_float:
                break
            value = tf1.layers.batch_normalization(
                value,
                training=self.training,
                epsilon=EPSILON,
                momentum=0.8,
                scale=gammas or index != 0,
                center=gammas or index != 1,
                gamma_initializer=tf1.constant_initializer(signed_gamma(neurons, index)),
            )
            scope = f"batch_normalization{suffix}/"
            self.norms.append({v.name[len(scope) : -2]: v for v in tf1.global_variables() if v.name.startswith(scope)})
            if not last:
                self.values.append(value)
                value = tf.clip_by_value(value, -1, 1) if float_head and index == 1 else binary_tanh(value)
        self.scores = value

    def train(self, session: tf1.Session, mnist: Mnist) -> None:
        binary = self.kernels[:-1] if self.float_head else self.kernels
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.y, logits=self.scores))
        with tf1.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
            step = tf1.train.AdamOptimizer(5e-3).minimize(loss)
        clip = [tf1.assign(k, tf.clip_by_value(k, -h, h)) for k, h in zip(binary, self.h, strict=False)]
        session.run(tf1.global_variables_initializer())
        for start in range(0, STEPS * BATCH, BATCH):
            rows = slice(start, start + BATCH)
            session.run(step, {self.x: centred(mnist.train_x[rows]), self.y: mnist.train_y[rows], self.training: True})
            session.run(clip)
        for kernel in binary:
            kernel.load(spoiled_latents(session.run(kernel)), session)
        for norm in self.norms[:2]:
            if "gamma" in norm:
                norm["gamma"].load(spoiled_gamma(session.run(norm["gamma"])), session)
        first = self.layers(session, [])[0]
        assert first.norm is not None
        assert first.bias is not None
        signs = np.where(first.weight > 2.0**-24, self.h[0], -self.h[0])
        self.norms[0]["beta"].load(nudged_beta(signs, first.bias, first.norm, mnist.test_x), session)

    def layers(self, session: tf1.Session, values: list[Any]) -> list[Layer]:
        names = {"gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "variance"}
        layers = []
        for index, (kernel, bias) in enumerate(session.run(list(zip(self.kernels, self.biases, strict=True)))):
            norm: dict[str, Any] | None = None
            if index < len(self.norms):
                norm = {names[name]: session.run(variable) for name, variable in self.norms[index].items()} | {
                    "epsilon": EPSILON
                }
            kept = values[index] if index < len(values) else None
            layers.append(Layer(kernel, bias, norm, kept, h=self.h[index]))
        if self.float_head:
            layers[-1].kind, layers[-1].reads = "float", "hardtanh"
        return layers


def main(folder: Path, mnist_folder: Path) -> None:
    tf1.disable_eager_execution()
    mnist = Mnist.read(mnist_folder)
    cases: dict[str, dict[str, bool]] = {
        "plain": {},
        "H of Glorot": {"glorot": True},
        "float head": {"float_head": True},
        "gamma or beta missing": {"gammas": False},
    }
    for seed, (name, how) in enumerate(cases.items()):
        with tf1.Graph().as_default(), tf1.Session() as session:
            tf1.set_random_seed(seed)
            net = Network(**how)
            net.train(session, mnist)
            inside = {net.x: centred(mnist.test_x), net.training: False}
            *values, scores = session.run([*net.values, net.scores], inside)
            prefix = f"tf1-{seed}"
            tf1.train.Saver().save(session, str(folder / prefix))
            options: dict[str, Any] = {"h": "glorot"} if "glorot" in how else {}
            options |= {"float_layers": ["dense_2"]} if "float_head" in how else {}
            Case("tf1 Saver", name, prefix, net.layers(session, values), scores, "round-even", "tf", options).write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

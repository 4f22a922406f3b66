"""Live Keras models: the packed network answers as the model does, or the conversion is refused."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

import numpy as np
import pytest

import xnorinfer
from xnorinfer.errors import ConversionWarning, InputError, NetworkError, OptionError, SourceError
from xnorinfer.net.values import PixelInput

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
missing = [name for name in ("tensorflow", "tf_keras", "keras", "larq") if importlib.util.find_spec(name) is None]
if missing:
    pytest.skip(f"{', '.join(missing)} not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras as keras3
    import larq
    import tensorflow as tf
    import tf_keras as keras2

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (200, 12), dtype=np.uint8)
INPUTS = (PIXELS / 127.5 - 1).astype(np.float32)
SIGN = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
HIDDEN = {**SIGN, "input_quantizer": "ste_sign"}
pytestmark = pytest.mark.filterwarnings("ignore")


def fill(model: Any) -> Any:
    rng = np.random.default_rng(3)
    for variable in model.weights:
        name, shape = str(getattr(variable, "path", variable.name)), tuple(variable.shape)
        if "seed" not in name:
            variable.assign(rng.uniform(4, 16, shape) if "variance" in name else rng.uniform(-1, 1, shape))
    return model


def larq_model(*middle: Any, head: tuple[Any, ...] = ()) -> Any:
    q, norm = larq.layers.QuantDense, keras2.layers.BatchNormalization
    stack = [keras2.Input((12,)), q(9, **SIGN), norm(), *middle, q(9, **HIDDEN), norm(), q(5, **HIDDEN), *head]
    return fill(keras2.Sequential(stack))


def sign(x: Any) -> Any:
    return tf.where(x >= 0, 1.0, -1.0)


class Binary(keras3.layers.Dense):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return tf.matmul(x, sign(self.kernel))


class BinaryDense(keras3.layers.Dense):  # type: ignore[misc]
    """Called as the layer of BinaryNet's ports is; it computes something else."""

    def call(self, x: Any) -> Any:
        return tf.matmul(x, sign(self.kernel - 0.25))


class Subclassed(keras3.Model):  # type: ignore[misc]
    """Attributes that are not in the order of the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a_head, self.b_first, self.c_middle = (Binary(n, use_bias=False) for n in (9, 9, 9))
        self.norms = [keras3.layers.BatchNormalization() for _ in range(2)]

    def call(self, x: Any, training: bool = False) -> Any:
        value = sign(self.norms[1](self.b_first(x), training=training))
        return self.a_head(sign(self.norms[0](self.c_middle(value), training=training)))


def answers(model: Any, shape: tuple[int, ...] = (12,)) -> Any:
    return np.asarray(model(INPUTS.reshape(-1, *shape), training=False)).argmax(axis=1)


@pytest.mark.parametrize("example", [None, PIXELS, INPUTS], ids=["random", "pixels", "floats"])
def test_larq(example: Any) -> None:
    model = larq_model(keras2.layers.ReLU(), keras2.layers.BatchNormalization(), keras2.layers.Dropout(0.3))
    packed = xnorinfer.from_keras(model, example=example)
    np.testing.assert_array_equal(packed.predict(PIXELS), answers(model))
    told = {what: value for what, value, _ in packed.info["provenance"]["assumptions"]}
    assert told["structure"] == f"the packed network answers as the model itself on {256 if example is None else 200} rows"


@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
def test_heads(ending: str) -> None:
    model = larq_model(head=(keras2.layers.Activation(ending),))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        packed = xnorinfer.from_keras(model)
    np.testing.assert_array_equal(packed.predict(PIXELS), answers(model))
    assert not any("scores differ" in str(w.message) for w in caught if issubclass(w.category, ConversionWarning))


def test_images_and_mappings() -> None:
    q, layers = larq.layers.QuantDense, keras2.layers
    stack = [keras2.Input((3, 4, 1)), layers.Flatten(), q(9, **SIGN), layers.BatchNormalization(), q(5, **HIDDEN)]
    model = fill(keras2.Sequential(stack))
    packed = xnorinfer.from_keras(model)
    np.testing.assert_array_equal(packed.predict(PIXELS), answers(model, (3, 4, 1)))
    unit = xnorinfer.from_keras(model, input=PixelInput.range(0, 1))
    wanted = np.asarray(model((PIXELS / 255).astype(np.float32).reshape(-1, 3, 4, 1))).argmax(axis=1)
    np.testing.assert_array_equal(unit.predict(PIXELS), wanted)


def test_subclassed_models_are_read_by_what_they_compute() -> None:
    model = Subclassed()
    model(INPUTS[:2])
    fill(model)
    np.testing.assert_array_equal(xnorinfer.from_keras(model, example=PIXELS).predict(PIXELS), answers(model))


def test_a_config_that_the_answers_contradict_is_not_believed() -> None:
    stack = [keras3.Input((12,)), BinaryDense(9, use_bias=False), keras3.layers.BatchNormalization()]
    stack += [keras3.layers.Activation(sign), BinaryDense(5, use_bias=False)]
    model = fill(keras3.Sequential(stack))
    try:
        packed = xnorinfer.from_keras(model)
    except (NetworkError, SourceError):
        return
    np.testing.assert_array_equal(packed.predict(PIXELS), answers(model))


def test_refused() -> None:
    with pytest.raises(NetworkError, match="gelu is not supported"):
        xnorinfer.from_keras(larq_model(keras2.layers.Activation("gelu")))
    with pytest.raises(OptionError, match="takes a Keras model, not a int"):
        xnorinfer.from_keras(3)
    one, other = keras2.Input((12,), name="one"), keras2.Input((12,), name="other")
    joined = larq.layers.QuantDense(5, **HIDDEN)(keras2.layers.Add()([one, other]))
    with pytest.raises(NetworkError, match="takes the inputs one, other; one is supported"):
        xnorinfer.from_keras(keras2.Model([one, other], joined))
    with pytest.raises(SourceError, match="has no weights yet"):
        xnorinfer.from_keras(Subclassed())
    with pytest.raises(InputError):
        xnorinfer.from_keras(larq_model(), example=PIXELS[:, :5])


@pytest.mark.parametrize("option", [{"format": "keras"}, {"net": "layers"}, {"state": "model"}, {"ema": True}])
def test_options_about_files_mean_nothing_for_a_model(option: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="says what to take of a file, and means nothing for Sequential, a live model"):
        xnorinfer.from_keras(larq_model(), **option)


@pytest.mark.parametrize("pattern", ["*kernel*", "no-such-name"])
def test_what_a_graph_uses_cannot_be_ignored(pattern: str) -> None:
    class Around(keras2.Model):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def call(self, x: Any) -> Any:
            return self.inner(x)

    model = Around(larq_model())
    model(INPUTS)
    with pytest.raises(OptionError, match="Around is read by the format keras, which says itself what it uses"):
        xnorinfer.from_keras(model, ignore=[pattern])


# ---------------------------------------------------------------- convolutions

IMAGES = RNG.integers(0, 256, (40, 7, 5, 3), dtype=np.uint8)


def convolutional(keras: Any) -> list[Any]:
    """Layers of two convolutions, over zeros and over +1, a pool and a head."""
    conv, norm = larq.layers.QuantConv2D, keras.layers.BatchNormalization
    return [
        *(conv(8, 3, padding="same", **SIGN), keras.layers.MaxPooling2D((2, 1)), norm()),
        *(conv(6, (2, 3), strides=(1, 2), padding="same", pad_values=1.0, **HIDDEN), norm()),
        *(keras.layers.Flatten(), larq.layers.QuantDense(5, **HIDDEN), norm()),
    ]


class Images(keras2.Model):  # type: ignore[misc]
    """Its code says in which order the layers come."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = convolutional(keras2)

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in self.stack:
            x = layer(x, training=training) if "normalization" in layer.name else layer(x)
        return x


@pytest.mark.parametrize("kind", ["config", "graph"])
def test_convolutions_answer_as_the_model(kind: str) -> None:
    inputs = (IMAGES / 127.5 - 1).astype(np.float32)
    model = Images() if kind == "graph" else keras2.Sequential([keras2.Input((7, 5, 3)), *convolutional(keras2)])
    model(inputs[:1])
    fill(model)
    packed = xnorinfer.from_keras(model, example=inputs[:8], input_range=(-1, 1))
    np.testing.assert_allclose(packed.scores(IMAGES), model(inputs, training=False), rtol=1e-5, atol=1e-5)
    assert packed.packed.shape == (7, 5, 3)


def test_convolutions_of_keras_3_are_read_by_its_graph() -> None:
    """A port's layer of another name, whose code says what it computes."""
    stack = keras3.layers

    class SignConv(stack.Conv2D):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return tf.nn.conv2d(x, sign(self.kernel), self.strides, self.padding.upper())

    x = keras3.Input((7, 5, 3))
    value = stack.BatchNormalization()(SignConv(8, 3, strides=2, padding="same", use_bias=False)(x))
    value = stack.GlobalAveragePooling2D()(SignConv(6, (1, 2), padding="valid", use_bias=False)(stack.Activation(sign)(value)))
    model = fill(keras3.Model(x, Binary(5, use_bias=False)(stack.Activation(sign)(value - 0.5))))
    packed = xnorinfer.from_keras(model, input_range=(-1, 1))
    inputs = (IMAGES / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(packed.scores(IMAGES), model(inputs, training=False), rtol=1e-5, atol=1e-5)

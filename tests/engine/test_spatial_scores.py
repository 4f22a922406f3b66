"""Networks that end in a map: a class of every pixel, the same one in Python, on the command line, in C and in answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import fine, wrong
from conv_networks import random_conv_network
from networks import INPUTS, random_inputs

from xnorinfer.engine.model import Model
from xnorinfer.errors import OptionError
from xnorinfer.net.network import Net
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.scoring.results import Wanted, answers, model_of


def spatial(kind: str, seed: int = 0) -> Net:
    """A random network whose scores are a map of several pixels."""
    for tried in range(seed, seed + 200):
        net = random_conv_network(tried, INPUTS[kind], awkward=False)
        if len(net.values[-1].shape) == 3 and net.values[-1].shape[:2] > (1, 1):
            return net
    raise AssertionError("no network ends in a map")


@pytest.mark.parametrize("kind", INPUTS)
def test_each_pixel_has_a_class_and_a_gap(kind: str) -> None:
    net = spatial(kind)
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(0), net.input, 5, net.depth)
    want = forward(net, x).reshape(5, *net.values[-1].shape)
    model = Model(packed, threads=1)
    assert model.score_shape == packed.score_shape == net.values[-1].shape
    assert packed.classes == net.classes == want.shape[-1]
    np.testing.assert_array_equal(model.scores(x), want)
    np.testing.assert_array_equal(model.predict(x), want.argmax(axis=3))
    sure = model.margins(x)
    np.testing.assert_array_equal(sure.classes, want.argmax(axis=3))
    ordered = np.sort(want.astype(np.float64), axis=3)
    np.testing.assert_array_equal(sure.gaps, ordered[..., -1] - ordered[..., -2])
    assert model.margins(x[:0]).classes.shape == (0, *want.shape[1:3])


def test_a_map_of_one_pixel_is_the_scores_of_a_sample() -> None:
    nets = [random_conv_network(seed, INPUTS["signs"], awkward=False) for seed in range(60)]
    one = next(net for net in nets if net.values[-1].shape[:-1] == (1, 1))
    packed = lower(one).packed
    x = random_inputs(np.random.default_rng(0), one.input, 3, one.depth)
    assert packed.score_shape == (packed.classes,) == (one.classes,)
    np.testing.assert_array_equal(Model(packed).predict(x), forward(one, x).argmax(axis=1))


def test_the_command_line_gives_them_all(tmp_path: Path) -> None:
    packed = lower(spatial("range")).packed
    path, data = tmp_path / "model.safetensors", tmp_path / "x.npy"
    modelfile.save(packed, path)
    x = np.random.default_rng(0).integers(0, 256, (4, *packed.shape), dtype=np.uint8)
    np.save(data, x)
    model = Model(packed)
    np.testing.assert_array_equal(np.loadtxt(fine("run", path, data).splitlines()), model.predict(x).reshape(4, -1))
    for options, want in (([], model.predict(x)), (["--scores"], model.scores(x))):
        fine("run", path, data, "-o", tmp_path / "out.npy", *options)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)
    np.save(tmp_path / "y.npy", np.zeros(4, np.int64))
    size = " x ".join(map(str, packed.score_shape[:2]))
    for options in (["--margins"], ["--labels", str(tmp_path / "y.npy")]):
        assert f"has one class of each sample, and this network gives one for each of {size}" in wrong(
            "run", path, data, *options
        )
    assert "scoring gives one class of each sample" in wrong("score", path, data, "-o", tmp_path / "answers")


def test_what_holds_one_class_of_a_sample_refuses_them() -> None:
    pytest.importorskip("sklearn", reason="pip install 'xnorinfer[sklearn]'")
    from xnorinfer.sklearn import BinaryNetClassifier

    packed = lower(spatial("range")).packed
    with pytest.raises(OptionError, match="an estimator gives one class of each sample"):
        BinaryNetClassifier.from_model(Model(packed))
    with pytest.raises(OptionError, match="scoring gives one class"):
        answers(model_of(packed, 1), np.zeros((1, packed.depth), np.uint8), Wanted())

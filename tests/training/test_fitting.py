"""Arrays in, a trained network out: the float network that it becomes, and how its rows are divided."""

from __future__ import annotations

import numpy as np
import pytest

from xnorinfer.engine.model import Model
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from xnorinfer.training.architecture import Shape  # noqa: E402
from xnorinfer.training.data import Samples  # noqa: E402
from xnorinfer.training.fitting import divided, net_of, train  # noqa: E402
from xnorinfer.training.loop import Recipe, predict  # noqa: E402


def test_the_network_of_a_training_computes_what_was_trained() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 12)).astype(np.uint8)
    labels = (pixels[:, :4].mean(axis=1) > pixels[:, 4:].mean(axis=1)).astype(np.int64)
    samples = Samples.of(pixels, labels)
    shape = Shape(12, (24, 20), 2, h=0.5, dropout_input=0.0, dropout_hidden=0.1)
    threads = torch.get_num_threads()
    progress = train(shape, Recipe(epochs=8, batch=16), samples, samples, threads=1)
    assert torch.get_num_threads() == threads
    best = progress.load_best()
    net = net_of(best)
    net.require_valid()
    scores = Model(lower(net).packed).scores(pixels)
    assert (scores == forward(net, pixels)).all()
    assert (
        scores.argmax(axis=1) == predict(best, samples.pixels).numpy()
    ).mean() > 0.98  # float sums of BLAS in the first layer


def test_every_class_keeps_a_row_to_learn_from() -> None:
    classes = np.array([0] * 40 + [1] * 5 + [2])
    learn, choose = divided(classes, 0.5, seed=3)
    assert sorted([*learn.tolist(), *choose.tolist()]) == list(range(46))
    assert np.bincount(classes[learn]).tolist() == [20, 3, 1]
    assert (divided(classes, 0.5, seed=4)[1] != choose).any()


def test_without_rows_to_choose_with_those_to_learn_from_choose() -> None:
    classes = np.array([0, 1, 1])
    learn, choose = divided(classes, 0.0, seed=0)
    assert learn.tolist() == choose.tolist() == [0, 1, 2]

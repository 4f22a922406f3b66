"""Answers for every pixel of a map: what is a softmax, or a class, is one of the scores of a pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conv_networks import random_conv_network
from networks import INPUTS, random_inputs

from xnorinfer.converters.graphs.behindsums import ORDER_KEPT
from xnorinfer.engine.model import Model
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Steps
from xnorinfer.packing.lower import lower
from xnorinfer.proof.agreement import compare
from xnorinfer.proof.answers import Answers
from xnorinfer.proof.elimination import exact_form
from xnorinfer.proof.squashed import ORDER, SQUASHING

NET = next(
    net
    for seed in range(200)
    if len((net := random_conv_network(seed, INPUTS["range"], awkward=False)).values[-1].shape) == 3
    and net.values[-1].shape[:2] > (1, 1)
)
ROWS = 12


@pytest.fixture(scope="module")
def given() -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and scores (rows, height, width, classes)."""
    x = random_inputs(np.random.default_rng(0), NET.input, ROWS, NET.depth)
    return x, Model(lower(NET).packed).scores(x).astype(np.float64)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=3, keepdims=True))
    return powers / powers.sum(axis=3, keepdims=True)


@pytest.mark.parametrize("kind", ["scores", "softmax", "log_softmax"])
def test_every_kind_of_scores_of_pixels_agrees(kind: str, given: tuple[np.ndarray, np.ndarray]) -> None:
    x, scores = given
    answers = {"scores": scores, "softmax": softmax(scores), "log_softmax": np.log(softmax(scores))}[kind]
    packed = lower(NET).packed
    expected = Answers.of(x, answers.reshape(ROWS, -1).astype(np.float32))
    found = compare(expected, NET, packed)
    assert found.holds
    assert found.compared == kind
    assert found.different == 0
    assert exact_form(expected, NET, packed, found) is None


def test_every_function_that_scores_are_read_before_is_compared() -> None:
    assert tuple(SQUASHING) == ORDER_KEPT


@pytest.mark.parametrize("function", [*SQUASHING, ORDER])
def test_functions_of_scores_are_compared_at_every_pixel(function: str, given: tuple[np.ndarray, np.ndarray]) -> None:
    x, scores = given
    scale = 2.0 ** -np.ceil(np.log2(np.abs(scores).max()))  # a function of a score that is not flat
    net = Net.chain(NET.input, [*NET.named, ("scaled", Steps.of(("mul", scale)))], NET.profile, NET.shape)
    squashed = SQUASHING.get(function, lambda x: np.arctan(x) ** 3)(scores * scale).astype(np.float32).reshape(ROWS, -1)
    packed = lower(net).packed
    found = compare(dataclasses.replace(Answers.of(x, squashed), function=function), net, packed)
    assert (found.compared, found.different, found.unexplained) == (function, 0, 0)
    assert found.holds
    changed = squashed.reshape(ROWS, -1, NET.classes)[:, ::-1].copy()  # the pixel with the highest score elsewhere
    expected = dataclasses.replace(Answers.of(x, changed.reshape(ROWS, -1)), function=function)
    wrong = compare(expected, net, packed)
    moved = (np.abs(changed.reshape(ROWS, -1) - squashed) > 1e-3).any(axis=1).sum()
    assert 0 < wrong.unexplained <= moved
    assert wrong.unexplained == moved or function == ORDER
    assert wrong.text()


def test_scores_that_a_function_makes_equal_are_no_other_classes(given: tuple[np.ndarray, np.ndarray]) -> None:
    x, scores = given
    expected = dataclasses.replace(Answers.of(x, np.tanh(64 * scores).reshape(ROWS, -1).astype(np.float32)), function=ORDER)
    found = compare(expected, NET, lower(NET).packed)
    assert (found.different, found.unexplained) == (0, 0)


def test_one_pixel_of_another_class_is_found(given: tuple[np.ndarray, np.ndarray]) -> None:
    """Though the highest score of all is where it was."""
    x, scores = given
    row, (height, width) = 3, scores.shape[1:3]
    changed = scores.copy()
    highest = np.unravel_index(scores[row].argmax(), scores.shape[1:])
    y, z = next(place for place in np.ndindex(height, width) if place != highest[:2])
    changed[row, y, z] = -scores[row, y, z]
    found = compare(Answers.of(x, softmax(changed).reshape(ROWS, -1)), NET, lower(NET).packed)
    assert not found.holds
    assert found.different == 1
    assert found.first == (row, int(changed[row, y, z].argmax()), int(scores[row, y, z].argmax()))

"""Floats become pixels in order, by what was seen of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="xnorinfer.sklearn needs scikit-learn")

from xnorinfer.sklearn.binning import KINDS, MOST_GRADES, Binning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grades", [1, 3])
def test_pixels_rise_with_the_feature(kind: str, grades: int) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_cauchy(500), rng.integers(0, 3, 500), rng.normal(size=500) * 1e-30])
    pixels = Binning.of(x, kind, grades).pixels(x).reshape(500, 3, grades)  # type: ignore[arg-type]
    for feature in range(3):
        sums = pixels[np.argsort(x[:, feature]), feature].astype(int).sum(axis=1)
        assert (np.diff(sums) >= 0).all()
        assert (sums.min(), sums.max()) == (0, 255 * grades)


def test_quantiles_spread_rows_evenly_and_min_max_distances() -> None:
    x = np.exp(np.random.default_rng(1).normal(size=(4000, 1)) * 3)
    counts = np.bincount(Binning.of(x, "quantile", 1).pixels(x).reshape(-1), minlength=256)
    assert counts.max() < 2 * 4000 / 255
    linear = Binning.of(x, "min-max", 1).pixels(x).reshape(-1)
    assert (linear == np.rint(255 * (x - x.min()) / (x.max() - x.min())).reshape(-1)).all()


def test_a_feature_of_two_values_becomes_both_ends_and_of_one_zero() -> None:
    x = np.array([[0.0, 5.0]] * 7 + [[1.0, 5.0]] * 3)
    pixels = Binning.of(x, "quantile", 1).pixels(x)
    assert (pixels == [[0, 0]] * 7 + [[255, 0]] * 3).all()


def test_grades_are_ramps_side_by_side() -> None:
    x = np.linspace(0, 1, 256)[:, None]
    pixels = Binning.of(x, "min-max", 2).pixels(x)
    assert (pixels == np.column_stack([np.minimum(2 * np.arange(256), 255), np.maximum(2 * np.arange(256) - 255, 0)])).all()


def test_many_features_have_few_grades() -> None:
    columns = {width: Binning.of(np.zeros((2, width)), "min-max").grades for width in (1, 32, 64, 200, 5000)}
    assert columns == {1: MOST_GRADES, 32: MOST_GRADES, 64: 4, 200: 1, 5000: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_numbers_and_what_lies_outside(kind: str) -> None:
    most = np.finfo(np.float64).max
    binning = Binning.of(np.array([[-most], [0.0], [most]]), kind, 1)  # type: ignore[arg-type]
    low, middle, high = binning.pixels(np.array([[-most], [0.0], [most]])).reshape(-1).tolist()
    assert (low, high) == (0, 255)
    assert middle in (127, 128)
    inside = Binning.of(np.array([[1.0], [2.0]]), kind, 1)  # type: ignore[arg-type]
    assert inside.pixels(np.array([[-5.0], [9.0]])).reshape(-1).tolist() == [0, 255]

"""`BinaryNetClassifier` in scikit-learn's own hands: its checks, pipelines, searches, tables, pickles."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="xnorinfer.sklearn needs scikit-learn")
pytest.importorskip("torch", reason="fit trains in PyTorch")

from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import xnorinfer
from xnorinfer import shipped
from xnorinfer.errors import EstimatorError, XnorinferError
from xnorinfer.sklearn import BinaryNetClassifier

SHIPPED = "mnist-784-1024x3"


def small(**parameters: Any) -> BinaryNetClassifier:
    return BinaryNetClassifier(**{"hidden_layer_sizes": (32,), "epochs": 25, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(iris: tuple[Any, Any]) -> BinaryNetClassifier:
    return small().fit(*iris)


# Every check applies but the one for other array libraries, which scikit-learn skips by itself unless SCIPY_ARRAY_API is set:
# the engine takes arrays of numpy.
@parametrize_with_checks([BinaryNetClassifier(hidden_layer_sizes=(64,), epochs=30)])
def test_conventions_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.long
def test_conventions_with_the_default_parameters() -> None:
    results = check_estimator(BinaryNetClassifier(), on_skip=None)
    assert {one["check_name"] for one in results if one["status"] != "passed"} <= {"check_array_api_input"}


def test_it_learns_and_what_it_learned_runs_on_bits(iris: tuple[Any, Any], fitted: BinaryNetClassifier) -> None:
    x, y = iris
    assert fitted.score(x, y) > 0.93
    assert isinstance(fitted.model_, xnorinfer.Model)
    scores = fitted.model_.scores(fitted.binning_.pixels(x))
    assert (fitted.decision_function(x) == scores).all()
    assert (fitted.predict(x) == scores.argmax(axis=1)).all()
    assert fitted.n_iter_ == len(fitted.loss_curve_) == len(fitted.validation_scores_) == 25
    assert fitted.best_validation_score_ == max(fitted.validation_scores_)


def test_few_features_have_a_curved_border() -> None:
    """Which two inputs of binary weights cannot give without grades."""
    x, y = make_moons(300, noise=0.15, random_state=0)
    assert small(epochs=60).fit(x, y).score(x, y) > small(epochs=60, grades=1).fit(x, y).score(x, y) + 0.05


def test_the_same_seed_gives_the_same_network(iris: tuple[Any, Any], fitted: BinaryNetClassifier) -> None:
    def digest(estimator: BinaryNetClassifier) -> str:
        found: str = estimator.model_.info["content_digest"]
        return found

    assert digest(small().fit(*iris)) == digest(fitted) != digest(small(random_state=1).fit(*iris))


def test_labels_of_any_kind(iris: tuple[Any, Any], fitted: BinaryNetClassifier) -> None:
    x, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])
    named = small().fit(x, names[y])
    assert (named.predict(x) == names[fitted.predict(x)]).all()
    assert named.classes_.tolist() == names.tolist()
    two = small().fit(x[:100], np.where(y[:100] == 0, "no", "yes"))
    decisions = two.decision_function(x[:100])
    assert decisions.shape == (100,)
    assert (two.predict(x[:100]) == np.where(decisions > 0, "yes", "no")).all()


def test_pixels_are_taken_as_they_are() -> None:
    with np.load(shipped.DATA / "digits-test.npz") as data:
        x, y = data["x"], data["y"]
    raw = small(epochs=10).fit(x, y)
    assert raw.binning_ is None
    assert (raw.predict(x.astype(float)) == raw.predict(x)).all()
    assert (small(epochs=10, bins=None).fit(x.astype(float), y).predict(x) == raw.predict(x)).all()
    with pytest.raises(EstimatorError, match=r"row 3, column 5 is 0\.5; without binning"):
        raw.predict(np.where(np.arange(x.size).reshape(x.shape) == 3 * 64 + 5, 0.5, x))
    with pytest.raises(EstimatorError, match="is 256"):
        small(bins=None).fit(x.astype(int) + (x == x.max()), y)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_pipelines_searches_and_processes(processes: int) -> None:
    x, y = load_wine(return_X_y=True)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small()),
        {"binarynetclassifier__bins": ["quantile", "min-max"]},
        cv=2,
        n_jobs=processes,
    )
    search.fit(x, y)
    assert search.best_score_ > 0.8
    assert (search.predict(x) == search.best_estimator_.predict(x)).all()


def test_tables_keep_the_names_of_their_columns() -> None:
    pandas = pytest.importorskip("pandas")
    table, y = load_iris(return_X_y=True, as_frame=True)
    net = small(epochs=5).fit(table, y)
    assert net.feature_names_in_.tolist() == list(table.columns)
    assert (net.predict(table) == small(epochs=5).fit(table.to_numpy(), y.to_numpy()).predict(table.to_numpy())).all()
    with pytest.raises(ValueError, match="feature names should match"):
        net.predict(table.rename(columns={table.columns[0]: "other"}))
    line = make_pipeline(StandardScaler(), small(epochs=5)).set_output(transform="pandas").fit(table, y)
    assert line[-1].feature_names_in_.tolist() == list(table.columns)
    wraps = BinaryNetClassifier.from_model(net.model_)
    pixels = pandas.DataFrame(net.binning_.pixels(table.to_numpy()))
    pixels.columns = [f"c{index}" for index in range(pixels.shape[1])]
    assert (wraps.predict(pixels) == net.predict(table)).all()


def test_a_pickle_predicts_without_pytorch(fitted: BinaryNetClassifier, iris: tuple[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.pickle"
    path.write_bytes(pickle.dumps((fitted, iris[0])))
    code = (
        "import pickle, sys\n"
        "net, x = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(*net.predict(x))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == fitted.predict(iris[0]).tolist()


def test_early_stopping_counts_epochs_without_a_gain(iris: tuple[Any, Any]) -> None:
    net = small(epochs=300, early_stopping=True, n_iter_no_change=5).fit(*iris)
    assert net.n_iter_ < 300
    best = int(np.argmax(net.validation_scores_))
    assert net.n_iter_ == best + 1 + 5
    assert small(epochs=3, validation_fraction=0).fit(*iris).n_iter_ == 3


def test_progress_is_shown_where_it_is_asked_for(iris: tuple[Any, Any], capfd: pytest.CaptureFixture[str]) -> None:
    small(epochs=2).fit(*iris)
    assert capfd.readouterr() == ("", "")
    small(epochs=2, verbose=True).fit(*iris)
    assert capfd.readouterr().out == ""


# ---------------------------------------------------------------- converted networks


def test_a_converted_network_predicts_as_it_does() -> None:
    images, classes = shipped.sample_digits()
    x = images.reshape(len(images), -1)
    wraps = BinaryNetClassifier.from_model(SHIPPED)
    assert (wraps.decision_function(x) == xnorinfer.load(SHIPPED).scores(x)).all()
    assert wraps.score(x, classes) == np.mean(xnorinfer.load(SHIPPED).predict(x) == classes)
    names = [f"digit {number}" for number in range(10)]
    named = BinaryNetClassifier.from_model(xnorinfer.load(SHIPPED), classes=names)
    assert named.predict(x[:5]).tolist() == [names[one] for one in wraps.predict(x[:5])]


def test_a_converted_network_is_not_fitted_but_frozen() -> None:
    images, classes = shipped.sample_digits()
    x = images.reshape(len(images), -1)
    wraps = BinaryNetClassifier.from_model(SHIPPED)
    for one in (wraps, clone(wraps), pickle.loads(pickle.dumps(wraps))):
        with pytest.raises(EstimatorError, match=rf"wraps the converted network {SHIPPED}, which cannot be fitted"):
            one.fit(x, classes)
        assert (one.predict(x) == wraps.predict(x)).all()
    assert cross_val_score(FrozenEstimator(wraps), x, classes, cv=2).mean() == pytest.approx(wraps.score(x, classes))


@pytest.mark.parametrize("classes", [range(9), ["a"] * 10, range(11)])
def test_classes_that_are_not_one_for_each_score(classes: Any) -> None:
    with pytest.raises(EstimatorError, match="the model gives 10 scores"):
        BinaryNetClassifier.from_model(SHIPPED, classes=classes)


def test_a_converted_network_says_what_rows_it_takes() -> None:
    wraps = BinaryNetClassifier.from_model(SHIPPED)
    with pytest.raises(ValueError, match="expecting 784 features"):
        wraps.predict(np.zeros((2, 64), np.uint8))
    with pytest.raises(EstimatorError, match="input row 0, column 0 is 256"):
        wraps.predict(np.full((2, 784), 256))
    with pytest.raises(XnorinferError, match="nowhere"):
        BinaryNetClassifier.from_model("nowhere.safetensors")


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", ()),
        ("hidden_layer_sizes", (16, 0)),
        ("hidden_layer_sizes", "256"),
        ("epochs", 0),
        ("epochs", True),
        ("batch_size", 1),
        ("learning_rate_init", 0.0),
        ("learning_rate_end", float("nan")),
        ("dropout_input", 1),
        ("dropout_hidden", "half"),
        ("validation_fraction", -0.1),
        ("early_stopping", "yes"),
        ("n_iter_no_change", 2.5),
        ("bins", "median"),
        ("grades", 0),
        ("verbose", "loud"),
    ],
)
def test_parameters_that_nothing_can_be_made_of(name: str, value: Any, iris: tuple[Any, Any]) -> None:
    with pytest.raises(EstimatorError, match=rf"^{name} is {re.escape(repr(value))}; needed is "):
        BinaryNetClassifier(**{name: value}).fit(*iris)


def test_rows_that_cannot_be_learned_from(iris: tuple[Any, Any]) -> None:
    x, y = iris
    with pytest.raises(EstimatorError, match="at least 2 classes, the data holds one class"):
        small().fit(x, np.zeros(len(x), int))
    with pytest.raises(ValueError, match="NaN"):
        small().fit(np.where(x > 5, np.nan, x), y)
    with pytest.raises(NotFittedError):
        small().predict(x)


def test_without_pytorch_fit_names_the_extra(iris: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("xnorinfer.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(XnorinferError, match=re.escape("pip install 'xnorinfer[train]'")):
        small().fit(*iris)


def test_without_scikit_learn_the_import_names_the_extra() -> None:
    code = "import sys; sys.modules['sklearn'] = None\nimport xnorinfer.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'xnorinfer[sklearn]'" in done.stderr.splitlines()[-1]

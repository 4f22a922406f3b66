"""`BinaryNetClassifier`: trained by the project's recipe, converted, and run on bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from xnorinfer.engine.model import Model
from xnorinfer.errors import EstimatorError, InputError, NetworkError
from xnorinfer.oneline import one_line
from xnorinfer.sklearn.binning import KINDS, Binning

#: Inputs of the network that are made at once while it predicts.
BLOCK_VALUES = 1 << 24


class BinaryNetClassifier(ClassifierMixin, BaseEstimator):
    """A multi-layer perceptron of binary weights and activations, that predicts on bits.

    `fit` trains by the BinaryNet recipe in PyTorch (`xnorinfer.training`, extra `train`) and packs the network of the best
    epoch; what predicts needs no PyTorch.  There are no probabilities: `decision_function` gives the scores, and scikit-learn's
    `CalibratedClassifierCV` makes probabilities of them.

    hidden_layer_sizes: neurons of the hidden layers.  epochs: passes over the rows, at most.  batch_size: rows of one update.
    learning_rate_init, learning_rate_end: of the first epoch, and what it falls to, exponentially.  dropout_input,
    dropout_hidden: share of the inputs, of the hidden neurons, that is left out while training.  validation_fraction: share of
    each class's rows that chooses the best epoch; 0: the rows that are learned from choose.  early_stopping: end after
    n_iter_no_change epochs without a lower validation error.
    bins: how features become pixels of 8 bits: "quantile", "min-max", None where they are whole numbers 0..255 already, or
    "auto": None for uint8 arrays, else "quantile".  grades: columns that each feature is spread over (see `Binning`); "auto":
    up to 8, fewer where there are many features.
    n_jobs: threads of `fit` and of the network, as scikit-learn counts them.  random_state: of weights, order, dropout and the
    validation rows.  verbose: show a progress bar on stderr.

    Attributes after `fit`: classes_; n_features_in_; feature_names_in_ of data frames; model_, the packed `xnorinfer.Model`,
    which takes what `binning_` makes of rows (None: pixels as they are); n_iter_, epochs that were run; loss_curve_ and
    validation_scores_, the loss and the accuracy on the validation rows of each; best_validation_score_.
    Parameters and data that cannot be used raise EstimatorError, a ValueError, in `fit`.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (256, 256),
        *,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate_init: float = 3e-3,
        learning_rate_end: float = 3e-5,
        dropout_input: float = 0.0,
        dropout_hidden: float = 0.1,
        validation_fraction: float = 0.1,
        early_stopping: bool = False,
        n_iter_no_change: int = 20,
        bins: str | None = "auto",
        grades: int | str = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.learning_rate_end = learning_rate_end
        self.dropout_input = dropout_input
        self.dropout_hidden = dropout_hidden
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.bins = bins
        self.grades = grades
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_model(
        cls, model: str | Path | Model, *, classes: Iterable[Any] | None = None, n_jobs: int | None = None
    ) -> BinaryNetClassifier:
        """An estimator around a converted network, that predicts and cannot be fitted.

        model: a model file, the name of a model that ships, or a `Model`.  classes: labels of its scores in order; None: 0, 1,
        ...  It takes rows (rows, inputs) as the model does: pixels 0..255, -1/+1, or reals.  A clone of it is a copy; where
        something must be fitted, a Pipeline, say, wrap it in `sklearn.frozen.FrozenEstimator`.
        Raises ModelFileError, OptionError where each pixel has a class, or EstimatorError where there are not as many different
        classes as scores.
        """
        from xnorinfer import shipped
        from xnorinfer.packing import modelfile

        made = cls(n_jobs=n_jobs)
        threads = effective_n_jobs(n_jobs)
        packed = model.packed if isinstance(model, Model) else modelfile.load(shipped.locate(model))
        packed.require_one_class("an estimator gives")
        made.model_ = Model(packed, threads=threads)
        made.classes_ = np.arange(packed.classes) if classes is None else np.asarray(list(classes))
        if made.classes_.shape != (packed.classes,) or len(np.unique(made.classes_)) != packed.classes:
            raise EstimatorError(
                f"classes are {one_line(str(made.classes_.tolist()))}; the model gives {packed.classes} scores: "
                "needed are as many different labels"
            )
        made.n_features_in_ = packed.depth
        made.binning_ = None
        made._wraps = repr(model) if isinstance(model, Model) else str(model)
        return made

    def fit(self, X: ArrayLike, y: ArrayLike) -> BinaryNetClassifier:
        """Train on rows X (rows, features) of finite numbers and their labels y (rows,) of any kind; returns the estimator.

        Raises EstimatorError, ValueError or TypeError of scikit-learn for data that is none, MissingExtraError without PyTorch.
        """
        if hasattr(self, "_wraps"):
            raise EstimatorError(
                f"this estimator wraps the converted network {one_line(self._wraps)}, which cannot be fitted; give "
                "sklearn.frozen.FrozenEstimator(it) to what fits, or train a BinaryNetClassifier()"
            )
        self._require_parameters()
        x, labels = validate_data(self, X, y, dtype="numeric")
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise EstimatorError(
                f"BinaryNetClassifier needs rows of at least 2 classes, the data holds one class: {classes[0]!r}"
            )
        binning = self._binning_of(x)
        pixels = _whole_pixels(x) if binning is None else binning.pixels(x)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._train(pixels, codes.reshape(-1).astype(np.int64), len(classes), seed)
        self.classes_, self.binning_ = classes, binning
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Scores of rows X (rows, features): (rows, classes) float32; with two classes (rows,), the second's minus the first's.

        Raises NotFittedError, EstimatorError or a ValueError of scikit-learn.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of each of the rows X (rows, features), (rows,); the first one where scores tie.  Raises as above."""
        scores = self._scores(X)
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    # ------------------------------------------------------------ conventions of scikit-learn

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_clone__(self) -> BinaryNetClassifier:
        """A converted network cannot be made again from parameters."""
        if not hasattr(self, "_wraps"):
            clone: BinaryNetClassifier = super().__sklearn_clone__()
            return clone
        same = type(self)(**self.get_params(deep=False))
        same.__dict__.update(self.__dict__)
        return same

    # ------------------------------------------------------------ how it works

    def _binning_of(self, x: NDArray[Any]) -> Binning | None:
        kind = ("quantile" if x.dtype != np.uint8 else None) if self.bins == "auto" else self.bins
        grades = None if self.grades == "auto" else int(self.grades)
        return None if kind is None else Binning.of(x, "quantile" if kind == "quantile" else "min-max", grades)

    def _train(self, pixels: NDArray[np.uint8], codes: NDArray[np.int64], classes: int, seed: int) -> None:
        from xnorinfer.packing.lower import lower
        from xnorinfer.training.architecture import Shape
        from xnorinfer.training.data import Samples
        from xnorinfer.training.fitting import divided, net_of, train
        from xnorinfer.training.loop import Recipe

        sizes = self.hidden_layer_sizes
        hidden = (int(sizes),) if isinstance(sizes, Integral) else tuple(int(size) for size in sizes)
        shape = Shape(
            pixels.shape[1], hidden, classes, dropout_input=float(self.dropout_input), dropout_hidden=float(self.dropout_hidden)
        )
        recipe = Recipe(
            int(self.epochs), int(self.batch_size), float(self.learning_rate_init), float(self.learning_rate_end), seed
        )
        samples = Samples.of(pixels, codes)
        learn, choose = (
            Samples(samples.pixels[rows], samples.labels[rows])
            for rows in divided(codes, float(self.validation_fraction), seed)
        )
        threads = effective_n_jobs(self.n_jobs)
        patience = int(self.n_iter_no_change) if self.early_stopping else None
        progress = train(shape, recipe, learn, choose, patience=patience, threads=threads, show=bool(self.verbose))
        try:
            packed = lower(net_of(progress.load_best())).packed
        except NetworkError as error:
            raise EstimatorError(f"what was trained cannot be packed: {one_line(str(error))}") from None
        self.model_ = Model(packed, threads=threads)
        self.n_iter_ = len(progress.history)
        self.loss_curve_ = [epoch.loss for epoch in progress.history]
        self.validation_scores_ = [1 - epoch.validation_error for epoch in progress.history]
        self.best_validation_score_ = 1 - progress.best_error

    def _scores(self, X: ArrayLike) -> NDArray[np.float32]:
        check_is_fitted(self)
        if hasattr(self, "_wraps"):
            X = check_array(X, dtype="numeric")  # a converted network knows no names of columns
        x = validate_data(self, X, dtype="numeric", reset=False)
        scores = np.empty((len(x), len(self.classes_)), np.float32)
        rows = max(1, BLOCK_VALUES // self.model_.packed.depth)
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            try:
                scores[start : start + rows] = self.model_.scores(self._inputs(part))
            except InputError as error:
                raise EstimatorError(f"{error}" + (f" (rows from {start} on)" if start else "")) from None
        return scores

    def _inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        if self.binning_ is not None:
            return self.binning_.pixels(x)
        return x if hasattr(self, "_wraps") else _whole_pixels(x)

    def _require_parameters(self) -> None:
        """Raise EstimatorError that names the first parameter of which nothing can be made."""
        sizes = self.hidden_layer_sizes
        widths = [sizes] if isinstance(sizes, Integral) else list(sizes) if isinstance(sizes, tuple | list | np.ndarray) else []
        for name, (fits, needed) in PARAMETERS.items():
            value = getattr(self, name)
            if not (bool(widths) and all(map(_count(1), widths)) if name == "hidden_layer_sizes" else fits(value)):
                raise EstimatorError(f"{name} is {one_line(repr(value))}; needed is {needed}")


def _count(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool | np.bool_) and int(value) >= least


def _number(low: float, high: float, *, with_low: bool) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        real = isinstance(value, Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)
        return real and (low <= value if with_low else low < value) and float(value) < high

    return fits


_SHARE = (_number(0, 1, with_low=True), "a number from 0 to below 1")
_RATE = (_number(0, math.inf, with_low=False), "a finite number above 0")
_COUNT = (_count(1), "a whole number above 0")
_SWITCH: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, bool | np.bool_ | Integral), "True or False")

#: Parameter -> whether a value fits, and what does.
PARAMETERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_layer_sizes": (lambda value: True, "one whole number above 0 or more, like (256, 256)"),
    "epochs": _COUNT,
    "batch_size": (_count(2), "a whole number above 1"),
    "learning_rate_init": _RATE,
    "learning_rate_end": _RATE,
    "dropout_input": _SHARE,
    "dropout_hidden": _SHARE,
    "validation_fraction": _SHARE,
    "early_stopping": _SWITCH,
    "n_iter_no_change": _COUNT,
    "bins": (
        lambda value: value is None or (isinstance(value, str) and value in ("auto", *KINDS)),
        f"'auto', {', '.join(map(repr, KINDS))} or None",
    ),
    "grades": (
        lambda value: (isinstance(value, str) and value == "auto") or _count(1)(value),
        "'auto' or a whole number above 0",
    ),
    "verbose": _SWITCH,
}


def _whole_pixels(x: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels as they are, whatever their type.  Raises EstimatorError that names the first value that is none."""
    if x.dtype == np.uint8:
        return x
    pixels = np.clip(x, 0, 255).astype(np.uint8)
    wrong = pixels != x
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise EstimatorError(
            f"row {row}, column {column} is {x[row, column]}; without binning (bins) features are pixels, whole numbers 0..255"
        )
    return pixels

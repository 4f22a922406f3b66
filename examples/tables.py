"""A binarized network on scikit-learn's own tables, beside its usual classifiers: accuracy, time of a prediction, size.

    pip install 'xnorinfer[sklearn,train]'
    python examples/tables.py

Every classifier has the parameters that it comes with, and the scaling that it needs; accuracy is the mean of a stratified
cross-validation.  Times are medians on one thread, and include all that `predict` does: scaling, binning, labels.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xnorinfer.sklearn import BinaryNetClassifier

TABLES = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
#: Rows of a prediction that is timed as a batch.
BATCH = 1000


def classifiers(epochs: int) -> dict[str, Any]:
    """What is compared, by name."""
    return {
        "LogisticRegression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "RandomForest": RandomForestClassifier(random_state=0),
        "MLPClassifier": make_pipeline(StandardScaler(), MLPClassifier(random_state=0)),
        "BinaryNet": BinaryNetClassifier(epochs=epochs, random_state=0),
    }


def seconds_of(classifier: Any, x: Any, repeats: int) -> float:
    """Median time of a prediction."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        classifier.predict(x)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tables", default=",".join(TABLES), help="which of %(default)s")
    options.add_argument("--folds", type=int, default=5, help="of the cross-validation (%(default)s)")
    options.add_argument("--epochs", type=int, default=100, help="of the binarized network (%(default)s)")
    options.add_argument("--repeats", type=int, default=20, help="of each timed prediction (%(default)s)")
    chosen = options.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # MLPClassifier's, with the iterations that it comes with
    print(f"{'table':14}{'classifier':20}{'accuracy':>9}{'fit':>9}{'a row of ' + str(BATCH):>15}{'one row':>11}{'pickled':>10}")
    for name in chosen.tables.split(","):
        x, y = TABLES[name](return_X_y=True)
        folds = StratifiedKFold(chosen.folds, shuffle=True, random_state=0)
        many = np.tile(x, (-(-BATCH // len(x)), 1))[:BATCH]
        for title, classifier in classifiers(chosen.epochs).items():
            accuracy = cross_val_score(clone(classifier), x, y, cv=folds).mean()
            begin = time.perf_counter()
            classifier.fit(x, y)
            fit = time.perf_counter() - begin
            batch, one = seconds_of(classifier, many, chosen.repeats) / BATCH, seconds_of(classifier, x[:1], chosen.repeats)
            size = len(pickle.dumps(classifier)) / 1024
            print(f"{name:14}{title:20}{accuracy:9.2%}{fit:7.2f} s{batch * 1e6:12.2f} us{one * 1e6:8.0f} us{size:6.0f} KiB")


if __name__ == "__main__":
    main()

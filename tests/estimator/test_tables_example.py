"""The example that compares with scikit-learn's classifiers runs, and its numbers are numbers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from places import ROOT

NAMES = ["LogisticRegression", "RandomForest", "MLPClassifier", "BinaryNet"]


@pytest.mark.long
def test_the_example_compares_all_on_a_table() -> None:
    for name in ("sklearn", "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the example needs {name}")
    options = ["--tables", "iris", "--folds", "2", "--epochs", "10", "--repeats", "1"]
    command = [sys.executable, str(ROOT / "examples" / "tables.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == NAMES
    assert all(80 < float(row[2].removesuffix("%")) <= 100 for row in rows)

"""Networks trained in every framework against the framework itself, on all of MNIST's test images (see `evidence`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evidence import SCRIPTS, Layers, Record, Row, compare, missing_packages, write_records
from real_networks import mnist_test_set

USUAL = ("plain", "float head", "gamma or beta missing")
#: Script -> source -> its cases.
CASES: dict[str, dict[str, tuple[str, ...]]] = {
    "evidence_tf1": {"tf1 Saver": (*USUAL, "H of Glorot")},
    "evidence_keras": {
        "larq": (*USUAL, "scaled weights"),
        "keras2 port": (*USUAL, "H of Glorot"),
        "keras3 port": ("gamma or beta missing", "H of Glorot"),
    },
    "evidence_torch": {"torch": (*USUAL, "latents at 0"), "onnx of torch": USUAL},
    "evidence_brevitas": {"brevitas qonnx": ("plain", "binarized input", "scaled weights", "gamma or beta missing")},
}


@pytest.fixture(scope="module", params=SCRIPTS)
def records(
    request: pytest.FixtureRequest, mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[tuple[str, str], Record]]:
    missing = missing_packages(request.param)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    found = [Record.read(path) for path in write_records(request.param, tmp_path_factory.mktemp("evidence"), mnist_folder)]
    return request.param, {(record.meta["source"], record.meta["case"]): record for record in found}


@pytest.fixture(scope="module")
def images(mnist_folder: Path) -> tuple[Any, Any]:
    return mnist_test_set(mnist_folder)


@pytest.mark.long
def test_nothing_differs_but_by_the_frameworks_rounding(
    records: tuple[str, dict[tuple[str, str], Record]], images: tuple[Any, Any]
) -> None:
    script, found = records
    assert set(found) == {(source, case) for source, cases in CASES[script].items() for case in cases}
    rows: list[Row] = [compare(record, *images) for record in found.values()]
    for row in rows:
        assert (row.differ_from_exact, row.unexplained) == (0, 0), row
        assert row.predictions_differ <= 25, row
        assert row.accuracy > 0.6, row  # it did learn
    # Thresholds were put on images: where nothing of it is seen, nothing was compared.
    assert sum(row.first_signs for row in rows) > 0


def test_the_explanation_refuses_what_is_not_at_a_threshold(
    records: tuple[str, dict[tuple[str, str], Record]], images: tuple[Any, Any]
) -> None:
    for record in records[1].values():
        layers = Layers(record, record.spec(), images[0])
        # Neuron 80 is none of those whose gammas or thresholds were changed.
        assert sum(not layers.within_rounding(0, row, 80) for row in range(200)) > 190

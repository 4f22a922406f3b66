"""Scoring on a real Ray cluster of several node processes: nothing lost, nothing twice, whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fine
from places import TOOLS
from scored import INPUTS, MODEL, ROWS, read, samples
from waiting import HANGS, wait_until

pytest.importorskip("pyarrow", reason="scores are written as Parquet: pip install 'xnorinfer[score]'")
pytest.importorskip("ray", reason="pip install 'xnorinfer[ray]'")

import xnorinfer

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")]


@pytest.fixture
def cluster() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program of a cluster of two nodes beside the head, and its address."""
    command = [sys.executable, str(TOOLS / "ray_nodes.py"), "2"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # its end closes the input, which ends the cluster
        assert process.stdout is not None
        address = next((line.strip() for line in process.stdout if line.strip().count(":") == 1 and line[0].isdigit()), "")
        assert address, "no cluster"
        yield process, address


def actors(program: int) -> list[int]:
    """Processes of actors that compute parts, among the descendants of a program."""
    parents, titles = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                titles[int(entry.name)] = Path(entry.path, "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])

    def descends(process: int) -> bool:
        while process in parents and process != program:
            process = parents[process]
        return process == program

    return [
        process
        for process, title in titles.items()
        if title.startswith("ray::") and "PartScorer" in title and descends(process)
    ]


@pytest.mark.parametrize("who", ["an actor", "a node"])
def test_whoever_dies_in_the_middle_nothing_is_lost_or_doubled(
    who: str, cluster: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    program, address = cluster
    np.save(tmp_path / "x.npy", np.tile(samples().reshape(ROWS, -1), (100, 1)))
    job = [
        MODEL,
        str(tmp_path / "x.npy"),
        str(INPUTS["idx.gz"](tmp_path)),
        "--rows-per-part",
        "150",
        "--batch",
        "10",
        "--margins",
    ]
    for attempt in range(10):
        out = tmp_path / f"out{attempt}"
        command = [sys.executable, "-m", "xnorinfer", "score", *job, "-o", str(out), "--engine", "ray", "--address", address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda out=out: len(list(out.glob("part-*.parquet"))) >= 4, process)  # type: ignore[misc]
        found = actors(program.pid)
        for actor in found:  # all stand still until somebody is dead, however late this process comes to it
            os.kill(actor, signal.SIGSTOP)
        in_the_middle = bool(found) and len(list(out.glob("part-*.parquet"))) < 41
        if in_the_middle and who == "an actor":
            os.kill(found[0], signal.SIGKILL)
        elif in_the_middle:
            assert program.stdin is not None
            program.stdin.write("\n")
            program.stdin.flush()
            assert "removed\n" in iter(program.stdout.readline, "")  # type: ignore[union-attr]
        for actor in found:
            with contextlib.suppress(ProcessLookupError):  # its node is dead
                os.kill(actor, signal.SIGCONT)
        said, errors = process.communicate(timeout=HANGS)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert "6060 rows in 41 parts" in said
        if in_the_middle:
            break
    else:
        raise AssertionError("ten jobs ended before anybody died")
    fine("score", *job, "-o", tmp_path / "local")
    here, away = read(tmp_path / "local"), read(out)
    assert away == here
    assert list(zip(away["input"], away["row"], strict=True)) == [
        (str(path), row)
        for path, rows in ((tmp_path / "x.npy", 6000), (tmp_path / "x-idx3-ubyte.gz", ROWS))
        for row in range(rows)
    ]


def test_a_cluster_started_for_the_job_and_errors_of_workers(tmp_path: Path) -> None:
    x = samples().reshape(ROWS, -1).astype(np.int16)
    x[45, 3] = -1
    np.save(tmp_path / "x.npy", x)
    job = [
        MODEL,
        str(tmp_path / "x.npy"),
        "--rows-per-part",
        "20",
        "-o",
        str(tmp_path / "out"),
        "--engine",
        "ray",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-m", "xnorinfer", "score", *job]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert (
        failed.stderr
        == f"error: {tmp_path / 'x.npy'}, rows 40 to 59: input row 5, column 3 is -1; this model takes pixels 0..255\n"
    )
    np.save(tmp_path / "x.npy", np.maximum(x, 0))
    fixed = subprocess.run([*command, "--replace"], capture_output=True, text=True, check=False)
    assert (fixed.returncode, fixed.stderr) == (0, "")
    assert read(tmp_path / "out")["class"] == xnorinfer.load(MODEL).predict(np.maximum(x, 0)).tolist()


def test_scorer_in_a_pipeline_of_ray_data(tmp_path: Path) -> None:
    given = Path(INPUTS["parquet, lists"](tmp_path))
    code = (
        "import sys, ray, ray.data, xnorinfer\n"
        "from xnorinfer.ray import Scorer\n"
        "ray.init('local', num_cpus=2, include_dashboard=False)\n"
        "table = ray.data.read_parquet(sys.argv[1])\n"
        "model = xnorinfer.load(sys.argv[2])\n"
        "for one in (sys.argv[2], model, ray.put(model.packed)):\n"
        "    options = {'columns': 'image', 'scores': True}\n"
        "    found = table.map_batches(Scorer, fn_constructor_args=(one,), fn_constructor_kwargs=options, concurrency=1)\n"
        "    rows = sorted(found.take_all(), key=lambda row: int(row['id'][1:]))\n"
        "    print('classes', *(row['class'] for row in rows), flush=True)\n"
        "    assert [row['label'] for row in rows] == [7] * len(rows) and len(rows[0]['scores']) == 10\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(given), MODEL], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("classes")]
    assert lines == [" ".join(["classes", *map(str, xnorinfer.load(MODEL).predict(samples()))])] * 3, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("batch", "options", "text"),
    [
        ({"a": np.zeros((2, 784)), "b": np.zeros(2)}, {}, "the batch has the columns a, b; say which hold the inputs"),
        ({"a": np.zeros((2, 784))}, {"columns": "x"}, "the batch has no column 'x'; it has a"),
        ({"x": np.zeros((2, 784), np.uint8), "class": np.zeros(2)}, {"columns": "x"}, "has a column 'class' already"),
        ({"x": np.array([np.zeros(784), np.zeros(3)], object)}, {}, "column 'x' is no rectangular array"),
        ({"x": np.full((2, 784), 256)}, {}, "input row 0, column 0 is 256"),
    ],
)
def test_batches_that_scorer_does_not_take(batch: dict[str, Any], options: dict[str, Any], text: str) -> None:
    from xnorinfer.errors import InputError
    from xnorinfer.ray import Scorer

    with pytest.raises(InputError, match=text):
        Scorer(MODEL, **options)(batch)


def test_scorer_takes_models_alone() -> None:
    from xnorinfer.errors import OptionError
    from xnorinfer.ray import Scorer

    with pytest.raises(OptionError, match="not list"):
        Scorer([1])


def test_an_address_where_nobody_answers(tmp_path: Path) -> None:
    from command_line import wrong

    given = INPUTS["npy"](tmp_path)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"):
        message = wrong("score", MODEL, given, "-o", tmp_path / "out", "--engine", "ray", "--address", address)
        assert f"no Ray cluster answers at {address}" in message

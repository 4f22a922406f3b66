"""`xnorinfer score`: rows of every kind of input, parts that are complete or absent, runs that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import fine, run, wrong
from scored import INPUTS, MODEL, ROWS, read, samples

pytest.importorskip("pyarrow", reason="scores are written as Parquet: pip install 'xnorinfer[score]'")

import xnorinfer
from xnorinfer.net import Linear, Net, RealInput
from xnorinfer.scoring import parts as partwise


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_input_has_the_answers_of_the_model(kind: str, tmp_path: Path) -> None:
    if kind == "images":
        pytest.importorskip("PIL")
    given = INPUTS[kind](tmp_path)
    fine("score", MODEL, given, "-o", tmp_path / "out", "--scores", "--margins", "--rows-per-part", 25, "--batch", 10)
    found = read(tmp_path / "out")
    model = xnorinfer.load(MODEL)
    sure = model.margins(samples())
    assert found["row"] == list(range(ROWS))
    assert found["class"] == model.predict(samples()).tolist()
    assert np.array_equal(np.array(found["scores"], np.float32), model.scores(samples()))
    assert found["gap"] == sure.gaps.tolist()
    assert np.array_equal(np.array(found["margins"]), np.stack([layer.smallest for layer in sure.layers], axis=1))
    names = [str(given)] * ROWS if kind != "images" else [str(Path(given) / f"{row:03}.png") for row in range(ROWS)]
    assert found["input"] == names
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3


def test_several_inputs_and_a_folder_of_tables(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    (folder / "day=2").mkdir(parents=True)
    (folder / "_temporary").mkdir()
    INPUTS["parquet, lists"](folder).rename(folder / "a.parquet")
    INPUTS["parquet, lists"](folder).rename(folder / "day=2" / "b.parquet")
    (folder / "_temporary" / "c.parquet").write_bytes(b"unfinished")
    fine("score", MODEL, folder, "-o", tmp_path / "out", "--keep", "id", "--keep", "label")
    found = read(tmp_path / "out")
    assert found["input"] == [str(folder / "a.parquet")] * ROWS + [str(folder / "day=2" / "b.parquet")] * ROWS
    assert found["id"] == [f"s{index}" for index in range(ROWS)] * 2
    assert found["label"] == [7] * 2 * ROWS
    assert list(found) == ["input", "row", "id", "label", "class"]


def test_image_files_are_one_input_in_the_order_given(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = Path(INPUTS["images"](tmp_path))
    files = [folder / "007.png", folder / "003.png"]
    fine("score", MODEL, *files, INPUTS["npy"](tmp_path), "-o", tmp_path / "out")
    found = read(tmp_path / "out")
    assert found["input"][:2] == [str(file) for file in files]
    assert found["row"][:3] == [0, 1, 0]
    assert found["class"][:2] == xnorinfer.load(MODEL).predict(samples()[[7, 3]]).tolist()


def test_columns_are_chosen_by_name_and_by_pattern(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = parquet.ParquetFile(INPUTS["parquet, columns"](tmp_path)).read()
    table = table.append_column("id", pyarrow.array(range(ROWS))).append_column("image", pyarrow.array([[1]] * ROWS))
    parquet.write_table(table, tmp_path / "both.parquet")
    fine("score", MODEL, tmp_path / "both.parquet", "-o", tmp_path / "out", "--column", "pixel*", "--keep", "id")
    assert read(tmp_path / "out")["class"] == xnorinfer.load(MODEL).predict(samples()).tolist()
    assert "row 0: column 'image' holds 1 values, the model takes 784" in wrong(
        "score", MODEL, tmp_path / "both.parquet", "-o", tmp_path / "2"
    )


# ---------------------------------------------------------------- going on


def test_what_is_done_is_not_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("score", MODEL, INPUTS["npy"](tmp_path), INPUTS["idx.gz"](tmp_path), "-o", out, "--rows-per-part", 20)
    assert "120 rows in 6 parts" in fine(*command)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert "of 6 parts 6 were there already" in fine(*command)
    before = read(out)
    for name in ("part-00000-000001.parquet", "part-00001-000002.parquet"):
        (out / name).unlink()
        del times[name]
    said = json.loads(fine(*command, "--json"))
    assert (said["computed_parts"], said["computed_rows"], said["parts"], said["rows"]) == (2, 40, 6, 120)
    assert read(out) == before
    assert all((out / name).stat().st_mtime_ns == then for name, then in times.items())


#: Stops in the middle of the third part that it writes.
STOPS = """
import signal, sys, time
from xnorinfer.cli import main
from xnorinfer.scoring import parts

calls, answers = [], parts.answers

def stopping(*arguments):
    calls.append(1)
    if len(calls) == 8:  # three batches for each part
        print("there", flush=True)
        signal.pause()
    return answers(*arguments)

parts.answers = stopping
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_run_leaves_whole_parts_and_the_next_one_goes_on(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.tile(samples().reshape(ROWS, -1), (5, 1)))
    out = tmp_path / "out"
    command = ["score", MODEL, str(tmp_path / "x.npy"), "-o", str(out), "--rows-per-part", "30", "--batch", "10"]
    for before, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        process = subprocess.Popen([sys.executable, "-c", STOPS, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(number)
        _, errors = process.communicate()
        assert b"Traceback" not in errors
        done = sorted(out.glob("part-*.parquet"))
        assert len(done) == 2 * (before + 1)
        # What the killed one left: the next cannot know yet that nobody writes it.
        assert len([path for path in out.iterdir() if path.name.startswith(".")]) == 1
    kept = {path: path.stat().st_mtime_ns for path in done}
    fine(*command)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    found = read(out)
    assert found["row"] == list(range(5 * ROWS))
    assert found["class"] == xnorinfer.load(MODEL).predict(samples()).tolist() * 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("model", "was computed with another model"),
        ("input", "was computed with another input as it was before it changed"),
        ("--scores", "was computed with another choice of scores"),
        ("rows", "was computed with another part size"),
        ("damage", "is damaged, or no Parquet file"),
        ("foreign", "is no part that xnorinfer score wrote"),
        ("more", "is no part of this job"),
    ],
)
def test_parts_of_another_job_are_an_error_until_they_are_replaced(change: str, why: str, tmp_path: Path) -> None:
    given, out = Path(INPUTS["npy"](tmp_path)), tmp_path / "out"
    command: list[object] = ["score", MODEL, given, "-o", out, "--rows-per-part", 20]
    fine(*command)
    if change == "model":
        weights = np.random.default_rng(0).normal(size=(3, 784)).astype(np.float32)
        xnorinfer.pack(Net.chain(xnorinfer.load(MODEL).packed.input, [("fc", Linear(weights, "ge"))], "ge-zero")).save(
            tmp_path / "other.safetensors"
        )
        command[1] = tmp_path / "other.safetensors"
    elif change == "input":
        np.save(given, samples()[::-1])
        os.utime(given, ns=(1, 1))
    elif change == "--scores":
        command.append("--scores")
    elif change == "rows":
        command[-1] = 30
    elif change == "damage":
        (out / "part-00000-000001.parquet").write_bytes(b"PAR1")
    elif change == "foreign":
        INPUTS["parquet, lists"](out).rename(out / "part-00000-000001.parquet")
    else:
        (out / "part-00000-000000.parquet").rename(out / "part-00004-000000.parquet")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = wrong(*command)
    assert why in message
    assert "; choose another folder, or --replace what is in this one" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    fine(*command, "--replace")
    assert read(out)["row"] == list(range(ROWS))


def test_a_table_of_somebody_else_is_never_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    table = Path(INPUTS["parquet, lists"](out))
    for more in ((), ("--replace",)):
        assert wrong("score", MODEL, INPUTS["npy"](tmp_path), "-o", out, *more).endswith(
            "is no part of this job; choose another folder"
        )
    assert table.exists()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("columns", "options", "text"),
    [
        ({"image": [[1.0]] * 3 + [None]}, (), "row 3: column 'image' is null"),
        ({"image": [[1] * 784, [1] * 783]}, (), "row 1: column 'image' holds 783 values, that of a row before 784"),
        ({"image": [[1] * 783 + [None]]}, (), "row 0: column 'image' holds a null"),
        ({"image": [[1] * 784, [256] * 784]}, (), "rows 0 to 1: input row 1, column 0 is 256; this model takes pixels 0..255"),
        ({"image": [[float("nan")] * 784]}, (), "input row 0, column 0 is nan, which is no mapped pixel"),
        (
            {"image": ["text"]},
            ("--column", "image"),
            "column 'image' is chosen, which is of type string; needed are numbers, lists",
        ),
        ({"image": [[1] * 784]}, ("--column", "pixels"), "has no column 'pixels'; it holds image"),
        ({"image": [[1] * 784]}, ("--keep", "id"), "has no column 'id'; it holds image"),
        (
            {"a": [1], "b": [2]},
            (),
            "which columns hold the 784 values of a sample is not clear: 0 columns of lists or bytes, 2 of",
        ),
        ({"a": [1], "b": [2]}, ("--column", "*"), "its 2 columns a, b are chosen, the model takes 784 values"),
        (
            {"image": [[1] * 784], "class": [1]},
            ("--keep", "class"),
            "the column 'class' cannot be kept: the answers have a column",
        ),
        ({"image": [[[1] * 28] * 27 + [[1] * 27]]}, (), "row 0: column 'image' holds 27 values, that of a row before 28"),
    ],
)
def test_tables_that_are_no_inputs(columns: dict[str, object], options: tuple[str, ...], text: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    message = wrong("score", MODEL, tmp_path / "x.parquet", "-o", tmp_path / "out", *options)
    assert text in message
    assert message.startswith(f"error: {tmp_path / 'x.parquet'}") or "cannot be kept" in message
    assert list((tmp_path / "out").glob("*")) == []


def test_what_was_done_before_a_bad_row_stays(tmp_path: Path) -> None:
    x = samples().reshape(ROWS, -1).astype(np.int16)
    x[45, 3] = -1
    np.save(tmp_path / "x.npy", x)
    command = ("score", MODEL, tmp_path / "x.npy", "-o", tmp_path / "out", "--rows-per-part", 20, "--batch", 8)
    assert "x.npy, rows 40 to 47: input row 5, column 3 is -1" in wrong(*command)
    assert read(tmp_path / "out")["row"] == list(range(40))
    assert "x.npy, rows 40 to 47" in wrong(*command)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "cannot be read as Parquet"),
        (lambda path: path.write_bytes(b"PAR1" * 100), "cannot be read as Parquet"),
        (lambda path: path.write_text("a,b\n1,2\n"), "cannot be read as Parquet"),
    ],
)
def test_files_that_are_no_tables(make: object, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    make(path)  # type: ignore[operator]
    assert text in wrong("score", MODEL, path, "-o", tmp_path / "out")


def test_damage_in_the_middle_of_a_table(tmp_path: Path) -> None:
    path = Path(INPUTS["parquet, bytes"](tmp_path))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    result = run("score", MODEL, path, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_options_that_fit_nothing(tmp_path: Path) -> None:
    given = INPUTS["npy"](tmp_path)
    assert "x.npy: has no columns, so --column cannot choose" in wrong(
        "score", MODEL, given, "-o", tmp_path / "o", "--column", "a"
    )
    assert "--workers is for --engine ray" in wrong("score", MODEL, given, "-o", tmp_path / "o", "--workers", 2)
    assert "--address is for --engine ray" in wrong("score", MODEL, given, "-o", tmp_path / "o", "--address", "auto")
    (tmp_path / "file").write_text("")
    assert "file: cannot be written" in wrong("score", MODEL, given, "-o", tmp_path / "file")


def test_images_for_a_model_of_reals_and_of_two_sizes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    weights = np.random.default_rng(0).normal(size=(3, 784)).astype(np.float32)
    xnorinfer.pack(Net.chain(RealInput(), [("fc", Linear(weights, "ge"))], "ge-zero")).save(tmp_path / "real.safetensors")
    folder = Path(INPUTS["images"](tmp_path))
    assert "image files hold pixels 0..255, this model takes" in wrong(
        "score", tmp_path / "real.safetensors", folder, "-o", tmp_path / "out"
    )
    image.new("L", (14, 56)).save(folder / "059.png")
    assert "059.png: is 14x56 pixels (width x height), the first image is 28x28" in wrong(
        "score", MODEL, folder, "-o", tmp_path / "out", "--rows-per-part", 20
    )
    assert read(tmp_path / "out")["row"] == list(range(40))
    INPUTS["parquet, lists"](folder)
    assert "holds image files and Parquet files" in wrong("score", MODEL, folder, "-o", tmp_path / "out")


def test_an_answer_depends_on_its_own_row_alone(tmp_path: Path) -> None:
    """Floats that are raw pixels cannot be told from scaled ones by the row, so that they are refused."""
    x = samples().reshape(ROWS, -1).astype(np.float32)
    np.save(tmp_path / "raw.npy", x)
    said = wrong("score", MODEL, tmp_path / "raw.npy", "-o", tmp_path / "out")
    assert "are these raw pixels, or scaled? Give uint8 pixels 0..255: raw ones are np.rint(x).astype(np.uint8);" in said
    np.save(tmp_path / "whole.npy", np.rint(x).astype(np.uint8))
    fine("score", MODEL, tmp_path / "whole.npy", "-o", tmp_path / "whole")
    assert read(tmp_path / "whole")["class"] == xnorinfer.load(MODEL).predict(samples()).tolist()
    np.save(tmp_path / "scaled.npy", 2 * x / 255 - 1)
    fine("score", MODEL, tmp_path / "scaled.npy", "-o", tmp_path / "out", "--batch", 1)
    assert read(tmp_path / "out")["class"] == xnorinfer.load(MODEL).predict(samples()).tolist()


def test_inputs_without_rows_have_no_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", samples()[:0])
    assert "out holds 0 rows in 0 parts" in fine("score", MODEL, tmp_path / "x.npy", "-o", tmp_path / "out")


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    given = INPUTS["npy"](tmp_path)
    assert "pip install 'xnorinfer[score]'" in wrong("score", MODEL, given, "-o", tmp_path / "out")


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the memory of a process is read from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Ten times the rows, in one part, within a few megabytes."""
    code = (
        "import sys\n"
        "from xnorinfer.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # not ru_maxrss, which counts the parent
    )
    used = []
    for times in (100, 1000):
        np.save(tmp_path / f"{times}.npy", np.tile(samples().reshape(ROWS, -1), (times, 1)))
        command = [
            sys.executable,
            "-c",
            code,
            "score",
            MODEL,
            str(tmp_path / f"{times}.npy"),
            "-o",
            str(tmp_path / f"out{times}"),
        ]
        done = subprocess.run([*command, "--scores", "--threads", "1"], capture_output=True, text=True, check=True)
        used.append(int(done.stdout.splitlines()[-1]))
    assert used[1] - used[0] < 24_000, used  # kilobytes; the inputs differ by 42 MB


def test_a_group_of_rows_is_written_before_the_part_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(partwise, "GROUP_BYTES", 1000)
    fine("score", MODEL, INPUTS["npy"](tmp_path), "-o", tmp_path / "out", "--batch", 10, "--scores")
    footer = parquet.read_metadata(tmp_path / "out" / "part-00000-000000.parquet")
    assert footer.num_row_groups > 2
    assert footer.num_rows == ROWS

"""The installed command in its own process: the main flow, signals, pipes, terminals, memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, random_network
from packed_networks import with_layer
from waiting import HANGS, wait_until

import xnorinfer
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

DATA = Path(xnorinfer.__file__).parent / "data"
CHECKPOINT = str(DATA / "digits-64-256-256-10.npz")
DIGITS = str(DATA / "digits-test.npz")
COMMAND = str(Path(sys.executable).parent / ("xnorinfer.exe" if os.name == "nt" else "xnorinfer"))

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and terminals of POSIX")


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, encoding="utf-8", timeout=HANGS, **options
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    done = command("convert", CHECKPOINT, "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return path


def sparse_npy(path: Path, rows: int, depth: int) -> Path:
    """A .npy of zeros that takes no space on the disk."""
    with path.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, depth)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + rows * depth)
    return path


def test_main_flow(model: Path, tmp_path: Path) -> None:
    info = command("info", model, "--json")
    assert info.returncode == 0
    assert json.loads(info.stdout)["classes"] == 10
    done = command("run", model, f"{DIGITS}:x", "--labels", f"{DIGITS}:y", "-o", tmp_path / "o.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accuracy: 97." in done.stdout
    assert np.load(tmp_path / "o.npy").shape == (400,)
    holds = command("verify", model, CHECKPOINT, "--rows", 64, "--json")
    assert (holds.returncode, holds.stderr) == (0, "")
    assert json.loads(holds.stdout)["holds"] is True


def test_exit_codes_and_one_line_errors(model: Path, tmp_path: Path) -> None:
    for arguments in (
        ["run", model, tmp_path / "none.npy"],
        ["info", CHECKPOINT],
        ["convert", tmp_path / "none.npz", "-o", tmp_path / "m"],
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    usage = command("run")
    assert usage.returncode == 2
    assert usage.stderr.startswith("Usage: xnorinfer run")
    assert os.listdir(tmp_path) == []


def test_any_encoding_will_do(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    path = tmp_path / "m\u00fcnster.safetensors"
    packed = lower(random_network(1, [16, 8, 4], INPUTS["range"])).packed
    modelfile.save(with_layer(packed, 0, name="gr\u00f6\u00dfe"), path)
    done = command("info", path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout
    assert "m\\xfcnster" in done.stdout
    done = command("info", tmp_path / "kein \u2603", env=environment)
    assert done.returncode == 2
    assert ": no such file" in done.stderr


def test_a_changed_checkpoint_exits_with_1(model: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(CHECKPOINT))
    arrays["2.bn.beta"][4] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    done = command("verify", model, tmp_path / "other.npz", "--rows", 8)
    assert done.returncode == 1
    assert "does not hold: 2: output 4" in done.stdout


def test_help_is_quick_and_needs_no_kernels() -> None:
    script = (
        "import sys\n"
        "from xnorinfer.cli import main\n"
        "main.main(['--help'], standalone_mode=False)\n"
        "main.main(['run', '--help'], standalone_mode=False)\n"
        "assert not {'numba', 'torch', 'PIL'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version = subprocess.run([sys.executable, "-m", "xnorinfer", "--version"], capture_output=True, text=True, check=False)
    assert version.stdout == f"xnorinfer {xnorinfer.__version__}\n"


def part_has_begun(folder: Path) -> bool:
    """Whether an output is being written; first an empty file tries whether one can be, and is gone at once."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_size > 0 for path in folder.glob(".*.part"))
    return False


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_nothing_behind(model: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    big = sparse_npy(tmp_path / "big.npy", 200_000_000, 64)
    running = subprocess.Popen(
        [COMMAND, "run", str(model), str(big), "-o", str(tmp_path / "o.npy")], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: part_has_begun(tmp_path), running)
        running.send_signal(number)
        _, errors = running.communicate(timeout=HANGS)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == code
    assert errors == ("interrupted\n" if number == signal.SIGINT else "")
    assert os.listdir(tmp_path) == ["big.npy"]


@posix
def test_a_closed_pipe_ends_quietly(model: Path, tmp_path: Path) -> None:
    big = sparse_npy(tmp_path / "big.npy", 200_000_000, 64)
    running = subprocess.Popen([COMMAND, "run", str(model), str(big)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().strip().isdigit()
        running.stdout.close()
        assert running.wait(timeout=HANGS) == 141
        assert running.stderr.read() == b""
    finally:
        running.kill()
        running.wait()
        running.stderr.close()


@posix
def test_a_terminal_gets_a_short_table(model: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "70", "TERM": "xterm", "NO_COLOR": "1"}
    running = subprocess.Popen(
        [COMMAND, "run", str(model), f"{DIGITS}:x"], stdout=follower, stderr=follower, env=environment, close_fds=True
    )
    os.close(follower)
    received = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux answers so when the other side has closed
            break
        if not part:
            break
        received += part
    os.close(leader)
    assert running.wait(timeout=HANGS) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", received.decode())
    assert "and 380 more; -o OUT.npy writes all of them" in text
    assert re.search(r"sample +class", text)
    assert "400 samples in" in text


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory as Linux counts it")
def test_a_large_file_costs_the_memory_of_a_batch(tmp_path: Path) -> None:
    modelfile.save(lower(random_network(1, [8192, 64, 10], INPUTS["threshold"])).packed, tmp_path / "m")
    script = (
        "import sys\n"
        "from xnorinfer.cli import main\n"
        "main.main(sys.argv[1:], standalone_mode=False)\n"
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"  # not ru_maxrss, which counts the parent
        "print(peak, file=sys.stderr)\n"
    )
    peaks_kib = []
    for rows in (2_000, 70_000):  # 16 MiB and 547 MiB
        big = sparse_npy(tmp_path / "big.npy", rows, 8192)
        arguments = ["run", str(tmp_path / "m"), str(big), "-o", str(tmp_path / "o.npy"), "--batch", "500"]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / "o.npy").shape == (rows,)
        peaks_kib.append(int(done.stderr))
    assert peaks_kib[1] - peaks_kib[0] < 30_000

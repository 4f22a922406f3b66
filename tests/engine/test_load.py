"""One model under load: many threads, every way to start processes, and memory that comes back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import load
import numpy as np
import pytest
from networks import INPUTS, random_inputs, random_network
from places import ROOT, TOOLS
from waiting import HANGS

import xnorinfer
from xnorinfer.engine.model import Model
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower

#: For processes of their own: what the tests share, and this file.
PATHS = os.pathsep.join(map(str, (TOOLS, Path(__file__).parent)))
#: Work enough that helper threads take part.
WIDE = random_network(3, [64, 1000, 700, 10], INPUTS["range"])
X = random_inputs(np.random.default_rng(0), WIDE.input, 120, 64)
WANT = forward(WIDE, X)
NET = random_network(3, [64, 200, 70, 10], INPUTS["range"])


def classify(model: Model, rows: int) -> bool:
    """Body of a worker, also in another process: whether `rows` samples get the reference's scores."""
    return bool((model.scores(X[:rows]) == WANT[:rows]).all())


@pytest.mark.parametrize(
    ("layer", "engine_threads"),
    [
        (None, 1),
        (None, 3),
        ("workqueue", 2),
        *(pytest.param(layer, 2, marks=pytest.mark.long) for layer in load.LAYERS if layer != "workqueue"),
    ],
)
def test_32_threads_share_one_model(layer: str | None, engine_threads: int) -> None:
    """Half a second of what `python tests/tools/load.py --seconds 60` does for a minute."""
    done = load.run(0.5, layer, engine_threads)
    if load.missing(done):
        pytest.skip(f"numba cannot load the threading layer {layer} here")
    assert done.returncode == 0, done.stdout + done.stderr


MAIN = """
import sys
from test_load import WIDE, Model, classify, lower
{imports}

if __name__ == "__main__":
    model = Model(lower(WIDE).packed, threads=2)
    assert classify(model, 120)
    rows = list(range(1, 121, 15))
    {body}
"""

#: Ways to start processes after a model was used: imports, then code that ends with `done`, a list of bools.
STARTERS = {
    "concurrent.futures": (
        "import concurrent.futures, multiprocessing",
        "with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(METHOD)) as workers:\n"
        "        done = list(workers.map(classify, [model] * 8, rows))",
    ),
    "multiprocessing.Pool": (
        "import multiprocessing",
        "with multiprocessing.get_context(METHOD).Pool(2) as workers:\n"
        "        done = workers.starmap(classify, [(model, n) for n in rows])",
    ),
    "multiprocessing.Process": (
        "import multiprocessing\ndef work(queue, model, n): queue.put(classify(model, n))",
        "context = multiprocessing.get_context(METHOD)\n"
        "    queue = context.Queue()\n"
        "    started = [context.Process(target=work, args=(queue, model, n)) for n in rows[:3]]\n"
        "    for one in started: one.start()\n"
        "    for one in started: one.join()\n"
        "    assert not any(one.exitcode for one in started)\n"
        "    done = [queue.get() for _ in started]",
    ),
}


def run_main(tmp_path: Path, imports: str, body: str) -> str:
    """Run MAIN as a file: spawn imports the main module again."""
    path = tmp_path / "main_script.py"
    path.write_text(MAIN.format(imports=imports, body=body + "\n    print(all(done), len(done))"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=HANGS, check=False, env={**os.environ, "PYTHONPATH": PATHS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("starter", "method"),
    [
        ("concurrent.futures", "fork"),
        ("concurrent.futures", "spawn"),
        ("multiprocessing.Pool", "fork"),
        ("multiprocessing.Process", "fork"),
        ("multiprocessing.Process", "forkserver"),
    ],
)
def test_processes_started_after_use(tmp_path: Path, starter: str, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    imports, body = STARTERS[starter]
    assert run_main(tmp_path, imports, body.replace("METHOD", repr(method))) in ("True 8", "True 3")


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib_after_use(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("joblib")
    body = f"done = joblib.Parallel(2, backend={backend!r})(joblib.delayed(classify)(model, n) for n in rows)"
    assert run_main(tmp_path, "import joblib", body) == "True 8"


#: A server that loads and uses its model, then forks workers, which accept on one socket.
SERVER = """
import os, socket, sys
import numpy as np
from test_load import WIDE, Model, X, classify, lower

model = Model(lower(WIDE).packed, threads=2)
assert classify(model, 120)
listening = socket.create_server(("127.0.0.1", 0))
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as stream:
                start, rows = map(int, stream.readline().split())
                answer = model.scores(X[start : start + rows])
                connection.sendall(os.getpid().to_bytes(8, "little") + answer.tobytes())
                if rows == 0:
                    os._exit(0)
    children.append(child)
print(listening.getsockname()[1], flush=True)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_server_that_forks_its_workers_after_loading() -> None:
    running = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PATHS},
    )  # fmt: skip
    try:
        assert running.stdout is not None
        port = int(running.stdout.readline())

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=HANGS)

        def answer(connection: socket.socket, start: int, rows: int) -> tuple[int, bytes]:
            connection.sendall(f"{start} {rows}\n".encode())
            with connection.makefile("rb") as stream:
                received = stream.read()
            return int.from_bytes(received[:8], "little"), received[8:]

        def ask(start: int, rows: int) -> tuple[int, bytes]:
            with connect() as connection:
                return answer(connection, start, rows)

        rng = np.random.default_rng(3)
        places = [(int(rng.integers(0, 60)), int(rng.integers(1, 61))) for _ in range(200)]
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda place: ask(*place), places))
        for (start, rows), (_, scores) in zip(places, answers, strict=True):
            assert scores == WANT[start : start + rows].tobytes()
        with contextlib.ExitStack() as stack:  # a worker that has a connection takes no other: each has one of the four
            connections = [stack.enter_context(connect()) for _ in range(4)]
            assert len({answer(one, 0, 0)[0] for one in connections}) == 4
        assert running.stdout.readline().strip() == "[0, 0, 0, 0]"
        assert running.wait(HANGS) == 0
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


def test_every_kind_of_array_gives_the_same_scores(tmp_path: Path) -> None:
    """Strides, orders, byte orders and containers, on whole images and with helper threads."""
    net = random_network(9, [784, 300, 10], INPUTS["range"])
    model = Model(lower(net).packed)
    x = random_inputs(np.random.default_rng(1), net.input, 400, 784)
    want = forward(net, x)
    np.save(tmp_path / "x.npy", x)
    read_only = x.copy()
    read_only.setflags(write=False)
    wide = np.zeros((800, 1570), np.uint8)
    wide[::2, 1:1569:2] = x
    big_endian = (x.astype(np.float64) * (2 / 255) - 1).astype(">f8")
    for given in (
        x, x.reshape(-1, 28, 28), np.asfortranarray(x), np.asfortranarray(x.reshape(-1, 28, 28)), wide[::2, 1:1569:2],
        read_only, np.load(tmp_path / "x.npy", mmap_mode="r"), x.astype(">u2"), x.astype(">i8"), big_endian,
        x.view(np.recarray), np.ma.array(x), x[::-1].copy()[::-1],
    ):  # fmt: skip
        assert (model.scores(given) == want).all()
    assert (model.scores(x[::-1]) == want[::-1]).all()
    assert (model.scores(x[:3].tolist()) == want[:3]).all()
    assert (model.scores(list(x[:3])) == want[:3]).all()
    assert model.scores(x[:0]).shape == (0, 10)
    assert (model.scores(x[7:8]) == want[7:8]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory as Linux counts it")
def test_1000_load_and_delete_cycles_give_their_memory_back(tmp_path: Any) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    Model(lower(NET).packed).save(tmp_path / "m")
    before = 0
    for cycle in range(1000):
        model = xnorinfer.load(tmp_path / "m", threads=1)
        model.scores(X[:2])
        del model
        before = resident() if cycle == 50 else before
    assert resident() - before < 20 << 20

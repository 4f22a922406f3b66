"""Larq Compute Engine against xnorinfer: `python -m benchmarks.larq_compute_engine [--environment FOLDER] [--seconds S]`.

It wants an older TensorFlow than anything else here, so this makes an environment of its own for it, in FOLDER or a temporary
one, with the Python that runs this.  Where it cannot be installed or run, the reason is printed, and no number.

Layers of `convolution_cases.LAYERS`, on one thread and one core, in turns, in CPU time of that thread.  A layer of theirs is
bits in, bits out, inside a network: half of what two more of them cost.  Borders are +1, as its converter wants; results are
compared with integers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

PACKAGES = ("larq-compute-engine==0.16.*", "larq==0.13.*", "tensorflow-cpu==2.16.*", "tf-keras==2.16.*", "numpy<2")
ROUNDS = 15

#: Runs in the other environment: for each line with a layer's number, the seconds of one layer.
WORKER = """
import json, os, sys, time
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import larq as lq
import larq_compute_engine as lce
import tf_keras as keras
from larq_compute_engine.tflite.python.interpreter import Interpreter

rng = np.random.default_rng(1)

def network(channels, size, count):
    layers = [keras.Input((size, size, channels))]
    for _ in range(count):
        layers.append(lq.layers.QuantConv2D(channels, 3, padding="same", pad_values=1.0, use_bias=False,
                                            input_quantizer="ste_sign", kernel_quantizer="ste_sign"))
        if len(layers) <= count:
            layers.append(keras.layers.BatchNormalization())
    model = keras.Sequential(layers)
    model.set_weights([np.sign(rng.standard_normal(w.shape)) if w.ndim == 4 else w for w in model.get_weights()])
    return model, Interpreter(lce.convert_keras_model(model), num_threads=1)

def fastest(run, x):
    # One prediction at a time; the fastest of some.
    times = []
    for _ in range(5):
        begin = time.thread_time()
        run.predict(x)
        times.append(time.thread_time() - begin)
    return min(times)

cases = []
for channels, size in json.loads(sys.argv[1]):
    x = np.sign(rng.standard_normal((1, size, size, channels))).astype(np.float32)
    model, one = network(channels, size, 1)
    kernel = model.get_weights()[0].astype(np.float64)
    wide = np.pad(x[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)), constant_values=1)
    want = sum(wide[i:i + size, j:j + size] @ kernel[i, j] for i in range(3) for j in range(3))
    equal = bool(np.array_equal(np.asarray(one.predict(x))[0], want))
    cases.append((one, network(channels, size, 3)[1], x))
    print(json.dumps(equal), flush=True)
for line in sys.stdin:
    one, three, x = cases[int(line)]
    print(json.dumps((fastest(three, x) - fastest(one, x)) / 2), flush=True)
"""


def install(folder: Path) -> str | None:
    """An environment with the packages; None, or why there is none."""
    python = folder / "bin" / "python"
    commands = [[str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]]
    if not python.exists():
        commands.insert(0, [sys.executable, "-m", "venv", str(folder)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
            return "; ".join(errors) or f"{command[0]} failed"
    return None


def measure(python: Path, seconds: float, said: IO[str]) -> list[str]:
    """Lines of a table.  said: takes what its library prints; a pipe, which nobody reads meanwhile, could fill up."""
    # Here, because what is printed where the peer is missing needs none of it.
    import numpy as np

    from benchmarks.convolution_cases import LAYERS, convolution
    from xnorinfer.speed.timing import Timing

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    worker = subprocess.Popen(
        [str(python), "-c", WORKER, json.dumps(LAYERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    lines = ["| layer | ours | spread | Larq Compute Engine | spread | ratio |", "|---|---|---|---|---|---|"]

    def answer() -> Any:
        line = worker.stdout.readline()
        if not line:
            said.seek(0)
            raise SystemExit(f"skipped: Larq Compute Engine does not run: {said.read().splitlines()[-1:]}")
        return json.loads(line)

    for channels, _ in LAYERS:
        if not answer():
            raise SystemExit(f"skipped: Larq Compute Engine's sums of {channels} channels are not those of integers")
    for number, (channels, size) in enumerate(LAYERS):
        call = convolution(channels, size, peers=False)[0]["xnorinfer"]
        ours, theirs = [], []
        end = time.perf_counter() + seconds
        while len(ours) < 5 or (len(ours) < ROUNDS and time.perf_counter() < end):
            times = []
            for _ in range(20):
                begin = time.thread_time()
                call()
                times.append(time.thread_time() - begin)
            ours.append(np.array(times))
            worker.stdin.write(f"{number}\n")
            worker.stdin.flush()
            theirs.append(np.array([answer()]))
        mine, other = Timing.of(ours), Timing.of(theirs)
        ratio = "unstable" if mine.unstable or other.unstable else f"{other.median / mine.median:.1f} x"
        cells = [f"3x3, {channels} channels, {size}x{size}"]
        for timing in (mine, other):
            cells += [f"{timing.median * 1e6:.1f} us", f"+-{timing.spread:.0%}"]
        lines.append(f"| {' | '.join([*cells, ratio])} |")
    worker.stdin.close()
    worker.wait()
    return lines


def main() -> None:
    """Print the table, or why there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.larq_compute_engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--environment", metavar="FOLDER", help="where its environment is, or is made and stays")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per layer, at least five rounds (default 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.environment or temporary)
        reason = install(folder)
        if reason:
            print(f"skipped: Larq Compute Engine cannot be installed for Python {sys.version.split()[0]}: {reason}")
            return
        with tempfile.TemporaryFile("w+") as said:
            print("\n".join(measure(folder / "bin" / "python", options.seconds, said)))


if __name__ == "__main__":
    main()

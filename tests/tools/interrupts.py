"""Ctrl-C at random moments: `python tests/tools/interrupts.py --times 200` measures how soon commands end, and what they leave.

Every command is started in a folder of its own, interrupted after a random time (start-up, compiling, converting, running), and
must then end with exit code 130 (or have ended well before), with no unfinished file.  What Python itself says when it is
interrupted in its first hundredth of a second, before a line of xnorinfer has run, is counted apart.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from checkpoints import named_arrays, random_layers
from networks import INPUTS, random_network
from waiting import HANGS

import xnorinfer
from xnorinfer.errors import ModelFileError
from xnorinfer.net import Linear, Net, Quantize, Window
from xnorinfer.net.ops import Named
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

DATA = Path(xnorinfer.__file__).parent / "data"


@dataclass(frozen=True)
class Case:
    """A command line; OUT stands for the file it writes.  latest: seconds after which an interrupt hits its main work.

    cold: no compiled kernels are there.
    """

    name: str
    arguments: tuple[str, ...]
    latest: float
    cold: bool = False


def sparse_npy(path: Path, rows: int, depth: int) -> Path:
    """A .npy of zeros that takes no space on the disk."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (rows, depth)})
        stream.truncate(stream.tell() + rows * depth)
    return path


def convolutions() -> Net:
    """Four convolutions over large maps, and a head."""
    rng = np.random.default_rng(0)
    layers: list[Named] = []
    channels, window = 3, Window((3, 3), padding=(1, 1, 1, 1))
    for neurons in (64, 128, 128, 256):
        layers.append(
            (f"conv{len(layers)}", Linear(rng.standard_normal((neurons, 3, 3, channels), np.float32), "ge", window=window))
        )
        layers.append((f"sign{len(layers)}", Quantize("ge")))
        channels = neurons
    head = Linear(rng.standard_normal((10, 64 * 48 * channels), np.float32), "ge")
    return Net.chain(INPUTS["range"], [*layers, ("head", head)], "ge-zero", (64, 48, 3))


def cases(folder: Path) -> list[Case]:
    """Every kind of long work, on files made in `folder`."""
    small, wide = folder / "small", folder / "wide"
    modelfile.save(lower(random_network(1, [64, 256, 10], INPUTS["range"])).packed, small)
    modelfile.save(lower(random_network(1, [784, 2048, 2048, 10], INPUTS["range"])).packed, wide)
    many = sparse_npy(folder / "many.npy", 200_000_000, 64)
    images = sparse_npy(folder / "images.npy", 2_000_000, 784)
    modelfile.save(lower(convolutions()).packed, folder / "maps")
    colours = sparse_npy(folder / "colours.npy", 400_000, 64 * 48 * 3)
    np.savez(folder / "large.npz", **named_arrays(random_layers([784, 2048, 2048, 10], 1)))
    large = str(folder / "large.npz")
    return [
        Case("run", ("run", str(small), str(many), "-o", "OUT"), 1.5),
        Case("run, compiling", ("run", str(wide), str(images), "-o", "OUT"), 6, cold=True),
        Case(
            "run, one thread, huge batches",
            ("run", str(wide), str(images), "-o", "OUT", "--batch", "400000", "--threads", "1"),
            4,
        ),
        Case("run, convolutions", ("run", str(folder / "maps"), str(colours), "-o", "OUT"), 3),
        Case("run to a pipe", ("run", str(small), str(many)), 1.5),
        Case("run --margins", ("run", str(wide), str(images), "--margins", "-o", "OUT"), 3),
        Case("convert", ("convert", large, "-o", "OUT"), 2),
        Case("verify", ("verify", str(small), str(DATA / "digits-64-256-256-10.npz"), "--certificate", "OUT"), 1.5),
        Case("bench", ("bench", str(wide), "--json", "OUT"), 4),
    ]


def require_interruptible() -> None:
    """Started in the background, this process ignores Ctrl-C, and so would those that it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(case: Case, delay: float) -> tuple[float, int, str, list[str]]:
    """Seconds from the signal to the end, exit code, what stderr says, and unfinished files left behind."""
    require_interruptible()
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary) / "work"
        own.mkdir()
        environment = {**os.environ}
        if case.cold:
            environment["XNORINFER_CACHE_DIR"] = str(Path(temporary) / "kernels")
        arguments = [str(own / "out") if one == "OUT" else one for one in case.arguments]
        running = subprocess.Popen(
            [str(Path(sys.executable).parent / "xnorinfer"), *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        time.sleep(delay)
        begin = time.monotonic()
        running.send_signal(signal.SIGINT)
        try:
            errors = running.communicate(timeout=HANGS)[1]
        except subprocess.TimeoutExpired:
            running.kill()
            return HANGS, -9, running.communicate()[1], os.listdir(own)
        seconds = time.monotonic() - begin
        return seconds, running.returncode, errors, [name for name in os.listdir(own) if not is_model(own / name)]


def is_model(path: Path) -> bool:
    """Whether the file is a whole model: `convert` may have written it right before the signal."""
    try:
        modelfile.load(path)
    except ModelFileError:
        return False
    return True


def before_start(code: int, errors: str) -> bool:
    """Whether Python ended before the command's `main` was there."""
    return code in (1, -signal.SIGINT) and not re.search(r"xnorinfer/cli/\w+\.py\", line \d+, in (?!<)", errors)


def wrong(code: int, errors: str, left: list[str]) -> str | None:
    """What an interrupted command did that it must not do."""
    if not left and before_start(code, errors):
        return None
    if code == 130:
        return f"left {left}" if left else f"said {errors!r}" if errors != "interrupted\n" else None
    return None if code in (0, 1) and not errors else f"exit code {code}, said {errors[-300:]!r}, left {left}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of one case")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    failures = early = 0
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        chosen = [case for case in cases(Path(temporary)) if arguments.only in (None, case.name)]
        for turn in range(arguments.times):
            case = chosen[turn % len(chosen)]
            delay = rng.uniform(0, case.latest)
            seconds, code, errors, left = interrupted(case, delay)
            times.setdefault(case.name, []).append(seconds)
            early += before_start(code, errors)
            problem = wrong(code, errors, left)
            if problem is not None or seconds > 1:
                failures += problem is not None
                print(f"{case.name}, after {delay:.3f} s: {seconds:.2f} s; {problem}", flush=True)
    for name, found in times.items():
        found.sort()
        late = sum(seconds > 1 for seconds in found)
        print(f"{name}: {len(found)} times, median {found[len(found) // 2]:.3f} s, longest {found[-1]:.3f} s, {late} over 1 s")
    print(f"{arguments.times} interrupts, {early} of them before the command began, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""`kill -9` at random moments: `python tests/tools/kills.py --kills 200`.

Half of them during `xnorinfer convert` over an old file, half during `Model.save` in a loop.  The file is then the old one or a
complete new one, byte for byte, and what is left beside it (`.xnorinfer-*.part`) is removed by a later write.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from checkpoints import named_arrays, random_layers
from networks import INPUTS, random_network

import xnorinfer
from xnorinfer.files import write_bytes
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

SAVES = """
import itertools, sys
from xnorinfer.packing import modelfile
models = [modelfile.load(name) for name in sys.argv[2:]]
print("ready", flush=True)
for packed in itertools.cycle(models):
    modelfile.save(packed, sys.argv[1])
"""


class Scene:
    """Files in `folder`: a checkpoint, what convert makes of it, and two other models."""

    def __init__(self, folder: Path, width: int = 2048) -> None:
        self.folder = folder / "out"
        self.folder.mkdir()
        self.target = self.folder / "m.safetensors"
        self.source = folder / "net.npz"
        np.savez(self.source, **named_arrays(random_layers([784, width, width, 10], 1)))
        xnorinfer.convert(self.source).save(folder / "converted")
        self.converted = (folder / "converted").read_bytes()
        self.others = [folder / "one", folder / "two"]
        for seed, path in enumerate(self.others):
            modelfile.save(lower(random_network(seed, [784, width, width, 10], INPUTS["range"])).packed, path)
        self.saved = [path.read_bytes() for path in self.others]
        begin = time.monotonic()
        subprocess.run(self._convert(), check=True, capture_output=True)
        self.seconds = time.monotonic() - begin

    def _convert(self) -> list[str]:
        return [sys.executable, "-m", "xnorinfer", "convert", str(self.source), "-o", str(self.target)]

    def kill_convert(self, rng: random.Random) -> str:
        """One conversion over an old file, killed; which file is there then.  Raises AssertionError for any other."""
        self.target.write_bytes(self.saved[0])
        running = subprocess.Popen(self._convert(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 1.1 * self.seconds))
        running.kill()
        running.wait()
        return self._found({"old": self.saved[0], "new": self.converted})

    def kill_save(self, rng: random.Random) -> str:
        """A loop of `save`, killed; which file is there then."""
        self.target.write_bytes(self.converted)
        command = [sys.executable, "-c", SAVES, str(self.target), *map(str, self.others)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.2))
        running.kill()
        running.wait()
        running.stdout.close()
        return self._found({"old": self.converted, "new": self.saved[0], "newer": self.saved[1]})

    def _found(self, known: dict[str, bytes]) -> str:
        content = self.target.read_bytes()
        found = next((name for name, data in known.items() if data == content), None)
        assert found is not None, f"{len(content)} bytes that are no complete file"
        modelfile.load(self.target)
        return found

    def parts(self) -> list[str]:
        """Everything beside the target."""
        return sorted(set(os.listdir(self.folder)) - {self.target.name})

    def require_swept(self) -> None:
        """A later write removes what killed processes left, once it is a minute old."""
        assert all(name.startswith(".xnorinfer-") and name.endswith(".part") for name in self.parts())
        for name in self.parts():
            os.utime(self.folder / name, (time.time() - 100,) * 2)
        write_bytes(self.target, self.converted)
        assert self.parts() == []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    counts: dict[str, int] = {}
    failures = left = 0
    with tempfile.TemporaryDirectory() as temporary:
        scene = Scene(Path(temporary))
        for turn in range(arguments.kills):
            what, kill = (("convert", scene.kill_convert), ("save", scene.kill_save))[turn % 2]
            before = len(scene.parts())
            try:
                outcome = f"{what}: {kill(rng)}"
            except AssertionError as error:
                failures += 1
                outcome = f"{what}: WRONG"
                print(f"{what}, kill {turn}: {error}", flush=True)
            counts[outcome] = counts.get(outcome, 0) + 1
            left += len(scene.parts()) > before
        scene.require_swept()
    shown = ", ".join(f"{outcome} {times}" for outcome, times in sorted(counts.items()))
    print(
        f"{arguments.kills} kills, {failures} failures ({shown}); {left} left a temporary file, all removed by the next write"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The evidence table, source by case: `python tests/evidence/evidence.py [--mnist FOLDER]`, with the frameworks installed.

Each script `evidence_SOURCE.py` trains networks in its framework for a moment, puts in the values that hurt, saves them as the
framework saves, and records what it answers on all 10,000 test images.  Here every file is converted, run packed, and compared
with the reference on the network that the record describes, written down by hand, and with the framework's own forward pass.
Columns of the table:

    exact        scores (of 100,000) that differ from the reference: none may
    classes      images whose class differs from the framework's
    first        signs of the first layer that differ from the framework's, by the order in which it rounds its float32 sums
    later        signs of later layers that differ, given the framework's own signs before them (there sums are exact)
    head         classes that differ, given the framework's own last signs
    unexplained  differences larger than the rounding of the framework's operations, bounded for each of them: none may be
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import numpy as np
import places
from evidence_record import Array
from real_networks import mnist_test_set
from rounding import scores_apart, sign_is_rounded

from xnorinfer.conversion import convert_file
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Named, Norm, Quantize, Steps
from xnorinfer.net.reference import forward
from xnorinfer.net.ties import BINARIZE
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput

#: Script -> the packages that it needs.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "evidence_tf1": ("tensorflow", "tf_keras"),
    "evidence_keras": ("tensorflow", "tf_keras", "keras", "larq", "h5py"),
    "evidence_torch": ("torch", "onnx", "onnxscript"),
    "evidence_brevitas": ("torch", "brevitas", "qonnx", "onnxoptimizer"),
}


def missing_packages(script: str) -> list[str]:
    return [name for name in SCRIPTS[script] if importlib.util.find_spec(name) is None]


def write_records(script: str, folder: Path, mnist: Path) -> list[Path]:
    """Run a script; the records it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(places.EVIDENCE / f"{script}.py"), str(folder), str(mnist.resolve())]
    paths = os.pathsep.join(map(str, (places.TOOLS, places.TESTS / "converters")))  # what the scripts share, with tests too
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-4000:]}")
    return sorted(folder.glob("*.npz"))


# ---------------------------------------------------------------- a record


@dataclass(frozen=True)
class Record:
    """What `evidence_record.Case` wrote."""

    path: Path
    meta: dict[str, Any]
    arrays: dict[str, Array]

    @classmethod
    def read(cls, path: Path) -> Record:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return cls(path, json.loads(str(arrays.pop("meta"))), arrays)

    @property
    def input(self) -> InputMapping:
        kind, value = next(iter(self.meta["input"].items()))
        return PixelInput.range(*value) if kind == "range" else ThresholdInput(value)

    def spec(self) -> Net:
        """The network for the reference."""
        layers: list[Named] = []
        for index, described in enumerate(self.meta["layers"]):

            def get(name: str, index: int = index) -> Any:
                return self.arrays.get(f"{index}.{name}")

            weight = np.ascontiguousarray(get("weight").T)
            if described["kind"] == "float":
                layers += (
                    [("clip", Steps.of(("clip", -1, 1)))]
                    if described["reads"] == "hardtanh"
                    else [("sign", Quantize(self.meta["rule"]))]
                )
                layers.append((f"fc{index}", Linear(weight, bias=get("bias"))))
            else:
                layers += [(f"sign{index}", Quantize(self.meta["rule"]))] if index else []
                rule = self.meta["weight_rule"]
                layers.append((f"fc{index}", Linear(weight, rule, described["h"], get("bias"), get("scale"))))
            if get("norm.mean") is not None:
                vectors = {name: get(f"norm.{name}") for name in ("mean", "variance", "gamma", "beta")}
                layers.append((f"bn{index}", Norm(**vectors, epsilon=described["epsilon"], form=self.meta["form"])))
        return Net.chain(self.input, tuple(layers), "ge-zero")

    def options(self) -> ConvertOptions:
        given = dict(self.meta["options"])
        mapping = {} if given.pop("input_from_file", False) else {"input": self.input}
        return ConvertOptions(**{**given, **mapping, "float_layers": tuple(given.get("float_layers", ()))})


# ---------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Row:
    """One line of the table.  first_signs, later_signs: that differ from the framework, given its own signs before."""

    source: str
    case: str
    differ_from_exact: int
    predictions_differ: int
    first_signs: int
    later_signs: int
    classes_given_bits: int
    unexplained: int
    accuracy: float

    HEADINGS = ("source", "case", "exact", "classes", "first", "later", "head", "unexplained", "accuracy")


def compare(record: Record, x: Array, labels: Array) -> Row:
    """Convert the record's file, run it, and count."""
    conversion = convert_file(record.path.parent / record.meta["file"], record.options())
    packed = Model(conversion.packed, threads=1).scores(x)
    net = record.spec()
    exact = forward(net, x)
    theirs = record.arrays["scores"]
    counted = Layers(record, net, x)
    first, later, explained = counted.signs()
    closer = counted.head(theirs)
    differing = np.flatnonzero(packed.argmax(axis=1) != theirs.argmax(axis=1))
    unexplained = sum(not (counted.touched[row] or closer.get(int(row), False)) for row in differing)
    unexplained += first + later - explained + sum(not tied for tied in closer.values())
    return Row(
        record.meta["source"],
        record.meta["case"],
        int((packed != exact).sum()),
        len(differing),
        first,
        later,
        len(closer),
        unexplained,
        float((packed.argmax(axis=1) == labels).mean()),
    )


class Layers:
    """A network layer by layer on what the framework itself had before each.  touched: images with a sign that differs."""

    def __init__(self, record: Record, net: Net, x: Array) -> None:
        self.record = record
        self.net = net
        self.x = x
        self.touched = np.zeros(len(x), bool)
        self.dense = [op for _, op in net.linears]
        self.tie = 2.0**-24 if record.meta["rule"] == "round-even" else 0.0

    def values(self, index: int) -> Array | None:
        return self.record.arrays.get(f"{index}.values")

    def sign(self, values: Array) -> Array:
        return BINARIZE[self.record.meta["rule"]](values)

    def signs(self) -> tuple[int, int, int]:
        """Signs that differ in the first layer, in later ones, and how many of both rounding explains."""
        first = later = explained = 0
        for index in range(len(self.dense)):
            theirs = self.values(index)
            if theirs is None or self.reads_values(index + 1):
                continue
            ours = forward(self.part(index), self.entering(index))
            moved = self.sign(ours) != self.sign(theirs)
            self.touched |= moved.any(axis=1)
            count = int(moved.sum())
            first, later = (first + count, later) if index == 0 else (first, later + count)
            explained += sum(self.within_rounding(index, int(r), int(n)) for r, n in np.argwhere(moved))
        return first, later, explained

    def reads_values(self, index: int) -> bool:
        """Whether a layer reads the values before it, not their signs."""
        return index < len(self.dense) and self.record.meta["layers"][index]["reads"] == "hardtanh"

    def entering(self, index: int) -> Array:
        if index == 0:
            return self.x
        before = self.values(index - 1)
        assert before is not None
        return np.clip(before, -1, 1) if self.reads_values(index) else self.sign(before)

    def part(self, index: int) -> Net:
        """One dense layer with its BatchNorm, alone, taking what `entering` gives."""
        start = self.net.ops.index(self.dense[index])
        layers = [(name, op) for name, op in self.net.named[start : start + 2] if not isinstance(op, Quantize | Steps)]
        return Net.chain(self.net.input if index == 0 else RealInput(), layers, self.net.profile)

    def mapped(self, index: int, row: int) -> Array:
        """What enters a layer, in float64."""
        value = self.entering(index)[row].astype(np.float64)
        if index == 0 and isinstance(self.net.input, PixelInput):
            return (self.net.input.slope * value + self.net.input.intercept) / self.net.input.divisor
        return value

    def within_rounding(self, index: int, row: int, neuron: int) -> bool:
        """Whether roundings explain a sign that differs."""
        dense = self.dense[index]
        norm = self.net.ops[self.net.ops.index(dense) + 1]
        assert isinstance(norm, Norm)
        return sign_is_rounded(dense, norm, self.mapped(index, row), neuron, whole=index > 0, tie=self.tie)

    def head(self, theirs: Array) -> dict[int, bool]:
        """Images whose class differs on the framework's own last bits -> whether rounding explains it."""
        last = len(self.dense) - 1
        part, entering = self.part(last), self.entering(last)
        ours = forward(part, entering)
        found = {}
        for row in np.flatnonzero(ours.argmax(axis=1) != theirs.argmax(axis=1)):
            mine, other = int(ours[row].argmax()), int(theirs[row].argmax())
            bound = scores_apart(self.dense[last], part.ops[1:], entering[row])
            found[int(row)] = float(ours[row, mine] - ours[row, other]) <= bound
        return found


# ---------------------------------------------------------------- the table


def rows(mnist: Path, folder: Path) -> Iterator[Row | str]:
    """All rows, and a line of text for each script whose packages are missing."""
    x, labels = mnist_test_set(mnist)
    for script in SCRIPTS:
        missing = missing_packages(script)
        if missing:
            yield f"{script}: skipped, {', '.join(missing)} not installed"
            continue
        for path in write_records(script, folder / script, mnist):
            yield compare(Record.read(path), x, labels)


#: Real networks beside MNIST whose number of right answers is known, from integers alone.
KNOWN = {"bnnpynq_lfc_w1a1": 9834, "tfc_1w1a/TFC_1W1A.onnx": 9296}


def known_rows(mnist: Path) -> Iterator[str]:
    """A line of text for each of `KNOWN`."""
    x, labels = mnist_test_set(mnist)
    for name, right in KNOWN.items():
        path = mnist.parent / "checkpoints" / name
        if not path.exists():
            yield f"{name}: skipped, it is not beside MNIST"
            continue
        model = Model(convert_file(path, ConvertOptions()).packed, threads=1)
        yield f"{name}: {int((model.predict(x) == labels).sum())} of {len(x)} right, known are {right}"


def text(row: Row) -> list[str]:
    return [f"{value:.2%}" if isinstance(value, float) else str(value) for value in astuple(row)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, default=places.SHARED / "mnist")
    parser.add_argument("--keep", type=Path, help="leave the files and records in this folder")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        print("| " + " | ".join(Row.HEADINGS) + " |\n|" + "---|" * len(fields(Row)))
        for row in rows(arguments.mnist, arguments.keep or Path(folder)):
            print(row if isinstance(row, str) else "| " + " | ".join(text(row)) + " |", flush=True)
            wrong += isinstance(row, Row) and bool(row.differ_from_exact or row.unexplained)
        print("\n".join(known_rows(arguments.mnist)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

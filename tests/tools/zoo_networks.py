"""Every network of larq_zoo, with random weights and moving statistics: what is packed is what Keras runs.

    python tests/tools/zoo_networks.py [NAME ...] [--size 224] [--live] [--weights FILE]

Read from an .h5 and a .keras file of the model, or with --live from the model itself (which compares every answer with bounds
on rounding, and takes minutes at 224), packed, and run on an image: the packed scores equal the oracle's, and every value that
Keras computes on the way to its own is the oracle's of what enters, but for rounding.  --weights: an .h5 file of weights, those
of `save_weights`, in the place of random numbers.  larq_zoo is in no list of this project's dependencies, because it takes
numpy below 2 alone: install it with `pip install --no-deps larq_zoo zookeeper typeguard` beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # larq is written for Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import xnorinfer
from xnorinfer.conversion import convert_file, pack_reading
from xnorinfer.converters import ConvertOptions
from xnorinfer.converters.livekeras import read_graph_of
from xnorinfer.errors import NetworkError
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.modelfile import header_of
from xnorinfer.proof.agreement import Agreement, compare
from xnorinfer.proof.frameworks.run_keras import live_program
from xnorinfer.proof.squashed import function_of

NAMES = (
    *("QuickNetSmall", "QuickNet", "QuickNetLarge", "BiRealNet", "BinaryAlexNet", "BinaryDenseNet28", "BinaryDenseNet37"),
    *(
        "BinaryDenseNet37Dilated",
        "BinaryDenseNet45",
        "BinaryResNetE18",
        "MeliusNet22",
        "RealToBinaryNet",
        "XNORNet",
        "DoReFaNet",
    ),
)


def larq_zoo() -> Any:
    """The package; its training code asks for data sets that nothing here needs."""
    for name in ("tensorflow_datasets", "tensorflow_datasets.core"):
        sys.modules.setdefault(name, MagicMock())
    import larq_zoo

    return larq_zoo


def built(name: str, size: int, classes: int = 1000) -> Any:
    """A network by name, every BatchNorm of other numbers."""
    zoo = larq_zoo()
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    model = getattr(zoo.sota, name, None) or getattr(zoo.literature, name)
    made = model(input_shape=(size, size, 3), weights=None, num_classes=classes)
    rng = np.random.default_rng(0)
    for layer in made.layers:
        if type(layer).__name__ == "BatchNormalization":
            scales = [any(part in variable.name for part in ("gamma", "variance")) for variable in layer.weights]
            drawn = [rng.normal(0, 0.3, variable.shape).astype(np.float32) for variable in layer.weights]
            layer.set_weights([np.exp(value) if scale else value for value, scale in zip(drawn, scales, strict=True)])
    return made


def image(size: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def converted(model: Any, folder: Path, ending: str) -> Any:
    """By a file; where that has code that is not run (MeliusNet's Lambda layers), by TensorFlow's graph of the model."""
    path, options = folder / f"model.{ending}", ConvertOptions(input=PixelInput.range(-1, 1))
    model.save(path)
    try:
        return convert_file(path, options)
    except NetworkError as error:
        if "Lambda is not supported" not in str(error):
            raise
        return pack_reading(read_graph_of(model, path.name, tuple(model.input_shape[1:]), options), options, path.name, None)


def check(model: Any, conversion: Any, size: int) -> Agreement:
    """How Keras compares on an image, node by node; the packed network's scores are the oracle's.  Raises AssertionError."""
    reading, x = conversion.reading, image(size).reshape(1, -1)
    np.testing.assert_array_equal(xnorinfer.Model(conversion.packed, threads=1).scores(x), forward(reading.net, x))
    answers = live_program(model, reading, PixelInput.range(-1, 1), (size, size, 3)).answers("Keras", x)
    found = compare(replace(answers, function=function_of(reading)), reading.net, conversion.packed)
    assert found.complete, found.text()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--weights")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.names:
        model, start = built(name, given.size), time.process_time()
        if given.weights is not None:
            model.load_weights(given.weights)
        if given.live:
            packed = xnorinfer.from_keras(model, input_range=(-1, 1)).packed
            print(f"{name}: live, {len(packed.nodes)} nodes, {time.process_time() - start:.0f} s of CPU", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            first, second = (converted(model, Path(folder), ending) for ending in ("h5", "keras"))
        digests = {header_of(one.packed)["content_digest"] for one in (first, second)}
        assert len(digests) == 1, f"{name}: the two files are read otherwise"
        found = check(model, first, given.size)
        size = sum(array.nbytes for _, array in first.packed.tensors())
        print(
            f"{name}: {len(first.packed.nodes)} nodes, {size / 1e6:.1f} MB, packed equals the oracle, {found.text()}, "
            f"{time.process_time() - start:.0f} s of CPU",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Packs a trained MNIST network into the folder of shipped models, with a card whose numbers come from the files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer import shipped
from xnorinfer.conversion import convert_file
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.errors import InputError, OptionError
from xnorinfer.files import require_writable, write_bytes, write_json
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe, widths
from xnorinfer.proof.equal import verify
from xnorinfer.training.architecture import Shape
from xnorinfer.training.data import mnist
from xnorinfer.training.trainable import BATCH_NORM_EPSILON

#: What no file says.
TEXTS: dict[str, Any] = {
    "task": "handwritten digits: one 28x28 grayscale image, white on black, to one of the classes 0..9",
    "output": "10 float32 scores, the highest is the class; they are no probabilities",
    "data": {
        "name": "MNIST",
        "authors": "Y. LeCun, C. Cortes, C. J. C. Burges",
        "source": "http://yann.lecun.com/exdb/mnist/",
        "licence": "CC BY-SA 3.0",
        "use": "The first 50,000 training images to learn from, the other 10,000 to choose the epoch with, the 10,000 test "
        "images once, at the end. No image of it is part of the package.",
    },
    "method": "BinaryNet (Courbariaux et al. 2016, arXiv:1602.02830), `python -m xnorinfer.training mnist`: straight-through "
    "binarization, squared hinge loss, Adam with per-layer scale and clipped latents, exponentially falling learning rate.",
    "limits": [
        "Meant for trying, testing and timing xnorinfer, and as a baseline; not for reading mail, cheques or forms.",
        "It always answers with a digit, whatever the image shows; `xnorinfer run --margins` tells close decisions.",
        "Images must be prepared as MNIST's: the digit in a box of 20x20 pixels, its centre of mass in the middle of 28x28.",
    ],
    "licence": "Apache-2.0",
}
SAMPLES = "the 400 held-out 8x8 digits of the UCI repository, other writers and pens, brought to MNIST's format (`--samples`)"


def publish(checkpoint: Path, name: str, folder: Path, output: Path, history: Path | None = None) -> dict[str, Any]:
    """Write `output`/NAME.safetensors and .json from a checkpoint of `mnist` and its history; returns the card.

    folder: MNIST's IDX files.  history: None is CHECKPOINT.history.json.  The packed model is verified against the checkpoint
    on the first 1,000 test images, and run on all.  Raises SourceError, InputError, OptionError or OutputError, and then
    writes nothing.
    """
    model_path, card_path = output / f"{name}.safetensors", output / f"{name}.json"
    for path in (model_path, card_path):
        require_writable(path, checkpoint)
    trained = _read_history(checkpoint.with_name(f"{checkpoint.name}.history.json") if history is None else history)
    options = {"h": trained["shape"]["h"]}
    if checkpoint.suffix != ".npz":
        options.update(profile="tf1-round", bn_epsilon=BATCH_NORM_EPSILON)
    packed = convert_file(checkpoint, ConvertOptions(**options)).packed
    info = describe(packed)
    network, shape = trained["summary"]["network"], _shape_of(trained)
    neurons = [layer["neurons"] for layer in info["layers"] if layer["kind"] != "pool"]
    if shape.name != network or shape.widths != [info["inputs"], *neurons]:
        raise OptionError(f"{checkpoint} is a network {widths(packed)}, its history tells of {network}")
    test = mnist(folder).test
    pixels, labels = test.pixels.numpy(), test.labels.numpy()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / model_path.name
        modelfile.save(packed, made)
        result = verify(made, checkpoint, pixels[:1000])
        content = made.read_bytes()
    if not result.holds:
        raise OptionError(f"{checkpoint}: the packed model is not the checkpoint: {result.first_difference}")
    model = Model(packed)
    images, classes = shipped.sample_digits()
    card = {
        "name": name,
        "network": network,
        **{key: TEXTS[key] for key in ("task", "output", "data", "method")},
        "input": f"uint8 (rows, {info['inputs']}) or (rows, 28, 28); {info['input_meaning']}",
        "shape": {key: value for key, value in trained["shape"].items() if key not in ("inputs", "classes")},
        "recipe": trained["recipe"],
        "training": {key: trained["summary"][key] for key in ("epochs", "best_epoch", "validation_error", "seconds")},
        "accuracy": {
            "images": len(labels),
            "packed_correct": int((model.predict(pixels) == labels).sum()),
            "framework_correct": round((1 - trained["summary"]["test_error"]) * len(labels)),
        },
        "samples": {"what": SAMPLES, "images": len(classes), "correct": int((model.predict(images) == classes).sum())},
        "size": {"file_bytes": len(content), "packed_bytes": info["packed_bytes"], "float32_bytes": info["float32_bytes"]},
        "content_digest": info["content_digest"],
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "checkpoint_sha256": packed.provenance["sha256"],
        "limits": TEXTS["limits"],
        "licence": TEXTS["licence"],
    }
    write_bytes(model_path, content)
    write_json(card_path, card)
    return card


def _shape_of(trained: dict[str, Any]) -> Shape:
    """What a history says of its network; JSON has lists for tuples."""
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in trained["shape"].items()
    }
    return Shape(**said)


def _read_history(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = [content["summary"][key] for key in ("test_error", "validation_error", "epochs", "best_epoch", "seconds")]
        if not all(np.isfinite(number) for number in numbers) or not content["summary"]["network"]:
            raise ValueError("its summary is incomplete")
        _shape_of(content)
        content["recipe"]["epochs"]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, OptionError) as error:
        raise InputError(f"{path}: is no training history, which `mnist` writes as OUT.history.json ({error})") from error
    result: dict[str, Any] = content
    return result

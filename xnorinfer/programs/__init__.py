"""Checkpoints that hold a whole program, run by the framework they come from: graphs, Keras models, TorchScript.

One opener for each source, here by the source's name.  It gives a `Program`, or None where the file is of a kind that holds
tensors only; it raises `NotRunnable` where a file of its kind cannot be run, and says why.  Frameworks can run code that lies
in a file: no program is opened unless somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xnorinfer.converters.base import ConvertOptions, Reading
from xnorinfer.programs.base import NotRunnable, Program, quiet, require
from xnorinfer.programs.keras import open_keras
from xnorinfer.programs.onnx import open_onnx
from xnorinfer.programs.tensorflow import open_tensorflow, open_tflite
from xnorinfer.programs.torch import open_torch

__all__ = ["NotRunnable", "Program", "open_program"]

Opener = Callable[[Path, Reading, ConvertOptions], Program | None]
OPENERS: dict[str, Opener] = {
    "onnx": open_onnx,
    "keras": open_keras,
    "tf1": open_tensorflow,
    "tflite": open_tflite,
    "torch": open_torch,
}


def open_program(path: Path, reading: Reading, options: ConvertOptions) -> Program | None:
    """The program of a checkpoint that was read with these options; None where it holds none by its kind.

    Raises NotRunnable, and MissingExtraError without the framework.
    """
    opener = OPENERS.get(reading.source)
    if opener is None:
        return None
    with quiet():
        program = opener(path, reading, options)
        if program is not None:
            require(program, reading.net)
        return program

"""Checkpoints run by the framework they come from, where they hold a whole program: graphs, Keras models, TorchScript.

One opener for each source, here by the source's name.  It gives a `Program`, or None where the file is of a kind that holds
tensors only; it raises `NotRunnable` where a file of its kind cannot be run, and says why.  Then the layers as they were read
are run by PyTorch (`as_read`).  Frameworks can run code that lies in a file: no program is opened unless somebody asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.proof.answers import Answers, Progress
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, quiet, require
from xnorinfer.proof.frameworks.run_keras import open_keras
from xnorinfer.proof.frameworks.run_onnx import open_onnx
from xnorinfer.proof.frameworks.run_tensorflow import open_tensorflow, open_tflite
from xnorinfer.proof.frameworks.run_torch import open_torch
from xnorinfer.proof.squashed import function_of

__all__ = ["NotRunnable", "Program", "framework_answers", "open_program"]

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


def framework_answers(
    path: Path, reading: Reading, options: ConvertOptions, x: Array, report: Progress = lambda what, done, total: None
) -> Answers:
    """What the framework of a checkpoint that was read with these options gives for raw inputs x (rows, depth).

    Where the file cannot be run itself, its layers are run in PyTorch; the answers say why.  Raises MissingExtraError.
    """
    instead = None
    try:
        program = open_program(path, reading, options)
        if program is not None:
            return dataclasses.replace(program.answers(path.name, x, report), function=function_of(reading))
    except NotRunnable as error:
        instead = str(error)
    answers = open_as_read(reading.net, reading.source).answers(path.name, x, report)
    assert answers.run is not None
    return dataclasses.replace(answers, run=dataclasses.replace(answers.run, instead=instead))

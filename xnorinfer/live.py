"""Live models: read, packed and run beside each other, so that no guess about their structure goes unseen.

A live model says more than any file of it: it answers.  A reading of it counts only if the packed network answers as the model
does, on the user's example or on random inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.agreement import compare
from xnorinfer.answers import Answers
from xnorinfer.conversion import Conversion, pack_reading, require_expected
from xnorinfer.converters.base import DEFAULT_INPUT, Assumption, ConvertOptions, Reading
from xnorinfer.converters.keras_live import lists_layers, read_config_of, read_graph_of, shape_of
from xnorinfer.errors import ExpectationError, InputError, NetworkError, SourceError
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput
from xnorinfer.programs.base import NotRunnable, Program, quiet, refusing, require
from xnorinfer.programs.keras import entering_mapping, live_program

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Random rows, where the user gives none.
ROWS = 256
EXAMPLE = "the model's own answers"

Read = Callable[[ConvertOptions], Reading]


def convert_keras(model: Any, about: str, options: ConvertOptions, example: ArrayLike | None) -> tuple[Conversion, Read]:
    """The conversion of a live Keras model, compared with its answers, and how it was read.

    Raises SourceError, OptionError, NetworkError, ExpectationError, InputError.
    """
    rows = None if example is None else np.asarray(example)
    shape = shape_of(model, rows)

    def by_config(other: ConvertOptions) -> Reading:
        return read_config_of(model, about, other)

    def by_graph(other: ConvertOptions) -> Reading:
        if shape is None:
            raise SourceError(f"{about} does not say the shape of its inputs; give example=rows")
        with quiet():
            return read_graph_of(model, about, shape, other)

    def tried(read: Read) -> tuple[Conversion, Read]:
        reading = read(options)
        entry = (options.input or DEFAULT_INPUT) if read is by_graph else entering_mapping(reading, options)
        conversion = pack_reading(reading, options, about, None)
        try:
            expected = _answers(live_program(model, reading, entry, shape), reading, rows)
        except NotRunnable as error:
            raise SourceError(f"{about} cannot be run: {error}") from None
        if read is first and not compare(expected, reading.net, conversion.packed).holds:
            raise ExpectationError(f"{about}: its answers contradict what is read of it")
        return told(require_expected(conversion, expected, options, read, python=True), len(expected.x)), read

    first, second = (by_config, by_graph) if lists_layers(model) else (by_graph, by_config)
    try:
        return tried(first)
    except (SourceError, NetworkError, ExpectationError) as error:
        reason = error
    try:
        return tried(second)
    except (SourceError, NetworkError, ExpectationError) as error:
        other = error
    if isinstance(reason, NetworkError) or not isinstance(other, SourceError):
        raise reason if isinstance(reason, NetworkError) else other
    raise SourceError(f"{reason}; otherwise: {other}")


def _answers(program: Program, reading: Reading, example: NDArray[Any] | None) -> Answers:
    """What the model gives for the example, or for random inputs.  Raises NotRunnable and InputError."""
    with quiet():
        require(program, reading.net)
    if example is None:
        x = random_rows(reading.net.input, reading.net.depth)
        answers = program.run(x)
    elif example.ndim < 2 or example.dtype.kind not in "fiub" or example[0].size != reading.net.depth:
        raise InputError(
            f"example is {example.dtype} of shape {example.shape}, needed are rows of {reading.net.depth} numbers, pixels or "
            "as the model takes them"
        )
    elif example.dtype.kind in "iub" and not isinstance(reading.net.input, RealInput):
        x = example.reshape(len(example), -1)
        answers = program.run(x)
    else:  # as the model takes them
        x = example
        with quiet(), refusing(program.framework):
            answers = np.asarray(program.call(np.ascontiguousarray(x.reshape(len(x), *program.shape), np.float32)))
    if any(a.what == "activation of the scores" and a.value.startswith("sigmoid") for a in reading.assumptions):
        answers = answers.argmax(axis=1)  # of the same order, but not the scores
    return Answers.of(x, answers, EXAMPLE)


def random_rows(mapping: InputMapping, depth: int) -> NDArray[Any]:
    """Random raw inputs (rows, depth) of every kind that a mapping takes: even ones, mostly dark ones, black and white ones."""
    rng = np.random.default_rng(0)
    if isinstance(mapping, PixelInput | ThresholdInput):
        pixels = rng.integers(0, 256, (ROWS, depth), dtype=np.uint8)
        pixels[1::4] *= rng.random((len(pixels[1::4]), depth)) < 0.2
        pixels[2::4] = np.where(pixels[2::4] < 128, 0, 255)
        return pixels
    if isinstance(mapping, RealInput):
        return rng.standard_normal((ROWS, depth)).astype(np.float32)
    return rng.choice(np.array([-1, 1], np.int8), (ROWS, depth))


def told(conversion: Conversion, rows: int) -> Conversion:
    """The conversion, with what was compared among the assumptions of its provenance."""
    provenance = {**conversion.packed.provenance, "warnings": list(conversion.warnings)}
    told = Assumption("structure", f"the packed network answers as the model itself on {rows} rows", "graph")
    provenance["assumptions"] = [*provenance["assumptions"], [told.what, told.value, told.origin]]
    return dataclasses.replace(conversion, packed=dataclasses.replace(conversion.packed, provenance=provenance))

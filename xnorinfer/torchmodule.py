"""Live PyTorch modules: read as the graph of what `forward` computes, packed, and run beside it.

A module answers, which no file of its tensors does: whatever is read of it counts only if the packed network gives the same
answers, on the user's example or on random inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.agreement import Agreement, compare
from xnorinfer.answers import Answers
from xnorinfer.conversion import Conversion, pack_reading, require_expected
from xnorinfer.converters.base import ConvertOptions, Reading
from xnorinfer.converters.torchlive import LiveModule
from xnorinfer.errors import ExpectationError, InputError, MissingExtraError, NetworkError, OptionError, SourceError
from xnorinfer.live import random_rows, told
from xnorinfer.model import Model, inputs_of
from xnorinfer.net.values import InputMapping, PixelInput, SignInput, ThresholdInput
from xnorinfer.packed import PackedModel
from xnorinfer.programs.base import entering

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Mappings of pixels that scripts use, to recognize floats that were made of pixels.
USUAL = (PixelInput.range(0, 1), PixelInput.range(-1, 1), PixelInput.normalize(0.1307, 0.3081), PixelInput.range(0, 255))
#: How warnings end that tell of a default of the structure (`base.default_warning`).
UNSAID_BY_FILE = "which the file does not say"
#: At the end of a module, functions that keep the order of scores and give others.
SQUASHING = ("Sigmoid", "LogSigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Atan")

Read = Callable[[ConvertOptions], Reading]


def convert_torch(
    module: Any, about: str, options: ConvertOptions, example: ArrayLike | None
) -> tuple[Conversion, ConvertOptions, Read]:
    """The conversion of a live module, compared with its answers; the options and the way it was read by.

    Raises SourceError, OptionError, NetworkError, ExpectationError, InputError, MissingExtraError.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("from_torch", "torch", "torch") from None
    if not isinstance(module, torch.nn.Module):
        raise OptionError(f"from_torch takes a torch.nn.Module, not {about}")
    rows = _example(example)
    live = LiveModule(module)
    with live.ready():
        return _Comparison(live, about, options, rows).convert()


def _example(example: Any) -> NDArray[Any] | None:
    if example is None:
        return None
    if hasattr(example, "detach"):
        example = example.detach().cpu()
    rows = np.asarray(example)
    if rows.ndim < 2 or not rows.size or rows.dtype.kind not in "fiub":
        raise InputError(f"example is {rows.dtype} of shape {rows.shape}, needed are rows (rows, ...) of numbers")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise InputError("example holds numbers that are NaN or infinite")
    return rows


class _Comparison:
    """One module, read in one way after the other until its answers are those of the packed network."""

    def __init__(self, live: LiveModule, about: str, options: ConvertOptions, example: NDArray[Any] | None) -> None:
        self.live = live
        self.about = about
        self.example = example
        self.shape = live.shape() if example is None else tuple(example.shape[1:])
        self.options = options
        mapping = None if example is None or options.input is not None else _mapping_of(example)
        if mapping is not None:
            self.options = dataclasses.replace(options, input=mapping)

    def convert(self) -> tuple[Conversion, ConvertOptions, Read]:
        said = self.options
        described = said.float_layers or said.before_norm or said.center or said.scale_by
        ways: list[Read] = [] if described else [self.by_export, self.by_trace]
        reasons: list[SourceError | NetworkError | ExpectationError] = []
        for read in ways:
            found = self._compared(read)
            if isinstance(found, Conversion):
                return found, said, read
            reasons.append(found)
        return self._by_order(reasons), said, self.live.by_order

    def by_export(self, options: ConvertOptions) -> Reading:
        return self.live.by_export(options, self.shape)

    def by_trace(self, options: ConvertOptions) -> Reading:
        return self.live.by_trace(options, self.shape)

    def _by_order(self, reasons: list[SourceError | NetworkError | ExpectationError]) -> Conversion:
        """By the order of its tensors, if the module's answers say that this is right."""
        # A graph that was understood says more than one that could not be written down.
        kinds = (ExpectationError, NetworkError, SourceError)
        reason = next((one for kind in kinds for one in reasons if isinstance(one, kind)), None)
        try:
            reading = self.live.by_order(self.options)
            conversion = pack_reading(reading, self.options, self.about, None)
            expected = self._answers(reading)
        except (SourceError, NetworkError) as error:
            raise reason or error from None
        if reason is None:
            conversion = require_expected(conversion, expected, self.options, self.live.by_order, python=True)
        elif not _agrees(agreement := compare(expected, reading.net, conversion.packed), expected, conversion.packed):
            text = agreement.text() if not agreement.holds else str(agreement.warning())
            also = f"read by the order of its tensors instead, {text}"
            if isinstance(reason, ExpectationError):
                raise reason
            if isinstance(reason, NetworkError):
                raise NetworkError([*reason.problems, also], about=self.about)
            raise NetworkError([f"{reason}; {also}"], about=self.about)
        # What was taken for lack of a better source is what the module does.
        kept = tuple(text for text in conversion.warnings if not text.partition(";")[0].endswith(UNSAID_BY_FILE))
        return told(dataclasses.replace(conversion, warnings=kept), len(expected.x))

    def _compared(self, read: Read) -> Conversion | SourceError | NetworkError | ExpectationError:
        """The conversion of a reading whose answers agree, or why there is none.  Raises OptionError and InputError."""
        try:
            reading = read(self.options)
            conversion = pack_reading(reading, self.options, self.about, None)
            expected = self._answers(reading)
            return told(require_expected(conversion, expected, self.options, read, python=True), len(expected.x))
        except (SourceError, NetworkError, ExpectationError) as error:
            return error

    def _answers(self, reading: Reading) -> Answers:
        """What the module gives for the example, or for random inputs.  Raises SourceError and InputError."""
        entry = reading.entry or reading.net.input
        if self.example is not None and self.example[0].size != reading.net.depth:
            raise InputError(f"example has rows of {self.example[0].size} numbers, {self.about} takes {reading.net.depth}")
        if self.example is not None and (self.options.input is not None or _are_pixels(self.example)):
            x = _raw(self.example, entry)
        else:
            x = random_rows(entry, reading.net.depth)
        values = self.example if x is self.example else entering(entry, x.reshape(len(x), -1))
        answers = self.live.run(np.asarray(values, np.float32).reshape(len(x), *self.shape))
        if answers.ndim > 2:
            answers = answers.reshape(len(answers), -1)
        x = _as_read(x.reshape(len(x), -1), entry, reading.net.input)
        if any(
            one.what == "scores" and any(f"before {name} " in one.value for name in SQUASHING) for one in reading.assumptions
        ):
            x, answers = _order_alone(x, answers)
        return Answers.of(x, answers, f"{self.about} itself")


def _agrees(agreement: Agreement, expected: Answers, packed: PackedModel) -> bool:
    return agreement.holds and (agreement.complete or _same_order(expected, packed))


def _same_order(expected: Answers, packed: PackedModel) -> bool:
    """Whether every row's scores stand in the order of the module's, which a function of each, or of a row, does not change."""
    if expected.values.ndim == 1:
        return True
    ours = Model(packed, threads=1).scores(inputs_of(packed.input, packed.depth, expected.x))
    theirs = np.take_along_axis(expected.values, np.argsort(ours, axis=1, kind="stable"), axis=1)
    size = np.abs(theirs).max(axis=1, keepdims=True)
    return bool((np.diff(theirs, axis=1) >= -1e-5 * size).all())


def _are_pixels(example: NDArray[Any]) -> bool:
    return example.dtype.kind in "iub"


def _raw(example: NDArray[Any], entry: InputMapping) -> NDArray[Any]:
    """The example as the packed network takes it: whole numbers are pixels, floats are what the module takes."""
    if isinstance(entry, PixelInput | ThresholdInput) and not _are_pixels(example):
        return example  # `model.inputs_of` finds the pixels that they were made of
    if _are_pixels(example) and isinstance(entry, PixelInput | ThresholdInput):
        if example.min() < 0 or example.max() > 255:
            raise InputError(f"example holds whole numbers from {example.min()} to {example.max()}; pixels are 0..255")
        return example.astype(np.uint8)
    return example


def _as_read(x: NDArray[Any], entry: InputMapping, mapping: InputMapping) -> NDArray[Any]:
    """Floats that enter the module as pixels: steps of its own are a part of the packed network's mapping."""
    if x.dtype.kind != "f" or not isinstance(entry, PixelInput) or entry == mapping:
        return x
    pixels = (x.astype(np.float64) * entry.divisor - entry.intercept) / entry.slope
    near = np.rint(pixels)
    if np.abs(pixels - near).max() > 1e-2 or near.min() < 0 or near.max() > 255:
        raise InputError(f"example holds numbers that no pixel becomes; {entry.describe()}")
    return near.astype(np.uint8)


def _mapping_of(example: NDArray[Any]) -> InputMapping | None:
    """What floats were made from, where they tell; None for whole numbers, which are pixels, and for others."""
    if _are_pixels(example):
        return None
    values = np.unique(np.asarray(example, np.float64).reshape(-1)[: 1 << 20])
    if set(values.tolist()) == {-1.0, 1.0}:
        return SignInput()
    for mapping in USUAL:
        pixels = (values * mapping.divisor - mapping.intercept) / mapping.slope
        if np.abs(pixels - np.rint(pixels)).max() < 1e-2 and pixels.min() > -0.5 and pixels.max() < 255.5 and len(values) > 2:
            return mapping
    return None


def _order_alone(x: NDArray[Any], answers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes instead of scores that a function squashed, without the rows where it made the largest ones equal."""
    ordered = np.sort(answers, axis=1)
    clear = ordered[:, -1] > ordered[:, -2] if answers.shape[1] > 1 else np.ones(len(answers), np.bool_)
    if not clear.any():
        raise InputError("the module's last function makes the largest scores equal in every row of the example")
    return x[clear], answers[clear].argmax(axis=1)

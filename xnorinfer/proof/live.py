"""Live models: read, packed and run beside each other, so that no guess about their structure goes unseen.

A live model says more than any file of it: it answers.  A reading of it counts only if the packed network answers as the model
does, on the user's example or on random inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.conversion import Conversion, pack_reading, require_expected
from xnorinfer.converters import require_ignored
from xnorinfer.converters.graphs.problems import SIGN_OF_SIGNS
from xnorinfer.converters.livekeras import lists_layers, of_output, read_config_of, read_graph_of, shape_of
from xnorinfer.converters.livetorch import LiveModule
from xnorinfer.converters.reading import DEFAULT_INPUT, Assumption, ConvertOptions, Reading
from xnorinfer.engine.model import Model, array_of, inputs_of
from xnorinfer.errors import ExpectationError, InputError, MissingExtraError, NetworkError, OptionError, SourceError
from xnorinfer.memory import in_rows
from xnorinfer.net.reference import mapped_input
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.packing.packed import PackedModel
from xnorinfer.proof.agreement import Agreement, affordable_rows, compare
from xnorinfer.proof.answers import Answers
from xnorinfer.proof.frameworks.program import NotRunnable, Wanted, quiet, require
from xnorinfer.proof.frameworks.run_keras import entering_mapping, live_program
from xnorinfer.proof.frameworks.run_torch import recorded
from xnorinfer.proof.squashed import function_of
from xnorinfer.report import assumptions_to_json

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Random rows, where the user gives none.
ROWS = 256
#: Mappings of pixels that scripts use, to recognize floats that were made of pixels.
USUAL = (PixelInput.range(0, 1), PixelInput.range(-1, 1), PixelInput.normalize(0.1307, 0.3081), PixelInput.range(0, 255))
#: How warnings end that tell of a default of the structure (`reading.default_warning`).
UNSAID_BY_FILE = "which the file does not say"
#: Options that say what to take of a file, and nothing of a live model.
OF_FILES = ("format", "net", "state", "ema")

Read = Callable[[ConvertOptions], Reading]
#: Why a reading is not that of the model: another is tried.
Failure = SourceError | NetworkError | ExpectationError
Converted = tuple[Conversion, Read]


def convert_keras(model: Any, about: str, options: ConvertOptions, example: ArrayLike | None) -> Converted:
    """The conversion of a live Keras model, compared with its answers, and the way it was read by.

    Raises SourceError, OptionError, NetworkError, ExpectationError, InputError.
    """
    return _Keras(model, about, options, _example(example)).convert()


def convert_torch(module: Any, about: str, options: ConvertOptions, example: ArrayLike | None) -> Converted:
    """The conversion of a live PyTorch module, compared with its answers, and the way it was read by.

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
        return _Torch(live, about, options, rows).convert()


class _Live:
    """A live model, read in one way after the other until its answers are those of the packed network."""

    def __init__(self, about: str, options: ConvertOptions, example: NDArray[Any] | None) -> None:
        for name in OF_FILES:
            if getattr(options, name) not in (None, False):
                raise OptionError(f"{name} says what to take of a file, and means nothing for {about}, a live model")
        self.about = about
        self.options = options
        self.example = example

    def answers(self, reading: Reading, read: Read) -> Answers:
        """What the model gives for the example, or for random inputs.  Raises SourceError and InputError."""
        raise NotImplementedError

    def packed(self, read: Read) -> tuple[Conversion, Answers]:
        """The conversion of a reading, and the model's answers.  Raises as `convert_torch` does."""
        reading = read(self.options)
        return pack_reading(reading, self.options, self.about, None), self.answers(reading, read)

    def compared(self, conversion: Conversion, expected: Answers) -> Agreement:
        """How the packed network answers, beside the model."""
        return compare(expected, conversion.reading.net, conversion.packed)

    def confirmed(
        self, read: Read, conversion: Conversion, expected: Answers, agreement: Agreement | None = None
    ) -> Conversion:
        """A conversion that answers as the model.  agreement: where they were compared already.  Raises ExpectationError, which
        says what would, and OptionError."""
        require_ignored(conversion.reading, self.options, self.about)
        return _told(require_expected(conversion, expected, read, agreement=agreement), len(expected.x))

    def tried(self, read: Read, *, alone: bool = True) -> Conversion | Failure:
        """The conversion of a reading whose answers agree, or why there is none.  Raises OptionError and InputError.

        alone: nothing else is tried, so that a failure shall say what would explain the answers.
        """
        try:
            conversion, expected = self.packed(read)
            agreement = None if alone else self.compared(conversion, expected)
            if agreement is not None and not agreement.holds:
                return ExpectationError(f"{self.about}: its answers contradict what is read of it")
            return self.confirmed(read, conversion, expected, agreement)
        except (SourceError, NetworkError, ExpectationError) as error:
            return error


class _Keras(_Live):
    """By the config, or by the graph that TensorFlow makes of the model: first by what lists the layers."""

    def __init__(self, model: Any, about: str, options: ConvertOptions, example: NDArray[Any] | None) -> None:
        if options.output_name is not None:
            model = of_output(model, about, options.output_name)
            options = dataclasses.replace(options, output_name=None)
        super().__init__(about, options, example)
        self.model = model
        self.shape = shape_of(model, example)

    def convert(self) -> Converted:
        by_graph_first = not lists_layers(self.model)
        first, second = (self.by_graph, self.by_config) if by_graph_first else (self.by_config, self.by_graph)
        reason = self.tried(first, alone=False)
        if isinstance(reason, Conversion):
            return reason, first
        other = self.tried(second)
        if isinstance(other, Conversion):
            return other, second
        if isinstance(reason, NetworkError) or not isinstance(other, SourceError):
            raise reason if isinstance(reason, NetworkError) else other
        raise SourceError(f"{reason}; otherwise: {other}")

    def by_config(self, options: ConvertOptions) -> Reading:
        return read_config_of(self.model, self.about, options)

    def by_graph(self, options: ConvertOptions) -> Reading:
        if self.shape is None:
            raise SourceError(f"{self.about} does not say the shape of its inputs; give example=rows")
        with quiet():
            return read_graph_of(self.model, self.about, self.shape, options)

    def answers(self, reading: Reading, read: Read) -> Answers:
        config = entering_mapping(reading, self.options)
        entry = config if read == self.by_config else (self.options.input or DEFAULT_INPUT)
        program = live_program(self.model, reading, entry, self.shape)
        example = self.example
        try:
            with quiet():
                require(program, reading.net)
            if example is None:
                x = _random_rows(reading.net.input, reading.net.depth, affordable_rows(reading.net, ROWS))
            elif example.ndim < 2 or example.dtype.kind not in "fiub" or example[0].size != reading.net.depth:
                raise InputError(
                    f"example is {example.dtype} of shape {example.shape}, needed are rows of {reading.net.depth} numbers, "
                    "pixels or as the model takes them"
                )
            else:
                x = reading.as_network(example)
                if example.dtype.kind not in "iub" or isinstance(reading.net.input, RealInput):  # as the model takes them
                    program = dataclasses.replace(program, input=RealInput())
            answers = program.run(x)
        except NotRunnable as error:
            raise SourceError(f"{self.about} cannot be run: {error}") from None
        given = Answers.of(x, answers, "the model's own answers")
        inner = partial(program.shown, x, together=len(x))
        return dataclasses.replace(given, function=function_of(reading), inner=inner)


class _Torch(_Live):
    """By the graph of what `forward` computes; else by the order of the tensors, if the answers say that this is right."""

    def __init__(self, live: LiveModule, about: str, options: ConvertOptions, example: NDArray[Any] | None) -> None:
        mapping = None if example is None or options.input is not None else _mapping_of(example)
        super().__init__(about, options if mapping is None else dataclasses.replace(options, input=mapping), example)
        self.live = live
        live.output = options.output_name
        self.shape = live.shape() if example is None else tuple(example.shape[1:])

    def convert(self) -> Converted:
        said = self.options
        described = said.float_layers or said.before_norm or said.center or said.scale_by
        reasons: list[Failure] = []
        for read in () if described and not self.live.has_windows else (self.by_export, self.by_trace):
            found = self.tried(read)
            if isinstance(found, Conversion):
                return found, read
            reasons.append(found)
        # A graph that was understood says more than one that could not be written down.
        kinds = (ExpectationError, NetworkError, SourceError)
        reason = next((one for kind in kinds for one in reasons if isinstance(one, kind)), None)
        if self.live.has_windows and reason is not None:  # which windows look on which maps is in no tensor
            raise reason
        if isinstance(reason, NetworkError) and any(SIGN_OF_SIGNS in one for one in reason.problems):  # nor do tensors show it
            raise reason
        return self._by_order(reason), self.live.by_order

    def by_export(self, options: ConvertOptions) -> Reading:
        return self.live.by_export(options, self.shape)

    def by_trace(self, options: ConvertOptions) -> Reading:
        return self.live.by_trace(options, self.shape)

    def _by_order(self, reason: Failure | None) -> Conversion:
        """By the order of its tensors, if the module's answers say that this is right.  reason: why no graph is read."""
        try:
            conversion, expected = self.packed(self.live.by_order)
        except (SourceError, NetworkError) as error:
            raise reason or error from None
        if reason is None:
            conversion = require_expected(conversion, expected, self.live.by_order)
        elif not _agrees(
            agreement := compare(expected, conversion.reading.net, conversion.packed), expected, conversion.packed
        ):
            text = agreement.text() if not agreement.holds else str(agreement.warning())
            also = f"read by the order of its tensors instead, {text}"
            if isinstance(reason, ExpectationError):
                raise reason
            if isinstance(reason, NetworkError):
                raise NetworkError([*reason.problems, also], about=self.about)
            raise NetworkError([f"{reason}; {also}"], about=self.about)
        # What was taken for lack of a better source is what the module does.
        kept = tuple(text for text in conversion.warnings if not text.partition(";")[0].endswith(UNSAID_BY_FILE))
        return _told(dataclasses.replace(conversion, warnings=kept), len(expected.x))

    def answers(self, reading: Reading, read: Read) -> Answers:
        entry = reading.entry or reading.net.input
        if self.example is not None and self.example[0].size != reading.net.depth:
            raise InputError(f"example has rows of {self.example[0].size} numbers, {self.about} takes {reading.net.depth}")
        if self.example is not None and (self.options.input is not None or _are_pixels(self.example)):
            given = _raw(self.example, entry)
            x = reading.as_network(given)
        else:
            given = x = _random_rows(entry, reading.net.depth, affordable_rows(reading.net, ROWS))
        values = self.example if given is self.example else reading.as_source(mapped_input(entry, x))
        entering = np.asarray(values, np.float32).reshape(len(x), *self.shape)
        answers = reading.scores_of(self.live.run(entering))
        if answers.ndim > 2:
            answers = in_rows(answers)
        x, function = _as_read(x, entry, reading.net.input), function_of(reading)
        if function is not None and answers.ndim == 2:
            _require_clear(answers.reshape(len(answers), -1, reading.net.classes))
        return dataclasses.replace(
            Answers.of(x, answers, f"{self.about} itself"),
            function=function,
            inner=lambda rows, widths: recorded(
                lambda: reading.scores_of(self.live.run(entering)), len(x), Wanted(rows, widths)
            ),
        )


def _agrees(agreement: Agreement, expected: Answers, packed: PackedModel) -> bool:
    return agreement.holds and (agreement.complete or _same_order(expected, packed))


def _same_order(expected: Answers, packed: PackedModel) -> bool:
    """Whether every row's scores stand in the order of the module's, which a function of each, or of a row, does not change."""
    if expected.values.ndim == 1:
        return True
    ours = Model(packed, threads=1).scores(inputs_of(packed.input, packed.shape, expected.x)).reshape(-1, packed.classes)
    theirs = np.take_along_axis(expected.values.reshape(ours.shape), np.argsort(ours, axis=1, kind="stable"), axis=1)
    size = np.abs(theirs).max(axis=1, keepdims=True)
    return bool((np.diff(theirs, axis=1) >= -1e-5 * size).all())


def _are_pixels(example: NDArray[Any]) -> bool:
    return example.dtype.kind in "iub"


def _raw(example: NDArray[Any], entry: InputMapping) -> NDArray[Any]:
    """The example as the packed network takes it: whole numbers are pixels, floats are what the module takes."""
    if isinstance(entry, PixelInput | ChannelInput | ThresholdInput) and not _are_pixels(example):
        return example  # `model.inputs_of` finds the pixels that they were made of
    if _are_pixels(example) and isinstance(entry, PixelInput | ChannelInput | ThresholdInput):
        if example.min() < 0 or example.max() > 255:
            raise InputError(f"example holds whole numbers from {example.min()} to {example.max()}; pixels are 0..255")
        return example.astype(np.uint8)
    return example


def _as_read(x: NDArray[Any], entry: InputMapping, mapping: InputMapping) -> NDArray[Any]:
    """Floats that enter the module as pixels: steps of its own are a part of the packed network's mapping."""
    if x.dtype.kind != "f" or not isinstance(entry, PixelInput | ChannelInput) or entry == mapping:
        return x
    channels = entry.channels if isinstance(entry, ChannelInput) else (entry,)
    pixels = np.empty(x.shape)
    for channel, one in enumerate(channels):
        values = x[:, channel :: len(channels)].astype(np.float64)
        pixels[:, channel :: len(channels)] = (values * one.divisor - one.intercept) / one.slope
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


def _require_clear(answers: NDArray[Any]) -> None:
    """Raise InputError where a function squashed the scores (rows, pixels, classes) so much that it makes the largest equal
    everywhere."""
    ordered = np.sort(answers, axis=2)
    if answers.shape[2] > 1 and not (ordered[..., -1] > ordered[..., -2]).any():
        raise InputError("the module's last function makes the largest scores equal in every row of the example")


def _example(example: Any) -> NDArray[Any] | None:
    if example is None:
        return None
    if hasattr(example, "detach"):
        example = example.detach().cpu()
    rows = array_of(example, "example")
    if rows.ndim < 2 or not rows.size or rows.dtype.kind not in "fiub":
        raise InputError(f"example is {rows.dtype} of shape {rows.shape}, needed are rows (rows, ...) of numbers")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise InputError("example holds numbers that are NaN or infinite")
    return rows


def _random_rows(mapping: InputMapping, depth: int, rows: int = ROWS) -> NDArray[Any]:
    """Random raw inputs (rows, depth) of every kind that a mapping takes: even ones, mostly dark ones, black and white ones."""
    rng = np.random.default_rng(0)
    if isinstance(mapping, PixelInput | ChannelInput | ThresholdInput):
        pixels = rng.integers(0, 256, (rows, depth), dtype=np.uint8)
        pixels[1::4] *= rng.random((len(pixels[1::4]), depth)) < 0.2
        pixels[2::4] = np.where(pixels[2::4] < 128, 0, 255)
        return pixels
    if isinstance(mapping, RealInput):
        return rng.standard_normal((rows, depth)).astype(np.float32)
    return rng.choice(np.array([-1, 1], np.int8), (rows, depth))


def _told(conversion: Conversion, rows: int) -> Conversion:
    """The conversion, with what was compared among the assumptions of its provenance."""
    provenance = {**conversion.packed.provenance, "warnings": list(conversion.warnings)}
    one = Assumption("structure", f"the packed network answers as the model itself on {rows} rows", "graph")
    provenance["assumptions"] = [*provenance["assumptions"], *assumptions_to_json((one,))]
    return dataclasses.replace(conversion, packed=dataclasses.replace(conversion.packed, provenance=provenance))

"""The keywords of `convert`, `from_torch` and `from_keras`: their names and types in one place, and what they come to."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from xnorinfer.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from xnorinfer.converters.latents import ScaleBy
    from xnorinfer.converters.reading import ConvertOptions
    from xnorinfer.net.values import InputMapping


class ConvertKeywords(TypedDict, total=False):
    """What may be said of a network; what is left out is taken from the source, else it is the framework's default.

    `format`, `ema`, `state` and `net` say what to take of a file; `from_torch` and `from_keras` refuse them.

    Attributes:
        format: the kind of checkpoint, by its name (`xnorinfer convert --help` lists them).
        profile: the tie rules of the code that trained it ("tf1-round", "ge-zero", ...).
        bn_epsilon: BatchNorm's epsilon.
        h: the magnitude H of binary weights, or "glorot".
        input: one of the next five as an object of `xnorinfer.net`; they exclude each other.
        input_range: (low, high), what the pixels 0 and 255 became.
        input_normalize: (mean, std), as torchvision's: (p/255 - mean) / std; of colours (means, stds), a number a channel.
        input_threshold: pixels from here on were +1, others -1.
        input_signs: inputs are themselves -1 or +1.
        input_real: inputs are any real numbers.
        input_shape: of one sample as a graph takes it, (3, 32, 32) for example, where the file does not say it.
        float_layers: names of layers that have ordinary float weights.
        ema: take the moving averages of the weights.
        state: which state dict of several is the network, by its key.
        output_name: which of several values that a graph gives is the network's, by its name there.
        sign_of_signs: a graph's sign of what is signs already is read as those signs, and not refused.
        ignore: names or patterns of tensors that take no part.
        before_norm: the function between each hidden sum and its BatchNorm ("relu", "clip:-1:1", ...).
        center: weights are centred, as in XNOR-Net.
        scale_by: how weights are scaled, as in XNOR-Net.
        net: the text of a net.toml, which then says everything.
        max_memory: what may be made of a file, in bytes.
        strict: warnings are errors.  Else each is given as a `ConversionWarning`, and kept in `model.report.warnings`.
        expect: inputs (rows, ...) and what the trained network gives for them in its own framework, scores (rows, classes)
            or classes (rows,), which the model must give, too.
        threads: as in `Model`.
        kernel: as in `Model`.
    """

    format: str | None
    profile: str | None
    bn_epsilon: float | None
    h: float | Literal["glorot"] | None
    input: InputMapping | None
    input_range: tuple[float, float] | None
    input_normalize: tuple[float, float] | tuple[Sequence[float], Sequence[float]] | None
    input_threshold: int | None
    input_signs: bool
    input_real: bool
    input_shape: Sequence[int] | None
    float_layers: Sequence[str]
    ema: bool
    state: str | None
    output_name: str | None
    sign_of_signs: bool
    ignore: Sequence[str]
    before_norm: str | None
    center: bool
    scale_by: ScaleBy | None
    net: str | None
    max_memory: int | None
    strict: bool
    expect: tuple[ArrayLike, ArrayLike] | None
    threads: int | None
    kernel: str | None


#: What says something about making a model, and nothing about the network.
_OF_THE_MODEL = ("strict", "expect", "threads", "kernel")
#: Ways to say how inputs enter, with what their values look like; two of them are flags.
_INPUTS = {
    "input": "PixelInput.range(-1, 1)",
    "input_range": "(-1, 1)",
    "input_normalize": "(0.1307, 0.3081)",
    "input_threshold": "128",
    "input_signs": "True",
    "input_real": "True",
}
_FLAGS = ("input_signs", "input_real")


def spell_out(function: Callable[..., Any]) -> None:
    """Give a function of `ConvertKeywords` a signature that names each of them, for `help` and completion."""
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, stated in ConvertKeywords.__annotations__.items():
        kind = getattr(stated, "__forward_arg__", str(stated))
        default = False if kind == "bool" else () if kind == "Sequence[str]" else None
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


def options_of(keywords: ConvertKeywords, *, answered: bool) -> ConvertOptions:
    """The options of reading that keywords come to.  Raises OptionError, which says what to write instead.

    answered: as in `ConvertOptions`.
    """
    import numpy as np

    from xnorinfer.converters.reading import ConvertOptions

    unknown = sorted(set(keywords) - set(ConvertKeywords.__annotations__))
    if unknown:
        raise OptionError(f"unknown options {', '.join(unknown)}; known are {', '.join(ConvertKeywords.__annotations__)}")
    if not isinstance(keywords.get("strict", False), bool):
        raise OptionError(f"strict {keywords['strict']!r} must be True or False")
    plain: dict[str, Any] = {name: value.item() if isinstance(value, np.generic) else value for name, value in keywords.items()}
    options: dict[str, Any] = {name: value for name, value in plain.items() if name not in (*_OF_THE_MODEL, *_INPUTS)}
    sequences = {name: tuple(value) for name, value in options.items() if isinstance(value, list | set)}
    return ConvertOptions(**{**options, **sequences, "input": input_mapping(plain), "answered": answered})


def input_mapping(given: Mapping[str, Any], spelled: Callable[[str], str] = str) -> InputMapping | None:
    """The one input mapping that options say, None if none does.  spelled: how an option is called in messages.

    Raises OptionError for several, for values of a wrong type and for impossible ones.
    """
    from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, SignInput, ThresholdInput

    for name in _FLAGS:
        if not isinstance(given.get(name, False), bool):
            raise OptionError(f"{spelled(name)} {given[name]!r} must be True or False")
    chosen = [name for name in _INPUTS if given.get(name) is not None and not (name in _FLAGS and given[name] is False)]
    if len(chosen) > 1:
        raise OptionError(f"{' and '.join(map(spelled, chosen))} exclude each other; the inputs of a network have one mapping")
    if not chosen:
        return None
    name = chosen[0]
    value = given[name]
    if name == "input":
        return _mapping(value)
    if name == "input_threshold":
        return ThresholdInput(value)
    if name == "input_normalize" and _are_lists(value):
        return ChannelInput.normalize(*value)
    if name in ("input_range", "input_normalize"):
        if not _is_pair(value):
            raise OptionError(f"{name} {value!r} is no pair of numbers; write {name}={_INPUTS[name]}")
        return PixelInput.range(*value) if name == "input_range" else PixelInput.normalize(*value)
    return SignInput() if name == "input_signs" else RealInput()


def _mapping(value: object) -> InputMapping:
    """`input` as it was given.  Raises OptionError with the keyword that it may have been meant for."""
    import numpy as np

    from xnorinfer.net.values import InputMapping

    if isinstance(value, InputMapping):
        return value
    if _is_pair(value):
        low, high = np.asarray(value).tolist()
        instead = f"write input_range=({low}, {high}) for pixels that were mapped to {low}..{high}, "
        instead += f"input_normalize=({low}, {high}) for torchvision's mean and deviation" if min(low, high) > 0 else ""
    elif isinstance(value, int) and not isinstance(value, bool):
        instead = f"write input_threshold={value} for pixels that were +1 from {value} on"
    else:
        instead = f"write {', '.join(f'{name}={like}' for name, like in _INPUTS.items() if name != 'input')}"
    raise OptionError(
        f"input {value!r} is no input mapping; those of xnorinfer.net are PixelInput.range(-1, 1), "
        f"PixelInput.normalize(0.1307, 0.3081), ThresholdInput(128), SignInput() and RealInput(); {instead.removesuffix(', ')}"
    )


def _are_lists(value: Any) -> bool:
    """Whether it is two sequences, of several colours each."""
    import numpy as np

    kinds = (tuple, list, np.ndarray)
    return isinstance(value, kinds) and len(value) == 2 and all(isinstance(one, kinds) and len(one) > 1 for one in value)


def _is_pair(value: object) -> bool:
    import numpy as np

    if not isinstance(value, tuple | list | np.ndarray) or len(value) != 2:
        return False
    return all(isinstance(one, int | float | np.integer | np.floating) and not isinstance(one, bool) for one in value)


def path_of(source: object, call: str, otherwise: str) -> Path:
    """The path that a call was given.  Raises OptionError that says what else takes other things."""
    if not isinstance(source, str | os.PathLike):
        raise OptionError(f"{call} takes a path, not {type(source).__name__}; {otherwise}")
    return Path(source)

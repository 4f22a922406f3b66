"""The table [input] of a net.toml: what enters the network."""

from __future__ import annotations

from xnorinfer.converters.nettoml.table import Table
from xnorinfer.errors import OptionError
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput

INPUTS = ("range", "normalize", "raw", "affine", "threshold", "signs", "reals")
_OF_CHANNELS = {
    "normalize": "[MEAN, STD], or [[MEAN, ...], [STD, ...]] with one of each a channel",
    "affine": "[SLOPE, INTERCEPT, DIVISOR], or a list of such, one a channel",
}


def mapping_of(table: Table) -> InputMapping | None:
    """The mapping; None after reporting a problem."""
    kind = table.one_of(INPUTS)
    span = table.numbers("range", 2, "LOW, HIGH")
    normalize, affine = _by_channels(table, "normalize", count=2), _by_channels(table, "affine", each=3)
    threshold = table.integer("threshold", least=1, most=255)
    flags = {name: table.flag(name) for name in ("raw", "signs", "reals")}
    try:
        if kind == "range" and span is not None:
            return PixelInput.range(*span)
        if kind == "normalize" and normalize is not None:
            return ChannelInput.normalize(*normalize)
        if kind == "affine" and affine is not None:
            mappings = [PixelInput(*one) for one in affine]
            return mappings[0] if len(set(mappings)) == 1 else ChannelInput(tuple(mappings))
    except OptionError as error:
        assert kind is not None
        table.problem(kind, str(error))
        return None
    if kind == "threshold" and threshold is not None:
        return ThresholdInput(threshold)
    if kind not in flags:
        return None
    if not flags[kind]:
        table.problem(kind, "is given only as true")
        return None
    found: dict[str, InputMapping] = {"raw": PixelInput.range(0, 255), "signs": SignInput(), "reals": RealInput()}
    return found[kind]


def _by_channels(table: Table, key: str, *, count: int | None = None, each: int | None = None) -> list[list[float]] | None:
    """Lists of numbers, of channels; numbers themselves are of all: two lists of one, or one list of three."""
    given = table.values.get(key)
    if isinstance(given, list) and any(isinstance(one, list) for one in given):
        return table.lists(key, _OF_CHANNELS[key], count=count, each=each)
    numbers = table.numbers(key, count or each or 0, _OF_CHANNELS[key].partition("]")[0][1:])
    if numbers is None:
        return None
    return [[one] for one in numbers] if count else [list(numbers)]

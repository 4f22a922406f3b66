"""What a user says in Python about a network: every keyword, and every wrong type named with what to write instead."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT

import xnorinfer
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import OptionError
from xnorinfer.keywords import ConvertKeywords
from xnorinfer.net.values import PixelInput, RealInput, SignInput, ThresholdInput


def test_a_string_is_no_list_of_layers() -> None:
    with pytest.raises(OptionError, match="must be a sequence of layer names"):
        xnorinfer.convert("net.npz", float_layers="fc4")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"float_layers": 4}, "must be a sequence of layer names"),
        ({"ignore": "*/Adam*"}, "must be a sequence of names or patterns"),
        ({"ignore": [3]}, "must be a sequence of names or patterns"),
        ({"input": (-1, 1)}, r"is no input mapping; those of xnorinfer.net are PixelInput.range\(-1, 1\)"),
        ({"input": (-1, 1)}, r"; write input_range=\(-1, 1\) for pixels that were mapped to -1..1$"),
        ({"input": np.array([0.5, 2])}, r"write input_range=\(0.5, 2.0\) .*, input_normalize=\(0.5, 2.0\) for torchvision's"),
        ({"input": 128}, "; write input_threshold=128 for pixels that were"),
        ({"input": False}, "input False is no input mapping"),
        ({"input_range": False}, "input_range False is no pair of numbers"),
        ({"input_threshold": False}, "input threshold False is not a whole number"),
        ({"input": "real"}, r"write input_range=\(-1, 1\), .*, input_real=True"),
        ({"input_range": "-1:1"}, r"input_range '-1:1' is no pair of numbers; write input_range=\(-1, 1\)"),
        ({"input_range": (0, 0)}, "maps every pixel to one value"),
        ({"input_normalize": ((0.1307,), (0.3081,))}, r"is no pair of numbers; write input_normalize=\(0.1307, 0.3081\)"),
        ({"input_threshold": 0.5}, "input threshold 0.5 is not a whole number"),
        ({"input_threshold": 0}, "makes every pixel the same bit"),
        ({"input_signs": 1}, "input_signs 1 must be True or False"),
        ({"input": RealInput(), "input_range": (-1, 1)}, "input and input_range exclude each other"),
        ({"input_threshold": 3, "input_real": True}, "input_threshold and input_real exclude each other"),
        ({"strict": "no"}, "strict 'no' must be True or False"),
        ({"threads": "2"}, "give a whole number, 1 to"),
        ({"max_memory": "4G"}, "is no number of bytes above 0"),
        ({"h": [1]}, "neither a finite number above 0 nor 'glorot'"),
        ({"h": "big"}, "neither a finite number above 0 nor 'glorot'"),
        ({"bn_epsilon": "1e-3"}, "not a finite number"),
        ({"profile": ["ge-zero"]}, "is none of"),
        ({"format": 3}, "is no name of a format"),
        ({"ema": "yes"}, "must be True or False"),
        ({"net": Path("net.toml")}, "must be the text of a net.toml"),
        ({"answered": True}, "unknown options answered; known are format,"),
        ({"epsilon": 1e-3}, "unknown options epsilon; known are format,"),
    ],
)
def test_options_of_a_wrong_type_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        xnorinfer.convert(CHECKPOINT, **option)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "mapping"),
    [
        ({"input_range": (-1, 1)}, PixelInput.range(-1, 1)),
        ({"input_range": np.array([0, 1], np.float32)}, PixelInput.range(0, 1)),
        ({"input_normalize": [0.1307, 0.3081]}, PixelInput.normalize(0.1307, 0.3081)),
        ({"input_threshold": np.int64(128)}, ThresholdInput(128)),
        ({"input_signs": True}, SignInput()),
        ({"input_real": True, "input_signs": False, "input": None}, RealInput()),
        ({"input": PixelInput.range(0, 255)}, PixelInput.range(0, 255)),
    ],
)
def test_how_inputs_enter_is_said_as_on_the_command_line(keywords: dict[str, Any], mapping: object) -> None:
    model = xnorinfer.convert(CHECKPOINT, **keywords, bn_epsilon=np.float32(1e-4))
    assert model.packed.input == mapping
    model.info["provenance"]["options"].pop("bn_epsilon")
    json.dumps(model.info)


def test_every_keyword_is_in_the_signature_and_explained() -> None:
    """For `help` and completion; each is an option of reading with the same default, a way inputs enter, or of the model."""
    named = set(ConvertKeywords.__annotations__)
    for function in (xnorinfer.convert, xnorinfer.from_torch, xnorinfer.from_keras):
        parameters = inspect.signature(function).parameters
        assert named <= set(parameters)
        assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in named)
    defaults = {field.name: field.default for field in dataclasses.fields(ConvertOptions) if field.name != "answered"}
    assert {name: parameters[name].default for name in defaults} == defaults
    explained = set(re.findall(r"\w+", ConvertKeywords.__doc__ or ""))
    assert named <= explained


class OnAnotherDevice:
    """As a tensor on a GPU, or one with a gradient."""

    def __array__(self, *args: Any, **more: Any) -> Any:
        raise RuntimeError("it is on a GPU")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: xnorinfer.convert({"w": np.ones(3)}),
            "convert takes a path, not dict; live models are converted by from_torch",
        ),
        (lambda: xnorinfer.load(3), "load takes a path, not int"),
        (lambda: xnorinfer.pack("net.npz"), "pack takes a Net of xnorinfer.net, not str"),
        (lambda: xnorinfer.convert(CHECKPOINT, data=[[1], [2, 3]]), "data is no rectangular array"),
        (lambda: xnorinfer.convert(CHECKPOINT, data=OnAnotherDevice()), "data is no array: it is on a GPU"),
        (lambda: xnorinfer.convert(CHECKPOINT, expect=3), "expect must be a pair"),
        (lambda: xnorinfer.convert(CHECKPOINT, expect=([[1]], OnAnotherDevice())), r"expect\[1\] is no array: it is on a GPU"),
        (lambda: xnorinfer.convert(CHECKPOINT, expect=([[1], [2, 3]], [0])), r"expect\[0\] is no rectangular array"),
        (lambda: PixelInput.range("a", 1), "input range takes two numbers, and 'a' is none"),
        (lambda: PixelInput.normalize((0.1,), 1), "input normalization takes two numbers"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(xnorinfer.XnorinferError, match=message):
        call()

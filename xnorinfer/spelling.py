"""Texts that name options of the command line, as Python says them: one place, for every warning and error that has some."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator

from xnorinfer.errors import XnorinferError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_LIST = rf"{_NUMBER}(?:,{_NUMBER})*"
#: A name of a layer or tensor, or a pattern of names; words of a sentence are none.
_NAME = r"(?!(?:is|says?|names?|and|or|would|leaves|decides?|can|with)\b)(?:'[^']+'|[^\s,;:()`']+(?<!\.))"


def _pair(value: str) -> str:
    parts = [part if "," not in part else f"({part.replace(',', ', ')})" for part in value.split(":")]
    return f"({', '.join(parts)})"


def _text(value: str) -> str:
    return '"' + value.strip("'") + '"'


def _texts(value: str) -> str:
    return f"[{_text(value)}]"


def _sizes(value: str) -> str:
    return f"({value.replace(',', ', ')}{'' if ',' in value else ','})"


def _number_or_text(value: str) -> str:
    return value if re.fullmatch(_NUMBER, value) else _text(value)


#: Option -> keyword, what a value looks like, and how Python writes it.  A flag has no value.
_OPTIONS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "format": ("format", _NAME, _text),
    "profile": ("profile", r"(?:tf1-round|keras-round|theano(?:-0\.9)?|torch-sign|ge-zero|gt-zero)\b", _text),
    "bn-epsilon": ("bn_epsilon", _NUMBER, str),
    "h": ("h", rf"(?:{_NUMBER}|glorot\b)", _number_or_text),
    "input-range": ("input_range", rf"{_NUMBER}:{_NUMBER}", _pair),
    "input-normalize": ("input_normalize", rf"{_LIST}:{_LIST}", _pair),
    "input-threshold": ("input_threshold", r"\d+", str),
    "input-signs": ("input_signs=True", "", str),
    "input-real": ("input_real=True", "", str),
    "input-shape": ("input_shape", r"\d+(?:,\d+)*", _sizes),
    "float-layer": ("float_layers", _NAME, _texts),
    "before-norm": (
        "before_norm",
        rf"(?:relu|leaky-relu(?::(?:SLOPE|{_NUMBER}))?|tanh|sigmoid|hardtanh|clip:{_NUMBER}:{_NUMBER})(?![\w-])",
        _text,
    ),
    "center": ("center=True", "", str),
    "scale-by": ("scale_by", r"mean-abs(?:-layer)?", _text),
    "ema": ("ema=True", "", str),
    "state": ("state", _NAME, _text),
    "output-name": ("output_name", _NAME, _text),
    "sign-of-signs": ("sign_of_signs=True", "", str),
    "net": ("net", "", str),
    "ignore": ("ignore", _NAME, _texts),
    "data": ("data", "", str),
    "expect": ("expect", "", str),
    "strict": ("strict=True", "", str),
    "max-memory": ("max_memory", r"\d+(?![\w.])", str),
}
_BY_LENGTH = sorted(_OPTIONS, key=len, reverse=True)
#: Several layers or patterns in a row are one keyword.
_AGAIN = re.compile(r"\b(float_layers|ignore)=\[([^\]]+)\], \1=\[")


@functools.cache
def _option() -> re.Pattern[str]:
    """Any option with its value; compiled where there is a text, not when the package is imported."""
    options = (
        rf"(?:{name}(?![\w-])(?:[ =](?P<v{number}>{_OPTIONS[name][1] or '(?!)'}))?)" for number, name in enumerate(_BY_LENGTH)
    )
    return re.compile(rf"(?<![\w-])--(?:{'|'.join(options)})")


def in_python(text: str) -> str:
    """The same text with keywords of `convert` for options of `xnorinfer convert`: `--input-range=0:1` is `input_range=(0, 1)`,
    `--h` alone `h=`.  Options that only the command line has stay."""

    def spelled(found: re.Match[str]) -> str:
        word = found[0].removeprefix("--")
        name = next(one for one in _BY_LENGTH if re.match(rf"{one}(?![\w-])", word))
        keyword, _, write = _OPTIONS[name]
        value = found[f"v{_BY_LENGTH.index(name)}"]
        return "\0" + (keyword if "=" in keyword else f"{keyword}={'' if value is None else write(value)}") + "\1"

    text = _option().sub(spelled, text).replace("\1 \0", ", ").replace("\0", "").replace("\1", "")
    while (joined := _AGAIN.sub(r"\1=[\2, ", text)) != text:
        text = joined
    return text


@contextlib.contextmanager
def python_words() -> Iterator[None]:
    """Errors that leave the block speak of keywords."""
    try:
        yield
    except XnorinferError as error:
        error.reword(in_python)
        raise

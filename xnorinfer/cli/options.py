"""Values on the command line that need reading: pairs, lists, choices that are defined elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from xnorinfer.errors import OptionError


class ModelFile(click.ParamType):
    """A model file, or the name of a model that ships; gives the file's path."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from xnorinfer import shipped

        return str(shipped.locate(value))


MODEL = click.argument("model", type=ModelFile())
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads to use at most.  [default: XNORINFER_NUM_THREADS, else the cores this process may use]",
)


def _json_alone(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        from xnorinfer.cli import screen

        ctx.with_resource(screen.json_only())
    return value


JSON = click.option(
    "--json", "as_json", is_flag=True, callback=_json_alone, help="The result as one JSON object on stdout, and nothing else."
)
EXPECT = click.option(
    "--expect",
    metavar="FILE.npz",
    help="Answers of the trained network itself, which the packed one must give: arrays x and scores or classes "
    "(or two files, X.npy:SCORES.npy).",
)


class _Value(click.ParamType):
    """A value with its own name in help texts."""

    def __init__(self, metavar: str) -> None:
        self.name = metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


class Size(_Value):
    """A number of bytes: '4G', '500M', '123456'."""

    def __init__(self) -> None:
        super().__init__("SIZE")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from xnorinfer.budget import parse_size

        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except ValueError:
            self.fail(f"{value!r} is no size in bytes like 500M or 4G", param, ctx)


MAX_MEMORY = click.option(
    "--max-memory",
    type=Size(),
    help="What may be made of a file in memory, for one that needs more and is trusted, like 4G.  [default: 64 times its size "
    "and 64 MiB]",
)


class Pair(_Value):
    """Two numbers with a colon between: '-1:1'."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        try:
            first, second = (float(part) for part in str(value).split(":"))
        except ValueError:
            self.fail(f"{value!r} is not {self.name}: two numbers with a colon between", param, ctx)
        return first, second


class PairOfLists(_Value):
    """Two numbers with a colon between, or as many on either side, with commas: '0.5,0.4,0.3:0.2,0.2,0.2'."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, Any]:
        try:
            first, second = (tuple(map(float, part.split(","))) for part in str(value).split(":"))
        except ValueError:
            self.fail(
                f"{value!r} is not {self.name}: two numbers with a colon between, or a list a channel of each", param, ctx
            )
        return (first[0], second[0]) if len(first) == len(second) == 1 else (first, second)


class Sizes(_Value):
    """Positive whole numbers with commas between: '3,32,32'."""

    example = "3,32,32"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} is not a list of positive whole numbers like {self.example}", param, ctx)
        return counts


class Counts(Sizes):
    """Numbers to try, each once: '1,16,256'."""

    example = "1,16,256"

    def __init__(self) -> None:
        super().__init__("N,N,...")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        return tuple(dict.fromkeys(super().convert(value, param, ctx)))


class LazyChoice(_Value):
    """One of some names that are asked for only when needed, to keep the start of the program quick."""

    def __init__(self, metavar: str, names: Callable[[], Iterable[str]]) -> None:
        super().__init__(metavar)
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = tuple(self._names())
        if value not in names:
            self.fail(f"{value!r} is none of {', '.join(names)}", param, ctx)
        return str(value)


class GlorotOrNumber(_Value):
    """The magnitude H of binary weights: a number or 'glorot'."""

    def __init__(self) -> None:
        super().__init__("VALUE|glorot")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if str(value).lower() == "glorot":
            return "glorot"
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'glorot'", param, ctx)
        if not 0 < number < float("inf"):
            raise OptionError(f"H is {number:g}; needed is a finite number above 0, or 'glorot'")
        return number

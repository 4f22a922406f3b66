"""Compiling: the functions of `layers` and `driver` to object code, through numba.  Imported only when something is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xnorinfer.kernels import numba_private

with numba_private.settings():  # they hold for what these define
    from xnorinfer.kernels import (
        channel_layers,
        driver,
        finish,
        float_layers,
        gathers,
        layers,
        level_layers,
        map_layers,
        mapped_pixels,
        nibble_layers,
        parity_layers,
        peaks,
        vector_ir,
    )


def library(maker: str, symbol: str, arity: int, arguments: tuple[Any, ...], returns: bool) -> Any:
    """numba's code library with a C function `symbol` of `arity` int64; returns an int64 or nothing."""
    modules = (
        layers,
        finish,
        parity_layers,
        nibble_layers,
        map_layers,
        gathers,
        float_layers,
        channel_layers,
        mapped_pixels,
        level_layers,
        driver,
        peaks,
    )
    make = next(getattr(module, maker) for module in modules if hasattr(module, maker))

    def define(module: Any, call: Callable[[Any, Any], Any]) -> None:
        vector_ir.define_entry(module, symbol, arity, returns, call)

    with numba_private.settings():
        function = make(*arguments)
    return numba_private.library(function, arity, returns, define)


def object_code(maker: str, symbol: str, arity: int, arguments: tuple[Any, ...], returns: bool) -> bytes:
    """An object file with the C function `symbol`; see `library`."""
    return numba_private.object_code(library(maker, symbol, arity, arguments, returns))

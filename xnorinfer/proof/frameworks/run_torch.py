"""TorchScript and torch.export archives in PyTorch, which runs the code in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.converters.containers.torchfile import is_export, is_script
from xnorinfer.converters.containers.ziparchive import names_in
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.float32 import F32
from xnorinfer.proof.frameworks.program import Array, NotRunnable, Program, Wanted, framework, input_shape, refusing


def open_torch(path: Path, reading: Reading, options: ConvertOptions) -> Program | None:
    """None for state dicts.  Raises NotRunnable and MissingExtraError."""
    names = names_in(path) or []
    if not (is_export(names) or is_script(names)):
        return None
    torch = framework("torch", path)
    with refusing("torch"):
        module, dims = _exported(torch, path) if is_export(names) else _scripted(torch, path)

    batch, shape = input_shape([None, *(reading.sample or [None])] if dims is None else dims, reading.net.depth)

    def call(x: F32) -> Array:
        given = np.ascontiguousarray(reading.as_source(x).reshape(-1, *shape))
        with torch.inference_mode():
            answers = torch.utils._pytree.tree_leaves(module(torch.from_numpy(given)))
        if len(answers) > 1 and reading.place is None:
            raise NotRunnable(f"it gives {len(answers)} tensors; --output-name says which is the network's")
        return reading.scores_of(answers[reading.place or 0].numpy())

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        return recorded(lambda: call(x), len(x), wanted)

    return Program("torch", torch.__version__, reading.entry or reading.net.input, batch, shape, call, inner=inner)


def recorded(call: Callable[[], Array], rows: int, wanted: Wanted) -> list[Array]:
    """What is called gives of so many rows, and what PyTorch's operations give on the way, as `Program.inner` does."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[Array] = []

    class Recorder(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            gives = operation(*given, **(named or {}))
            for one in gives if isinstance(gives, tuple | list) else (gives,):
                if isinstance(one, torch.Tensor) and one.dtype == torch.float32:
                    found.extend(wanted.of([one.detach().numpy()], rows))
            return gives

    with Recorder():
        answer = call()
    return [answer[wanted.rows], *found]


def _scripted(torch: Any, path: Path) -> tuple[Any, list[int | None] | None]:
    """The module, and the shape of its input as far as it was traced; its batch is free then."""
    module = torch.jit.load(str(path), map_location="cpu").eval()
    sizes = list(module.graph.inputs())[1].type()
    sizes = sizes.sizes() if hasattr(sizes, "sizes") else None
    return module, None if sizes is None else [None, *sizes[1:]]


def _exported(torch: Any, path: Path) -> tuple[Any, list[int | None]]:
    program = torch.export.load(str(path))
    (name,) = program.graph_signature.user_inputs
    entry = next((node for node in program.graph.nodes if node.op == "placeholder" and node.name == name), None)
    if entry is None:
        raise NotRunnable(f"its graph does not have its input {name}")
    return program.module(), [dim if isinstance(dim, int) else None for dim in entry.meta["val"].shape]

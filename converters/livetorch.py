"""Live PyTorch modules: exported, so that their graph is read, and run.

`torch.export` writes down what `forward` computes; where it gives up, `torch.jit.trace` does.  Both are read from an archive in
a temporary folder, as any other is.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.converters.torch import from_torch_module, unwrapped
from xnorinfer.converters.torchgraphs.torchexport import read_export
from xnorinfer.converters.torchgraphs.torchscript import read_script
from xnorinfer.errors import NetworkError, SourceError

if TYPE_CHECKING:
    import torch

#: Rows of the example that a module is exported with.
EXPORTED_ROWS = 3


class LiveModule:
    """A module to be read and run, in evaluation mode; the user's own is left as it is.

    A copy is run: scripts exist whose forward writes into the weights.  Where there can be none, the module itself is, and its
    mode is put back.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.name = type(module).__name__
        self.original = unwrapped(module)
        self.has_windows = any(map(_has_windows, self.original.modules()))
        self.output: str | None = None  # which of several values is its answer, by its place
        self._module: torch.nn.Module | None = None
        self._graphs: dict[str, OnnxGraph | SourceError] = {}

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Within this it can be run and exported."""
        import torch

        modes = {}
        try:
            self._module = copy.deepcopy(self.original).cpu()
        except Exception:  # whatever a module's own attributes raise
            self._module = self.original
            modes = {inner: inner.training for inner in self.original.modules()}
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._module.eval()
                if self._module is not self.original:
                    _plain_weights(self._module)
                yield
        finally:
            for inner, training in modes.items():
                inner.training = training

    # ---------------------------------------------------------------- run

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """What it gives for (rows, ...) float32: scores (rows, classes), or classes.  Raises SourceError."""
        import torch

        assert self._module is not None
        try:
            answer = self._module(torch.from_numpy(np.ascontiguousarray(x, np.float32)))
        except Exception as error:  # its own code may raise anything
            text = next(iter(str(error).strip().splitlines()), "")[:300]
            told = f"{self.name} cannot be run on inputs {x.shape}: {type(error).__name__}: {text}{self._other_type()}"
            raise SourceError(told) from None
        several = torch.utils._pytree.tree_leaves(answer)
        if self.output in [str(place) for place in range(len(several))]:
            answer = several[int(self.output or 0)]
        if not isinstance(answer, torch.Tensor) or answer.ndim < 1 or len(answer) != len(x):
            what = f"a tensor {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
            places = [f'output_name="{place}"' for place in range(len(several))] if several and several[0] is not answer else []
            told = f"; {' or '.join(places)} takes one of them" if places else ""
            raise SourceError(f"{self.name} gives {what} for {len(x)} rows; needed are scores ({len(x)}, classes){told}")
        return np.asarray(answer.detach().cpu().float().numpy() if answer.is_floating_point() else answer.cpu().numpy())

    def shape(self) -> tuple[int, ...]:
        """The shape of a sample: tried on the module, from the widths of its layers.  Raises SourceError."""
        if self.has_windows:
            raise SourceError(f"{self.name}: the shape of the images that it takes is not known; give example=rows")
        errors = []
        for depth in self._widths():
            side = round(depth**0.5)
            images = [(1, side, side), (side, side)] if side * side == depth else []
            for shape in ((depth,), *images):
                error = self._refused(shape)
                if error is None:
                    return shape
                errors.append(error)
        told = f" ({errors[0]})" if errors else ""
        raise SourceError(f"{self.name}: the shape of its inputs is not known{told}; give example=rows")

    def _refused(self, shape: tuple[int, ...]) -> str | None:
        """Why it does not take samples of a shape; None if it does."""
        try:
            self.run(np.zeros((EXPORTED_ROWS, *shape), np.float32))
        except SourceError as error:
            return str(error)
        return None

    def _widths(self) -> Sequence[int]:
        """How many inputs its layers have, in the order in which they are registered."""
        found: dict[int, None] = {}
        for inner in self.original.modules():
            for attribute in ("in_features", "num_features"):
                width = getattr(inner, attribute, None)
                if isinstance(width, int) and width > 0:
                    found[width] = None
        for parameter in self.original.parameters():
            if parameter.ndim == 2:
                found[int(parameter.shape[1])] = None
        return list(found)

    # ---------------------------------------------------------------- read

    def by_export(self, options: ConvertOptions, shape: tuple[int, ...]) -> Reading:
        """By `torch.export`.  Raises SourceError, OptionError or NetworkError."""
        return self._by("torch.export", _export, options, shape)

    def by_trace(self, options: ConvertOptions, shape: tuple[int, ...]) -> Reading:
        """By `torch.jit.trace`.  Raises SourceError, OptionError or NetworkError."""
        return self._by("torch.jit.trace", _trace, options, shape)

    def by_order(self, options: ConvertOptions) -> Reading:
        """By its tensors, in the order in which they are registered.  Raises SourceError, OptionError or NetworkError."""
        return from_torch_module(self.original, dataclasses.replace(options, sign_of_signs=False))

    def _by(
        self, how: str, write: Callable[[Any, Any, Path], OnnxGraph], options: ConvertOptions, shape: tuple[int, ...]
    ) -> Reading:
        if how not in self._graphs:
            self._graphs[how] = self._graph(how, write, shape)
        graph = self._graphs[how]
        if isinstance(graph, SourceError):
            raise graph
        return read_graph("torch", graph, self.name, options, "torch")

    def _graph(self, how: str, write: Callable[[Any, Any, Path], OnnxGraph], shape: tuple[int, ...]) -> OnnxGraph | SourceError:
        import torch

        example = torch.rand((EXPORTED_ROWS, *shape), generator=torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory(prefix="xnorinfer-") as folder:
            path = Path(folder) / self.name
            try:
                with _silent():
                    return write(self._module, example, path)
            except (SourceError, NetworkError) as error:
                return SourceError(str(error))
            except Exception as error:  # exporters raise nearly anything about code that they do not understand
                text = next(iter(str(error).strip().splitlines()), "")[:300]
                return SourceError(f"{how} cannot export {self.name}: {type(error).__name__}: {text}{self._other_type()}")

    def _other_type(self) -> str:
        """What to do where its weights are no float32, which code may not bear beside its inputs; else nothing."""
        for name, tensor in self.original.named_parameters():
            if tensor.is_floating_point() and str(tensor.dtype) != "torch.float32":
                return f"; {name} is {tensor.dtype}, and networks in float32 can be converted: module.float() makes one"
        return ""


def _plain_weights(module: torch.nn.Module) -> None:
    """Weights that PyTorch's own parametrizations compute (weight_norm, spectral_norm, orthogonal) as what they are by now."""
    import torch

    own = torch.nn.utils.parametrizations.__name__
    for inner in list(module.modules()):
        chains = inner.parametrizations.items() if torch.nn.utils.parametrize.is_parametrized(inner) else ()
        if not chains or any(type(one).__module__ != own for _, chain in chains for one in chain):
            continue
        weights = {name: getattr(inner, name).detach() for name, _ in chains}
        inner.__class__ = type(inner).__bases__[0]  # a class that the user's own module has, too, is left as it is
        del inner._modules["parametrizations"]
        for name, weight in weights.items():
            inner.register_parameter(name, torch.nn.Parameter(weight))


def _has_windows(module: torch.nn.Module) -> bool:
    """Whether a module is a convolution."""
    import torch

    return isinstance(module, torch.nn.modules.conv._ConvNd)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what exporters print and log about code that they do not understand: the next way is tried then."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _export(module: Any, example: Any, path: Path) -> OnnxGraph:
    import torch

    path = path.with_suffix(".pt2")
    torch.export.save(torch.export.export(module, (example,), strict=False), path)
    return read_export(path)


def _trace(module: Any, example: Any, path: Path) -> OnnxGraph:
    import torch

    path = path.with_suffix(".pt")
    torch.jit.trace(module, example, check_trace=False).save(str(path))
    graph = read_script(path)  # of a script the archive does not say the shape
    return graph if graph.shape is not None else dataclasses.replace(graph, shape=(None, *example.shape[1:]))

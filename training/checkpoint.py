"""The files that training writes: named npz arrays, PyTorch and TensorFlow checkpoints for `xnorinfer convert`, and the
training state.

An interruption leaves the old file or the new one, never half a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xnorinfer.errors import OutputError, SourceError
from xnorinfer.files import replacing
from xnorinfer.training.binarylayers import BinaryConv2d
from xnorinfer.training.bundle import write_bundle
from xnorinfer.training.trainable import BATCH_NORM_EPSILON, BinaryNet


def save(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make a file of what `write` writes to the stream that it is given.  Raises OutputError."""
    with replacing(path) as stream:
        try:
            write(stream)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            raise OutputError(f"{path}: cannot be written: {error}") from error


def named_arrays(model: BinaryNet) -> dict[str, NDArray[Any]]:
    """The network in the named npz layout: per layer `0.weight` (neurons, depth) latents, `0.bias`, `0.bn.gamma`,
    `0.bn.beta`, `0.bn.mean`, `0.bn.var`, all float32, and `0.bn.epsilon`, one float64.

    Of convolutions `0.weight` is (neurons, kernel height, kernel width, channels); `0.stride`, `0.padding` and `0.pool.size`
    stand beside it, and `shape`, (height, width, channels) of an image, first of all.  Dense layers read maps flattened with
    channels innermost, and not as in PyTorch.  The layout's defaults - the tie rule round-even, H = 1, pixels mapped to
    -1..1 - are this recipe's.
    """
    arrays: dict[str, NDArray[Any]] = {}
    if len(model.shape.input_shape) == 3:
        arrays["shape"] = np.array(model.shape.input_shape)
    for index, ((layer, norm), pool, read) in enumerate(zip(model.layers(), model.pools, model.shape.values(), strict=False)):
        weight = layer.weight
        if isinstance(layer, BinaryConv2d):
            weight = weight.permute(0, 2, 3, 1)
        elif len(read) == 3:
            weight = weight.reshape(-1, read[2], *read[:2]).permute(0, 2, 3, 1).flatten(1)
        tensors: dict[str, Tensor | None] = {
            "weight": weight,
            "bias": layer.bias,
            "bn.gamma": norm.weight,
            "bn.beta": norm.bias,
            "bn.mean": norm.running_mean,
            "bn.var": norm.running_var,
        }
        for name, tensor in tensors.items():
            if tensor is not None:
                arrays[f"{index}.{name}"] = tensor.detach().contiguous().numpy().copy()
        arrays[f"{index}.bn.epsilon"] = np.array(norm.eps)
        if isinstance(layer, BinaryConv2d):
            down, across = (int(size) for size in layer.padding)
            arrays[f"{index}.stride"] = np.array(layer.stride)
            arrays[f"{index}.padding"] = np.array([down, down, across, across])
        if pool > 1:
            arrays[f"{index}.pool.size"] = np.array([pool, pool])
    return arrays


def write_npz(path: Path, model: BinaryNet) -> None:
    """The named arrays, compressed.  With H = 1 `xnorinfer convert` needs no options; else it needs the same `--h`."""
    arrays: dict[str, Any] = {**named_arrays(model)}
    save(path, lambda file: np.savez_compressed(file, **arrays))


def write_torch(path: Path, model: BinaryNet) -> None:
    """A training dict with `state_dict` (fc1.weight, fc1.bias, bn1.weight, ...) and the network's shape.

    `xnorinfer convert` takes it with `--profile tf1-round --bn-epsilon 1e-4`, since a state dict says neither.
    """
    content = {"state_dict": model.state_dict(), "shape": asdict(model.shape), "bn_epsilon": BATCH_NORM_EPSILON}
    save(path, lambda file: torch.save(content, file))


def tf1_variables(model: BinaryNet) -> dict[str, NDArray[Any]]:
    """The network under the names that its TF1 port gives: `dense__binary_layer[_N]/kernel` (depth, neurons) latents and
    `/bias`, `conv2d__binary_layer[_N]/kernel` (kernel height, kernel width, channels, neurons) and `/bias`,
    `batch_normalization[_N]/gamma`, `/beta`, `/moving_mean`, `/moving_variance`, all float32; N from 1 on counts the layers of
    a kind after its first."""
    variables: dict[str, NDArray[Any]] = {}
    names = {"bias": "bias", "bn.gamma": "gamma", "bn.beta": "beta", "bn.mean": "moving_mean", "bn.var": "moving_variance"}
    arrays = named_arrays(model)
    for index, (scope, norm) in enumerate(zip(*tf1_scopes(model), strict=True)):
        variables[f"{scope}/kernel"] = np.ascontiguousarray(np.moveaxis(arrays[f"{index}.weight"], 0, -1))
        for part, name in names.items():
            if f"{index}.{part}" in arrays:
                variables[f"{norm if part.startswith('bn.') else scope}/{name}"] = arrays[f"{index}.{part}"]
    return variables


def tf1_scopes(model: BinaryNet) -> tuple[list[str], list[str]]:
    """Scopes of the layers and of their BatchNorms, in order, as TensorFlow makes names different: the second ends in _1."""
    convolution = [isinstance(layer, BinaryConv2d) for layer, _ in model.layers()]
    kinds = ["conv2d__binary_layer" if one else "dense__binary_layer" for one in convolution]
    norms = ["batch_normalization"] * len(kinds)

    def numbered(names: list[str]) -> list[str]:
        before = [names[:index].count(name) for index, name in enumerate(names)]
        return [f"{name}_{count}" if count else name for name, count in zip(names, before, strict=True)]

    return numbered(kinds), numbered(norms)


def write_tf1(prefix: Path, model: BinaryNet) -> None:
    """A TensorFlow V2 checkpoint of `tf1_variables` that `tf.train.Saver().restore(session, str(prefix))` restores.

    There is no graph (`.meta`), so `xnorinfer convert` takes it with `--bn-epsilon 1e-4`.
    """
    write_bundle(prefix, tf1_variables(model))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """The state of an interrupted training run."""
    save(path, lambda file: torch.save(state, file))


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote.  Raises SourceError if it is something else or damaged."""
    try:
        state = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = type(error).__name__
        raise SourceError(f"{path} is no training state ({why}); remove it or start over with --restart") from error
    if not isinstance(state, dict) or not {"shape", "recipe", "model", "optimizer", "history", "best"} <= set(state):
        raise SourceError(f"{path} is no training state; remove it or start over with --restart")
    return state

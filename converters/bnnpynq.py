"""BNN-PYNQ: networks that are already folded and packed for an FPGA, as a folder of `LAYER-PE-weights.bin` and `-thres.bin`.

A layer's neurons are dealt out to PE processing elements: element p holds the neurons p, PE + p, 2*PE + p, ...  Its weight file
is uint64, little-endian: word f*SF + s holds the SIMD weights of inputs s*SIMD, ... of its f-th neuron, lowest bit first, 1 is
+1.  Its threshold file is int64, one number T per neuron.  The next bit is popcount(xnor(inputs, weights)) > T, strictly; the
class is the largest popcount - T.

The number of elements and the sizes follow from the files; SIMD follows from the width of the layer before, in the first layer
from the highest bit in use.  Inputs are padded with bits 0 and weights 1, which adds nothing: columns at the end of the first
layer where all weights are 1 are padding.  Neurons at the end of the last layer whose T is 32767 are unused.

With depth inputs, popcount = (dot + depth) / 2, so that popcount > T is dot + (depth - 2*T) > 0: a bias and a strict sign.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.assemble import Defaults, LayerPart, assemble
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading, TensorUse
from xnorinfer.errors import OptionError, SourceError
from xnorinfer.net.values import ThresholdInput

#: The format itself says that comparators are strict; pixels enter as in the project's own MNIST test.
DEFAULTS = Defaults("gt-zero", "tf", 0.0, "none", input=ThresholdInput(128), profile_origin="file")

#: What a folder must be of.
ONLY = "only dense networks with weights and activations of one bit (W1A1, such as lfcW1A1) can be read"

#: Marks neurons that only fill up the last layer.
UNUSED = 32767
_CODES = {"weights": "<u8", "thres": "<i8"}
_FILE = re.compile(r"(\d{1,9})-(\d{1,9})-(weights|thres)\.bin")
#: Beyond, scores popcount - T would not be exact in float32; real thresholds are below the number of inputs.
MAX_HEAD_THRESHOLD = 1 << 22
#: Inputs of a layer: sums, halved, and thresholds of as many stay exact in float32.
MAX_INPUTS = 1 << 22
#: Bounds what a folder can make us allocate: bits of one layer.
MAX_LAYER_BITS = 1 << 32


class BnnPynqSource:
    """Folders of packed weights and thresholds."""

    name = "bnnpynq"
    meaning = "folder of BNN-PYNQ weights and thresholds (0-0-weights.bin, 0-0-thres.bin, ...)"

    def sniff(self, path: Path) -> bool:
        """True for folders that hold the first layer's first files."""
        return (path / "0-0-weights.bin").is_file() and (path / "0-0-thres.bin").is_file()

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the folder.  Raises SourceError, OptionError or NetworkError."""
        if not self.sniff(path):
            raise SourceError(f"{path} is no folder of BNN-PYNQ weights: it holds no 0-0-weights.bin and 0-0-thres.bin")
        if options.h is not None or options.bn_epsilon is not None:
            raise OptionError("--h and --bn-epsilon mean nothing for a BNN-PYNQ network, whose thresholds are folded already")
        elements = _elements_of(path)
        notes = Notes()
        problems: list[str] = []
        parts: list[LayerPart] = []
        width: int | None = None
        for layer, count in enumerate(elements):
            last = layer + 1 == len(elements)
            weights, thresholds = _read_layer(path, layer, count, width, notes)
            if layer == 0:
                weights = _without_padding(weights, notes)
            width = thresholds.size
            if last:
                weights, thresholds = _without_unused(weights, thresholds, notes)
            parts.append(_part(str(layer), weights, thresholds, is_head=last))
        return assemble(self.name, path.name, parts, options, DEFAULTS, notes, problems)


def _elements_of(path: Path) -> list[int]:
    """Number of processing elements of each layer.  Raises SourceError where files are missing."""
    found: dict[int, dict[str, set[int]]] = {}
    for file in path.iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.setdefault(int(match[1]), {"weights": set(), "thres": set()})[match[3]].add(int(match[2]))
    elements = []
    _require_dense(path, found)
    for layer in range(len(found)):
        kinds = found.get(layer, {"weights": set(), "thres": set()})
        count = len(kinds["weights"] | kinds["thres"])
        for kind, numbers in kinds.items():
            missing = sorted(set(range(max(count, 1))) - numbers)
            if missing:
                raise SourceError(f"{path.name}: {layer}-{missing[0]}-{kind}.bin is missing")
        elements.append(count)
    return elements


def _require_dense(path: Path, found: dict[int, dict[str, set[int]]]) -> None:
    """Look at the first files of each layer.  Raises SourceError where they can only be of convolutions or of several bits."""
    width: int | None = None
    for layer, kinds in sorted(found.items()):
        if not all(0 in numbers and _is_whole(path / f"{layer}-0-{kind}.bin") for kind, numbers in kinds.items()):
            return
        words, thresholds = (np.fromfile(path / f"{layer}-0-{kind}.bin", code) for kind, code in _CODES.items())
        pairs = thresholds[: thresholds.size // 2 * 2].reshape(-1, 2)
        count = 1 + max(kinds["weights"] | kinds["thres"])
        steps, rest = divmod(words.size, thresholds.size)
        used = int(np.bitwise_or.reduce(words)).bit_length()
        fits = rest == 0 and (width is None or (width % steps == 0 and used <= width // steps <= 64))
        if not fits and len(pairs) >= 8 and (pairs[:, 0] <= pairs[:, 1]).all():
            raise SourceError(
                f"{path.name}: layer {layer} has several thresholds per neuron (activations of several bits); {ONLY}"
            )
        if not fits and width is not None and not rest:
            for times, what in {2: "weights of two bits", **{k * k: f"a {k}x{k} convolution" for k in (3, 5, 7)}}.items():
                if width * times % steps == 0 and used <= width * times // steps <= 64:
                    taken = f"layer {layer} takes {times} times the {width} values that the layer before gives"
                    raise SourceError(f"{path.name}: {taken} ({what}); {ONLY}")
        width = thresholds.size * count


def _is_whole(file: Path) -> bool:
    return 0 < file.stat().st_size <= MAX_LAYER_BITS // 8 and file.stat().st_size % 8 == 0


def _read_layer(
    path: Path, layer: int, count: int, width: int | None, notes: Notes
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Weights (neurons, inputs) of -1/+1 and thresholds (neurons,) of one layer; width: what the layer before gives."""
    words: list[NDArray[Any]] = []
    thresholds: list[NDArray[Any]] = []
    for element in range(count):
        for kind, into in (("weights", words), ("thres", thresholds)):
            file = path / f"{layer}-{element}-{kind}.bin"
            if not _is_whole(file):
                raise SourceError(f"{file.name} has {file.stat().st_size} bytes, needed are 64-bit words")
            array: NDArray[Any] = np.fromfile(file, _CODES[kind])
            into.append(array)
    for kind, arrays in (("weights", words), ("thres", thresholds)):  # one row for the files of all elements
        which = "0" if count == 1 else f"[0-{count - 1}]"
        use = f"{layer}: {'weights, bits' if kind == 'weights' else 'thresholds'}"
        use += f", each file of every {count}th neuron" if count > 1 else ""
        shape = (count, *arrays[0].shape)
        notes.tensors.append(TensorUse(f"{layer}-{which}-{kind}.bin", shape, _CODES[kind], use))
    if len({array.size for array in words}) > 1 or len({array.size for array in thresholds}) > 1:
        raise SourceError(f"{path.name}: the files of layer {layer} differ in size")
    folds = thresholds[0].size
    if words[0].size % folds:
        raise SourceError(f"{path.name}: layer {layer} has {words[0].size} words for {folds} neurons per element")
    used = int(np.bitwise_or.reduce(np.concatenate(words))).bit_length()
    steps = words[0].size // folds
    simd = max(used, 1) if width is None else width // steps
    if used > simd or (width is not None and (width % steps or not 1 <= simd <= 64)):
        raise SourceError(
            f"{path.name}: layer {layer} has {steps} words of {used} bits for the {width} values that the layer before gives"
        )
    if steps * simd > MAX_INPUTS:
        raise SourceError(
            f"{path.name}: layer {layer} has {steps * simd} inputs; float32, in which its sums are compared, holds those of "
            f"{MAX_INPUTS} exactly"
        )
    if folds * count * steps * simd > MAX_LAYER_BITS:
        raise SourceError(f"{path.name}: layer {layer} has more than {MAX_LAYER_BITS} weights")
    neurons = folds * count
    spend_bytes(neurons * steps * (64 + simd), f"layer {layer}, {neurons} neurons of {steps} words of bits,")
    stacked = np.stack(words).reshape(count, folds, steps).transpose(1, 0, 2)  # (fold, element, step)
    bits = np.unpackbits(np.ascontiguousarray(stacked).view(np.uint8).reshape(neurons, steps, 8), axis=2, bitorder="little")
    weights = bits[:, :, :simd].reshape(neurons, steps * simd).view(np.int8)
    weights *= 2
    weights -= 1
    return weights, np.stack(thresholds).T.reshape(-1)


def _without_padding(weights: NDArray[np.int8], notes: Notes) -> NDArray[np.int8]:
    constant: NDArray[np.bool_] = np.asarray((weights > 0).all(axis=0))
    width = weights.shape[1] - int(np.argmin(constant[::-1])) if not constant.all() else weights.shape[1]
    if width < weights.shape[1]:
        value = f"{width}: the last {weights.shape[1] - width} columns of weights are all +1, which is padding"
        notes.assumptions.append(Assumption("inputs", value, "file"))
    return weights[:, :width]


def _without_unused(
    weights: NDArray[np.int8], thresholds: NDArray[np.int64], notes: Notes
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    in_use = np.flatnonzero(thresholds != UNUSED)
    classes = int(in_use[-1]) + 1 if in_use.size else thresholds.size
    if classes < thresholds.size:
        value = f"{classes}: the last {thresholds.size - classes} thresholds are {UNUSED}, which marks unused neurons"
        notes.assumptions.append(Assumption("classes", value, "file"))
    return weights[:classes], thresholds[:classes]


def _part(name: str, weights: NDArray[np.int8], thresholds: NDArray[np.int64], *, is_head: bool) -> LayerPart:
    depth = weights.shape[1]
    spend_bytes(4 * weights.size, f"layer {name}, weights {weights.shape} as float32")
    # A popcount lies in 0..depth: thresholds beyond are never or always passed, and stay exact in float32 when clipped.
    clipped = np.clip(thresholds, -1, depth) if not is_head else thresholds
    if is_head and (np.abs(thresholds) > MAX_HEAD_THRESHOLD).any():
        raise SourceError(f"layer {name}: a threshold of {np.abs(thresholds).max()} is beyond all popcounts of {depth} inputs")
    if is_head:  # popcount - T = dot/2 + (depth/2 - T)
        scale = np.full(weights.shape[0], 0.5, np.float32)
        bias = (depth / 2 - clipped).astype(np.float32)
        return LayerPart(name, weights.astype(np.float32), bias, scale)
    return LayerPart(name, weights.astype(np.float32), (depth - 2 * clipped).astype(np.float32), explicit=True)

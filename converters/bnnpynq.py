"""BNN-PYNQ: networks that are already folded and packed for an FPGA, as a folder of `LAYER-PE-weights.bin` and `-thres.bin`.

A layer's neurons are dealt out to PE processing elements: element p holds the neurons p, PE + p, 2*PE + p, ...  Its weight file
is uint64, little-endian: word f*SF + s holds the SIMD weights of inputs s*SIMD, ... of its f-th neuron, lowest bit first, 1 is
+1.  Its threshold file is int64, one number T per neuron.  The next bit is popcount(xnor(inputs, weights)) > T, strictly; the
class is the largest popcount - T.

The number of elements and the sizes follow from the files; SIMD follows from the width of the layer before, in the first layer
from the highest bit in use.  Inputs are padded with bits 0 and weights 1, which adds nothing: columns at the end of the first
layer where all weights are 1 are padding.  Neurons at the end of the last layer whose T is 32767 are unused.

With depth inputs, popcount = (dot + depth) / 2, so that popcount > T is dot + (depth - 2*T) > 0: a bias and a strict sign.

Of convolutions a folder holds the weights, a neuron's inputs in the order (kernel row, kernel column, channel), and neither
windows nor pools: what has the shapes of cnvW1A1, BNN-PYNQ's one convolutional network of one bit, is taken to be that.  There
pixels enter as fixed point of eight bits, 2p/255 - 1 rounded down to 1/128, which is (p - 128)/128 for each of the 256; the
first layer compares sums of these with T/256, and the last one has no thresholds: its popcounts are the scores.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading, TensorUse
from xnorinfer.errors import OptionError, SourceError
from xnorinfer.net.ops import Flatten, Pool
from xnorinfer.net.values import PixelInput, ThresholdInput
from xnorinfer.net.windows import Window

#: The format itself says that comparators are strict; pixels enter as in the project's own MNIST test.
DEFAULTS = Defaults("gt-zero", "tf", 0.0, "none", input=ThresholdInput(128), profile_origin="file")

CNV_DEFAULTS = replace(DEFAULTS, input=PixelInput(1, -128, 128), input_origin="file")

#: What a folder must be of.
ONLY = "only dense networks with weights and activations of one bit (W1A1, such as lfcW1A1), and cnvW1A1, can be read"

#: cnvW1A1 (bnn/src/training/cnv.py): (inputs, neurons) of its layers; images, and the channels that its convolutions of 3x3,
#: without padding, read; behind which layers signs are pooled by 2x2.
CNV = ((27, 64), (576, 64), (576, 128), (1152, 128), (1152, 256), (2304, 256), (256, 512), (512, 512), (512, 64))
CNV_IMAGE = (32, 32, 3)
CNV_KERNEL = (3, 3)
CNV_CONVOLUTIONS = 6
CNV_POOLED = (1, 3)
_CNV_POOL = Pool("max", Window((2, 2), (2, 2)))

#: Bytes of a file of names.
MAX_NAMES = 1 << 16
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
        found = _files_of(path)
        if _is_cnv(path, found):
            return _read_cnv(self.name, path, found, options)
        elements = _elements_of(path, found)
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


#: Numbers of the elements that have files, by layer and kind of file.
Found: TypeAlias = dict[int, dict[str, set[int]]]


def _files_of(path: Path) -> Found:
    found: Found = {}
    for file in path.iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.setdefault(int(match[1]), {"weights": set(), "thres": set()})[match[3]].add(int(match[2]))
    return found


def _elements_of(path: Path, found: Found) -> list[int]:
    """Number of processing elements of each layer.  Raises SourceError where files are missing."""
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


# ---------------------------------------------------------------- cnvW1A1


def _is_cnv(path: Path, found: Found) -> bool:
    """Whether the files have the sizes of cnvW1A1's layers; the last one has no thresholds."""
    if sorted(found) != list(range(len(CNV))) or found[len(CNV) - 1]["thres"]:
        return False
    for (layer, kinds), (inputs, neurons) in zip(sorted(found.items()), CNV, strict=True):
        words, thresholds = (
            sum((path / f"{layer}-{element}-{kind}.bin").stat().st_size for element in kinds[kind]) // 8
            for kind in ("weights", "thres")
        )
        simd, rest = divmod(inputs * neurons, max(words, 1))
        if rest or not 1 <= simd <= 64 or thresholds not in (0 if layer + 1 == len(CNV) else neurons, neurons):
            return False
    return True


def _read_cnv(source: str, path: Path, found: Found, options: ConvertOptions) -> Reading:
    """Read a folder of the shapes of cnvW1A1.  Raises SourceError or NetworkError."""
    shape = "convolutions of 3x3 without padding, pools of 2x2 behind layers 1 and 3, as in cnvW1A1, whose shapes these are"
    notes = Notes(assumptions=[Assumption("windows", shape, "file")])
    parts: list[LayerPart] = []
    for layer, (inputs, neurons) in enumerate(CNV):
        last = layer + 1 == len(CNV)
        count = len(found[layer]["weights"])
        for kind in ("weights",) if last else ("weights", "thres"):
            missing = sorted(set(range(count)) - found[layer][kind])
            if missing:
                raise SourceError(f"{path.name}: {layer}-{missing[0]}-{kind}.bin is missing")
        weights, thresholds = _read_layer(path, layer, count, inputs, notes, neurons=neurons if last else None)
        if last:
            weights, thresholds = _named_classes(path, weights, notes)
        elif layer == 0 and (np.abs(thresholds) > MAX_HEAD_THRESHOLD).any():
            raise SourceError(f"{path.name}: layer 0 has a threshold of {np.abs(thresholds).max()}, beyond all sums of pixels")
        part = _part(str(layer), weights, thresholds, is_head=last)
        if layer == 0:
            part = replace(part, bias=(thresholds / -256).astype(np.float32))
        if layer < CNV_CONVOLUTIONS:
            kernel = part.weight.reshape(part.neurons, *CNV_KERNEL, -1)
            part = replace(part, weight=kernel, window=Window(CNV_KERNEL))
        if layer in CNV_POOLED:
            part = replace(part, behind=((f"{layer}.pool", _CNV_POOL),))
        if layer + 1 == CNV_CONVOLUTIONS:
            part = replace(part, behind=(("flatten", Flatten()),))
        parts.append(part)
    return assemble(source, path.name, parts, options, CNV_DEFAULTS, notes, [], shape=CNV_IMAGE)


def _named_classes(path: Path, weights: NDArray[np.int8], notes: Notes) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The neurons of the last layer that stand for a class, as many as classes.txt has names; the others fill it up."""
    file = path / "classes.txt"
    names = (
        sum(map(bool, map(bytes.strip, file.read_bytes().splitlines())))
        if file.is_file() and file.stat().st_size <= MAX_NAMES
        else 0
    )
    if not 0 < names <= len(weights):
        raise SourceError(
            f"{path.name}: its last layer has {len(weights)} neurons, of which some only fill it up; classes.txt, a name a "
            "line, must say how many are classes"
        )
    notes.assumptions.append(Assumption("classes", f"{names}, as classes.txt has names", "file"))
    return weights[:names], np.zeros(names, np.int64)


def _require_dense(path: Path, found: Found) -> None:
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
    path: Path, layer: int, count: int, width: int | None, notes: Notes, neurons: int | None = None
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Weights (neurons, inputs) of -1/+1 and thresholds (neurons,) of one layer.

    width: its inputs, None where the first layer's weights tell.  neurons: of a layer without thresholds.
    """
    kinds = {"weights": "weights, bits", "thres": "thresholds"} if neurons is None else {"weights": "weights, bits"}
    files: dict[str, list[NDArray[Any]]] = {kind: [] for kind in kinds}
    for element in range(count):
        for kind, into in files.items():
            file = path / f"{layer}-{element}-{kind}.bin"
            if not _is_whole(file):
                raise SourceError(f"{file.name} has {file.stat().st_size} bytes, needed are 64-bit words")
            into.append(np.fromfile(file, _CODES[kind]))
    for kind, arrays in files.items():  # one row for the files of all elements
        which = "0" if count == 1 else f"[0-{count - 1}]"
        use = f"{layer}: {kinds[kind]}" + (f", each file of every {count}th neuron" if count > 1 else "")
        shape = (count, *arrays[0].shape)
        notes.tensors.append(TensorUse(f"{layer}-{which}-{kind}.bin", shape, _CODES[kind], use))
    if any(len({array.size for array in arrays}) > 1 for arrays in files.values()):
        raise SourceError(f"{path.name}: the files of layer {layer} differ in size")
    words = files["weights"]
    folds = files["thres"][0].size if neurons is None else neurons // count
    if not folds or words[0].size % folds:
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
    thresholds = np.stack(files["thres"]).T.reshape(-1) if "thres" in files else np.zeros(neurons, np.int64)
    return weights, thresholds


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
    """A layer that counts matching bits."""
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

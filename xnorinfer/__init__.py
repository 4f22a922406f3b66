"""Bit-packed XNOR-popcount inference for binarized neural networks.

    model = xnorinfer.convert("checkpoint.npz")     # or xnorinfer.load("model.safetensors")
    classes = model.predict(images)                 # uint8 (rows, 784) or (rows, 28, 28)

`convert` folds BatchNorm into integer thresholds and packs the signs of the latent weights into bits; the result computes
bit for bit what the trained network computes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnorinfer.checkout import find_beside
from xnorinfer.errors import ConversionWarning, OptionError, XnorinferError
from xnorinfer.keywords import ConvertKeywords, options_of, path_of, spell_out
from xnorinfer.oneline import one_line
from xnorinfer.spelling import in_python, python_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike
    from typing_extensions import Unpack  # of type checkers alone; typing has it from Python 3.11 on

    from xnorinfer.conversion import Conversion
    from xnorinfer.converters.reading import ConvertOptions, Reading
    from xnorinfer.engine.model import Model
    from xnorinfer.net.network import Net

find_beside(Path(__file__).parent)

__version__ = "0.1.0"
__all__ = [
    "ConversionWarning",
    "ConvertKeywords",
    "Model",
    "XnorinferError",
    "__version__",
    "convert",
    "from_keras",
    "from_torch",
    "load",
    "pack",
]


def __getattr__(name: str) -> Any:
    """`Model` when it is first asked for: the command line answers --help, and Ctrl-C, before numpy is imported."""
    if name == "Model":
        from xnorinfer.engine.model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | Path, *, threads: int | None = None, kernel: str | None = None, mapped: bool = False) -> Model:
    """Load a packed model file, or a model that ships by its name (`shipped.names()`), validated completely before use.

    threads, kernel: as in `Model`.  mapped: leave the packed bits in the file, which processes that load it then share (see
    `modelfile.load`); each still has its kernel's own layout of them, which only processes forked after loading share.
    Raises ModelFileError (see `modelfile.load`) or KernelError.
    """
    from xnorinfer import shipped
    from xnorinfer.engine.model import Model
    from xnorinfer.packing import modelfile

    if not isinstance(path, str):  # a name of a model that ships, or a path
        path = path_of(path, "load", "a checkpoint is converted by convert, a live model by from_torch and from_keras")
    return Model(modelfile.load(shipped.locate(path), mapped=mapped), threads=threads, kernel=kernel)


def pack(net: Net, *, threads: int | None = None, kernel: str | None = None, strict: bool = False) -> Model:
    """Make a model of a network that is built by hand (`xnorinfer.net`), from weights of any origin.

    threads, kernel: as in `Model`.  strict: warnings are errors.  Else each is given as a `ConversionWarning`, and kept in
    `model.report.warnings`.
    Raises NetworkError with all reasons why it is no network, or cannot be packed; StrictError, KernelError.
    """
    import dataclasses

    from xnorinfer.engine.model import Model
    from xnorinfer.errors import StrictError
    from xnorinfer.net.network import Net as OfLayers
    from xnorinfer.packing.lower import lower

    if not isinstance(net, OfLayers):
        raise OptionError(f"pack takes a Net of xnorinfer.net, not {type(net).__name__}; a checkpoint is converted by convert")
    with python_words():
        lowered = lower(net)
        if strict and lowered.notes:
            raise StrictError(lowered.notes, "the network")
    for text in lowered.notes:
        warnings.warn(one_line(in_python(text)), ConversionWarning, stacklevel=2)
    provenance = {"source": "xnorinfer.pack", "warnings": list(lowered.notes), "xnorinfer": __version__}
    return Model(dataclasses.replace(lowered.packed, provenance=provenance), threads=threads, kernel=kernel)


def convert(source: str | Path, *, data: ArrayLike | None = None, **keywords: Unpack[ConvertKeywords]) -> Model:
    """Convert a checkpoint file to a model.

    data: unlabelled inputs (rows, ...), which confirm or choose the input mapping by the first BatchNorm's statistics.
    keywords: what the file does not say, as options of `xnorinfer convert`; each is explained in `ConvertKeywords`.
    Raises SourceError, OptionError or NetworkError, the last with all reasons at once; StrictError, ExpectationError, or
    InputError.
    """
    from xnorinfer.conversion import convert_file
    from xnorinfer.converters import read_source
    from xnorinfer.engine.model import array_of

    path = path_of(source, "convert", "live models are converted by from_torch and from_keras, arrays of your own by pack")
    chosen = options_of(keywords, answered=keywords.get("expect") is not None)

    def read(other: ConvertOptions) -> Reading:
        return read_source(path, other)

    rows = None if data is None else array_of(data, "data")
    with python_words():
        return _model(convert_file(path, chosen, rows), path.name, read, keywords)


def from_torch(module: Any, *, example: ArrayLike | None = None, **keywords: Unpack[ConvertKeywords]) -> Model:
    """Convert a live `torch.nn.Module` to a model; it is run, and the packed network must answer as it does.

    What its `forward` computes is exported (`torch.export`, else a trace) and read as a graph.  What cannot be exported is read
    by the order of its tensors, if the module's answers say that this is right.  The module itself stays as it is: a copy is
    run, on the CPU and in evaluation mode.

    example: inputs (rows, ...) that the module is exported for and compared on; random ones if there are none.  Whole numbers
    are pixels, mapped as `input` says before they enter the module; floats enter it as they are, and where no `input` is given
    they tell the mapping of pixels that they were made by (0..1, -1..1, MNIST's mean and deviation, 0..255, or -1/+1).
    keywords: as in `convert`.
    Raises OptionError or NetworkError, the last with all reasons at once; ExpectationError where the packed network does not
    answer as the module, which names how many rows and the first; SourceError, StrictError, InputError, MissingExtraError.
    """
    from xnorinfer import budget
    from xnorinfer.proof.live import convert_torch

    chosen, name = options_of(keywords, answered=True), type(module).__name__
    with budget.unlimited(name), python_words():
        conversion, read = convert_torch(module, name, chosen, example)
        return _model(conversion, name, read, keywords)


def from_keras(model: Any, *, example: ArrayLike | None = None, **keywords: Unpack[ConvertKeywords]) -> Model:
    """Convert a live Keras or Larq model, of Keras 3 or tf_keras; it is run, and the packed network must answer as it does.

    example: inputs (rows, ...), pixels or as the model takes them; random ones if there are none.  keywords: as in `convert`.
    What the model computes is read from its config, and from the graph that TensorFlow makes of it where the config does not
    tell or is contradicted by the model's answers.
    Raises SourceError, OptionError or NetworkError, the last with all reasons at once; ExpectationError where no reading gives
    the model's answers; StrictError, InputError, MissingExtraError.
    """
    from xnorinfer import budget
    from xnorinfer.proof.live import convert_keras

    chosen, name = options_of(keywords, answered=True), type(model).__name__
    with budget.unlimited(name), python_words():
        conversion, read = convert_keras(model, name, chosen, example)
        return _model(conversion, name, read, keywords)


for _one in (convert, from_torch, from_keras):
    spell_out(_one)


def _model(
    conversion: Conversion,
    about: str,
    read: Callable[[ConvertOptions], Reading],
    keywords: ConvertKeywords,
) -> Model:
    """The model of a conversion that a user's code asked for; its warnings point at that code."""
    from xnorinfer.engine.model import Model

    expect = keywords.get("expect")
    if expect is not None:
        from xnorinfer.conversion import require_expected
        from xnorinfer.proof.answers import Answers

        expected = Answers.of_pair(expect)
        conversion = require_expected(conversion, expected, read)
    if keywords.get("strict"):
        conversion.require_no_warnings(about)
    for text in conversion.warnings:
        warnings.warn(one_line(in_python(text)), ConversionWarning, stacklevel=3)
    return Model(conversion.packed, threads=keywords.get("threads"), kernel=keywords.get("kernel"))

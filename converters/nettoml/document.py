"""`convert SOURCE --net net.toml`: networks from any container of named arrays, described by a small file.

SOURCE is anything `containers` reads (.npz, .npy, .safetensors, torch files, TensorFlow 1 checkpoints, HDF5, ONNX constants, C
headers), or a folder (or one file) of raw numbers and text, whose arrays are declared one by one.  The text of the net.toml is
recorded in the model, so that `verify MODEL SOURCE` needs nothing else.  `convert SOURCE --dry-run --write-net net.toml` writes
what any other source understood, to be edited and fed back.

Example 1: a safetensors file of a network with stacked BatchNorm, strict thresholds in the second layer, and an int16 head.

    profile = "ge-zero"          # tie rules: what binarization does at 0
    layout = "in_out"            # kernels are (inputs, neurons)
    ignore = ["step", "*/Adam*"] # arrays that are no part of the network; * matches anything

    [input]
    range = [-1, 1]              # pixels 0..255 mapped linearly

    [[layers]]
    name = "hidden1"
    weight = "w1"
    bias = "b1"
    norm = {stacked = "bn1", order = ["mean", "std", "gamma", "beta"]}

    [[layers]]
    name = "hidden2"
    weight = "w2"
    values = "bits"              # 1 is +1, 0 is -1
    threshold = {value = "t2", on = "popcount", compare = ">"}

    [[layers]]
    name = "head"
    kind = "float"
    weight = "w3"
    weight_scale = 0.00390625    # int16 fixed point, 8 bits behind the point
    bias = "b3"

Example 2: a folder with packed bits in a raw file, thresholds in a text file and the last layer in a C header.

    profile = "gt-zero"
    layout = "out_in"            # kernels are (neurons, inputs)

    [input]
    threshold = 34               # pixel >= 34 is +1, else -1

    [arrays.w1]
    file = "layer1.bin"
    format = "raw"
    dtype = "uint32"
    unpack = "lsb"               # a word's lowest bit is its first value
    shape = [12, 40]             # in bits; every neuron begins in a new word

    [arrays.t1]
    file = "thresholds.txt"
    format = "numbers"

    [arrays.w2]
    file = "layer2.h"
    array = "weights2"

    [[layers]]
    weight = "w1"
    values = "bits"
    threshold = {value = "t1", on = "sum", compare = ">="}

    [[layers]]
    weight = "w2"
    values = "signs"

Example 3: a convolutional network of PyTorch's, as its state dict has it: conv -> pool -> BatchNorm -> sign, twice, and a head.

    profile = "torch-sign"
    kernel_layout = "OIHW"       # kernels are (neurons, channels, height, width)
    layout = "out_in"
    epsilon = 1e-5
    stride = 1
    padding = 1
    flatten = "channels_first"
    ignore = ["*.num_batches_tracked"]

    [input]
    shape = [10, 14, 3]          # height, width, channels
    normalize = [[0.5, 0.5, 0.4], [0.2, 0.25, 0.25]]

    [[layers]]
    weight = "conv1.weight"
    pool = {kind = "max", size = 2, after = "sum"}
    norm = {mean = "bn1.running_mean", variance = "bn1.running_var", gamma = "bn1.weight", beta = "bn1.bias"}

    [[layers]]
    weight = "conv2.weight"
    stride = [2, 1]
    padding = "valid"
    norm = {mean = "bn2.running_mean", variance = "bn2.running_var", gamma = "bn2.weight", beta = "bn2.bias"}

    [[layers]]
    weight = "fc.weight"
    bias = "fc.bias"

Example 4: a residual block of a state dict, node by node.

    profile = "ge-zero"
    kernel_layout = "OIHW"
    layout = "out_in"
    epsilon = 1e-5
    form = "torch"
    stride = 1
    padding = 1
    ignore = ["*.num_batches_tracked"]

    [input]
    shape = [32, 32, 3]
    normalize = [[0.5, 0.5, 0.4], [0.2, 0.25, 0.25]]

    [[nodes]]
    name = "stem"
    kind = "float"
    weight = "stem.weight"

    [[nodes]]
    name = "sign"                # of the node before
    sign = true

    [[nodes]]
    name = "conv"
    weight = "conv.weight"

    [[nodes]]
    name = "bn"
    norm = {mean = "bn.running_mean", variance = "bn.running_var", gamma = "bn.weight", beta = "bn.bias"}

    [[nodes]]
    name = "sum"
    inputs = ["bn", "stem"]
    add = true

    [[nodes]]
    name = "pool"
    pool = {kind = "average", size = "map"}

    [[nodes]]
    name = "vector"
    flatten = "channels_first"

    [[nodes]]
    name = "fc"
    kind = "float"
    weight = "fc.weight"
    bias = "fc.bias"

Top of the file

    profile      tie rules, needed (`xnorinfer convert --help` lists them)
    layout       "in_out" (inputs, neurons) or "out_in" (neurons, inputs) of all dense kernels; a layer can have its own
    kernel_layout   of all convolutions, see [[layers]]: layout; flipped, stride, padding, flatten likewise
    values       what weights are, "latent" by default; a layer can have its own
    epsilon      of every BatchNorm with a variance; a norm can have its own
    form         of every BatchNorm, see norm; known already under tf1-round, keras-round ("tf") and torch-sign ("torch")
    h            magnitude of binary weights: a number, or "glorot"; 1 by default; a layer can have its own
    center, scale_by, before_norm    of every binary layer, before_norm of every hidden one; see [[layers]]
    container    the kind of SOURCE where its content does not tell (npz, npy, safetensors, torch, tf1, h5, onnx, c, files),
                 or "network": the arrays of the network as another source reads it, with the options in [reader]
    draft        true in drafts of `--write-net` for files that could not be converted; refused until it is taken out
    ignore       names or patterns of arrays that the network does not use.  All others must be used, each once ...
    shared       ... except these, which may be used several times

[input]: what enters the network, one of

    range = [LOW, HIGH]      uint8 pixels 0..255 mapped linearly
    normalize = [MEAN, STD]  (pixel/255 - MEAN) / STD, as torchvision has it; [[MEAN, ...], [STD, ...]] channel by channel
    raw = true               pixels 0..255, or 0 and 1, as they are
    affine = [A, B, C]       (A*pixel + B) / C; [[A, B, C], ...] channel by channel
    threshold = T            pixel >= T is +1, else -1 (T a whole number; `pixel > 33` is T = 34)
    signs = true             values that are -1 or +1
    reals = true             float32 values as they are

where it is images, and a convolution reads them,

    shape = [H, W, C]        height, width and channels, or [W, C] of lines (convolutions of one dimension), whose height is 1

and, if every pixel or real value is binarized by itself before the first layer,

    norm or steps            as in a layer; vectors have one value per input, or per channel of images.  A sign follows
    sign = true              a sign without norm or steps
    sign_rule, name          the sign's rule and name, as in a layer

[arrays.NAME]: arrays that the container does not hold by name; all keys are optional that are not needed

    from = "X"               another array of the container, or
    file = "X"               a file in SOURCE, which is a folder (without `file`: SOURCE itself), and in it
      array = "Y"            an array by name, where the file is itself one of the containers (.npy, .npz, C header, ...)
      format = "raw"         little-endian numbers with dtype ("float32", "int8", "uint64", ...), shape, offset and trailing
                             (bytes before and after, default 0).  All bytes of the file must be accounted for
      format = "bits"        rows of the characters 0 and 1; order = "lsb": the leftmost is the first value (one value per
                             character), order = "msb": the rightmost is
      format = "hex"         the same, each hexadecimal digit four characters of 0 and 1
      format = "numbers"     numbers with blanks, commas or semicolons between; base = 2 or base = 16 for whole numbers in those
                             digits (10 by default), signed = true: two's complement of as many bits as there are digits
    unpack = "lsb" | "msb"   whole numbers hold packed bits; a word's lowest (highest) bit is its first value
    shape = [...]            of the result.  Rows of bits may end in padding, rows of a neuron of a convolution among them
    slice = [[B, E], ...]    of each dimension the part from B up to and without E

[[layers]], in order of execution

    name                     "0", "1", ... by default
    kind                     "binary" (default) or "float": an ordinary float layer
    weight                   an array, needed: of two dimensions, or of four, which is a convolution (of three, over lines)
    layout                   as above; of convolutions "OIHW" (neurons, channels, height, width; PyTorch, ONNX, Lasagne), "HWIO"
                             (TensorFlow, Keras, Larq), "OHWI", or "HWIM" (TensorFlow's depthwise kernels); those over lines
                             have the same without H
    flipped = true           kernels are stored upside down and mirrored, as Lasagne and Theano have them
    stride                   of a convolution, needed here or at the top: a number, or [DOWN, ACROSS]
    padding                  likewise: a number, [DOWN, ACROSS], [TOP, BOTTOM, LEFT, RIGHT], "valid" (none), or "same" (as many
                             outputs as strides fit in the map; what is odd goes below and right)
    pad                      what stands outside: 0, or beside signs 1 or -1 (`pad_values` of Larq); 0 by default
    dilation, groups         1 by default; dilation may be [DOWN, ACROSS]
    flatten                  of a dense layer that reads a map, needed here or at the top: "channels_first" (PyTorch, Lasagne)
                             or "channels_last" (TensorFlow, Keras), the order in which it becomes a vector
    pool                     a table, or a list of tables, in order
    values                   "latent": binarized by the profile's rule.  "signs": -H and +H, checked.  "bits": 1 is +1, 0 is -1;
                             "bits-inverted": the other way round.  (binary layers)
    h                        number or "glorot"
    weight_rule, sign_rule   another rule than the profile's: round-even, round-away, sign, ge (0 is +1), gt (0 is -1)
    center = true            the weights minus each neuron's mean over its inputs are binarized (XNOR-Net, IR-Net); in
                             convolutions over the channels of each tap (XNOR-Net-PyTorch), with "neuron" over all of a
                             neuron (IR-Net)
    clip_weights             a number c: then they are clipped to -c..c, which only their magnitude shows
    scale                    the dot times this, before the bias; scale_by = "mean-abs": mean|weights| of each neuron,
                             "mean-abs-layer": of the layer, summed in float64 and rounded once; of the weights as they are
                             binarized, centred and clipped (XNOR-Net-PyTorch), or scale_of = "stored": as they are stored
    bias                     added to the dot
    weight_scale, bias_scale number: float layers stored as fixed point are multiplied by it
    reads = "01"             the layer takes its inputs as 0 and 1, not -1 and +1
    before_norm              a function of the sum: "relu", "leaky-relu:0.01", "tanh", "sigmoid", "hardtanh" or "clip:0:6"; or
    prelu                    a vector, the slopes of a PReLU of the sum
    norm                     BatchNorm, a table, or
    threshold                a comparison instead of BatchNorm, a table, or
    steps                    what follows as a list of float32 operations, in order: {add = V}, {sub = V}, {mul = V}, {div = V},
                             {norm = {...}}, {hardtanh = true}, {relu = true}, {prelu = V} (V the slopes below 0; a leaky relu
                             has one number), {tanh = true}, {sigmoid = true}, {clip = [LOW, HIGH]}, {pool = {...}} (without
                             after), {flatten = "channels_first"} (vectors behind it have a number for each of its values)
    activation               "sign" by default, and in the last layer "none".  Before a float layer it must be said: "sign",
                             "hardtanh", "relu" or "none"

[[nodes]], instead of [[layers]]: networks that branch, in order of execution; the last one gives the scores

    name                     "0", "1", ... by default
    inputs                   names of earlier nodes, "[input]" of the network's input; the node before by default
    weight, ...              a layer: kind, layout, flipped, stride, padding, pad, dilation, groups, flatten, values, h,
                             weight_rule, center, clip_weights, scale, scale_by, bias, weight_scale, bias_scale, reads as in
                             [[layers]], or
    norm                     BatchNorm, a table, or
    steps                    as in [[layers]], of one node, or
    sign = true              a sign, of the rule sign_rule, by default the profile's, or
    pool                     a table, without after, or
    flatten                  "channels_first" or "channels_last", or
    add = true               the sum of two values of one shape; signs count as -1 and +1, or
    multiply = true          the product of two values, the second of one shape with the first or a number a channel, or
    concat = true            two or more values side by side along channels, or
    channels                 a list: the numbers of the channels that it takes, in that order; -1 for zeros, or
    border                   a map with a number around it: {padding = [TOP, BOTTOM, LEFT, RIGHT], value = 0}; lines and columns
                             are taken away where padding is below 0, or
    open                     what a draft has of a node that is not known: why.  The file is refused until what it computes
                             stands instead; what is behind it is read as if it gave what its first input is, or
    levels                   activations of 2 to 4 bits, {low, high, zero, step, divisor}: round(x) clipped to low..high stands
                             for (q - zero) * step / divisor; 0, 1 and 1 by default.  With thresholds = [[...], ...] q is low
                             and how many of them x reaches: numbers of each level above the lowest, of each neuron or for all

A vector V is the name of an array, a number for all neurons, or a list of numbers.  Arrays of one value stand for all neurons.
The neurons of a convolution are the channels of what it gives.

pool = {...}

    kind                     "max" or "average"
    size                     a number, [DOWN, ACROSS], or "map": all of it, as global pools have it
    stride                   as a convolution's; the size by default
    padding                  as a convolution's; none by default.  What lies outside is no element of a window ...
    dilation                 as a convolution's
    padded = true            ... but of averages, as 0 (`count_include_pad` of PyTorch)
    after                    "sum": of the layer's sums (conv -> pool -> BatchNorm), "norm": of what norm or steps give,
                             "activation": of signs, or of what another activation gives (conv -> BatchNorm -> sign -> pool)
    name

norm = {...}

    mean, gamma, beta        vectors; gamma and beta may be absent
    variance                 with epsilon, or
    std                      (x - mean) / std * gamma + beta in this order; with an epsilon: variance = std*std, or
    inv_std                  1/sqrt(variance + epsilon), as Lasagne stores it
    epsilon, name
    form                     order of the float32 operations: "tf", "tf-fused" (of maps, as Keras 2 has TensorFlow compute it
                             on CPUs), "torch", or "lasagne" (always so with inv_std)
    stacked, order, axis     one array that holds several of them, in this order along axis 0 (default) or 1, such as
                             order = ["mean", "variance", "beta", "gamma"]; a flat array is cut into as many parts

threshold = {...}: the next bit is +1 where the comparison holds

    value                    vector; any type of number, compared exactly
    compare                  ">", ">=", "<" or "<="
    on                       "sum" (the dot with scale, bias), "popcount" (matching bits) or "mismatches" (differing bits)
    inverted                 neurons that compare otherwise: {where = "array", equals = 1, compare = "<"}, or `below = 0`
                             instead of `equals` (neurons of negative gamma)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xnorinfer.converters.containers.arrays import Entry, RawTensor
from xnorinfer.converters.containers.opening import READERS, open_container
from xnorinfer.converters.evidence.weighing import weigh
from xnorinfer.converters.nettoml.layerarrays import Arrays
from xnorinfer.converters.nettoml.layerparts import Builder
from xnorinfer.converters.nettoml.table import Table, parse_toml
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading
from xnorinfer.errors import NetworkError, OptionError, SourceError, XnorinferError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import arrays_of

#: Options that a net.toml says itself.
_INSTEAD = {
    "format": "container",
    "profile": "profile",
    "bn_epsilon": "epsilon",
    "h": "h",
    "input": "[input]",
    "float_layers": 'kind = "float"',
    "input_shape": "shape in [input]",
    "ema": "the arrays' names",
    "before_norm": "before_norm",
    "center": "center",
    "scale_by": "scale_by",
    "ignore": "ignore",
    "state": "the arrays' names",
    "output_name": "the last of [[layers]]",
    "sign_of_signs": "[[nodes]]",
}

#: Name of this way of reading in messages and provenance; it is asked for by --net and never sniffed.
NAME = "net"


def read_net(path: Path, options: ConvertOptions) -> Reading:
    """Read a checkpoint as `options.net`, the text of a net.toml, says.

    Raises OptionError (no TOML, options that contradict it), SourceError and NetworkError with all problems at once.
    """
    assert options.net is not None
    given = [name for name in _INSTEAD if getattr(options, name) not in (None, (), False)]
    if given:
        listed = "; ".join(f"{name}: use {_INSTEAD[name]}" for name in given)
        raise OptionError(f"--net excludes other options about the network, the file says it all ({listed})")
    problems: list[str] = []
    top = Table(parse_toml(options.net), "", problems)
    if top.flag("draft"):
        top.problem(
            "draft", "is true: this file was drafted for what could not be converted; complete it, then take the line out"
        )
    notes = Notes()
    kind, entries, channels_first = _container(path, top)
    notes.assumptions.append(Assumption("container", kind, "net" if "container" in top else "file"))
    arrays = Arrays(path, entries, top, notes)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, which the network's check reports
        builder = Builder(top, arrays, notes)
        net = builder.network()
    arrays.close()
    top.close()
    if net is not None:
        problems.extend(weigh(net, options, notes, lenient=True))
    if problems or net is None:
        raise NetworkError(list(dict.fromkeys(problems)), about=path.name)
    said = tuple(notes.tensors), tuple(notes.assumptions), tuple(notes.warnings)
    return Reading(NAME, net, *said, channels_first=channels_first or builder.flow.channels_first)


def _container(path: Path, top: Table) -> tuple[str, dict[str, Entry], bool]:
    """What kind it is, its arrays, and whether those are of a network that another source has with channels first."""
    kind = top.choice("container", (*READERS, "network"))
    reader = top.table("reader")
    if kind != "network":
        if reader is not None:
            top.problem("reader", 'belongs to container = "network"')
        found, entries = open_container(path, kind)
        if not entries and found != "files":
            raise SourceError(f"{path.name} holds no arrays")
        return found, entries, False
    try:
        options = ConvertOptions.from_json({} if reader is None else reader.values)
    except (OptionError, TypeError) as error:
        raise OptionError(f"--net: reader: {error}") from None
    if not isinstance(options.format, str | None):
        raise OptionError(f"--net: reader.format: {options.format!r} is no name of a format")
    if options.net is not None:
        raise OptionError("--net: reader.net: a net.toml cannot contain another")
    from xnorinfer.converters import read_source

    try:
        reading = read_source(path, options)
    except NetworkError as error:
        understood = understood_of(error)
        if understood is None or not understood.open:
            raise
        reading = understood
    return f"network, as read from {reading.source}", network_arrays(reading.net), reading.channels_first


def understood_of(error: XnorinferError) -> Reading | None:
    """What a source understood of a network that it refused; it may look at the file again."""
    found = error.understood if isinstance(error, NetworkError) else None
    found = found() if callable(found) else found
    return found if isinstance(found, Reading) else None


def network_arrays(net: Net) -> dict[str, Entry]:
    """Every array of a network as a container: POSITION.NAME.FIELD, kernels (neurons, inputs)."""
    found: dict[str, Entry] = {}
    for position, node in enumerate(net.nodes):
        for field, array in arrays_of(node):
            name = f"{position}.{node.name}.{field}"
            if array.shape:  # one number for all neurons is written out
                found[name] = Entry.of(RawTensor(name, array, str(array.dtype)))
    return found

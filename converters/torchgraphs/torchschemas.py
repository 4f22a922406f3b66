"""ATen's operations in tables: the names of their arguments, and which of ONNX's those are that do one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xnorinfer.converters.containers.onnxfile import NUMBERS, Attribute
from xnorinfer.converters.graphs.elementwise import COMPARISONS
from xnorinfer.converters.torchgraphs import torchjoins, torchmaps

#: Names of arguments, in the order of ATen's schemas.
SCHEMAS: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    **dict.fromkeys(("matmul", "__matmul__", "inner"), ("self", "other")),
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2")),
    "addmm": ("self", "mat1", "mat2", "beta", "alpha"),
    "einsum": ("equation", "tensors"),
    "tensordot": ("self", "other", "dims_self", "dims_other"),
    **dict.fromkeys(("t", "numpy_T", "mT", "adjoint"), ("self",)),
    "transpose": ("self", "dim0", "dim1"),
    "permute": ("self", "dims"),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), ("self", "size")),
    "flatten": ("self", "start_dim", "end_dim"),
    **dict.fromkeys(("squeeze", "unsqueeze"), ("self", "dim")),
    "expand": ("self", "size"),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), ("self", "other")),
    **dict.fromkeys(
        ("batch_norm", "_batch_norm_impl_index"),
        ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled"),
    ),
    "_native_batch_norm_legit_no_training": ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps"),
    "hardtanh": ("self", "min_val", "max_val"),
    **dict.fromkeys(("clamp", "clip"), ("self", "min", "max")),
    "clamp_min": ("self", "min"),
    "clamp_max": ("self", "max"),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout"), ("input", "p", "train")),
    "where": ("condition", "self", "other"),
    "masked_fill": ("self", "mask", "value"),
    "index_put": ("self", "indices", "values"),
    "heaviside": ("self", "values"),
    "threshold": ("self", "threshold", "value"),
    "softshrink": ("self", "lambd"),
    "leaky_relu": ("self", "negative_slope"),
    "elu": ("self", "alpha", "scale", "input_scale"),
    "prelu": ("self", "weight"),
    "softplus": ("self", "beta", "threshold"),
    "round": ("self", "decimals"),
    **dict.fromkeys(("add", "sub", "subtract", "rsub"), ("self", "other", "alpha")),
    **dict.fromkeys(("div", "divide", "true_divide"), ("self", "other", "rounding_mode")),
    "pow": ("self", "exponent"),
    "copy": ("self", "src"),
    "rrelu": ("self", "lower", "upper", "training"),
    "to": ("self", "dtype", "behind_device"),
    "_to_copy": ("self", "dtype"),
    "type_as": ("self", "other"),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "argmax"), ("self", "dim")),
    "topk": ("self", "k", "dim", "largest"),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "prod"), ("self", "dim", "keepdim")),
    "linalg_vector_norm": ("self", "ord", "dim", "keepdim"),
    "norm": ("self", "p", "dim", "keepdim"),
    **dict.fromkeys(("std", "var"), ("self", "dim", "unbiased", "keepdim", "correction")),
    **dict.fromkeys(("ones_like", "zeros_like"), ("self",)),
    **dict.fromkeys(("new_ones", "new_zeros"), ("self", "size")),
    **dict.fromkeys(("full_like",), ("self", "fill_value")),
    "new_full": ("self", "size", "fill_value"),
    **dict.fromkeys(("ones", "zeros"), ("size",)),
    "full": ("size", "fill_value"),
    **dict.fromkeys(("scalar_tensor", "tensor"), ("s",)),
    **torchmaps.SCHEMAS,
    **torchjoins.SCHEMAS,
}  # fmt: skip

#: They hand a tensor on.
PASSING = ("contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy", "clone", "cpu", "requires_grad", "data")
#: Of them, those that copy.
COPYING = ("clone", "lift_fresh_copy")
#: One tensor in, one out.
UNARY = {
    "sign": "Sign", "sgn": "Sign", "neg": "Neg", "negative": "Neg", "abs": "Abs", "absolute": "Abs", "floor": "Floor",
    "ceil": "Ceil", "trunc": "Trunc", "fix": "Trunc", "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "exp": "Exp",
    "log": "Log", "log2": "Log2", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "log_sigmoid": "LogSigmoid", "atan": "Atan",
    "square": "Square", "logical_not": "Not", "bitwise_not": "Not", "isnan": "IsNaN", "sin": "Sin", "cos": "Cos",
}  # fmt: skip
BINARY = {
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal", "ne": "NotEqual",
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual", "mul": "Mul",
    "multiply": "Mul", "maximum": "Max", "minimum": "Min", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor",
    "bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor", "__and__": "And", "__or__": "Or",
}  # fmt: skip
PICKING = {
    "softmax": "Softmax", "_softmax": "Softmax", "log_softmax": "LogSoftmax", "_log_softmax": "LogSoftmax",
    "argmax": "ArgMax", "topk": "TopK",
}  # fmt: skip
REDUCING = {
    "mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin", "prod": "ReduceProd",
    "std": "ReduceStd", "var": "ReduceVar",
}  # fmt: skip
FILLED = {"ones_like": 1.0, "zeros_like": 0.0, "new_ones": 1.0, "new_zeros": 0.0, "ones": 1.0, "zeros": 0.0}
#: What gives no float32.
OTHER = ("Cast", "Not", "And", "Or", "Xor", "IsNaN", *COMPARISONS)
#: What only moves numbers, and what gives truths of truths.
MOVING = (
    "Identity", "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather"
)  # fmt: skip
OF_TRUTHS = ("Concat", "Where", "Mul", "Max", "Min")
#: Of whole numbers they are arithmetic of their bits.
BITWISE = ("bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__")
#: Torch's first types.
WHOLE = ("uint8", "int8", "int16", "int32", "int64")
#: Operations that make tensors of none.
FACTORIES = ("ones", "zeros", "full", "scalar_tensor", "tensor")
PRODUCTS = ("matmul", "__matmul__", "mm", "bmm")


def gives_truths(operation: str, of: Sequence[bool], attributes: Mapping[str, Attribute]) -> bool:
    """Whether a node gives truths, which are no numbers yet.  of: whether its inputs are such."""
    if operation == "Cast":
        return attributes["to"] == NUMBERS["bool"]
    if operation in MOVING:
        return of[0]
    return operation in OTHER or (operation in OF_TRUTHS and all(of))

"""The net.toml of a convolutional checkpoint: windows, pools and the image, which torch and TensorFlow files do not say."""

from __future__ import annotations

from xnorinfer.training.architecture import Convolution
from xnorinfer.training.checkpoint import tf1_scopes
from xnorinfer.training.trainable import BATCH_NORM_EPSILON, BinaryNet

#: What a net.toml calls an array of a layer, beside what PyTorch's state dict and the TF1 port call it.
_LAYER = {"weight": ("weight", "kernel"), "bias": ("bias", "bias")}
_NORM = {
    "mean": ("running_mean", "moving_mean"),
    "variance": ("running_var", "moving_variance"),
    "gamma": ("weight", "gamma"),
    "beta": ("bias", "beta"),
}


def net_toml(model: BinaryNet, suffix: str) -> str:
    """For a checkpoint of `write_tf1` (suffix .ckpt) or of `write_torch` (any other), as `xnorinfer convert --net` takes it."""
    shape, tensorflow = model.shape, suffix == ".ckpt"
    lines = ['profile = "tf1-round"', f"epsilon = {BATCH_NORM_EPSILON:g}", "stride = 1"]
    if tensorflow:
        lines += ['layout = "in_out"', 'kernel_layout = "HWIO"', 'flatten = "channels_last"']
    else:
        lines += ['layout = "out_in"', 'kernel_layout = "OIHW"', 'flatten = "channels_first"']
        lines.append('ignore = ["*.num_batches_tracked"]')
    if shape.h != 1:
        lines.append(f'h = "{shape.h}"' if isinstance(shape.h, str) else f"h = {shape.h!r}")
    lines += ["", "[input]", "range = [-1, 1]", f"shape = {list(shape.input_shape)}"]
    scopes = zip(*tf1_scopes(model), strict=True)
    for index, ((own, norm), layer) in enumerate(zip(scopes, (*shape.hidden, shape.classes), strict=True), 1):
        if not tensorflow:
            own, norm = f"state_dict.{model.names[index - 1]}", f"state_dict.bn{index}"
        separator = "/" if tensorflow else "."
        lines += ["", "[[layers]]"]
        lines += [
            f'{key} = "{own}{separator}{names[tensorflow]}"' for key, names in _LAYER.items() if key != "bias" or shape.bias
        ]
        if isinstance(layer, str):
            convolution = Convolution.parse(layer)
            lines.append(f"padding = {convolution.padding}")
            if convolution.pool > 1:
                lines.append(f'pool = {{kind = "max", size = {convolution.pool}, after = "sum"}}')
        arrays = ", ".join(f'{key} = "{norm}{separator}{names[tensorflow]}"' for key, names in _NORM.items())
        lines.append(f"norm = {{{arrays}}}")
    return "\n".join([*lines, ""])

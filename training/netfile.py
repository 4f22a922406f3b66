"""The net.toml of a convolutional checkpoint: windows, pools and the image, which torch and TensorFlow files do not say."""

from __future__ import annotations

from typing import Any

from xnorinfer.errors import MissingExtraError
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


def require_tomli_w() -> None:
    """Raise MissingExtraError without the package tomli-w."""
    try:
        import tomli_w  # noqa: F401
    except ImportError:
        raise MissingExtraError("the net.toml of a convolutional checkpoint", "tomli-w", "train") from None


def net_toml(model: BinaryNet, suffix: str) -> str:
    """For a checkpoint of `write_tf1` (suffix .ckpt) or of `write_torch` (any other), as `xnorinfer convert --net` takes it.

    Raises MissingExtraError without the package tomli-w.
    """
    require_tomli_w()
    import tomli_w

    shape, tensorflow = model.shape, suffix == ".ckpt"
    said: dict[str, Any] = {"profile": "tf1-round", "epsilon": BATCH_NORM_EPSILON, "stride": 1}
    if tensorflow:
        said |= {"layout": "in_out", "kernel_layout": "HWIO", "flatten": "channels_last"}
    else:
        said |= {"layout": "out_in", "kernel_layout": "OIHW", "flatten": "channels_first", "ignore": ["*.num_batches_tracked"]}
    if shape.h != 1:
        said["h"] = shape.h
    said["input"] = {"range": [-1, 1], "shape": shape.input_shape}
    said["layers"] = []
    scopes = zip(*tf1_scopes(model), strict=True)
    for index, ((own, norm), layer) in enumerate(zip(scopes, (*shape.hidden, shape.classes), strict=True), 1):
        if not tensorflow:
            own, norm = f"state_dict.{model.names[index - 1]}", f"state_dict.bn{index}"
        separator = "/" if tensorflow else "."
        arrays = {key: names for key, names in _LAYER.items() if key != "bias" or shape.bias}
        table: dict[str, Any] = {key: f"{own}{separator}{names[tensorflow]}" for key, names in arrays.items()}
        if isinstance(layer, str):
            convolution = Convolution.parse(layer)
            table["padding"] = convolution.padding
            if convolution.pool > 1:
                table["pool"] = {"kind": "max", "size": convolution.pool, "after": "sum"}
        table["norm"] = {key: f"{norm}{separator}{names[tensorflow]}" for key, names in _NORM.items()}
        said["layers"].append(table)
    return tomli_w.dumps(said)

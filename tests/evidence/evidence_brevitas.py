"""Networks trained in Brevitas for a moment, exported by export_qonnx: `evidence_brevitas.py FOLDER MNIST`."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence_record import (
    BATCH,
    WIDTHS,
    Array,
    Case,
    Layer,
    Mnist,
    nudged_beta,
    signed_gamma,
    spoiled_gamma,
    spoiled_latents,
)
from mnist_networks import array
from test_converters_brevitas import export, qnn, quantizers
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """LFC of Brevitas' bnn_pynq examples, smaller, with bias; pixels come in as 0..1."""

    def __init__(self, *, scale: float = 1.0, binary_input: bool = False, affine: bool = True) -> None:
        super().__init__()
        weight, activation = quantizers(scale, scale)
        self.scale = scale
        self.first = qnn.QuantIdentity(act_quant=activation) if binary_input else nn.Identity()
        self.dense = nn.ModuleList(
            qnn.QuantLinear(depth, neurons, bias=True, weight_quant=weight) for depth, neurons in itertools.pairwise(WIDTHS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(n, affine=affine or i == 0) for i, n in enumerate(WIDTHS[1:]))
        self.signs = nn.ModuleList(qnn.QuantIdentity(act_quant=activation) for _ in WIDTHS[2:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(2.0 * x - torch.tensor([1.0]))
        for dense, norm, sign in itertools.zip_longest(self.dense, self.norms, self.signs):
            x = norm(dense(x))
            x = x if sign is None else sign(x)
        return x


def unit(pixels: Array) -> Tensor:
    """0..1, as torchvision's ToTensor gives them."""
    return torch.from_numpy(pixels.copy()).float().div(255)


def train(net: Net, mnist: Mnist) -> None:
    with torch.no_grad():
        for seed, norm in enumerate(net.norms):
            if norm.affine:
                norm.weight.copy_(torch.from_numpy(signed_gamma(norm.num_features, seed)))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    x, y = unit(mnist.train_x), torch.from_numpy(mnist.train_y.astype(np.int64))
    for rows in torch.split(torch.arange(len(x)), BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            for layer in net.dense:
                layer.weight.clamp_(-1, 1)
    net.eval()
    with torch.no_grad():
        for layer in net.dense:
            layer.weight.copy_(torch.from_numpy(spoiled_latents(layer.weight.numpy().T).T))
        for norm in net.norms[:2]:
            if norm.affine:
                norm.weight.copy_(torch.from_numpy(spoiled_gamma(norm.weight.numpy())))
        if isinstance(net.first, nn.Identity):
            first = layers_of(net)[0]
            assert first.bias is not None
            assert first.norm is not None
            signs = np.where(first.weight >= 0, first.h, -first.h)
            net.norms[0].bias.copy_(torch.from_numpy(nudged_beta(signs, first.bias, first.norm, mnist.test_x)))


def layers_of(net: Net) -> list[Layer]:
    layers = []
    for index, (dense, norm) in enumerate(zip(net.dense, net.norms, strict=True)):
        found: dict[str, Any] = {"mean": array(norm.running_mean), "variance": array(norm.running_var), "epsilon": norm.eps}
        if norm.affine:
            found |= {"gamma": array(norm.weight), "beta": array(norm.bias)}
        reads_scale = net.scale if index or not isinstance(net.first, nn.Identity) else 1.0
        layers.append(Layer(array(dense.weight).T, array(dense.bias), found, h=net.scale * reads_scale))
    return layers


@torch.no_grad()
def run(net: Net, layers: list[Layer], pixels: Array) -> Array:
    """Scores of all images; what stands before each sign goes to `layers`."""
    values: list[Array] = []
    hooks = [norm.register_forward_hook(lambda _, __, output: values.append(output.numpy().copy())) for norm in net.norms[:2]]
    scores = net(unit(pixels))
    for hook in hooks:  # the exporter must not see them
        hook.remove()
    layers[0].values, layers[1].values = values
    return np.array(getattr(scores, "value", scores))


def main(folder: Path, mnist_folder: Path) -> None:
    logging.disable(logging.WARNING)
    mnist = Mnist.read(mnist_folder)
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "binarized input": {"binary_input": True},
        "scaled weights": {"scale": 0.5},
        "gamma or beta missing": {"affine": False},
    }
    for seed, (name, how) in enumerate(cases.items()):
        torch.manual_seed(seed)
        net = Net(**how)
        train(net, mnist)
        layers = layers_of(net)
        scores = run(net, layers, mnist.test_x)
        path = folder / f"brevitas-{seed}.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            export.export_qonnx(net, args=torch.rand(1, WIDTHS[0]), export_path=str(path))
        mapping: dict[str, Any] = {"threshold": 128} if how.get("binary_input") else {"range": [-1, 1]}
        options = {"input_from_file": True}
        # ONNX's BatchNormalization is a scale and a shift, as TensorFlow's.
        Case("brevitas qonnx", name, path.name, layers, scores, "ge", "tf", options, mapping).write(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

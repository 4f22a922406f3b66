"""Networks trained in PyTorch for a moment, saved by torch.save and exported to ONNX: `evidence_torch.py FOLDER MNIST`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import mnist_networks
import numpy as np
import torch
from evidence_record import (
    BATCH,
    LATENTS,
    WIDTHS,
    Case,
    Layer,
    Mnist,
    nudged_beta,
    signed_gamma,
    spoiled_gamma,
    spoiled_latents,
)
from torch import Tensor, nn
from torch.nn import functional


class AtLeastZero(torch.autograd.Function):
    """+1 at 0 and above, else -1; the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Net(nn.Module):
    """784-96-96-10.  binarize: of weights and activations; affine False: BatchNorms but the first without gamma and beta."""

    def __init__(self, binarize: Any, *, float_head: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.binarize = binarize
        _, first, second, head = WIDTHS
        self.fc1, self.bn1 = nn.Linear(WIDTHS[0], first), nn.BatchNorm1d(first)
        self.fc2, self.bn2 = nn.Linear(first, second), nn.BatchNorm1d(second, affine=affine)
        self.float_head = float_head
        self.fc3 = nn.Linear(second, head)
        self.bn3 = None if float_head else nn.BatchNorm1d(head, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(functional.linear(x, self.binarize(self.fc1.weight), self.fc1.bias))
        x = self.binarize(functional.hardtanh(x))
        x = functional.hardtanh(self.bn2(functional.linear(x, self.binarize(self.fc2.weight), self.fc2.bias)))
        if self.bn3 is None:
            return self.fc3(x)
        return self.bn3(functional.linear(self.binarize(x), self.binarize(self.fc3.weight), self.fc3.bias))


def train(net: Net, mnist: Mnist, rule: str) -> None:
    norms = [module for module in (net.bn1, net.bn2) if module.affine]
    binary = [net.fc1, net.fc2] if net.float_head else [net.fc1, net.fc2, net.fc3]
    with torch.no_grad():
        for seed, norm in enumerate(norms):
            norm.weight.copy_(torch.from_numpy(signed_gamma(norm.num_features, seed)))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    x, y = mnist_networks.inputs_of(mnist.train_x), torch.from_numpy(mnist.train_y.astype(np.int64))
    for rows in torch.split(torch.arange(len(x)), BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            for layer in binary:
                layer.weight.clamp_(-1, 1)
    net.eval()
    # torch.sign(0) is 0, no bit: there only numbers beside 0 can be converted.
    ties = LATENTS if rule == "ge" else (1e-9, -1e-9, 1e-30)
    with torch.no_grad():
        for layer in binary:
            layer.weight.copy_(torch.from_numpy(spoiled_latents(layer.weight.numpy().T, ties).T))
        for norm in norms:
            norm.weight.copy_(torch.from_numpy(spoiled_gamma(norm.weight.numpy())))
        first = part(net.fc1, net.bn1)
        assert first.bias is not None
        assert first.norm is not None
        signs = np.where(first.weight >= 0, 1.0, -1.0)
        net.bn1.bias.copy_(torch.from_numpy(nudged_beta(signs, first.bias, first.norm, mnist.test_x)))


def part(dense: nn.Linear, norm: nn.BatchNorm1d | None) -> Layer:
    weight, bias = mnist_networks.array(dense.weight).T, mnist_networks.array(dense.bias)
    if norm is None:
        return Layer(weight, bias, kind="float", reads="hardtanh")
    mean, variance = mnist_networks.array(norm.running_mean), mnist_networks.array(norm.running_var)
    found: dict[str, Any] = {"mean": mean, "variance": variance, "epsilon": norm.eps}
    if norm.affine:
        found |= {"gamma": mnist_networks.array(norm.weight), "beta": mnist_networks.array(norm.bias)}
    return Layer(weight, bias, found)


def main(folder: Path, mnist_folder: Path) -> None:
    mnist = Mnist.read(mnist_folder)
    sign, at_least_zero = mnist_networks.SignThrough.apply, AtLeastZero.apply
    cases: dict[str, tuple[str, Any, dict[str, bool]]] = {
        "plain": ("sign", sign, {}),
        "float head": ("sign", sign, {"float_head": True}),
        "gamma or beta missing": ("sign", sign, {"affine": False}),
        "latents at 0": ("ge", at_least_zero, {}),
    }
    for seed, (name, (rule, binarize, how)) in enumerate(cases.items()):
        torch.manual_seed(seed)
        net = Net(binarize, **how)
        train(net, mnist, rule)
        layers = [part(net.fc1, net.bn1), part(net.fc2, net.bn2), part(net.fc3, net.bn3)]
        found = mnist_networks.framework_layers(net, mnist.test_x)
        layers[0].values, layers[1].values = found["bn1"], found["bn2"]
        options: dict[str, Any] = {"float_layers": ["fc3"]} if net.float_head else {}
        options |= {"profile": "ge-zero"} if rule == "ge" else {}
        torch.save({"epoch": 1, "state_dict": net.state_dict()}, folder / f"torch-{seed}.pth")
        Case("torch", name, f"torch-{seed}.pth", layers, found["scores"], rule, "torch", options).write(folder)
        if rule == "sign":
            export(net, folder / f"onnx-{seed}.onnx")
            # ONNX's BatchNormalization is a scale and a shift, as TensorFlow's.
            Case("onnx of torch", name, f"onnx-{seed}.onnx", layers, found["scores"], rule, "tf").write(folder)


def export(net: Net, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(2, WIDTHS[0]),)
        torch.onnx.export(net, example, str(path), dynamo=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

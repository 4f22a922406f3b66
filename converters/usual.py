"""What is usual for training code of a kind, where neither a file nor an option says it; several sources read its files."""

from __future__ import annotations

from xnorinfer.converters.assemble import Defaults

KERAS = Defaults(
    "ge-zero",
    "tf",
    1e-3,
    "Keras's default",
    "no config says BatchNorm's epsilon: Keras's default 1e-3 is used; ports of BinaryNet have 1e-6 or "
    "1e-4, so check --bn-epsilon",
    input_warning=(
        "the file does not say how pixels enter the network: -1..1 is used, as in Larq's examples (x/127.5 - 1); scripts that "
        "divide by 255 need --input-range=0:1"
    ),
)

PYTORCH = Defaults(
    "torch-sign",
    "torch",
    1e-5,
    "torch.nn.BatchNorm1d's default, not stored in state dicts",
    input_warning="the file does not say how pixels enter the network: -1..1 is used",
)

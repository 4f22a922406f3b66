"""The BinaryNet training recipe in PyTorch (Courbariaux et al. 2016, "Binarized Neural Networks", arXiv:1602.02830).

Writes ordinary checkpoints that `xnorinfer convert` reads.  Only `publish` uses the inference engine; everything else uses
error names, the TensorFlow format's constants, and how the package reads data and writes files.  Needs the extra `train`.

    binarylayers  straight-through binarization; BinaryLinear and BinaryConv2d with latent weights
    optimizer     Adam that scales each layer's update, clips latents and keeps frozen entries; learning-rate decay
    architecture  what a network is made of, and how that is written
    trainable     the networks of the recipe and their loss
    distortion    images shifted, turned and scaled while training
    fitting       arrays in, a trained network out
    loop          seeded epochs, best checkpoint by validation, resume
    checkpoint    the files: named npz arrays, PyTorch state dict, TensorFlow variables, training state
    netfile       the net.toml of a convolutional checkpoint
    bundle        TensorFlow's V2 checkpoint format
    curves        training curves as a picture
    data          MNIST from IDX files, the 8x8 digits of scikit-learn
    download      MNIST's files from a mirror
    publish       a trained network as a packed model that ships with the package, with its card
"""

import sys

from xnorinfer.errors import MissingExtraError

try:
    import torch as _torch
except ImportError:
    # While `python -m` looks for __main__, argv[0] is "-m": there __main__ gives the error, in one line without a traceback.
    if sys.argv[:1] != ["-m"]:
        raise MissingExtraError("training", "torch", "train") from None
else:
    del _torch
    from xnorinfer.training.binarylayers import BinaryConv2d, BinaryLinear, binary_sigmoid, binary_tanh, hard_sigmoid
    from xnorinfer.training.optimizer import BinaryAdam, learning_rate
    from xnorinfer.training.trainable import BinaryNet, squared_hinge

__all__ = [
    "BinaryAdam",
    "BinaryConv2d",
    "BinaryLinear",
    "BinaryNet",
    "binary_sigmoid",
    "binary_tanh",
    "hard_sigmoid",
    "learning_rate",
    "squared_hinge",
]

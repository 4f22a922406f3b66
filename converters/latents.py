"""What training code makes of latent weights before it takes their sign: centring, clipping, and the magnitude that follows.

    centre       w - mean(w) of each neuron over its inputs (XNOR-Net, IR-Net); of a convolution over the channels of each tap
                 (XNOR-Net-PyTorch), or over all of a neuron (IR-Net)
    clip         to -c..c (XNOR-Net-PyTorch: 1), after the centring; it changes no sign, only the magnitude
    magnitude    mean(|w|) of each neuron (XNOR-Net), or of the whole layer (DoReFa-Net)

XNOR-Net-PyTorch (`BinOp.binarization`) centres, clips, and takes the magnitude of what is left; others take the magnitude of
the weights as they are stored.  Means are sums in float64, divided and rounded to float32 once.  The frameworks sum in float32,
in an order that depends on the CPU: of PyTorch's means of |w| about 60 % are the same float, most others are the next one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from xnorinfer.float32 import F32

#: Magnitudes that training code computes from a layer's weights.
ScaleBy = Literal["mean-abs", "mean-abs-layer"]
SCALES: dict[ScaleBy, str] = {
    "mean-abs": "mean of |weights| of each neuron (XNOR-Net)",
    "mean-abs-layer": "mean of |weights| of the layer (DoReFa-Net)",
}


def centred(latent: F32, *, neuron: bool = False) -> F32:
    """Weights (neurons, ..., channels) minus the mean over the channels, or over the whole neuron, one float32 subtraction."""
    mean = latent.mean(axis=tuple(range(1, latent.ndim)) if neuron else -1, dtype=np.float64, keepdims=True)
    return np.asarray(latent - mean.astype(np.float32), np.float32)


def magnitude(latent: F32, by: ScaleBy) -> F32:
    """The scale of each neuron, (neurons,) float32, of weights (neurons, ...)."""
    mean = np.abs(latent).mean(axis=tuple(range(1, latent.ndim)) if by == "mean-abs" else None, dtype=np.float64)
    scale: F32 = np.full(latent.shape[:1], mean, np.float32)
    return scale

"""Windows by themselves: paddings as frameworks compute them."""

from __future__ import annotations

import itertools

import pytest

from xnorinfer.net.windows import Window


def test_same_pads_as_tensorflow_does() -> None:
    """Against TensorFlow's own output sizes and the place of one pixel, over odd and even kernels, strides and dilations."""
    tf = pytest.importorskip("tensorflow")
    import numpy as np

    cases = itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2), (5, 6), (7, 8))
    for kernel, stride, dilation, height, width in cases:
        if stride > 1 and dilation > 1:
            continue  # TensorFlow has none
        window = Window((kernel, 2), (stride, stride), (dilation, dilation)).same(height, width)
        taps = tf.reshape(tf.range(1.0, 2 * kernel + 1), (kernel, 2, 1, 1))
        x = np.arange(1, height * width + 1, dtype=np.float32).reshape(1, height, width, 1)
        want = tf.nn.conv2d(x, taps, stride, "SAME", dilations=dilation).numpy()[0, :, :, 0]
        assert window.outputs(height, width) == want.shape
        top, bottom, left, right = window.padding
        padded = np.pad(x[0, :, :, 0], ((top, bottom), (left, right)))
        for y, z in np.ndindex(want.shape):
            part = padded[y * stride :, z * stride :][: window.reach[0] : dilation, : window.reach[1] : dilation]
            assert (part * taps.numpy()[:, :, 0, 0]).sum() == want[y, z]

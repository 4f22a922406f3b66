"""Distortions of images, drawn anew for every batch: a network that sees each image a little different learns its digit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def distorted(pixels: Tensor, image: tuple[int, int, int], shift: float, rotate: float, zoom: float) -> Tensor:
    """Images, each moved, turned and scaled by its own amounts: (rows, depth) uint8 -> (rows, depth) float32, 0..255.

    image: (height, width, channels), channels innermost.  shift: up to so many pixels in both ways.  rotate: up to so many
    degrees around the middle.  zoom: by a factor from 1 - zoom to 1 + zoom.  All amounts are drawn uniformly from torch's
    global generator; pixels are interpolated linearly, beyond the image there is black.
    """
    rows = len(pixels)
    height, width, channels = image

    def draw(limit: float) -> Tensor:
        return (torch.rand(rows) * 2 - 1) * limit

    angle, size = torch.deg2rad(draw(rotate)), 1 + draw(zoom)
    # In units of half an image, as `affine_grid` has them; an angle in those is one on the image only where it is square.
    across, down = draw(2 * shift / width), draw(2 * shift / height)
    cos, sin = angle.cos() / size, angle.sin() / size
    turned = [cos, -sin * (height / width), across], [sin * (width / height), cos, down]
    theta = torch.stack([torch.stack(line, 1) for line in turned], 1)
    grid = functional.affine_grid(theta, [rows, channels, height, width], align_corners=False)
    maps = pixels.reshape(rows, *image).permute(0, 3, 1, 2).float()
    return functional.grid_sample(maps, grid, align_corners=False).permute(0, 2, 3, 1).reshape(rows, -1)

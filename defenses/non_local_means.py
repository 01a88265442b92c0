"""Non-local means: a pixel becomes the mean of those whose surroundings look like its own.

Buades, Coll, Morel: A Non-local Algorithm for Image Denoising, CVPR 2005, equation 2: a pixel q of the window around p
weighs exp(-d(p, q) / h^2), where d is the mean squared difference of the patches around both, over all colours.

Readings: patches weigh all their pixels alike, p itself counts as the others do, and edges are mirrored. Colours share
their weights; OpenCV's form for colour images, which Xu et al. used, has those of brightness and of colour apart.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad
from torch.utils.checkpoint import checkpoint


def non_local_means(x: Tensor, search: int, patch: int, strength: float) -> Tensor:
    """x (N, C, H, W) in [0, 1], smoothed. search and patch: odd sides of the window and of a patch; strength: h, in
    pixels of [0, 1]."""
    reach, rim = search // 2, patch // 2
    wide = pad(x, (reach + rim,) * 4, mode="reflect")
    height, width = x.shape[2:]
    own = wide[:, :, reach : reach + height + 2 * rim, reach : reach + width + 2 * rim]

    def compared(wide: Tensor, own: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
        """The weights (N, 1, H, W) of the pixels at one place of every window, and weights times pixels."""
        other = wide[:, :, top : top + height + 2 * rim, left : left + width + 2 * rim]
        far = avg_pool2d((own - other).square().mean(1, keepdim=True), patch, stride=1)
        weight = (-far / strength**2).exp()
        return weight, weight * other[:, :, rim : rim + height, rim : rim + width]

    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for place in range(search**2):
        top, left = divmod(place, search)
        if wide.requires_grad and torch.is_grad_enabled():  # a window has many places: what each needs is made again
            weight, part = checkpoint(compared, wide, own, top, left, use_reentrant=False)
        else:
            weight, part = compared(wide, own, top, left)
        total, weights = total + part, weights + weight
    return total / weights


def reaches(search: int, patch: int) -> int:
    """How many pixels beyond the edge of an image are looked at; an image must be larger."""
    return search // 2 + patch // 2

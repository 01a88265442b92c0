"""Transformations of an input before a network sees it: fewer bits, a median filter, JPEG, random resizing.

Those that round have on the way back the gradient of the identity (BPDA; Athalye, Carlini, Wagner: Obfuscated Gradients
Give a False Sense of Security, ICML 2018, section 4.1). Images x are (N, C, H, W) in [0, 1].
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad


def straight_through(x: Tensor, changed: Tensor) -> Tensor:
    """`changed` with the gradient of x."""
    return x + (changed - x).detach()


def reduced_bits(x: Tensor, bits: int) -> Tensor:
    """x with 2^bits levels of each colour."""
    levels = 2**bits - 1
    return straight_through(x, (x.detach() * levels).round() / levels)


def median(x: Tensor, window: int) -> Tensor:
    """The median of the window x window pixels of each colour around each pixel; edges are mirrored.

    An even window reaches further to the right and down; of an even number of pixels, the median is the lower one.
    """
    before = (window - 1) // 2
    after = window - 1 - before
    padded = pad(x, (before, after, before, after), mode="reflect")
    patches = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    return patches.median(4).values


def jpeg(x: Tensor, quality: int) -> Tensor:
    """x as JPEG of a quality (1 to 95) stores it, by Pillow."""
    images = (x.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    stored = [_through_jpeg(image, quality) for image in images]
    changed = torch.from_numpy(np.stack(stored)).to(x) / 255 if stored else x.detach()
    return straight_through(x, changed)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """One image (H, W, C) uint8, as (C, H, W) uint8; other numbers of colours than 3 are stored one by one."""
    if image.shape[2] != 3:
        return np.stack([_read_back(image[:, :, channel], quality) for channel in range(image.shape[2])])
    return _read_back(image, quality).transpose(2, 0, 1)


def _read_back(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(io.BytesIO(buffer.getvalue())) as read:
        return np.asarray(read)


def resized_and_padded(x: Tensor, side: int, top: int, left: int, whole: int) -> Tensor:
    """x resized to `side` pixels (nearest) and padded with zeros to `whole`, `top` and `left` of them before it."""
    small = interpolate(x, size=(side, side), mode="nearest")
    rest = whole - side
    return pad(small, (left, rest - left, top, rest - top))

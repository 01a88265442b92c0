"""The images in the gallery of a run's page, as data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.analysis.gallery import Shown
from bench.rows import REFUSED, Row

#: bytes that all images of a page may have
BYTES = 600_000
#: images of at most this many pixels on a side are kept exactly, larger ones as JPEG
EXACT = 64


def gallery_data(shown: Sequence[Shown], outcome: Callable[[Row], str]) -> list[dict[str, Any]]:
    """The examples of the gallery with their images, until `BYTES` are spent."""
    examples: list[dict[str, Any]] = []
    spent = 0
    for one in shown:
        images = _images(one)
        spent += sum(len(image["src"]) for image in images)
        if spent > BYTES:
            break
        row = one.row
        words = f"label {row.label}, {answer_in_words(row)}" + (f"; {row.violation}" if row.violation else "")
        examples.append({"index": row.index, "kind": outcome(row), "words": words, "images": images})
    return examples


def answer_in_words(row: Row) -> str:
    """The answer to what was served: `answered 3`, or `refused`."""
    return "refused" if row.answer == REFUSED else f"answered {row.answer}"


def _images(one: Shown) -> list[dict[str, Any]]:
    """The clean image, the served one, their difference, and the neighbours of the served one."""
    difference = one.x_adv - one.x
    largest = float(difference.abs().max())
    scaled = 0.5 + difference / (2 * largest) if largest else torch.full_like(difference, 0.5)
    images = [
        image_data(one.x, "clean", f"clean image {one.row.index}, label {one.row.label}"),
        image_data(one.x_adv, "served", f"served image, {answer_in_words(one.row)}"),
        image_data(
            scaled, f"difference x {1 / (2 * largest):.3g}" if largest else "no difference", "difference, scaled"
        ),
    ]
    for name, (neighbours, labels) in one.nearest.items():
        for number, (image, label) in enumerate(zip(neighbours, labels, strict=True), 1):
            images.append(
                image_data(image, f"{name} {number}: {label}", f"neighbour {number} in {name}, label {label}")
            )
    return images


def image_data(image: Tensor, caption: str, alt: str) -> dict[str, Any]:
    """An image (C, H, W) in [0, 1] as a data address."""
    values = (image.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    form = "PNG" if max(values.shape[:2]) <= EXACT else "JPEG"
    buffer = io.BytesIO()
    file.save(buffer, form, quality=85)
    source = f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": source, "alt": alt, "caption": caption, "width": values.shape[1], "height": values.shape[0]}

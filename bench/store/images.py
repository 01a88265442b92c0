"""The stored images of a run, read from the files beside the database."""

from __future__ import annotations

import errno

import torch
from torch import Tensor

from bench.cache import Cache
from bench.errors import DiskError
from bench.store.runs import RunRecord
from bench.store.store import Store

FULL = (errno.ENOSPC, errno.EDQUOT)


def stored_images(store: Store, record: RunRecord, cache: Cache) -> dict[tuple[int, int], Tensor]:
    """The stored proposals (C, H, W) by (game, position); images whose file cannot be read are left out."""
    images = {}
    for game, start, count, file in store.image_files(record.key):
        try:
            stored = cache.find_tensors("images", file).get("images", torch.empty(0))
        except DiskError as error:
            if error.errno in FULL:  # no room for what a store of several machines holds: the images may be whole
                raise
            # it is damaged, and somebody else's, so it stays where it is
            stored = torch.empty(0)
        for i in range(min(count, len(stored))):
            images[game, start + i] = stored[i]
    return images

"""What the adapters of the Adversarial Robustness Toolbox (ART) share: a network as ART's classifier, and a seed for
the global generators that ART draws from.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from tqdm import tqdm

from bench.draws import Draws, seed_of

# ART shows progress bars. The default lock of tqdm is a semaphore, which a killed process leaks.
tqdm.set_lock(threading.RLock())


@contextmanager
def seeded(draws: Draws, purpose: str = "") -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python from the examples' draws, and restore them afterwards."""
    seed = seed_of(draws.seed, draws.purpose, purpose, *draws.indices)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def as_art(network: nn.Module, x: Tensor, classes: int) -> PyTorchClassifier:
    """The network as a classifier of ART, for images of the shape of x (N, C, H, W) in [0, 1]."""
    return PyTorchClassifier(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )

"""What the adapters of the Adversarial Robustness Toolbox share: its view of a network, and its randomness under our
seed.
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

tqdm.set_lock(threading.RLock())  # of ART's progress bars: by default a semaphore that a stopped process leaks


@contextmanager
def seeded(draws: Draws, purpose: str = "") -> Iterator[None]:
    """The global generators of torch, numpy and Python as a function of the examples' draws; afterwards as before."""
    seed = seed_of(draws.seed, draws.purpose, purpose, *draws.indices)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reaches into every GPU
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def as_art(network: nn.Module, x: Tensor, classes: int) -> PyTorchClassifier:
    """The network as ART takes it, for images like x (N, C, H, W) in [0, 1]."""
    return PyTorchClassifier(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )

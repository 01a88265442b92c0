"""`bench.evaluate` on 1,000 MNIST-sized arrays with PGD-40 against the bare foolbox call (target: at most 1.1 times).

    python -m benchmarks.evaluate

Both compute on one thread, in turns, and the ratio is that of the medians. Images and weights are random: what costs
time does not depend on them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import foolbox
import numpy as np
import torch

import bench
from bench.environment import one_thread
from bench.models.small_cnn import MnistCNN

COUNT, STEPS, EPS, TURNS = 1000, 40, 0.3, 5


def main() -> None:
    one_thread()
    torch.manual_seed(0)
    network = MnistCNN(10, (1, 28, 28)).eval()
    rng = np.random.default_rng(0)
    x, y = rng.random((COUNT, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, COUNT)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=1 / 30, steps=STEPS)
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random weights guess
        for turn in range(TURNS + 1):
            start = time.perf_counter()
            result = bench.evaluate(network, x, y, eps=EPS, db=Path(folder) / f"{turn}.db", progress=False)
            ours.append(time.perf_counter() - start)
            assert result.status == "DONE"
            start = time.perf_counter()
            attack(model, images, labels, epsilons=EPS)
            bare.append(time.perf_counter() - start)
    a, b = statistics.median(ours[1:]), statistics.median(bare[1:])  # the first turn loads what later ones have
    what = f"bench.evaluate / bare foolbox, {COUNT} images, PGD-{STEPS}"
    print(f"{what}   {a / b:.3f}   ({a:.2f} s / {b:.2f} s; target <= 1.1)")


if __name__ == "__main__":
    main()

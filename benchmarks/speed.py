"""Ratios that should stay where they are, each with its target.

- one RMC answer against the bare train steps that it contains (at most 1.25)
- a training step in torch's own layout against the one that bases are trained in (at least 1)
- a neighbour query over 120,000 x 100 features at K 1024 (at most 10 ms)
- the harness's share of a run (at most 3 %), and the memory of all processes (below 2 GB), for the main job on digits
  and, where BENCH_DATA names the MNIST files, on MNIST
- what it costs that no file is believed: the first opening of an artefact of 200 MB (at most 1 s), and the share of a
  run (at most 2 %)
- `bench --help` and `bench list` (at most 0.5 s)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from torch.nn.functional import cross_entropy

from bench import cache, run
from bench.cache import Cache
from bench.environment import one_thread
from bench.models.layout import channels_last
from bench.models.resnet import resnet20
from bench.models.small_cnn import MnistCNN
from defenses.bank import Bank
from defenses.finetune import Learner, Recipe
from defenses.neighbours import Neighbours
from defenses.rmc import RMC, RMCParams

ROWS, K, BATCH = 120_000, 1024, 128


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_rmc() -> RMC:
    """RMC on MNIST's shapes with random weights, images and features: what costs time does not depend on them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = MnistCNN(10, (1, 28, 28)).eval()
    images = rng.integers(0, 256, (ROWS, 1, 28, 28), dtype=np.uint8)
    features = rng.random((ROWS, 100), dtype=np.float32)
    rmc = RMC(RMCParams(k=K))
    rmc._bank = Bank(images, rng.integers(0, 10, ROWS), Neighbours(features), ROWS // 2, 255)
    rmc._features = network
    rmc._learner = Learner(network, Recipe(lr=3e-3, epochs=2, patience=1, batch_size=BATCH), (1, 28, 28))
    rmc._device = torch.device("cpu")
    rmc._t = 0
    return rmc


def bare_steps(adapt: int, calibrate: int) -> Callable[[], None]:
    """The optimiser steps of one answer alone: fixed tensors, the same batches, layout and optimiser."""
    network = channels_last(MnistCNN(10, (1, 28, 28)))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    x, y = torch.rand(adapt, 1, 28, 28), torch.randint(10, (adapt,))

    def steps() -> None:
        for count in (adapt, adapt, calibrate, calibrate):  # two epochs each
            for start in range(0, count, BATCH):
                stop = min(start + BATCH, count)
                optimiser.zero_grad(set_to_none=True)
                cross_entropy(network(x[start:stop]), y[start:stop]).backward()
                optimiser.step()

    return steps


def answer_ratio(rounds: int = 30) -> None:
    rmc, x = make_rmc(), torch.rand(1, 1, 28, 28)
    steps = bare_steps(K - K // 5 // 4, K - K // 8)
    pairs = [(seconds(lambda: rmc.predict(x)), seconds(steps)) for _ in range(rounds + 3)][3:]
    ratio = statistics.median(answer / bare for answer, bare in pairs)
    answer, bare = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"RMC answer / bare train steps   {ratio:.3f}   ({answer:.1f} ms / {bare:.1f} ms; target <= 1.25)")


def layout_ratio(rounds: int = 8) -> None:
    """A training step of ResNet-20 in torch's own layout against `channels_last`, one after the other, CPU seconds."""
    torch.manual_seed(0)
    networks = resnet20(10, (3, 32, 32)), channels_last(resnet20(10, (3, 32, 32)))
    x, y = torch.rand(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    optimisers = [torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True) for network in networks]
    spent: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for network, optimiser, times in zip(networks, optimisers, spent, strict=True):
            start = time.process_time()
            optimiser.zero_grad(set_to_none=True)
            cross_entropy(network(x), y).backward()
            optimiser.step()
            times.append(time.process_time() - start)
    plain, last = (statistics.median(times[1:]) for times in spent)
    print(f"training step of ResNet-20, torch's layout / channels_last   {plain / last:.2f}   "
          f"({1000 * plain:.0f} ms / {1000 * last:.0f} ms; target >= 1)")  # fmt: skip


def query_time(rounds: int = 50) -> None:
    rng = np.random.default_rng(0)
    index = Neighbours(rng.random((ROWS, 100), dtype=np.float32))
    query = rng.random(100, dtype=np.float32)
    found = 1000 * statistics.median(seconds(lambda: index.search(query, K)) for _ in range(rounds))
    print(f"neighbour query, {ROWS} x 100, K {K}   {found:.2f} ms   (target <= 10)")


def start_time(rounds: int = 5) -> None:
    for args in (["--help"], ["list"]):
        command = [sys.executable, "-m", "bench.cli.main", *args]
        found = statistics.median(
            seconds(lambda c=command: subprocess.run(c, capture_output=True, check=True)) for _ in range(rounds)
        )
        print(f"bench {args[0]:<8} {found:.2f} s   (target <= 0.5)")


def proof_cost() -> None:
    """Comparing an artefact of 200 MB at its first opening, and all proofs of a run in this process."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Cache(Path(folder))
        made = whole.get_or_build("banks", "0" * 64, lambda part: np.save(part / "x.npy", np.ones(25_000_000)))  # type: ignore[func-returns-value]
        cache._compared.clear()  # as in a new process
        first, again = seconds(lambda: cache.damage(made)), seconds(lambda: cache.damage(made))
        spent = 0.0

        def timed(prove: Callable[..., Any]) -> Callable[..., Any]:
            def proving(*given: Any) -> Any:
                nonlocal spent
                start = time.perf_counter()
                try:
                    return prove(*given)
                finally:
                    spent += time.perf_counter() - start

            return proving

        with ExitStack() as stack:
            for name in ("damage", "_content", "_manifest"):  # damage asks whose files they are, and counts that
                stack.enter_context(patch.object(cache, name, timed(getattr(cache, name))))
            stack.enter_context(patch.dict(os.environ, BENCH_CACHE=folder))
            took = seconds(lambda: run("rmc", "pgd-skip", n=50, workers=1, db=Path(folder) / "bench.db"))
    print(f"a file of 200 MB is compared in {first:.2f} s (target <= 1), then looked at in {1000 * again:.1f} ms; "
          f"all proofs of a run on digits: {100 * spent / took:.2f} % of {took:.1f} s (target <= 2)")  # fmt: skip


def job(dataset: str, *more: str) -> None:
    """The main job in a fresh folder: the harness's share, and the most memory that its processes held together."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "BENCH_CACHE": str(Path(folder) / "files")}
        command = [sys.executable, "-m", "bench.cli.main", "run", "--defense", "rmc", "--attack", "pgd-skip-delayed",
                   "--dataset", dataset, "--json", *more]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.1)
        wall = time.perf_counter() - start
        assert process.stdout is not None
        run = json.loads(process.stdout.read())
    spent = run["seconds"]
    share = 100 * spent["harness"] / spent["total"]
    print(f"main job on {dataset}: harness {share:.2f} % of {spent['total']:.1f} s played (target <= 3), "
          f"{wall:.1f} s in all, {peak / 2**20:.0f} MB resident in all processes (target < 2000)")  # fmt: skip


def resident(pid: int) -> int:
    """Bytes resident in a process and its children; what they share counts once for each."""
    total = 0
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    one_thread()
    answer_ratio()
    layout_ratio()
    query_time()
    start_time()
    proof_cost()
    job("digits")
    folder = os.environ.get("BENCH_DATA")
    if folder and (Path(folder) / "mnist").is_dir():
        job("mnist", "--data-dir", folder)
    else:
        print("main job on mnist: left out; set BENCH_DATA to a folder with mnist/*.gz")


if __name__ == "__main__":
    main()

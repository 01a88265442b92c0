"""Instrument checks on the real MNIST at eps 0.3: if one of these fails, the harness is wrong, not the defense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def instruments(mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """The suite `instruments` at n 100, two workers, the whole training set with its adversarial copies."""
    folder = tmp_path_factory.mktemp("mnist")
    command = [sys.executable, "-m", "bench.cli.main", "run", "--suite", "instruments", "-n", "100", "--json",
               "--workers", "2", "--data-dir", str(mnist_dir)]  # fmt: skip
    environment = {**os.environ, "BENCH_CACHE": str(folder / "files")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {(run["defense"], run["attack"]): run for run in map(json.loads, done.stdout.splitlines())}


def accuracy(run: dict[str, Any], name: str = "robust_accuracy") -> float:
    return float(run[name]["value"])


def test_the_regular_network_is_accurate_and_has_no_robustness(instruments: dict) -> None:
    assert accuracy(instruments["regular", "clean"]) >= 0.97
    assert accuracy(instruments["regular", "pgd"]) <= 0.05


def test_rmc_looks_unbroken_to_who_knows_the_trained_weights(instruments: dict) -> None:
    assert accuracy(instruments["rmc", "pgd"]) >= 0.95


def test_rmc_falls_to_who_knows_the_adapted_weights(instruments: dict) -> None:
    assert accuracy(instruments["rmc", "pgd-skip"]) <= 0.20
    assert accuracy(instruments["rmc", "pgd-skip"], "clean_accuracy") >= 0.95


def test_pgd_skip_against_a_static_defense_is_white_box_pgd(instruments: dict) -> None:
    skip, pgd = instruments["regular", "pgd-skip"], instruments["regular", "pgd"]
    low, high = pgd["robust_accuracy"]["low"], pgd["robust_accuracy"]["high"]
    assert low <= accuracy(skip) <= high


def test_a_correct_attack_never_breaks_the_threat_model(instruments: dict) -> None:
    assert {run["violations"] for run in instruments.values()} == {0}


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16])
def test_no_violation_at_small_radii(mnist_dir: Path, bench, step: int) -> None:
    small = ("--set", "dataset.train_size=2000", "--set", "base.epochs=2", "--data-dir", mnist_dir)
    cell = ("--defense", "regular", "--attack", "pgd", "--dataset", "mnist", "-n", 100, "--eps", f"{step}/255")
    done = bench("run", *cell, "--json", "--workers", 1, *small)
    assert done.code == 0 and done.runs[0]["violations"] == 0
    assert done.runs[0]["eps"] == pytest.approx(step / 255)


def test_damaged_files_are_told_before_anything_is_written(mnist_dir: Path, bench, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file in (mnist_dir / "mnist").glob("*.gz"):
        (folder / file.name).write_bytes(file.read_bytes())
    broken = folder / "t10k-images-idx3-ubyte.gz"
    whole = broken.read_bytes()
    for damage in (whole[:-100], whole[:500] + b"x" + whole[501:], b""):
        broken.write_bytes(damage)
        done = bench(
            "run", "--defense", "regular", "--attack", "clean", "--dataset", "mnist", "--data-dir", tmp_path / "data"
        )
        assert done.code == 2 and done.err.count("\n") == 1 and "md5" in done.err and "t10k-images" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(list(folder.iterdir())) == 4

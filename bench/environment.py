"""The environment in which rows are made: device, threads, versions, commit. It is not part of a run's key."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.errors import BadValue

PACKAGES = (
    "adversarial-game-bench",
    "foolbox",
    "adversarial-robustness-toolbox",
    "scipy",
    "scikit-learn",
    "sqlalchemy",
)


def collect(device: str) -> dict[str, Any]:
    """The provenance of rows that this process makes now; bits depend on its entry `environment`."""
    return {
        "environment": environment(device),
        "host": socket.gethostname(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The commit of the checkout that the code runs from, with `+` if files were edited; "" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)  # noqa: S607
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else ""


def pick_device(name: str, here: bool = True) -> str:
    """The device for `auto`, `cpu` or `cuda`: `cpu` or `cuda`. `BadValue` for a device that does not exist.

    here: this machine computes; else others do, which say themselves what they lack.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BadValue(f"No device is called {name!r}; give --device auto, cpu or cuda.")
    if here and name == "cuda" and not torch.cuda.is_available():
        raise BadValue("--device cuda was given, but torch finds no CUDA device here; use --device cpu or auto.")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def one_thread() -> None:
    """Give all numeric libraries of this process one thread: with another number, last bits differ.

    On a GPU, convolutions are float32 and not TF32, and their algorithm does not depend on a trial of its speed.
    """
    import faiss
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    faiss.omp_set_num_threads(1)
    threadpool_limits(1)  # numpy's BLAS, which a plug-in may use


@contextmanager
def threads_kept() -> Iterator[None]:
    """Restore at the end what `one_thread` changes, for callers that go on with work of their own."""
    import faiss
    from threadpoolctl import threadpool_limits

    cudnn = torch.backends.cudnn
    threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
    pools = threadpool_limits(limits=None)  # changes nothing, and remembers the present limits
    try:
        yield
    finally:
        pools.restore_original_limits()
        faiss.omp_set_num_threads(faiss_threads)
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark


def environment(device: str) -> dict[str, str]:
    """Device type, versions and instruction set that bits depend on. All rows of a run must have the same ones.

    The kernels of torch and of its libraries sum in another order with other instructions: networks that are trained by
    the same code with AVX2 and with AVX512 differ in their last bits, and after some epochs in a label here and there.
    """
    import faiss
    import numpy as np

    return {
        "device": device,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "foolbox": version("foolbox"),
        "art": version("adversarial-robustness-toolbox"),
        "pillow": version("pillow"),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }

"""Where a run was made: host, commit, versions, device. Stands beside the key, never in it."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.workbench import environment

PACKAGES = (
    "adversarial-game-bench",
    "foolbox",
    "adversarial-robustness-toolbox",
    "scipy",
    "scikit-learn",
    "sqlalchemy",
)


def collect(device: str) -> dict[str, Any]:
    """Provenance of whatever this process makes now; `environment` is what bits depend on."""
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
    """The commit of the checkout that the code runs from, with `+` where it was edited; "" outside a checkout."""
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

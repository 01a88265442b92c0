"""Norms."""

from __future__ import annotations

from bench.threat import Norm

#: slack over eps that float32 arithmetic of a correct attack needs (l0 is exact); pixels may leave [0, 1] by BOX
SLACK: dict[Norm, float] = {"linf": 1e-6, "l2": 1e-5, "l0": 0.0}

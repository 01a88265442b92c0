"""RMC+: RMC "with D' replacement".

Wu, Yuan, Wu, ICML 2020. The slides name the tweak and its parameter delta (0.5, 0.75, 1), not its formula. This module
is a reading of it: after each prediction, and before the calibration, a random fraction delta of the retrieved
neighbours is replaced in D' and in its index by adversarial examples crafted now, by PGD against the current adapted
weights, from their clean originals. So D' follows theta, and an attacker with a stale or partial theta meets neighbours
that have moved on.

Also readings, each a parameter: `replace` (all retrieved rows, or only adversarial copies, so that clean originals
stay), `replace_steps`, and the number of `copies` per image that D' starts with.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from bench.draws import generator
from bench.values import Params, State
from defenses.bank import features_of, stored_towards
from defenses.rmc import RMC, RMCParams


class RMCPlusParams(RMCParams):
    """delta: fraction of the retrieved neighbours that is replaced; replace and replace_steps: which, and how.

    replace_step_size in pixels; 0: 2.5 eps / replace_steps.
    """

    delta: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    replace: Literal["all", "copies"] = "all"
    replace_steps: int = Field(default=20, ge=1)
    replace_step_size: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class RMCPlus(RMC):
    """RMC with an augmented set that follows the weights."""

    Params: ClassVar[type[Params]] = RMCPlusParams

    def _replace(self, rows: NDArray[np.int64]) -> None:
        params, bank = self.params, self._bank
        pool = rows[rows >= bank.clean] if params.replace == "copies" else rows
        count = round(params.delta * len(pool))
        if not count:
            return
        draws = generator(self.noise_key, "replace", self._t)
        chosen = np.sort(pool[torch.randperm(len(pool), generator=draws).numpy()[:count]])
        originals = bank.images[bank.originals(chosen)]
        x = torch.from_numpy(originals).to(self._device).to(torch.float32).div_(bank.pixel_scale)
        y = torch.from_numpy(bank.labels[chosen]).to(self._device)
        x_adv = self._learner.attacked(x, y, params.eps, params.replace_steps, params.replace_step_size, draws)
        stored = stored_towards(originals, x_adv, bank.pixel_scale)
        features = features_of(self._features, torch.from_numpy(stored).to(self._device).float().div_(bank.pixel_scale))
        self._bank = bank.replaced(chosen, stored, features)

    def snapshot(self) -> State:
        state = super().snapshot()
        overlay = self._bank.overlay
        if overlay is not None:
            for name in ("rows", "images", "features"):
                state.tensors[f"overlay.{name}"] = torch.from_numpy(getattr(overlay, name))
        return state

    def restore(self, state: State) -> None:
        super().restore(state)
        if "overlay.rows" in state.tensors:
            rows, images, features = (
                state.tensors[f"overlay.{name}"].numpy() for name in ("rows", "images", "features")
            )
            self._bank = self._bank.with_overlay(rows, images, features)
        else:
            self._bank = self._bank.frozen()

"""`regular`: a network trained on clean images with the cross-entropy; theta_0 of everything else."""

from __future__ import annotations

from torch import Tensor, nn

from defenses.training import ExamplesBase, Step


class Regular(ExamplesBase):
    """Clean training."""

    def examples(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return x, y, x.new_full((len(x),), 1 / len(x))

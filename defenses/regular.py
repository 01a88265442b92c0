"""`regular`: a network trained on clean images with the cross-entropy; theta_0 of everything else."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from defenses.training import Step, TrainedBase


class Regular(TrainedBase):
    """Clean training."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return cross_entropy(network(x), y)

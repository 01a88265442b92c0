"""`fgsm-at` and `pgd-at`: a network trained on adversarial images that are made against it as it learns.

fgsm-at  Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, ICLR 2015, section 6: the mean of
         the losses on clean images and on FGSM images (`clean_share`). One full step from the image itself, without a
         random start: the network that PGD breaks, as in the tables of Wu et al. 2020.
pgd-at   Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018: the loss on PGD images
         from a random start. Fewer and longer steps than the paper's 40 of eps / 30 (`steps`, `rel_step_size`), and a
         radius that grows over the first epochs (`warmup`): on MNIST at eps 0.3 training can stay at chance without.

Both run in linf with the task's default radius (`eps`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.values import Params
from defenses.training import AdversarialParams, ExamplesBase, Step, attacked


class FGSMTrainingParams(AdversarialParams):
    """clean_share: weight of the loss on clean images, in [0, 1]."""

    clean_share: float = Field(default=0.5, ge=0, le=1, allow_inf_nan=False)


class FGSMTraining(ExamplesBase):
    """Training on clean images and their FGSM images."""

    Params: ClassVar[type[Params]] = FGSMTrainingParams

    def examples(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        eps, count = self.radius(step), len(x)
        x_adv = attacked(network, x, y, step, eps, 1, eps, None)
        clean = x.new_full((count,), self.params.clean_share / count)
        return torch.cat([x, x_adv]), torch.cat([y, y]), torch.cat([clean, 1 / count - clean])


class PGDTrainingParams(AdversarialParams):
    """steps: PGD steps; rel_step_size: step / eps."""

    epochs: int = Field(default=12, ge=0)
    lr: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    warmup: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    steps: int = Field(default=7, ge=1)
    rel_step_size: float = Field(default=0.25, gt=0, allow_inf_nan=False)


class PGDTraining(ExamplesBase):
    """Training on PGD images alone."""

    Params: ClassVar[type[Params]] = PGDTrainingParams

    def examples(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        params = self.params
        eps = self.radius(step)
        offset = (torch.rand(x.shape, generator=step.draws) * 2 - 1) * eps
        x_adv = attacked(network, x, y, step, eps, params.steps, params.rel_step_size * eps, offset)
        return x_adv, y, x.new_full((len(x),), 1 / len(x))

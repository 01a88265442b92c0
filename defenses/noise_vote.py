"""noise-vote: the vote of the base over noisy copies of the input: randomised smoothing's prediction.

Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, section 3.2 (PREDICT,
without its abstention and its certificate). Works best over a base that was trained with noise.

The noise of an answer is drawn from (noise key, the input's pixels): another input, another noise, and the same input
again the same answer, so that the defense is static. Another draw is another noise key.

proxy: log of the mean softmax over a few noisy copies, the loss of SmoothAdv (Salman et al.: Provably Robust Deep
Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019, equation 6), with the same noise for all inputs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from bench.contracts import Context, Defense, StaticDefense
from bench.contracts.base import Base
from bench.data.task import Task
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.rows import image_hash
from bench.values import Params


class NoiseVoteParams(Params):
    """sigma: standard deviation of the noise, in pixels of [0, 1]; samples: noisy copies that vote; proxy_samples: of
    the proxy."""

    sigma: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    samples: int = Field(default=100, ge=1)
    proxy_samples: int = Field(default=16, ge=1)


class NoiseVote(StaticDefense):
    """Answers with the label that the base gives to most noisy copies."""

    Params: ClassVar[type[Params]] = NoiseVoteParams
    randomised: ClassVar[bool] = True
    #: the noisy copies of one point are a block
    in_blocks: ClassVar[bool] = False

    _network: nn.Module
    _classes: int

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self._classes = task.facts.num_classes
        self.noise_key = context.noise_key

    def answer(self, x: Tensor) -> Tensor:
        return torch.cat([self._vote(point) for point in x]) if len(x) else x.new_zeros((0, self._classes))

    def _vote(self, x: Tensor) -> Tensor:
        """Log shares (1, K) of the votes over copies of x (C, H, W), one vote added to each class."""
        params = self.params
        shape = (params.samples, *x.shape)
        noise = torch.randn(shape, generator=generator(self.noise_key, "vote", image_hash(x)))
        with torch.no_grad():
            labels = self._network(x + params.sigma * noise.to(x)).argmax(1)
        votes = one_hot(labels, self._classes).sum(0, keepdim=True) + 1.0
        return (votes / votes.sum()).log().to(x)

    def proxy(self) -> nn.Module:
        params = self.params
        return _Smoothed(frozen_copy(self._network), params.sigma, params.proxy_samples, self.noise_key).eval()


class _Smoothed(nn.Module):
    """Log of the mean softmax (N, K) of a network over noisy copies, with noise that is drawn once."""

    def __init__(self, network: nn.Module, sigma: float, samples: int, key: int) -> None:
        super().__init__()
        self.network = network
        self._sigma = sigma
        self._samples = samples
        self._key = key

    def forward(self, x: Tensor) -> Tensor:
        draws = generator(self._key, "proxy")
        outputs = []
        for _ in range(self._samples):
            noise = torch.randn(x.shape[1:], generator=draws).to(x)
            outputs.append(self.network(x + self._sigma * noise).log_softmax(1))
        return torch.stack(outputs).logsumexp(0) - math.log(self._samples)

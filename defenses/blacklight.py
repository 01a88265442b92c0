"""blacklight: refuses an input whose fingerprint is close to that of an earlier one, as attacks by queries send them.

Li, Shan, Wenger, Zhang, Zheng, Zhao: Blacklight: Scalable Defense for Neural Networks against Query-Based Black-Box
Attacks, USENIX Security 2022, section 5: pixels are salted and rounded to multiples of 50, every window of 20 of them
(stride 1) is hashed, and the 50 largest hashes are the fingerprint. An input is refused where more than half of its
hashes are among those of one earlier input. Every input is remembered, a refused one too.

Readings: the salt of a pixel is a whole number below 256 that is added to it modulo 256, drawn from the seed. An image
with fewer windows keeps all its hashes. `accounts`: inputs are compared with all earlier ones (`global`), or with those
of the same account (`own`); then the inputs of users of whom nothing else is known are compared with none.

Broken by attacks that adapt their steps to its refusals (OARS; Feng et al.: Stateful Defenses for Machine Learning
Models Are Not Yet Secure Against Black-box Attacks, CCS 2023), and no obstacle to who has the weights: proxy is the
base, which never refuses.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context, Defense, OnlineDefense, in_blocks, shallow_fork, with_refusal
from bench.contracts.base import Base
from bench.data.task import Task
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.values import Params, State


class BlacklightParams(Params):
    """step: pixels (of 256 levels) are rounded to multiples of it; window and stride of a hash, in pixels; kept: hashes
    of a fingerprint; threshold: share of them above which an input is refused; accounts: see the module."""

    step: int = Field(default=50, ge=1, le=255)
    window: int = Field(default=20, ge=1)
    stride: int = Field(default=1, ge=1)
    kept: int = Field(default=50, ge=1)
    threshold: float = Field(default=0.5, ge=0, lt=1, allow_inf_nan=False)
    accounts: Literal["global", "own"] = "global"


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints in the order in which they came, with an index of their hashes. Never written in place: forks share
    them.

    The index makes a question cost little more after 30,000 inputs than after 1,000; it is built anew whenever `LATEST`
    inputs are outside it.
    """

    #: how many fingerprints the index may lack
    LATEST: ClassVar[int] = 256

    #: in the index: hashes (M, kept) int64, -1 where there are fewer, and the account (M,) of each fingerprint
    prints: Tensor
    whose: Tensor
    #: all hashes (M * kept,) in rising order, and the fingerprint that each is from
    hashes: Tensor
    places: Tensor
    #: outside it: (L, kept) and (L,)
    latest: Tensor
    whose_latest: Tensor

    @classmethod
    def of(cls, prints: Tensor, whose: Tensor) -> Fingerprints:
        """Fingerprints (M, kept) int64 and their accounts (M,), all of them in the index."""
        hashes, order = prints.flatten().sort(stable=True)
        return cls(prints, whose, hashes, order // prints.shape[1], prints[:0], whose[:0])

    def in_order(self) -> tuple[Tensor, Tensor]:
        """All fingerprints (M + L, kept) and their accounts (M + L,)."""
        return torch.cat([self.prints, self.latest]), torch.cat([self.whose, self.whose_latest])

    def with_one(self, print_: Tensor, account: int) -> Fingerprints:
        """These and one more (kept,), as the last."""
        more = replace(
            self,
            latest=torch.cat([self.latest, print_[None]]),
            whose_latest=torch.cat([self.whose_latest, torch.tensor([account])]),
        )
        return more if len(more.latest) < self.LATEST else self.of(*more.in_order())

    def shared(self, own: Tensor, account: int | None) -> Tensor:
        """How many of the hashes `own` (H,), each at least 0 and none twice, are in each earlier fingerprint: counts
        (F,) in no order; those of 0 may be left out. account: look only at its own; None: at all."""
        first, last = torch.searchsorted(self.hashes, own), torch.searchsorted(self.hashes, own, right=True)
        found = [self.places[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
        places, counts = torch.cat(found).unique(return_counts=True)
        late = torch.isin(self.latest, own).sum(1)  # no hash is twice in a fingerprint
        if account is not None:
            counts, late = counts[self.whose[places] == account], late[self.whose_latest == account]
        return torch.cat([counts, late])


class Blacklight(OnlineDefense):
    """Remembers the fingerprint of every input, and refuses near copies. The store is the state."""

    Params: ClassVar[type[Params]] = BlacklightParams
    abstains: ClassVar[bool] = True
    watches_queries: ClassVar[bool] = True

    _network: nn.Module
    _salt: Tensor
    _seen: Fingerprints

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self.noise_key = context.noise_key
        self._salt = torch.randint(256, task.facts.image_shape, generator=generator(context.seed, "salt"))
        nothing = torch.empty((0, self.params.kept), dtype=torch.int64)
        self._seen = Fingerprints.of(nothing, torch.empty(0, dtype=torch.int64))

    def answer_one(self, x: Tensor) -> Tensor:
        print_ = self.fingerprint(x[0])
        refused = self._known(print_)
        if self.params.accounts == "global" or self.account:
            self._seen = self._seen.with_one(print_, self.account)
        with torch.no_grad():
            logits = in_blocks(self._network, x, size=1)
        return with_refusal(logits, torch.tensor([1.0 if refused else -1.0]))

    def fingerprint(self, x: Tensor) -> Tensor:
        """The largest hashes (kept,) of an image (C, H, W) in [0, 1], 63-bit numbers in falling order; -1 for none."""
        params = self.params
        pixels = (x.detach().cpu().clamp(0, 1) * 255).round().long()
        salted = (pixels + self._salt) % 256
        rounded = (salted.double() / params.step).round().to(torch.uint8).flatten().numpy().tobytes()
        places = range(0, max(len(rounded) - params.window, 0) + 1, params.stride)
        hashes = {hashlib.sha256(rounded[place : place + params.window]).digest()[:8] for place in places}
        largest = sorted((int.from_bytes(one, "big") >> 1 for one in hashes), reverse=True)[: params.kept]
        return torch.tensor(largest + [-1] * (params.kept - len(largest)))

    def _known(self, print_: Tensor) -> bool:
        """Whether more than the threshold of the hashes are among those of one earlier input."""
        if self.params.accounts == "own" and not self.account:
            return False
        own = print_[print_ >= 0]
        shared = self._seen.shared(own, self.account if self.params.accounts == "own" else None)
        return bool((shared > self.params.threshold * len(own)).any())

    def snapshot(self) -> State:
        prints, whose = self._seen.in_order()
        return State({"seen": prints, "whose": whose})

    def restore(self, state: State) -> None:
        self._seen = Fingerprints.of(state.tensors["seen"].clone(), state.tensors["whose"].clone())

    def fork(self, noise_key: int | None = None) -> Defense:
        twin: Blacklight = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def proxy(self) -> nn.Module:
        return _NeverRefusing(frozen_copy(self._network)).eval()

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        return self.proxy()


class _NeverRefusing(nn.Module):
    """Logits (N, K + 1) of a network, whose refusal is never the largest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return with_refusal(logits, -torch.ones(len(x), device=x.device))

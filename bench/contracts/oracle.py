"""The oracle as an attacker sees it: what it may ask of the deployed defense, within its threat model.

The game has the oracle that answers (`bench.game.oracle`). Whatever is not granted raises `AccessDenied`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn

from bench.contracts.defense import DefenseInfo, Kind
from bench.threat import ThreatModel
from bench.values import State


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit: (N,) from logits (N, K) and labels (N,)."""
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -float("inf")).amax(1)
    return own - others


class Simulation(ABC):
    """An attacker's own copy of the defense: used like a defense. What it costs is counted."""

    kind: Kind
    batch_size: int

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Serve x (N, C, H, W) in [0, 1] to the copy: logits (N, K)."""

    @abstractmethod
    def probe(self, x: Tensor, draw: int | None = None) -> Tensor:
        """Logits (N, K) of each point of x (N, C, H, W) as if it came next to the copy."""

    @abstractmethod
    def answers(self, x: Tensor) -> Tensor:
        """Logits (N, K) of x (N, C, H, W) if it came next: together for a `batch` defense, else each alone."""

    @abstractmethod
    def proxy(self) -> nn.Module:
        """The differentiable network of the copy as it is now, recorded."""

    @abstractmethod
    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        """The differentiable network that would answer x (B, C, H, W), recorded: see `Defense.proxy_for`."""

    @abstractmethod
    def bare_proxy(self, x: Tensor | None = None, draw: int | None = None) -> nn.Module:
        """As `proxy` (without x) or `proxy_for`, unrecorded: a part of a network that is recorded as a whole."""

    @abstractmethod
    def snapshot(self) -> State:
        """The state of the copy."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go back to a state that `snapshot` returned."""

    @abstractmethod
    def fork(self, noise_key: int | None = None) -> Simulation:
        """Another copy in the same state."""


class Oracle(ABC):
    """Answers an attack within its threat model, records and counts.

    threat  what is granted
    info    name, kind, differentiable, randomised: a value, not the defense
    report  is called with one line of progress, by attacks that take long
    """

    threat: ThreatModel
    info: DefenseInfo
    report: Callable[[str], None]

    @abstractmethod
    def model(self) -> nn.Module:
        """The network that the threat model grants, wrapped so that its use is recorded: (N, C, H, W) -> (N, K)."""

    @abstractmethod
    def granting(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within: `model()` is this network, which the attack made from what it was granted; its use is recorded."""

    @abstractmethod
    def query(self, x: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """The deployed defense's answer, logits (N, K), for x (N, C, H, W): a fresh draw each time, counted.

        rows: which example of the call each input is charged to. None: in order where there are as many inputs as
        examples, else each to the nearest example.
        """

    @abstractmethod
    def queries_left(self, row: int) -> int:
        """How many queries about one example of the call are left."""

    @abstractmethod
    def about(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Within: the attack works on these examples of the call alone; what it asks is charged to them."""

    @abstractmethod
    def whose(self, x: Tensor) -> Tensor:
        """Which example of the call each input (B, C, H, W) is about, (B,): see `about`; else the nearest example."""

    @abstractmethod
    def simulate(self) -> Simulation:
        """The attacker's own copy of the defense, fed with what it observed. Private randomness, or the defense's."""

    @abstractmethod
    def deployed(self) -> Simulation:
        """The attacker's exact copy of the deployed defense as it serves now. Private randomness, or the defense's."""

    @property
    @abstractmethod
    def observed(self) -> Tensor:
        """The background points that the attacker saw, (M, C, H, W) in [0, 1]."""

    @abstractmethod
    def recorded(self, network: nn.Module) -> nn.Module:
        """A network whose use is recorded. The last one is what the attack is taken to believe in."""

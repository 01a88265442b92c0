"""The oracle as an attacker sees it: what it may ask of the deployed defense, within its threat model.

The game has the oracle that answers (`bench.game.oracle`). Whatever is not granted raises `AccessDenied`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.contracts.defense import DefenseInfo, Kind
from bench.threat import ThreatModel
from bench.values import State


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit: (N,) from logits (N, K) and labels (N,)."""
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -float("inf")).amax(1)
    return own - others


def folded(logits: Tensor, y: Tensor, classes: int) -> Tensor:
    """Logits (N, K) in which a refusal counts as the right answer, from logits (N, K) or (N, K + 1) and labels (N,).

    An attack that looks for a wrong answer in them looks for one that is not refused: the logit of the label becomes
    the larger of its own and the refusal's.
    """
    if logits.shape[1] == classes:
        return logits
    own, refusal = logits[:, :classes], logits[:, classes:]
    right = torch.nn.functional.one_hot(y, classes).bool()
    return torch.where(right, torch.maximum(own, refusal), own)


#: the logit of the label in a reply that is a refusal; the others are 0
SURE = 100.0


@dataclass(frozen=True)
class Reply:
    """What an attacker gets from the deployed defense.

    logits   (N, K); of a refused input 0, and `SURE` for its label: the image changed nothing, and no more is told
    refused  (N,) bool
    """

    logits: Tensor
    refused: Tensor

    @staticmethod
    def of(logits: Tensor, y: Tensor, classes: int) -> Reply:
        """The reply for logits (N, K) or (N, K + 1) of inputs that are about images with labels y (N,)."""
        refused = logits.argmax(1) == classes
        nothing = SURE * torch.nn.functional.one_hot(y, classes).to(logits)
        return Reply(torch.where(refused[:, None], nothing, logits[:, :classes]), refused)


class Simulation(ABC):
    """An attacker's own copy of the defense: used like a defense. What it costs is counted.

    Logits and networks have K columns, also of a defense that refuses inputs: see `folded`.
    """

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
    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        """Logits (B, K) of x (B, C, H, W) through the copy's adaptation, unrecorded: see `Defense.unrolled`.

        A point of a `batch` defense is answered in its company; without one, together with what was last given for the
        other examples of the call.
        """

    @abstractmethod
    def of_batches(self, steps: int) -> nn.Module:
        """Logits (B, K) of a batch x (B, C, H, W) of a `batch` defense as a function of all its points, unrecorded.

        Through the last `steps` adaptation steps, or, of a defense that cannot be unrolled, by its network as it is
        now. Its columns are those of the defense: the harness folds no refusal, since the points are not the call's.
        """

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

    All logits have K columns. A refusal counts as the right answer in them: see `folded` and `Reply`.

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
    def ask(self, x: Tensor, rows: Sequence[int] | None = None) -> Reply:
        """The deployed defense's reply to x (N, C, H, W): a fresh draw each time, counted.

        rows: which example of the call each input is charged to. None: in order where there are as many inputs as
        examples, else each to the nearest example. An input is sent from the first open account of its example.
        """

    def query(self, x: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """The logits (N, K) of `ask`, for attacks that do not look at refusals."""
        return self.ask(x, rows).logits

    @abstractmethod
    def queries_left(self, row: int) -> int:
        """How many queries about one example of the call are left; 0 where all its accounts are closed."""

    @abstractmethod
    def change_account(self, row: int) -> bool:
        """Go on with another account in the queries about an example; False, and nothing changed, if it was the last.

        With `threat.bans` an account is closed, and so changed, by its first refusal.
        """

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
    def others(self) -> tuple[Tensor, Tensor]:
        """Inputs of other users (M, C, H, W) in [0, 1] and their labels (M,), if the threat model grants them.

        The inputs of the call are served before them, or in front of them in one batch.
        """

    @property
    @abstractmethod
    def received(self) -> tuple[Tensor, Tensor]:
        """What the attacker last sent among other users' inputs, (M, C, H, W), and the logits (M, K) that came back.

        Empty before the first time. An attack that reads it declares `heeds_replies`.
        """

    @property
    @abstractmethod
    def observed(self) -> Tensor:
        """The background points that the attacker saw, (M, C, H, W) in [0, 1]."""

    @abstractmethod
    def recorded(self, network: nn.Module) -> nn.Module:
        """A network whose use is recorded. The last one is what the attack is taken to believe in."""

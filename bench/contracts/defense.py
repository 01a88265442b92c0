"""The two contracts, each of which fits on a card: `Defense` and `Attack`. (Train-time: `bench.contracts.base.Base`.)

Shapes used everywhere: N images of (C, H, W) float32 pixels in [0, 1]; K classes; logits (N, K); D features;
M bank rows.

A defense declares by `kind` what its answers depend on:

| kind     | an answer depends on                   | cutting the stream into calls                             |
|----------|----------------------------------------|-----------------------------------------------------------|
| `static` | the point alone                        | same labels, logits within 1e-5                           |
| `online` | the points before it, one at a time    | changes nothing, bit for bit                              |
| `batch`  | its batch of `batch_size` points       | calls hold whole batches; only the last may be short      |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.deadline import NEVER, Deadline
from bench.draws import seed_of
from bench.errors import BadAnswer
from bench.rows import REFUSED
from bench.values import Params, State

if TYPE_CHECKING:
    from bench.cache import Cache
    from bench.data.task import Task, TaskFacts

Kind = Literal["static", "online", "batch"]

#: Batched work runs in blocks of this many rows, padded with zeros: in other sizes logits differ by up to 5e-6.
BLOCK = 100
#: ... and of this many on a GPU, which the work of 100 rows leaves half idle; two blocks are the 1024 neighbours of RMC
GPU_BLOCK = 512


@dataclass(frozen=True)
class Context:
    """The arguments of `fit` besides the task and the base.

    seed       of everything random in fitting
    noise_key  of the randomness while serving, until a fork changes it
    device     where tensors live
    cache      content-addressed files, for expensive things that several runs share
    base_key   identifies the trained base; part of the key of whatever is made from it
    report     is called with one line of progress
    deadline   when the command has to end; long work stores what it has and stops then
    checkpoint_s  seconds between two checkpoints of long work
    """

    seed: int
    noise_key: int
    device: torch.device
    cache: Cache
    base_key: str = ""
    report: Callable[[str], None] = lambda line: None
    deadline: Deadline = NEVER
    checkpoint_s: float = 5.0


class Defense(ABC):
    """Anything that answers inputs. Subclass `StaticDefense`, `OnlineDefense` or `BatchDefense`."""

    Params: ClassVar[type[Params]] = Params
    kind: ClassVar[Kind]
    batch_size: int = 1
    #: answers are random given the state: another draw may give another answer
    randomised: ClassVar[bool] = False
    #: `proxy()` gives a network with useful gradients
    differentiable: ClassVar[bool] = True
    #: it may refuse an input: all its logits, of `proxy()` too, are (N, K + 1), and it refuses where the last is the
    #: largest (see `with_refusal`). Attackers see a refusal as an answer that their image did not change
    abstains: ClassVar[bool] = False
    #: why `unrolled` is not to be had; "": it is
    not_unrolled: ClassVar[str] = "it declares no adaptation that is a function of its input"
    #: it compares an input with those before it to find attackers, so attacks by queries are served like other inputs
    watches_queries: ClassVar[bool] = False
    #: it is built on the base's network; False: it brings a network of its own, no base is trained, and who knows the
    #: trained network knows `proxy()` as it is before anything was served
    uses_base: ClassVar[bool] = True
    #: recipes of this name in bench.toml apply to it: [recipe.FAMILY.RECIPE]
    recipe_family: ClassVar[str] = ""

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()
        self.noise_key: int = 0
        #: who sends the next input, set by the harness: 0 a user of whom nothing else is known, above 0 an attacker's
        self.account: int = 0
        #: optimiser steps taken by answers so far; a meter, not part of the state
        self.adaptation_steps: int = 0

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        """Raise `BadValue` if the parameters cannot work on this task. Called before anything is trained."""
        return  # most defenses accept all parameters

    def pieces(self, task: Task, base: Defense | None, context: Context) -> list[str]:
        """Independent parts of `fit` that are missing in the cache; `prepare` makes each, in any process."""
        return []

    def prepare(self, task: Task, base: Defense | None, context: Context, piece: str) -> None:
        """Make one of the `pieces` and leave it in the cache."""
        raise ValueError(f"{type(self).__name__} has no piece called {piece!r}.")

    @abstractmethod
    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        """Get ready to serve: once per base and seed. A base is None for a defense that is a base itself."""

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Serve x (N, C, H, W) in [0, 1], in its order, and return logits (N, K). May change the state.

        (N, K + 1) of a defense that `abstains`, here and below.
        """

    @abstractmethod
    def snapshot(self) -> State:
        """All that an answer may change, as a copy that later answers leave alone."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Undo everything since `snapshot`, bit for bit."""

    @abstractmethod
    def fork(self, noise_key: int | None = None) -> Defense:
        """An independent copy in the same state that shares what never changes; same noise key unless given."""

    @abstractmethod
    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        """Logits (N, K) of each point as if it came next, alone; the state stays as it was.

        draw: None reproduces the next answer's randomness, an integer gives an independent draw.
        company: (B-1, C, H, W), the rest of the batch of a `batch` defense.
        """

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        """Logits (B, K) of x (B, C, H, W) as a differentiable function of x through the last `steps` adaptation steps.

        served: how many steps are taken in all; 0: as many as an answer takes. draw: as in `probe`.
        """
        raise BadAnswer(f"{type(self).__name__} cannot be unrolled: {self.not_unrolled}.")

    def noise_of(self, draw: int | None) -> int:
        """The noise key of a draw: its own for None, as in `probe`."""
        return self.noise_key if draw is None else seed_of(self.noise_key, "draw", draw)

    def neighbour_labels(self, x: Tensor) -> list[dict[str, list[int]]]:
        """How many of the neighbours of each point of x (N, C, H, W) now carry each label, by the searched set (D, D').

        For defenses that retrieve neighbours; others return []. Stored with every example. The state stays as it was.
        """
        return []

    def neighbour_images(self, x: Tensor, count: int) -> list[dict[str, tuple[Tensor, list[int]]]]:
        """The `count` nearest neighbours, nearest first, as images (count, C, H, W) in [0, 1] with their labels.

        For pictures; as `neighbour_labels` otherwise.
        """
        return []

    @abstractmethod
    def proxy(self) -> nn.Module:
        """A frozen copy of the differentiable network that would answer now: (N, C, H, W) -> (N, K)."""

    @abstractmethod
    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        """As `proxy`, of the network that answers x (B, C, H, W) if it came next: after what x itself changes.

        draw: as in `probe`. The state stays as it was. For attacks that look for a fixed point of the adaptation.
        """


class StaticDefense(Defense):
    """The answer depends on the point alone. A subclass implements `answer`."""

    kind: ClassVar[Kind] = "static"
    #: `answer` gets blocks of one fixed size, the last one filled up with zeros: the number of points changes no bit.
    #: False: it gets all points at once, since it makes blocks of its own
    in_blocks: ClassVar[bool] = True

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """Logits (B, K) of points x (B, C, H, W)."""

    def predict(self, x: Tensor) -> Tensor:
        return in_blocks(self.answer, x) if self.in_blocks else self.answer(x)

    def snapshot(self) -> State:
        return State()

    def restore(self, state: State) -> None:
        if state.tensors or state.facts:
            raise ValueError(f"{type(self).__name__} is static and cannot restore a state that holds something.")

    def fork(self, noise_key: int | None = None) -> Defense:
        twin = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        return self.predict(x) if draw is None else self.fork(self.noise_of(draw)).predict(x)

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        return self.proxy() if draw is None else self.fork(self.noise_of(draw)).proxy()


class _Stateful(Defense):
    """What online and batch defenses share: a probe is a fork that predicts."""

    def _probe_one(self, batch: Tensor, draw: int | None) -> Tensor:
        twin = self.fork(self.noise_of(draw))
        start = twin.adaptation_steps
        logits = twin.predict(batch)[-1]
        self.adaptation_steps += twin.adaptation_steps - start
        return logits

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        twin = self.fork(self.noise_of(draw))
        twin.predict(x)
        return twin.proxy()


class OnlineDefense(_Stateful):
    """The state carries over from point to point; each point is served alone. A subclass implements `answer_one`."""

    kind: ClassVar[Kind] = "online"

    @abstractmethod
    def answer_one(self, x: Tensor) -> Tensor:
        """Serve one point x (1, C, H, W): logits (1, K). May change the state."""

    def predict(self, x: Tensor) -> Tensor:
        return torch.cat([self.answer_one(x[i : i + 1]) for i in range(len(x))])

    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        return torch.stack([self._probe_one(x[i : i + 1], draw) for i in range(len(x))])


class BatchDefense(_Stateful):
    """Answers depend on the batch of `batch_size` points. A subclass implements `answer_batch`."""

    kind: ClassVar[Kind] = "batch"

    @abstractmethod
    def answer_batch(self, x: Tensor) -> Tensor:
        """Serve one batch x (B, C, H, W), B <= batch_size: logits (B, K). May change the state."""

    def predict(self, x: Tensor) -> Tensor:
        size = self.batch_size
        return torch.cat([self.answer_batch(x[i : i + size]) for i in range(0, len(x), size)])

    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        others = x[:0] if company is None else company
        return torch.stack([self._probe_one(torch.cat([others, x[i : i + 1]]), draw) for i in range(len(x))])


def rows_at_once(device: torch.device) -> int:
    """Rows of a block of batched work on this type of device."""
    return GPU_BLOCK if device.type == "cuda" else BLOCK


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor, size: int | None = None) -> Tensor:
    """`function` over x (N, ...) in blocks of exactly `size` rows (None: `rows_at_once`); the last is padded with
    zeros, cut off again."""
    size = size or rows_at_once(x.device)
    if len(x) == 0:
        return function(x.new_zeros((size, *x.shape[1:])))[:0]
    pieces = []
    for start in range(0, len(x), size):
        block = x[start : start + size]
        rows = len(block)
        if rows < size:
            block = torch.cat([block, block.new_zeros((size - rows, *x.shape[1:]))])
        pieces.append(function(block)[:rows])
    return torch.cat(pieces)


def checked_logits(logits: Tensor, rows: int, classes: int, who: str) -> Tensor:
    """`logits` if it is a finite (rows, classes) tensor; else `BadAnswer`."""
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (rows, classes):
        shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise BadAnswer(f"{who} answered with {shape} for {rows} points; logits have the shape ({rows}, {classes}).")
    if not torch.isfinite(logits).all():
        raise BadAnswer(f"{who} answered with values that are not finite.")
    return logits


def probe(defense: Defense, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
    """`defense.probe`; the rest of a batch is handed only to a `batch` defense, which alone must take it."""
    if defense.kind == "batch":
        return defense.probe(x, draw=draw, company=company)
    return defense.probe(x, draw=draw)


def shallow_fork(defense: Any) -> Any:
    """A copy that shares every attribute: the start of a `fork`, which then copies what answers change."""
    twin = object.__new__(type(defense))
    twin.__dict__.update(defense.__dict__)
    twin.adaptation_steps = 0
    return twin


def labels_of(logits: Tensor, classes: int) -> list[int]:
    """The answered label of each row of logits (N, K), or (N, K + 1), where the last is `REFUSED`."""
    return [REFUSED if int(label) == classes else int(label) for label in logits.argmax(dim=1)]


def with_refusal(logits: Tensor, excess: Tensor) -> Tensor:
    """Logits (N, K + 1) from (N, K): a refusal where excess (N,) is above 0.

    excess: by how much a detector's score is above its threshold, in units in which 1 is much: the last logit is the
    largest of the others plus this, so that a gradient through it leads out of the refusal.
    """
    return torch.cat([logits, logits.amax(1, keepdim=True) + excess[:, None].to(logits)], dim=1)


@dataclass(frozen=True)
class DefenseInfo:
    """What an attack may know of a defense before the game: a value, not the defense."""

    name: str
    kind: Kind
    differentiable: bool
    randomised: bool
    abstains: bool = False
    not_unrolled: str = Defense.not_unrolled

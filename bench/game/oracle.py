"""The attacker's only door to the defense: it enforces the threat model, records and counts.

What an attacker remembers lives here, not in the attack: what it observed, and its simulated copies. Both are functions
of the stream and of noise keys, so a resumed game rebuilds them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.clock import settle
from bench.contracts import Defense, DefenseInfo, labels_of, probe
from bench.contracts.oracle import Oracle, Reply, Simulation, folded, margins
from bench.draws import seed_of
from bench.errors import AccessDenied
from bench.models.frozen import frozen_copy
from bench.norms import ball_of
from bench.rows import REFUSED, image_hash
from bench.threat import ThreatModel
from bench.values import State

#: the label of a proposal that was not served as a query before
UNANSWERED = -2


@dataclass
class Ledger:
    """What an attack spent, per example of the current call; (N,) int64 tensors, and the seconds of recording."""

    forwards: Tensor
    backwards: Tensor
    queries: Tensor
    simulated: int = 0
    recording_s: float = 0.0

    @classmethod
    def empty(cls, rows: int) -> Ledger:
        counts = [torch.zeros(rows, dtype=torch.int64) for _ in range(3)]
        return cls(counts[0], counts[1], counts[2])


@dataclass
class Trace:
    """What the recording network saw in the current call, one entry per forward.

    rows      the example that each input is closest to; None if the inputs are the examples in their order
    margins   logit of y minus the largest other logit, (B,); below 0 the attacked network is fooled
    distances distance of the input to its x in the threat's norm, (B,) float32; the judge measures its own in float64
    """

    rows: list[Tensor | None] = field(default_factory=list)
    margins: list[Tensor] = field(default_factory=list)
    distances: list[Tensor] = field(default_factory=list)

    def fooled_inside(self, count: int, eps: float, slack: float) -> Tensor:
        """(count,) bool: some recorded input within eps of its x fooled the attacked network."""
        fooled = torch.zeros(count, dtype=torch.bool)
        for rows, margin, distance in zip(self.rows, self.margins, self.distances, strict=True):
            hit = ((margin < 0) & (distance <= eps + slack)).cpu()
            if rows is None:
                fooled |= hit
            else:
                fooled[rows[hit]] = True
        return fooled


@dataclass
class Around:
    """What the attacker's inputs are served among; the game brings it up to date before each call.

    x, y           the others' inputs (M, C, H, W) and labels (M,): see `Oracle.others`
    sent, labels   the attacker's last inputs (A, C, H, W), and the labels (A,) of the images that they were made from
    logits         the logits (A, columns) that came back
    """

    x: Tensor
    y: Tensor
    sent: Tensor
    labels: Tensor
    logits: Tensor

    @staticmethod
    def nothing(x: Tensor, y: Tensor, columns: int) -> Around:
        """Before the first call; x (N, C, H, W) and y (N,) give shapes, types and device."""
        return Around(x[:0], y[:0], x[:0], y[:0], x.new_empty(0, columns))


class GameOracle(Oracle):
    """The oracle of one game: `AccessDenied` for anything that the threat model does not grant.

    threat    what is granted
    info      name, kind, differentiable, randomised: a value, not the defense
    classes   number of classes
    deployed  the defense as it serves now; None in `replay`, where nothing is deployed yet
    trained   theta_0
    surrogate the attacker's own network, if the threat model grants one
    fresh     makes a defense that has served nothing, with a given noise key
    observed  background points that the attacker saw, (M, C, H, W)
    company   the rest of the batch in which a `batch` defense answers a query, (B-1, C, H, W)
    around    what the attacker is served among: see `Around`; None where it is alone
    key       the attacker's own randomness
    report    is called with one line of progress, by attacks that take long
    hurry     is called before every answer to the attack; raises `OutOfTime` when the command has to end
    """

    def __init__(
        self,
        threat: ThreatModel,
        info: DefenseInfo,
        *,
        classes: int,
        trained: nn.Module,
        surrogate: nn.Module | None = None,
        deployed: Defense | None,
        fresh: Callable[[int], Defense],
        observed: Tensor | None = None,
        deployed_noise_key: int = 0,
        serve: Callable[[Tensor], Tensor] | None = None,
        catch_up: Callable[[Defense, Tensor], Defense] | None = None,
        company: Tensor | None = None,
        around: Around | None = None,
        key: int = 0,
        report: Callable[[str], None] = lambda line: None,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self.threat = threat
        self.info = info
        self.classes = classes
        self._trained = trained
        self._surrogate = surrogate
        self._deployed = deployed
        self._fresh = fresh
        self._observed = observed
        self._deployed_noise_key = deployed_noise_key
        self._serve = serve
        self._catch_up = catch_up or _serve_all
        self.company = company
        self._around = around
        self._key = key
        self.report = report
        self.hurry = hurry
        self._copies = 0
        self.ledger = Ledger.empty(0)
        self.trace = Trace()
        self._x = torch.empty(0)
        self._y = torch.empty(0, dtype=torch.int64)
        self._indices: list[int] = []
        #: how many accounts of each example of the call were given up or closed
        self._closed: list[int] = []
        #: by example of the call and image: the label with which a served query was answered
        self._served: dict[tuple[int, str], int] = {}
        #: the examples of the call that the attack works on now; None: all
        self._focus: Tensor | None = None
        #: what the attack is handed for the granted network: see `granting`
        self._stand_in: nn.Module | None = None
        #: the bare network last handed out, for the harness's own look at what the attack believes
        self.granted: nn.Module | None = None

    # -- what an attack may call ------------------------------------------------------------------------------------

    def model(self) -> nn.Module:
        return self.recorded(self.accepting(self._network() if self._stand_in is None else self._stand_in))

    @contextmanager
    def granting(self, network: nn.Module) -> Iterator[None]:
        before, self._stand_in = self._stand_in, network
        try:
            yield
        finally:
            self._stand_in = before

    def whose(self, x: Tensor) -> Tensor:
        return self._attribute(x)

    def ask(self, x: Tensor, rows: Sequence[int] | None = None) -> Reply:
        if not self.threat.queries:
            raise AccessDenied("The threat model grants no query (threat.queries is 0).")
        if self._deployed is None:
            raise AccessDenied("There is no deployed defense to query yet: this protocol crafts before it serves.")
        self.hurry()
        charged = [int(row) for row in (self._attribute(x) if rows is None else rows)]
        if self._deployed.kind == "static" and not self.info.randomised:  # an answer depends on its point alone
            for row in charged:
                self._charge(row)
            return self._reply(self._deployed.predict(x.clone()), x, charged)
        parts = []
        for row, point in zip(charged, x, strict=True):
            self.hurry()
            spent = self._charge(row)
            if self.threat.queries_served and self._serve is not None:
                answer = self._served_to(self._deployed, self._serve, point[None], self._account(row))
            else:
                draw = seed_of(self._key, "query", self._indices[row], spent)
                answer = probe(self._deployed, point[None].clone(), draw, self.company)
            parts.append(self._reply(answer, point[None], [row]))
        return Reply(torch.cat([part.logits for part in parts]), torch.cat([part.refused for part in parts]))

    @staticmethod
    def _served_to(deployed: Defense, serve: Callable[[Tensor], Tensor], x: Tensor, account: int) -> Tensor:
        """The answer to x (N, C, H, W), sent from an account; what comes next is of nobody's account again."""
        deployed.account = account
        try:
            return serve(x)
        finally:
            deployed.account = 0

    def _reply(self, answer: Tensor, x: Tensor, rows: list[int]) -> Reply:
        """What the attacker gets of an answer to x that is charged to these examples."""
        reply = Reply.of(answer, self._y[rows], self.classes)
        for row, point, label, refused in zip(rows, x, labels_of(answer, self.classes), reply.refused, strict=True):
            if refused and self.threat.bans:
                self._closed[row] += 1
            if self.info.abstains and self.threat.queries_served:
                self._served[row, image_hash(point)] = label
        return reply

    def answered(self, images: Tensor) -> Tensor | None:
        """The labels (N,) with which proposals (N, C, H, W) were answered when they were served as queries.

        -2: it was not served, or not answered. None where the answers to queries do not count: see `Crafted`.
        """
        if not (self.info.abstains and self.threat.queries_served):
            return None
        labels = [self._served.get((row, image_hash(image)), REFUSED) for row, image in enumerate(images)]
        return torch.tensor([UNANSWERED if label == REFUSED else label for label in labels])

    def _account(self, row: int) -> int:
        """The account, above 0, that is open for an example: another one for every example of a game."""
        return 1 + seed_of(self._key, "account", self._indices[row], self._closed[row])

    def change_account(self, row: int) -> bool:
        if self._closed[row] + 1 >= self.threat.accounts:
            return False
        self._closed[row] += 1
        return True

    @contextmanager
    def about(self, rows: Sequence[int]) -> Iterator[None]:
        before, self._focus = self._focus, torch.tensor(list(rows), dtype=torch.int64)
        try:
            yield
        finally:
            self._focus = before

    def queries_left(self, row: int) -> int:
        if self._closed[row] >= self.threat.accounts:
            return 0
        return self.threat.queries - int(self.ledger.queries[row])

    def _charge(self, row: int) -> int:
        """Count a query about an example; how many there were before it."""
        spent = int(self.ledger.queries[row])
        if self._closed[row] >= self.threat.accounts:
            raise AccessDenied(f"All {self.threat.accounts} accounts of the attacker are closed.")
        if spent >= self.threat.queries:
            raise AccessDenied(f"The budget of {self.threat.queries} queries per example is spent.")
        self.ledger.queries[row] += 1
        return spent

    def simulate(self) -> Simulation:
        return CountedCopy(self, self._copy())

    def deployed(self) -> Simulation:
        if self.threat.weights != "adapted":
            raise AccessDenied(
                f"A threat model with weights {self.threat.weights!r} grants no copy of what is deployed."
            )
        if not self.threat.bank:
            raise AccessDenied("A copy needs what the defense was made from (threat.bank is false).")
        if self._deployed is None:
            raise AccessDenied("There is no deployed defense to copy yet: this protocol crafts before it serves.")
        noise = self._deployed_noise_key
        if self.threat.randomness == "private":
            noise = seed_of(self._key, "copy", self._copies)
        self._copies += 1
        return CountedCopy(self, self._deployed.fork(noise))

    def _copy(self) -> Defense:
        if self.threat.weights not in ("simulated", "adapted"):
            raise AccessDenied(f"A threat model with weights {self.threat.weights!r} grants no simulated copy.")
        if not self.threat.bank:
            raise AccessDenied("A simulated copy needs what the defense was made from (threat.bank is false).")
        noise = self._deployed_noise_key
        if self.threat.randomness == "private":
            noise = seed_of(self._key, "simulation", self._copies)
        self._copies += 1
        copy = self._fresh(noise)
        if self._observed is not None and len(self._observed):
            copy = self._catch_up(copy, self._observed)
            self.ledger.simulated += len(self._observed)
        return copy

    @property
    def others(self) -> tuple[Tensor, Tensor]:
        if not self.threat.others:
            raise AccessDenied("The threat model grants no sight of other users' inputs (threat.others is false).")
        return self._among.x, self._among.y

    @property
    def received(self) -> tuple[Tensor, Tensor]:
        reply = Reply.of(self._among.logits, self._among.labels, self.classes)
        return self._among.sent, reply.logits

    @property
    def _among(self) -> Around:
        if self._around is None:
            raise AccessDenied("The attacker is alone: this protocol serves no other users' inputs beside its own.")
        return self._around

    @property
    def observed(self) -> Tensor:
        if self.threat.weights not in ("simulated", "adapted"):
            raise AccessDenied(f"A threat model with weights {self.threat.weights!r} sees nothing of the stream.")
        return self._x[:0] if self._observed is None else self._observed

    def accepting(self, network: nn.Module) -> nn.Module:
        """The network, with logits (N, K) in which a refusal counts as the right answer."""
        return _Accepting(self, network) if self.info.abstains else network

    def accepted(self, x: Tensor, logits: Tensor) -> Tensor:
        """Logits (N, K) for inputs x (N, C, H, W) in which a refusal counts as the right answer: see `folded`."""
        if logits.shape[1] == self.classes:
            return logits
        return folded(logits, self._y[self._attribute(x).to(self._y.device)], self.classes)

    def recorded(self, network: nn.Module) -> Recorder:
        self.granted = network
        return Recorder(self, network)

    def examples(self) -> Tensor:
        """The clean images (N, C, H, W) of the call."""
        return self._x

    # -- what the game calls ----------------------------------------------------------------------------------------

    def begin(self, x: Tensor, y: Tensor, indices: Sequence[int]) -> None:
        """Start the record of one `perturb` call on x (N, C, H, W), labels y (N,) and their dataset indices."""
        self._x, self._y, self._indices = x, y, list(indices)
        self.ledger = Ledger.empty(len(x))
        self.trace = Trace()
        self._copies = 0
        self._closed = [0] * len(x)
        self._served = {}
        self._focus = self._stand_in = None
        self.granted = None

    def _network(self) -> nn.Module:
        weights = self.threat.weights
        if weights == "trained":
            return frozen_copy(self._trained)
        if weights == "surrogate" and self._surrogate is not None:
            return frozen_copy(self._surrogate)
        if weights == "simulated":
            return self._copy().proxy()
        if weights == "adapted" and self._deployed is not None:
            return self._deployed.proxy()
        if weights == "adapted":
            raise AccessDenied("There are no adapted weights yet: this protocol crafts before it serves.")
        raise AccessDenied("The threat model grants no weights (threat.weights is 'none').")

    def record(self, x: Tensor, logits: Tensor) -> None:
        """Note one forward of the granted network on x (B, C, H, W) and, once it happens, its backward."""
        self.hurry()
        aligned = self._focus is None and x.shape == self._x.shape
        if not aligned:
            settle(x.device)  # looking for their examples waits for the attack's work, which is not recording
        start = time.perf_counter()
        rows = None if aligned else self._attribute(x)
        detached = x.detach()
        x0, y = (self._x, self._y) if rows is None else (self._x[rows], self._y[rows])
        self.trace.rows.append(rows)
        self.trace.margins.append(margins(logits.detach(), y))
        self.trace.distances.append(ball_of(self.threat.norm).distance(detached - x0))
        self._count(self.ledger.forwards, rows)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(self.ledger.backwards, rows))
        self.ledger.recording_s += time.perf_counter() - start

    def count_backwards(self) -> None:
        """Count a backward pass for every example of the call."""
        self.ledger.backwards += 1

    @staticmethod
    def _count(counter: Tensor, rows: Tensor | None) -> None:
        if rows is None:
            counter += 1
        else:
            counter.index_add_(0, rows, torch.ones_like(rows))

    def _attribute(self, x: Tensor) -> Tensor:
        """The example that each input (B, ...) belongs to, (B,): in order if the count fits, else the nearest.

        Only examples count that the attack works on now. Nearest in the threat's norm: in another norm, an image at
        the edge of its ball can be nearer to another example.
        """
        rows = torch.arange(len(self._x)) if self._focus is None else self._focus
        if len(x) == len(rows):
            return rows
        flat = x.detach().flatten(1)
        distances = torch.cdist(flat, self._x[rows].flatten(1), p=ball_of(self.threat.norm).p)
        return rows[distances.argmin(1).cpu()]


class CountedCopy(Simulation):
    """A copy of the defense; the oracle counts its answers."""

    def __init__(self, oracle: GameOracle, defense: Defense) -> None:
        self._oracle = oracle
        self._defense = defense
        self.kind = defense.kind
        self.batch_size = defense.batch_size

    def predict(self, x: Tensor) -> Tensor:
        self._oracle.hurry()
        self._oracle.ledger.simulated += len(x)
        return self._oracle.accepted(x, self._defense.predict(x.clone()))

    def probe(self, x: Tensor, draw: int | None = None) -> Tensor:
        self._oracle.hurry()
        self._oracle.ledger.simulated += len(x)
        return self._oracle.accepted(x, probe(self._defense, x.clone(), draw, self._oracle.company))

    def answers(self, x: Tensor) -> Tensor:
        if self.kind != "batch":
            return self.probe(x)
        return self.fork().predict(x)

    def proxy(self) -> nn.Module:
        return self._oracle.recorded(self.bare_proxy())

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        return self._oracle.recorded(self.bare_proxy(x, draw))

    def bare_proxy(self, x: Tensor | None = None, draw: int | None = None) -> nn.Module:
        if x is None:
            return self._oracle.accepting(self._defense.proxy())
        if self.kind != "static":
            self._oracle.ledger.simulated += len(x)
        return self._oracle.accepting(self._defense.proxy_for(x, draw))

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        network = self._defense.unrolled(steps, served, draw)
        if self.kind == "batch":
            network = _InItsBatch(self._oracle, network, self.batch_size)
        return self._oracle.accepting(network)

    def of_batches(self, steps: int) -> nn.Module:
        network = self._defense.proxy() if self._defense.not_unrolled else self._defense.unrolled(steps)
        return _Counted(self._oracle, network)

    def snapshot(self) -> State:
        return self._defense.snapshot()

    def restore(self, state: State) -> None:
        self._defense.restore(state)

    def fork(self, noise_key: int | None = None) -> Simulation:
        return CountedCopy(self._oracle, self._defense.fork(noise_key))


class _InItsBatch(nn.Module):
    """A network of batches as one of points: each point in its company, or with the others of the call."""

    def __init__(self, oracle: GameOracle, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self._oracle = oracle
        self._size = size
        #: what was last given for each example of the call
        self._last = oracle.examples().clone()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        company = self._oracle.company
        if company is not None:
            return torch.cat([self.network(torch.cat([company, point]))[-1:] for point in x.split(1)])
        rows = self._oracle.whose(x)
        place = torch.full((len(self._last),), -1).index_copy(0, rows, torch.arange(len(rows))).tolist()
        whole = torch.stack([self._last[row] if at < 0 else x[at] for row, at in enumerate(place)])
        self._last = whole.detach()
        return torch.cat([self.network(part) for part in whole.split(self._size)])[rows]


class _Overseen(nn.Module):
    """A network that an attack gets from the oracle, which sees its use."""

    def __init__(self, oracle: GameOracle, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._oracle = oracle
        self.eval()


class _Counted(_Overseen):
    """A network that is given more than the examples of the call: each pass counts once for every example."""

    def forward(self, x: Tensor) -> Tensor:
        self._oracle.hurry()
        ledger = self._oracle.ledger
        ledger.forwards += 1
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._oracle.count_backwards())
        return logits


class _Accepting(_Overseen):
    """A network of a defense that refuses inputs, as an attacker uses it: see `folded`."""

    def forward(self, x: Tensor) -> Tensor:
        return self._oracle.accepted(x, self.network(x))


class Recorder(_Overseen):
    """The granted network as an attack sees it; every forward is recorded by the oracle."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        self._oracle.record(x, logits)
        return logits


def _serve_all(defense: Defense, x: Tensor) -> Defense:
    defense.predict(x)
    return defense

"""A match: one game of a run, bound to everything that it needs. Protocols see only the match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from bench.cache import Cache
from bench.contracts import BLOCK, Attack, Defense, labels_of
from bench.data.task import Task
from bench.game.blocks import Blocks
from bench.game.chunks import ChunkMaker
from bench.game.crafting import Crafted, Crafts, craft
from bench.game.judge import Ruling, admitted, rule
from bench.game.oracle import UNANSWERED, Around, GameOracle
from bench.game.serving import Serving
from bench.planning.spec import RunSpec
from bench.rows import REFUSED, Meter, Resume, Row, image_hash
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.game.resources import RunResources


@dataclass(frozen=True)
class Group:
    """Examples that are answered together, with what was proposed for them and what the judge lets pass.

    first    position of the first example in the game
    indices  dataset indices; x (B, C, H, W) in [0, 1] and y (B,) their images and labels
    served   the proposals; instead of each violation, the clean image (B, C, H, W)
    """

    first: int
    indices: list[int]
    x: Tensor
    y: Tensor
    crafted: Crafted
    rulings: list[Ruling]
    served: Tensor


@dataclass(frozen=True)
class Answers:
    """The labels that a group was answered with, and the mean steps and seconds of an answer.

    resent: see `Row.resent`, one for each example; None where an image is sent once. logits (B, columns): of what was
    answered once.
    """

    labels: list[int]
    steps: int
    seconds: float
    resent: list[dict[str, list[int]]] | None = None
    logits: Tensor | None = None


class Match:
    """One game of a run.

    spec, number  the run, and the number of this game in it
    meter         the seconds of attack and defense
    """

    def __init__(self, run: RunResources, number: int, given: Crafts | None, states: Cache | None) -> None:
        self._run = run
        self._given = given
        self._states = states
        self.spec: RunSpec = run.spec
        self.number = number
        self.meter = Meter()

    # -- the parts --------------------------------------------------------------------------------------------------

    @property
    def threat(self) -> ThreatModel:
        return self.spec.threat

    @property
    def report(self) -> Callable[[str], None]:
        """Is called with one line of progress."""
        return self._run.resources.report

    @cached_property
    def task(self) -> Task:
        return self._run.task

    @cached_property
    def base(self) -> Defense:
        return self._run.base()

    @cached_property
    def defense(self) -> Defense:
        """The fitted defense that has served nothing."""
        return self._run.fitted()

    @cached_property
    def attack(self) -> Attack:
        return self._run.attack

    @cached_property
    def serving(self) -> Serving:
        """The deployed defense: fresh, with the noise key of this game."""
        return self._run.serving(self.spec.noise_key(self.number), self._states)

    def oracle(
        self,
        observed: Tensor | None = None,
        company: Tensor | None = None,
        deployed: bool = True,
        around: Around | None = None,
    ) -> GameOracle:
        """The oracle, through which the attacker reaches the defense.

        observed  background points that the attacker saw, (M, C, H, W)
        company   the rest of the batch in which a `batch` defense answers a query, (B-1, C, H, W)
        deployed  False: there is no deployed defense yet
        around    what the attacker's inputs are served among; None: it is alone
        """
        serving = self.serving if deployed else None
        return self._run.oracle(self.number, serving, observed, company, states=self._states, around=around)

    # -- points and images ------------------------------------------------------------------------------------------

    def points(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Test images (N, C, H, W) in [0, 1] and labels (N,) on the device."""
        return self._run.points(indices)

    def crafts(self, order: Sequence[int], oracle: Callable[[], GameOracle], late: bool = False) -> Crafts:
        """The source of the proposed images of this game.

        order   the places of the seeded order that blocks are cut from
        oracle  makes the oracle; called if the attack crafts in this game
        late    the attack crafts images at the moment when they are needed: against the defense as it is then.
                Else it crafts whole blocks.
        """
        return self._given or _Crafts(self, self._run, Blocks(order, self.attack.block), oracle, late)

    def group(self, first: int, places: list[int], crafted: Crafted) -> Group:
        """The examples at these places of the seeded order, which the defense answers together, as the judge rules."""
        indices = [self.spec.order[place] for place in places]
        x, y = self.points(indices)
        rulings = rule(x, crafted.images, self.threat, bounded=not self.spec.minimal)
        return Group(first, indices, x, y, crafted, rulings, admitted(x, crafted.images, rulings))

    # -- answers ----------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """How many examples of a stream are answered together."""
        return {"static": BLOCK, "online": 1, "batch": self.spec.game.batch}[self.spec.kind]

    def serve(self, x: Tensor) -> Answers:
        """Serve x (B, C, H, W): the state moves on."""
        return self._metered(lambda: self.serving.serve(x), len(x))

    def answered(self, group: Group) -> Answers | None:
        """The answers that all proposals of a group already got as served queries: see `Crafted`. None: not all did."""
        labels = group.crafted.answered
        if labels is None or bool((labels == UNANSWERED).any()) or any(one.violation for one in group.rulings):
            return None
        return Answers([int(label) for label in labels], 0, 0.0)

    def sent(self, group: Group, company: Tensor | None = None, moves: bool = False) -> Answers | None:
        """The answers to the images of a group, each sent as often as the threat model says; None: it is sent once.

        moves: the attacker's images move the state of the deployed defense on. The clean images never do.
        """
        times = self.threat.resubmits
        if times == 1:
            return None
        serving = self.serving
        seconds, steps = serving.seconds, serving.steps
        alone = company if self.spec.game.batch else None
        if moves and self.spec.game.batch:  # the whole batch is sent again
            twin = self._run.served(serving.defense.fork(), self._states)
            clean = twin.sent(group.x, times, moves=True)
            serving.seconds += twin.seconds
            serving.defense.adaptation_steps += twin.steps
        else:
            clean = serving.sent(group.x, times, alone)
        attacked = serving.sent(group.served, times, alone, moves)
        spent = serving.seconds - seconds
        self.meter.defense_s += spent
        resent = [{"attacked": ours, "clean": theirs} for ours, theirs in zip(attacked, clean, strict=True)]
        labels = [
            next((label for label in ours if label not in (int(y), REFUSED)), ours[0])
            for ours, y in zip(attacked, group.y, strict=True)
        ]
        answers = 2 * times * len(group.x)
        return Answers(labels, (serving.steps - steps) // answers, spent / answers, resent)

    def probe(self, x: Tensor, company: Tensor | None = None) -> Answers:
        """Answer each point of x (B, C, H, W) as if it came next, alone; the state stays as it was."""
        return self._metered(lambda: self.serving.probe(x, company), len(x))

    def _metered(self, answer: Callable[[], Tensor], count: int) -> Answers:
        seconds, steps = self.serving.seconds, self.serving.steps
        logits = answer()
        spent = self.serving.seconds - seconds
        self.meter.defense_s += spent
        labels = labels_of(logits, self.serving.classes)
        return Answers(labels, (self.serving.steps - steps) // count, spent / count, logits=logits)

    def neighbours(self, x: Tensor) -> list[dict[str, list[int]] | None]:
        """Counts of the labels of each point's neighbours, for x (B, C, H, W), if the defense retrieves any."""
        seconds = self.serving.seconds
        labels = self.serving.neighbour_labels(x)
        self.meter.defense_s += self.serving.seconds - seconds
        return labels

    def serve_background(self, x: Tensor) -> None:
        """Serve inputs of other users, x (M, C, H, W), starting from the longest stored prefix."""
        seconds = self.serving.seconds
        self.serving.catch_up(x, lambda done: self.report(f"background {done}/{len(x)}"))
        self.meter.defense_s += self.serving.seconds - seconds
        self.meter.background = self.serving.cost

    # -- rows -------------------------------------------------------------------------------------------------------

    def resumed(self, resume: Resume) -> int:
        """Restore the stored state of a stream, and return the position to go on from; 0 if the state is gone."""
        return resume.rows if resume.rows and self.serving.resume(resume.digest, resume.served) else 0

    def chunks(self, stores: bool) -> ChunkMaker:
        """Collects the rows of this game and cuts them into chunks; stores: each with the state after it."""
        settings = self._run.resources.settings
        return ChunkMaker(self.serving, settings.chunk, settings.checkpoint_s, stores)

    def rows(
        self,
        group: Group,
        answers: Answers,
        neighbours: Sequence[dict[str, list[int]] | None],
        clean: Answers | None = None,
        after: int = 0,
        poison: int = 0,
    ) -> Iterator[tuple[Row, Tensor]]:
        """The rows of a group from position `after` on, each with its proposed image (C, H, W).

        clean: the answers to the clean images from the same state, if the protocol has them. poison: how many of the
        group, the first ones, are the attacker's inputs among those of other users.
        """
        crafted = group.crafted
        for i in range(max(after - group.first, 0), len(group.indices)):
            ruling = group.rulings[i]
            yield (
                Row(
                    game=self.number,
                    position=group.first + i,
                    index=group.indices[i],
                    label=int(group.y[i]),
                    answer=answers.labels[i],
                    clean_answer=None if clean is None else clean.labels[i],
                    distances=ruling.distance,
                    violation=ruling.violation,
                    x_sha256=image_hash(group.x[i]),
                    adv_sha256=image_hash(crafted.images[i]),
                    **crafted.counts(i),
                    adaptation_steps=answers.steps,
                    defense_s=answers.seconds,
                    neighbours=neighbours[i],
                    resent=None if answers.resent is None else answers.resent[i],
                    poison=i < poison,
                ),
                crafted.images[i],
            )


class _Crafts:
    """Images that the attack proposes in a match, by place in the seeded order.

    Images that depend on the base alone are crafted once for all runs and kept in the cache.
    """

    def __init__(
        self, match: Match, run: RunResources, blocks: Blocks, oracle: Callable[[], GameOracle], late: bool
    ) -> None:
        self._match = match
        self._run = run
        self._on_base = match.spec.crafted_on_base
        self._blocks = run.base_blocks() if self._on_base else blocks
        self._make_oracle = oracle
        self._late = late and not self._on_base
        self._crafted: dict[int, Crafted] = {}

    @cached_property
    def _oracle(self) -> GameOracle:
        return self._make_oracle()

    def at(self, places: list[int]) -> Crafted:
        if self._late:
            return self._craft(places)
        return Crafted.join([self._block(block).rows(offsets) for block, offsets in self._blocks.find(places)])

    def _block(self, number: int) -> Crafted:
        if number not in self._crafted:
            on_base = self._run.crafted_on_base
            self._crafted[number] = on_base(number) if self._on_base else self._craft(self._blocks[number])
        return self._crafted[number]

    def _craft(self, places: list[int]) -> Crafted:
        indices = [self._match.spec.order[place] for place in places]
        x, y = self._match.points(indices)
        crafted = craft(self._match.attack, self._oracle, x, y, self._match.spec, indices)
        self._match.meter.attack_s += float(crafted.seconds.sum())
        return crafted

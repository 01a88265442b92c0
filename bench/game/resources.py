"""The resources of a process that plays games: tasks, bases, fitted defenses, crafted images; made once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench import registry
from bench.cache import Cache, digest, dump_tensors
from bench.contracts import Attack, Context, Defense, DefenseInfo
from bench.contracts.base import Base
from bench.data.task import Task, checked_task
from bench.environment import environment
from bench.errors import BadAnswer, ChangedFit
from bench.fingerprint import tensors_fingerprint
from bench.game.blocks import Blocks
from bench.game.crafting import Crafted, Crafts, craft
from bench.game.identity import hold_against
from bench.game.match import Match
from bench.game.oracle import Around, GameOracle
from bench.game.serving import Serving
from bench.game.start import is_foreign, look
from bench.planning.facts import facts_of
from bench.planning.plan import info_of
from bench.planning.preflight import no_company, no_poisoning, no_surrogate
from bench.planning.spec import Part, RunSpec
from bench.registry import BUILT_IN
from bench.settings import Settings
from bench.tiers import shared_store

Thing = TypeVar("Thing")

#: how many things of each kind stay in memory: the last ones used
KEPT = 2


class Resources:
    """Loads or makes on first use what the games of a process need."""

    def __init__(
        self, settings: Settings, report: Callable[[str], None] = lambda line: None, cache: Cache | None = None
    ) -> None:
        self.settings = settings
        self.cache = cache or Cache(
            settings.cache_root, report, shared_store(settings.store), environment(settings.device)
        )
        self.device = torch.device(settings.device)
        #: the facts of a dataset, found once for all that ask
        self.facts = facts_of(settings.data_dir)
        self._report = report
        self._environment = digest(environment(settings.device))
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def report(self, line: str) -> None:
        """Report one line of progress. Raises `OutOfTime` when the time limit is long past."""
        self.settings.deadline.check()
        self._report(line)

    def of(self, spec: RunSpec) -> RunResources:
        """What one run needs."""
        return RunResources(self, spec)

    def match(self, spec: RunSpec, game: int, given: Crafts | None = None, states: Cache | None = None) -> Match:
        """One game of a run, bound to everything that it needs.

        given   images that were crafted before; None: the attack crafts them
        states  where the states of its defense are kept; None: in the cache of all games
        """
        return Match(self.of(spec), game, given, states)

    def task(self, dataset: Part) -> Task:
        """The images and labels of a dataset."""

        def load() -> Task:
            cls = registry.datasets.load(dataset.name)
            task = checked_task(cls.load(cls.Params(**dataset.params), self.settings.data_dir), dataset.name)
            if registry.datasets[dataset.name].origin != BUILT_IN:  # a built-in one hashes its files itself
                hold_against(self.cache, digest(["task", *key]), f"The dataset {dataset.name!r}", task)
            return task

        key = [dataset.name, dataset.source, dataset.params]
        return self.keep("task", digest(key), load)

    def artefact(self, key: str) -> str:
        """The name of an artefact in the cache: its key, on this device type and with these versions."""
        return digest([key, self._environment])

    def forget(self, *kinds: str) -> None:
        """Let go of the things of these kinds; what is asked for again is made anew."""
        for name in [name for name in self._kept if name[0] in kinds]:
            del self._kept[name]

    def keep(self, kind: str, key: str, make: Callable[[], Thing]) -> Thing:
        """The thing for this key: `make` makes it, and it is kept as long as it is among the last ones used."""
        if (kind, key) not in self._kept:
            self._kept[kind, key] = make()
            same_kind = [name for name in self._kept if name[0] == kind]
            for name in same_kind[:-KEPT]:
                del self._kept[name]
        self._kept.move_to_end((kind, key))
        thing: Thing = self._kept[kind, key]
        return thing


class RunResources:
    """What one run needs before and in its games."""

    def __init__(self, resources: Resources, spec: RunSpec) -> None:
        self.resources = resources
        self.spec = spec

    @property
    def task(self) -> Task:
        return self.resources.task(self.spec.dataset)

    @property
    def attack(self) -> Attack:
        cls = registry.attacks.load(self.spec.attack.name)
        attack: Attack = cls(cls.Params(**self.spec.attack.params))
        return attack

    def points(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Test images (N, C, H, W) in [0, 1] and labels (N,) on the device."""
        return self.task.test_points(indices, self.resources.device)

    def declined(self) -> str | None:
        """Why the attack cannot run against the defense; None if it can."""
        reason = self.attack.declines(self.spec.threat, self.task.facts, info_of(self.spec))
        if not isinstance(reason, str | None):
            raise BadAnswer(
                f"{self.spec.attack.name}.declines gives {reason!r:.60}; it gives None or a reason as text."
            )
        return reason or no_surrogate(self.spec) or no_company(self.spec) or no_poisoning(self.spec)

    def findings(self) -> list[str]:
        """What a reader must know before the rows: see `bench.game.start`."""
        with self.shared_kept():
            return look(self)

    # -- defenses ---------------------------------------------------------------------------------------------------

    def has_base(self) -> bool:
        """The trained network is in the cache, or there is none to train."""
        return not getattr(registry.defenses.load(self.spec.base.name), "trains", False) or self.resources.cache.has(
            "bases", self.resources.artefact(self.spec.base_key)
        )

    def base(self) -> Defense:
        """The trained base; of a defense that does without one, the fitted defense itself."""
        spec = self.spec

        def fit() -> Defense:
            cls = registry.defenses.load(spec.base.name)
            base: Defense = cls(cls.Params(**spec.base.params))
            base.fit(self.task, None, self._context(spec.base_seed))
            self._hold_against(spec.base_key, f"The base {spec.base.name!r}", base)
            return base

        return self.resources.keep("base", spec.base_key, fit)

    def trained(self) -> nn.Module:
        """The network that an attacker knows who knows the trained one: theta_0.

        Of a defense that does without a base: its own network before it has served anything.
        """
        base = self.base()
        if isinstance(base, Base):
            return base.network
        return self.resources.keep("trained", self.spec.base_key, base.proxy)

    def surrogate(self) -> nn.Module | None:
        """The attacker's own network, if the threat model grants one."""
        if self.spec.surrogate is None:
            return None
        return self.resources.of(self.spec.attacked_base).trained()

    def missing_pieces(self) -> list[str]:
        """The missing parts of the defense's preparation, each of which any process can make."""
        if self.spec.is_base:
            return []
        with self.shared_kept():
            return self._unfitted().pieces(self.task, self.base(), self._context(self.spec.seed))

    def make_piece(self, piece: str) -> None:
        """Make one of the missing pieces."""
        with self.shared_kept():
            self._unfitted().prepare(self.task, self.base(), self._context(self.spec.seed), piece)

    def fitted(self) -> Defense:
        """The fitted defense before it has served anything. Fork it; do not let it serve."""
        if self.spec.is_base:
            return self.base()

        def fit() -> Defense:
            with self.shared_kept():
                defense = self.fitted_to(self.task)
            self._hold_against(self.spec.fit_key, f"The defense {self.spec.defense.name!r}", defense)
            return defense

        return self.resources.keep("fitted", self.spec.fit_key, fit)

    def fitted_to(self, task: Task) -> Defense:
        """The run's defense, fitted anew to another task, on the base of its own. It is kept nowhere."""
        defense = self._unfitted()
        defense.fit(task, self.base(), self._context(self.spec.seed))
        return defense

    @contextmanager
    def shared_kept(self) -> Iterator[None]:
        """Within, code of plug-ins is at work: `ChangedFit` where it has changed what other runs use too."""
        spec = self.spec
        own = [registry.attacks[name] for name in spec.attack.name.split(":")]
        if not is_foreign(spec) and all(entry.origin == BUILT_IN for entry in own):
            yield
            return
        before = [
            self.resources.keep("print", key, partial(tensors_fingerprint, thing))
            for key, thing in self._shared().items()
        ]
        yield
        if before != self.shared_prints():
            self.resources.forget("task", "base", "trained", "fitted", "print")
            who = f"The defense {spec.defense.name!r}"
            who += f" or the attack {spec.attack.name!r}" if any(entry.origin != BUILT_IN for entry in own) else ""
            raise ChangedFit(
                f"{who} changes the base's network or the dataset's arrays; they are shared with other runs, so work "
                f"on a copy (bench.frozen_copy)"
            )

    def _shared(self) -> dict[str, Any]:
        """What a run shares with others, by a key of its own."""
        shared: dict[str, Any] = {digest(asdict(self.spec.dataset)): self.task}
        if not self.spec.brings_network:
            base = self.base()
            shared[self.spec.base_key] = base.network if isinstance(base, Base) else base
        return shared

    def shared_prints(self) -> list[str]:
        """Fingerprints of what the run shares with others, as it is now."""
        return [tensors_fingerprint(thing) for thing in self._shared().values()]

    def _hold_against(self, key: str, what: str, fitted: Defense) -> None:
        hold_against(self.resources.cache, self.resources.artefact(key), what, fitted)

    def serving(self, noise_key: int, states: Cache | None = None) -> Serving:
        """A fresh copy of the run's defense, ready to serve; states: see `Resources.match`."""
        return self.served(self.fitted().fork(noise_key), states)

    def served(self, defense: Defense, states: Cache | None = None) -> Serving:
        """A copy of the run's defense, ready to serve."""
        return Serving(
            defense,
            self.resources.artefact(self.spec.fit_key),
            states or self.resources.cache,
            self.task.facts.num_classes,
            self.resources.settings.checkpoint_s,
            self.resources.settings.deadline,
        )

    def _unfitted(self) -> Defense:
        cls = registry.defenses.load(self.spec.defense.name)
        defense: Defense = cls(cls.Params(**self.spec.defense.params))
        return defense

    def _context(self, seed: int) -> Context:
        resources, spec = self.resources, self.spec
        base_key = resources.artefact(spec.base_key)
        settings = resources.settings
        return Context(
            seed, spec.noise_key(0), resources.device, resources.cache, base_key, resources.report,
            settings.deadline, settings.checkpoint_s,
        )  # fmt: skip

    # -- the attacker -----------------------------------------------------------------------------------------------

    def oracle(
        self,
        game: int,
        serving: Serving | None,
        observed: Tensor | None = None,
        company: Tensor | None = None,
        info: DefenseInfo | None = None,
        states: Cache | None = None,
        around: Around | None = None,
    ) -> GameOracle:
        """The oracle of one game. serving: the deployed defense; None if there is none yet."""
        spec = self.spec

        def catch_up(copy: Defense, seen: Tensor) -> Defense:
            self.served(copy, states).catch_up(seen)
            return copy

        return GameOracle(
            spec.threat,
            info or info_of(spec),
            classes=self.task.facts.num_classes,
            trained=self.trained(),
            surrogate=self.surrogate(),
            deployed=None if serving is None else serving.defense,
            fresh=lambda noise: self.fitted().fork(noise),
            observed=observed,
            deployed_noise_key=spec.noise_key(game),
            serve=None if serving is None else serving.serve,
            catch_up=catch_up,
            company=company,
            around=around,
            key=spec.noise_key(game),
            report=self.resources.report,
            hurry=self.resources.settings.deadline.check,
        )

    # -- images crafted on the base alone ---------------------------------------------------------------------------

    def base_blocks(self) -> Blocks:
        """The blocks of the seeded order in which images are crafted on the base alone, by place.

        Whole blocks, whatever n is: so the images of a run with a smaller n are a prefix of those of a larger one.
        """
        size, spec = self.attack.block, self.spec
        return Blocks(spec.places if size is None else range(spec.test_size), size)

    def base_block_count(self) -> int:
        """How many of these blocks hold examples of the run."""
        return len(Blocks(self.spec.places, self.attack.block))

    def crafted_on_base(self, block: int) -> Crafted:
        """One block of images that are crafted on the base alone: from the cache, or crafted now."""
        cache, name = self.resources.cache, self._craft_name(block)
        held = cache.read("crafts", name)
        if held is None:
            self.resources.report(f"crafting block {block + 1} of {self.base_block_count()}")
            indices = [self.spec.order[place] for place in self.base_blocks()[block]]
            x, y = self.points(indices)
            base = DefenseInfo(self.spec.base.name, "static", True, False)  # the images depend on the base alone
            with self.shared_kept():  # before they are cached under the key of the network as it is
                made = craft(self.attack, self.oracle(0, None, info=base), x, y, self.spec, indices)
            cache.put("crafts", name, dump_tensors(made.tensors(), {}))
            return made
        tensors, _ = held
        images = tensors.pop("images").to(self.resources.device)
        return Crafted(images=images, **tensors)

    def _craft_name(self, block: int) -> str:
        whole = [] if self.attack.block else self.spec.indices
        return f"{self.resources.artefact(digest([self.spec.craft_key, whole]))}-{block}"

"""What a process needs to play games: tasks, bases, fitted defenses and crafted images, each made once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench import registry
from bench.cache import Cache, digest, dump_tensors, parse_tensors, write_atomic
from bench.contracts import Attack, Context, Defense, DefenseInfo
from bench.contracts.base import Base
from bench.data.task import Task
from bench.environment import environment
from bench.game.crafting import Crafted, craft
from bench.game.oracle import GameOracle
from bench.game.serving import Serving
from bench.planning.plan import info_of
from bench.planning.preflight import no_company, no_surrogate
from bench.planning.spec import Part, RunSpec
from bench.settings import Settings

Thing = TypeVar("Thing")


class Workbench:
    """Loads and makes, on first use, what the games of a process need."""

    def __init__(self, settings: Settings, report: Callable[[str], None] = lambda line: None) -> None:
        self.settings = settings
        self.cache = Cache(settings.cache_root)
        #: where states of defenses in service are kept; another cache for a game that must be played anew
        self.states = self.cache
        self.device = torch.device(settings.device)
        self.report = report
        self.place = digest(environment(settings.device))
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def _keep(self, kind: str, key: str, make: Callable[[], Thing], most: int = 2) -> Thing:
        """The thing of this kind and key, made if need be; the least recently used beyond `most` is let go."""
        if (kind, key) not in self._kept:
            self._kept[kind, key] = make()
            held = [name for name in self._kept if name[0] == kind]
            for name in held[:-most]:
                del self._kept[name]
        self._kept.move_to_end((kind, key))
        thing: Thing = self._kept[kind, key]
        return thing

    def task(self, dataset: Part) -> Task:
        def load() -> Task:
            cls = registry.datasets.load(dataset.name)
            task: Task = cls.load(cls.Params(**dataset.params), self.settings.data_dir)
            return task

        return self._keep("task", digest([dataset.name, dataset.params]), load)

    def artefact(self, key: str) -> str:
        """The name of an artefact in the cache: its key, on this device type and with these versions."""
        return digest([key, self.place])

    def has_base(self, spec: RunSpec) -> bool:
        """The trained network is in the cache."""
        return self.cache.has("bases", self.artefact(spec.base_key))

    def base(self, spec: RunSpec) -> Base:
        def fit() -> Base:
            cls = registry.defenses.load(spec.base.name)
            base: Base = cls(cls.Params(**spec.base.params))
            base.fit(self.task(spec.dataset), None, self._context(spec, spec.base_seed))
            return base

        return self._keep("base", spec.base_key, fit)

    def _context(self, spec: RunSpec, seed: int) -> Context:
        return Context(seed, spec.noise_key(0), self.device, self.cache, self.artefact(spec.base_key), self.report)

    def missing_pieces(self, spec: RunSpec) -> list[str]:
        """Parts of the defense's preparation that any process could make now."""
        if spec.is_base:
            return []
        defense = self._unfitted(spec)
        return defense.pieces(self.task(spec.dataset), self.base(spec), self._context(spec, spec.seed))

    def prepare(self, spec: RunSpec, piece: str) -> None:
        """Make one of the missing pieces."""
        context = self._context(spec, spec.seed)
        self._unfitted(spec).prepare(self.task(spec.dataset), self.base(spec), context, piece)

    def _unfitted(self, spec: RunSpec) -> Defense:
        cls = registry.defenses.load(spec.defense.name)
        defense: Defense = cls(cls.Params(**spec.defense.params))
        return defense

    def fitted(self, spec: RunSpec) -> Defense:
        """The fitted defense that has served nothing; fork it, never serve it."""
        if spec.is_base:
            return self.base(spec)

        def fit() -> Defense:
            defense = self._unfitted(spec)
            defense.fit(self.task(spec.dataset), self.base(spec), self._context(spec, spec.seed))
            return defense

        return self._keep("fitted", spec.fit_key, fit)

    def serving(self, spec: RunSpec, noise_key: int) -> Serving:
        """A fresh copy of the run's defense, ready to serve."""
        defense = self.fitted(spec).fork(noise_key)
        return self.wrap(spec, defense)

    def wrap(self, spec: RunSpec, defense: Defense) -> Serving:
        classes = self.task(spec.dataset).facts.num_classes
        identity = self.artefact(spec.fit_key)
        return Serving(defense, identity, self.states, classes, self.settings.checkpoint_s)

    def attack(self, spec: RunSpec) -> Attack:
        cls = registry.attacks.load(spec.attack.name)
        attack: Attack = cls(cls.Params(**spec.attack.params))
        return attack

    def points(self, spec: RunSpec, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Test images (N, C, H, W) in [0, 1] and labels (N,) on the device."""
        return self.task(spec.dataset).test_points(indices, self.device)

    def declined(self, spec: RunSpec) -> str | None:
        """Why the attack cannot run against the defense, or None."""
        reason = self.attack(spec).declines(spec.threat, self.task(spec.dataset).facts, info_of(spec))
        return reason or no_surrogate(spec) or no_company(spec)

    def oracle(
        self,
        spec: RunSpec,
        game: int,
        serving: Serving | None,
        observed: Tensor | None = None,
        company: Tensor | None = None,
        info: DefenseInfo | None = None,
    ) -> GameOracle:
        """The attacker's door in one game; `serving` is None where there is no deployed defense yet."""

        def catch_up(copy: Defense, seen: Tensor) -> Defense:
            self.wrap(spec, copy).catch_up(seen)
            return copy

        return GameOracle(
            spec.threat,
            info or info_of(spec),
            trained=self.base(spec).network,
            surrogate=None if spec.surrogate is None else self.base(spec.attacked_base).network,
            deployed=None if serving is None else serving.defense,
            fresh=lambda noise: self.fitted(spec).fork(noise),
            observed=observed,
            deployed_noise_key=spec.noise_key(game),
            serve=None if serving is None else serving.serve,
            catch_up=catch_up,
            company=company,
            key=spec.noise_key(game),
            report=self.report,
        )

    # -- images crafted on the base alone ---------------------------------------------------------------------------

    def craft_blocks(self, spec: RunSpec) -> list[int]:
        """Numbers of the blocks of the seeded order that hold the run's examples."""
        size = self.attack(spec).block or spec.n
        return list(range((spec.n + size - 1) // size))

    def has_crafted(self, spec: RunSpec, block: int) -> bool:
        return self.cache.has("crafts", self._craft_name(spec, block))

    def crafted(self, spec: RunSpec, block: int) -> Crafted:
        """One block of images that are crafted on the base alone; whole blocks, so that n does not matter."""
        path = self.cache.path("crafts", self._craft_name(spec, block))
        if not path.exists():
            size = self.attack(spec).block
            self.report(f"crafting block {block + 1} of {len(self.craft_blocks(spec))}")
            indices = spec.indices if size is None else spec.order[block * size : (block + 1) * size]
            x, y = self.points(spec, indices)
            base = DefenseInfo(spec.base.name, "static", True, False)  # all that these images may depend on
            made = craft(self.attack(spec), self.oracle(spec, 0, None, info=base), x, y, spec, indices)
            write_atomic(path, dump_tensors(made.tensors(), {}))
        tensors, _ = parse_tensors(path.read_bytes())
        return Crafted(**{name: t.to(self.device) if name == "images" else t for name, t in tensors.items()})

    def _craft_name(self, spec: RunSpec, block: int) -> str:
        whole = [] if self.attack(spec).block else spec.indices
        return f"{self.artefact(digest([spec.craft_key, whole]))}-{block}"

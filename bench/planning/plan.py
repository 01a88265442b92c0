"""Plans runs: from a request to run specs, one for each combination, with every parameter resolved. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast, get_args

from pydantic import ValidationError

from bench import registry
from bench.config import Config, merge, validation_error
from bench.contracts import Attack, Defense, DefenseInfo, Kind
from bench.contracts.base import build_network
from bench.data.task import TaskFacts, TaskParams
from bench.errors import BadValue, BenchError, BrokenPlugin, UnknownName, one_line
from bench.interrupts import from_outside
from bench.models.sources import network_name, network_source
from bench.planning.config_check import check_sections, game_keys
from bench.planning.facts import content_of
from bench.planning.preflight import check_protocol, check_radius, check_sizes, has_given_weights
from bench.planning.requests import Request
from bench.planning.rules import game_of, paired_clean, with_card
from bench.planning.spec import GameSpec, Part, RunSpec
from bench.source import foreign_code
from bench.threat import ThreatModel, convert, parse_number
from bench.values import Params

FactsOf = Callable[[str, TaskParams], TaskFacts]


@dataclass(frozen=True)
class Planned:
    """A run of the request, and the `clean` run that gives its clean accuracy; None if the run itself gives it."""

    spec: RunSpec
    clean: RunSpec | None


def plan(requests: list[Request], config: Config, facts_of: FactsOf, checked: bool = False) -> list[Planned]:
    """The runs of all requests in order, each once. Raises a `BenchError` if a request is wrong.

    checked: the sections of the configuration are known to be right; looking takes longer than all else.
    """
    if not checked:
        check_sections(config)
    keys = _Keys()
    planned: dict[str, Planned] = {}
    for request in requests:
        with foreign_code(), _blamed(request):
            for spec in _Resolver(request, config, facts_of, keys).specs():
                planned.setdefault(spec.key, Planned(spec, paired_clean(spec, _clean_part())))
    keys.check([key for request in requests for key in request.sets])
    if any(request.eps or request.norm for request in requests) and not keys.bounded:
        raise BadValue(
            "--eps and --norm apply to attacks within a budget, and none of these attacks has one: drop them. Attacks "
            "of minimal norm are ranked at the radius threat.eps (--set) or dataset.NAME.eps (bench.toml)."
        )
    return list(planned.values())


@contextmanager
def _blamed(request: Request) -> Iterator[None]:
    """Within, a request is planned: what a plug-in raises that declares something impossible is a `BrokenPlugin`.

    Errors of the built-in names pass through: they are faults of this program.
    """
    try:
        yield
    except BenchError:
        raise
    except BaseException as error:
        if from_outside(error):
            raise
        named = (
            *((registry.defenses, name) for name in (*request.defenses, *request.bases)),
            *((registry.attacks, name) for name in request.attacks),
            *((registry.datasets, name) for name in request.datasets),
        )
        foreign = [name for names, name in named if name in names and names[name].origin != registry.BUILT_IN]
        if not foreign:
            raise
        raise BrokenPlugin(
            f"What {', '.join(map(repr, foreign))} declares cannot be planned: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


class _Keys:
    """The dotted keys that the cells declare, and those whose value is fixed."""

    def __init__(self) -> None:
        self.declared: set[str] = set()
        self.fixed: dict[str, set[str]] = {}
        #: whether some attack stays within a radius that the request may set
        self.bounded = False

    def declare(self, prefix: str, names: Any) -> None:
        self.declared.update(f"{prefix}.{name}" for name in names)

    def check(self, given: list[str]) -> None:
        for key in given:
            if key in self.declared or key.startswith("runner."):
                continue
            if key in self.fixed:
                raise BadValue(
                    f"{key} is fixed by {', '.join(sorted(self.fixed[key]))}; drop it, or choose an attack or a "
                    f"protocol that leaves it free."
                )
            raise UnknownName("key that these runs have", key, self.declared)


class _Resolver:
    """Resolves one request, layer by layer: class defaults, recipe, bench.toml, its dataset part, --set.

    A recipe that is asked for by --set, of a plug-in that has no default one, stands above bench.toml.
    """

    def __init__(self, request: Request, config: Config, facts_of: FactsOf, keys: _Keys) -> None:
        self.request = request
        self.config = config
        self.facts_of = facts_of
        self.keys = keys
        self.sets = request.sets

    def specs(self) -> list[RunSpec]:
        request, run = self.request, self.config.run
        for base in request.bases:  # also where every defense is its own base
            self._base_entry(base)
        specs = []
        for dataset in request.datasets or (run.dataset,):
            params = self._params("dataset", registry.datasets.load(dataset), dataset, dataset)
            facts = self.facts_of(dataset, cast(TaskParams, params))
            source = Part(dataset, 1, content_of(dataset, facts), params.model_dump())
            for name in request.defenses:
                own = registry.defenses[name].base or not registry.defenses.load(name).uses_base
                for base in (name,) if own else request.bases or (run.base,):
                    for attack in request.attacks:
                        for threat in self._threats(attack, dataset):
                            for seed in request.seeds or (run.seed,):
                                specs.append(self._spec(source, facts, name, base, attack, threat, seed))
        return specs

    def _spec(
        self, dataset: Part, facts: TaskFacts, defense: str, base: str, attack: str, threat: ThreatModel, seed: int
    ) -> RunSpec:
        entry = registry.defenses[defense]
        cls: type[Defense] = entry.load()
        if cls.kind not in get_args(Kind):
            raise BrokenPlugin(
                f"The kind of {defense!r} is {cls.kind!r}; it must be one of {', '.join(get_args(Kind))}."
            )
        if not entry.base:
            params = self._with_radius(self._params("defense", cls, defense, dataset.name), dataset.name)
            batch = _validated(defense, cls, params, facts)
            part = Part(defense, entry.version, entry.source_hash(), params.model_dump())
        if entry.base or cls.uses_base:
            base_part, base_seed, network = self._base(base, facts)
            part, batch = (base_part, 0) if entry.base else (part, batch)
        else:  # it brings its own network, and is its own base
            base_part, base_seed, network = part, seed, Part(part.name, part.version, part.source)
        attack_entry = registry.attacks[attack]
        attack_cls: type[Attack] = attack_entry.load()
        _check_attack(attack, attack_cls)
        attack_params = self._params("attack", attack_cls, attack, dataset.name)
        surrogate, surrogate_base = self._surrogate(base_part, network, threat, facts)
        n = self.request.n if self.request.n is not None else self.config.run.n
        spec = RunSpec(
            defense=part,
            kind=cls.kind,
            base=base_part,
            base_seed=base_seed,
            network=network,
            attack=Part(attack, attack_entry.version, attack_entry.source_hash(), attack_params.model_dump()),
            attack_kind=attack_cls.kind,
            dataset=dataset,
            test_size=facts.test_size,
            threat=threat,
            game=self._game(attack, dataset.name, n, batch, cls),
            n=n,
            seed=seed,
            surrogate=surrogate,
            surrogate_base=surrogate_base,
            abstains=cls.abstains,
        )
        check_sizes(spec)
        if not self.request.force_eps:
            check_radius(threat, facts.image_shape)
        check_protocol(spec, attack_cls)
        return with_card(spec)

    @staticmethod
    def _base_entry(name: str) -> registry.Entry:
        entry = registry.defenses[name]
        if not entry.base:
            bases = [e.name for e in registry.defenses if e.base]
            raise BadValue(f"{name!r} is no base (a train-time defense); give --base one of: {', '.join(bases)}.")
        return entry

    def _base(self, name: str, facts: TaskFacts) -> tuple[Part, int, Part]:
        entry = self._base_entry(name)
        cls = entry.load()
        params = self._with_radius(self._params("base", cls, name, facts.name, extra=("seed",)), facts.name)
        self.keys.declare("base", ["seed"])
        seed = convert("base.seed", self._layer("base", name, facts.name).get("seed", 0), int)
        if seed < 0:
            raise BadValue(f"base.seed is {seed}; give a number from 0 on.")
        _validated(name, cls, params, facts)
        network = _network_part(params, facts)
        return Part(name, entry.version, entry.source_hash(), params.model_dump()), seed, network

    def _surrogate(
        self, base: Part, network: Part, threat: ThreatModel, facts: TaskFacts
    ) -> tuple[Part | None, Part | None]:
        """The network of the attacker's surrogate, and the base that trains it where it is not the run's own.

        `network` is that of the base. Where its weights are given, a surrogate is trained as `regular` is.
        """
        self.keys.declare("surrogate", registry.defenses.load("regular").Params.model_fields)
        if not threat.surrogate:
            return None, None
        if has_given_weights(base):
            try:
                return self._trained_surrogate(threat.surrogate, facts)
            except BadValue:
                if any(key.startswith("surrogate.") for key in self.sets):
                    raise
                return network, None  # nothing to train it on, or no network for these images: see `no_surrogate`
        if threat.surrogate == "same" or "model" not in base.params:
            return network, None  # impossible surrogates are refused later: see `no_surrogate`
        name = network_name(threat.surrogate, facts.name)
        if threat.surrogate == "other" and name == network.name:
            name = network_name("auto", facts.name)
        cls = registry.defenses.load(base.name)
        params = cls.Params(**{**base.params, "model": name})
        _validated(base.name, cls, params, facts)
        return _network_part(params, facts), None

    def _trained_surrogate(self, architecture: str, facts: TaskFacts) -> tuple[Part, Part]:
        """A surrogate by the recipe of `regular`; keys `surrogate.NAME` override those of [base.regular]."""
        own = {f"base.{key[10:]}": value for key, value in self.sets.items() if key.startswith("surrogate.")}
        if architecture != "same":
            own.setdefault("base.model", architecture)
        resolver = _Resolver(replace(self.request, sets=own), self.config, self.facts_of, self.keys)
        base, _, network = resolver._base("regular", facts)
        return network, base

    def _with_radius(self, params: Any, dataset: str) -> Any:
        """The parameters; an `eps` of 0, the radius of copies made while training or serving, becomes the default."""
        if getattr(params, "eps", None) != 0:
            return params
        return params.model_copy(update={"eps": self._radius(dataset, "linf")})

    def _layer(self, section: str, name: str, dataset: str) -> dict[str, Any]:
        """Values by key, from bench.toml, from its table for the dataset, and from --set; later ones win."""
        by_dataset = self.config.dataset.get(dataset, {})
        if section == "dataset":
            own = {k: v for k, v in by_dataset.items() if not isinstance(v, dict)}
        else:
            own = {}
            for part in registry.attacks[name].sections if section == "attack" else [name]:
                merge(own, getattr(self.config, section).get(part, {}))
                merge(own, by_dataset.get(section, {}).get(part, {}))
        prefix = f"{section}."
        own.update({k[len(prefix) :]: v for k, v in self.sets.items() if k.startswith(prefix)})
        return own

    def _params(self, section: str, cls: Any, name: str, dataset: str, extra: tuple[str, ...] = ()) -> Any:
        """The parameters of a plug-in, from all layers."""
        model = cls.Params
        known = set(model.model_fields)
        self.keys.declare(section, known)
        prefix = f"{section}."
        values = {
            key: value
            for key, value in self._layer(section, name, dataset).items()
            if key not in extra and (key in known or f"{prefix}{key}" not in self.sets)
        }
        family = getattr(cls, "recipe_family", "") or name  # datasets have none
        if "recipe" in known:
            recipe = values.get("recipe", model.model_fields["recipe"].default)
            shared = self._recipe(family, str(recipe), dataset)
            values = {**{key: value for key, value in shared.items() if key in known}, **values}
        elif family in self.config.recipe:
            self.keys.declare(section, ["recipe"])
            if f"{prefix}recipe" in self.sets:  # asked for, so it goes before what bench.toml says
                shared = self._recipe(family, str(self.sets[f"{prefix}recipe"]), dataset)
                asked = {
                    key: value for key, value in shared.items() if key in known and f"{prefix}{key}" not in self.sets
                }
                values.update(asked)
        values = {key: _number(model, section, key, value) for key, value in values.items()}
        try:
            params = model(**values)
        except ValidationError as error:
            raise validation_error(error, model, f"[{section}.{name}]") from None
        for key, value in params.model_dump().items():
            if not _fits_json(value):
                raise BadValue(
                    f"{key} in [{section}.{name}] is {value!r:.80}, which cannot be part of a run's key: parameters "
                    f"are finite numbers, texts, booleans, and lists and dicts of them."
                )
        return params

    def _recipe(self, family: str, recipe: str, dataset: str) -> dict[str, Any]:
        recipes = self.config.recipe.get(family, {})
        if recipe not in recipes:
            raise UnknownName(f"recipe of {family}", recipe, recipes)
        values = {k: v for k, v in recipes[recipe].items() if not isinstance(v, dict)}
        own = recipes[recipe].get(dataset, {})
        return {**values, **(own if isinstance(own, dict) else {})}

    def _threats(self, attack: str, dataset: str) -> list[ThreatModel]:
        entry = registry.attacks[attack].resolved()
        threat = ThreatModel().with_fields(dict(entry.preset or {}))
        cls = entry.load()
        free = set(entry.free or ()) | (
            {"eps"} if cls.kind == "minimal" and "eps" not in (entry.preset or {}) else set()
        )
        self.keys.declare("threat", free)
        for name in {f.name for f in fields(threat)} - free:
            self.keys.fixed.setdefault(f"threat.{name}", set()).add(f"--{name}" if name in ("eps", "norm") else attack)
        values = {k: v for k, v in self._of_dataset(dataset, "threat").items() if k in free}
        values.update(
            {k.partition(".")[2]: v for k, v in self.sets.items() if k.startswith("threat.") and k[7:] in free}
        )
        threat = threat.with_fields(values)
        if "eps" in (entry.preset or {}) and not ("eps" in free and self.request.eps):
            return [threat]
        if cls.kind == "minimal":  # its own norm; the radius is only what it is ranked at
            radius = threat.eps if "eps" in values else self._radius(dataset, cls.norm)
            return [threat.with_fields({"norm": cls.norm, "eps": radius})]
        self.keys.bounded = True
        norm = self.request.norm or cls.norm
        radii = self.request.eps or (self._radius(dataset, norm),)
        return [threat.with_fields({"norm": norm, "eps": radius}) for radius in radii]

    def _of_dataset(self, dataset: str, section: str) -> dict[str, Any]:
        """What [dataset.NAME.SECTION] says, over what the dataset says itself."""
        own = getattr(registry.datasets.load(dataset), "defaults", {}).get(section, {})
        return {**own, **self.config.dataset.get(dataset, {}).get(section, {})}

    def _radius(self, dataset: str, norm: str) -> float:
        """The dataset's default radius in this norm."""
        radii = self._of_dataset(dataset, "eps")
        if norm not in radii:
            raise BadValue(
                f"{dataset} has no default radius for {norm}: set dataset.{dataset}.eps.{norm} in bench.toml, or give "
                f"--eps for an attack within a budget, and defense.eps for a defense that crafts copies."
            )
        return parse_number(f"dataset.{dataset}.eps.{norm}", radii[norm])

    def _game(self, attack: str, dataset: str, n: int, batch: int, cls: type[Defense]) -> GameSpec:
        values: dict[str, Any] = {"protocol": registry.attacks[attack].resolved().protocol, **self.config.game}
        values.update(self._of_dataset(dataset, "game"))
        values.update({k[5:]: v for k, v in self.sets.items() if k.startswith("game.")})
        if self.request.repeats is not None:
            values["repeats"] = self.request.repeats
        protocol = str(values["protocol"])
        rules = registry.protocols.load(protocol)
        own, key = set(rules.Params.model_fields), rules.facts.games_key
        self.keys.declare("game", ["protocol", *own])
        for name in game_keys() - own - {"protocol"}:
            self.keys.fixed.setdefault(f"game.{name}", set()).add(f"the protocol {protocol}")
        if "repeats" not in own and self.request.repeats not in (None, 1):
            raise BadValue(f"--repeats has no meaning for {attack} in the protocol {protocol}; set game.{key} instead.")
        params = _game_params(rules.Params, {name: value for name, value in values.items() if name in own})
        if rules.facts.splits:
            params[key] = min(params[key], max(n, 1))
        elif cls.kind == "static" and not cls.randomised:
            params[key] = 1  # the order does not matter to a static defense: further games would have the same rows
        return game_of(protocol, params, batch)


def _check_attack(name: str, cls: type[Attack]) -> None:
    """`BrokenPlugin` where a class declares what no attack can be."""
    if cls.kind not in ("budget", "minimal"):
        raise BrokenPlugin(f"The kind of {name!r} is {cls.kind!r}; it must be budget or minimal.")
    if cls.block is not None and not (isinstance(cls.block, int) and cls.block > 0):
        raise BrokenPlugin(f"The block of {name!r} is {cls.block!r}; it must be a number above 0, or None for all.")


def _game_params(model: type[Params], values: dict[str, Any]) -> dict[str, Any]:
    """A protocol's parameters, from values of a command line or a TOML file."""
    values = {name: _number(model, "game", name, value) for name, value in values.items()}
    try:
        return model(**values).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        key = f"game.{'.'.join(str(part) for part in first['loc'])}"
        raise BadValue(f"{key} is {first.get('input')!r}: {first['msg']}.") from None


def _clean_part() -> Part:
    """The `clean` attack as a part of a run; it has no parameters."""
    entry = registry.attacks["clean"]
    return Part("clean", entry.version, entry.source_hash(), {})


def _network_part(params: Any, facts: TaskFacts) -> Part:
    """The network of a base as a part of a run. One from a user's file or with weights is built once, as a test."""
    model, weights = getattr(params, "model", "auto"), getattr(params, "weights", "")
    part = Part(*network_source(network_name(model, facts.name), weights))
    if weights or ":" in model:
        _built(model, weights, part.source, facts)
    return part


@lru_cache(maxsize=32)
def _built(model: str, weights: str, source: str, facts: TaskFacts) -> None:
    """Build a network, so that an error in it or in its weights is reported before anything runs."""
    build_network(SimpleNamespace(model=model, weights=weights), facts, 0)


def _validated(name: str, cls: type[Defense], params: Any, facts: TaskFacts) -> int:
    """The batch size of a defense, 0 unless it is a `batch` defense; raises if the defense refuses its parameters."""
    try:
        cls.validate(params, facts)
        return cls(params).batch_size if cls.kind == "batch" else 0
    except BenchError:
        raise
    except Exception as error:  # of a plug-in: any exception means that the run cannot be planned
        raise BrokenPlugin(f"{name!r} cannot be made: {type(error).__name__}: {one_line(error)}") from error


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _number(model: Any, section: str, key: str, value: Any) -> Any:
    """A number for a float parameter that is given as a fraction such as "8/255"; other values unchanged."""
    known = model.model_fields.get(key)
    if known is not None and known.annotation is float and isinstance(value, str):
        return parse_number(f"{section}.{key}", value)
    return value


def info_of(spec: RunSpec) -> DefenseInfo:
    """What an attack may know of a run's defense before the game."""
    cls: type[Defense] = registry.defenses.load(spec.defense.name)
    return DefenseInfo(spec.defense.name, cls.kind, cls.differentiable, cls.randomised, cls.abstains, cls.not_unrolled)

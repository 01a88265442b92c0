"""A run as a value: everything that shapes its rows, and the key that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.cache import digest
from bench.draws import seed_of
from bench.errors import BadValue
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.contracts import Kind

#: raised when the meaning of the game, the judge or the oracle changes; part of every key
HARNESS_VERSION = 1
#: the fields of a run that are a `Part`
PARTS = ("defense", "base", "network", "attack", "dataset", "surrogate", "surrogate_base")


@dataclass(frozen=True)
class Part:
    """A plug-in as used in a run: its name, version, source hash and resolved parameters."""

    name: str
    version: int
    source: str
    params: dict[str, Any] = field(default_factory=dict)


def placeless(value: Any) -> Any:
    """A part of a run as it enters a key: files by their name alone, since their content is in the source hash."""
    if not isinstance(value, dict) or not {"name", "params"} <= set(value):
        return value
    return _with_files(value, lambda text: PurePath(text).name)


def _with_files(part: dict[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """A part with another text for each file that it names: a weights file, or a network as `FILE.py:FUNCTION`."""
    name, params = part["name"], dict(part["params"])
    if params.get("weights"):
        params["weights"] = place(str(params["weights"]))
    if ".py:" in str(params.get("model", "")):
        params["model"] = place(params["model"])
    return {**part, "name": place(name) if ".py:" in name else name, "params": params}


@dataclass(frozen=True)
class GameFacts:
    """What a protocol declares about its games.

    It is stored with a run: the protocol may be a plug-in that is not there when the rows are read.

    games_key      the key of [game] that holds the number of games of a run
    shared         what the examples of one game have in common, so that an interval holds for it alone: a `stream`
                   that the state is carried along, or one `state`
    splits         each example belongs to one game; False: every game plays all examples
    answers_clean  its rows hold the answer to the clean image too; False: a paired run of the attack `clean` has it
    background     other users' inputs are served before the attacker crafts, so that `threat.known` and `threat.delay`
                   have a meaning
    among          the attacker's inputs are served among those of other users, and the others' answers are judged:
                   `threat.share`, `threat.place` and `threat.others` have a meaning
    """

    games_key: str
    shared: Literal["stream", "state"]
    splits: bool = False
    answers_clean: bool = False
    background: bool = False
    among: bool = False


@dataclass(frozen=True)
class GameSpec:
    """How the games of a run are played.

    protocol  the name under which the protocol is registered
    params    values of the protocol's keys in [game]
    facts     what the protocol declares
    batch     the batch size of a `batch` defense, else 0
    source    the hash of the protocol's source; "" for a built-in one
    card      the game in one sentence; tag: in a few words, enough to tell the rows of a table apart
    """

    protocol: str
    params: dict[str, Any]
    facts: GameFacts
    batch: int = 0
    source: str = ""
    card: str = ""
    tag: str = ""

    @property
    def games(self) -> int:
        """How many games the run consists of; each is a unit of work."""
        return int(self.params[self.facts.games_key])

    @staticmethod
    def from_dict(values: dict[str, Any]) -> GameSpec:
        """The game that `dataclasses.asdict` wrote."""
        return GameSpec(**{**values, "facts": GameFacts(**values["facts"])})


@dataclass(frozen=True)
class RunSpec:
    """One cell: defense x base x attack x task x threat x seed x n."""

    defense: Part
    kind: Kind
    base: Part
    base_seed: int
    network: Part
    attack: Part
    attack_kind: Literal["budget", "minimal"]
    dataset: Part
    test_size: int
    threat: ThreatModel
    game: GameSpec
    n: int
    seed: int
    #: the network of the attacker's surrogate, if the threat model grants one
    surrogate: Part | None = None
    #: the base that trains this surrogate; None: that of the run
    surrogate_base: Part | None = None
    #: the places of the seeded order, below n, that are attacked, such as those left by earlier attacks; None: all n
    chosen: tuple[int, ...] | None = None
    #: the defense may refuse inputs
    abstains: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Every resolved parameter that applies, as JSON values."""
        values = {**asdict(self), "threat": self.threat.to_dict(), "harness": HARNESS_VERSION}
        for name in ("surrogate_base", "abstains"):  # a run without has the key that it had before there were any
            if not values[name]:
                del values[name]
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> RunSpec:
        """The run that `to_dict` wrote; `BadValue` where it cannot have written this."""
        _check_form(values)
        made = {name: Part(**values[name]) for name in PARTS if values.get(name) is not None}
        known = {f.name: values[f.name] for f in fields(RunSpec) if f.name in values}
        if known.get("chosen") is not None:
            known["chosen"] = tuple(known["chosen"])
        return RunSpec(
            **{**known, **made, "threat": ThreatModel(**values["threat"]), "game": GameSpec.from_dict(values["game"])}
        )

    def with_files(self, place: Callable[[str], str]) -> RunSpec:
        """The run with `place(text)` for each file that it names. Its key stays where the names of the files stay."""
        parts: dict[str, Any] = {}
        for name in ("defense", "base", "network", "surrogate", "surrogate_base"):
            if (part := getattr(self, name)) is not None:
                parts[name] = Part(**_with_files(asdict(part), place))
        return replace(self, **parts)

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the run."""
        values = {name: placeless(value) for name, value in self.to_dict().items()}
        values["game"] = {name: getattr(self.game, name) for name in ("protocol", "params", "batch", "source")}
        return digest(values)

    @property
    def is_base(self) -> bool:
        """The defense is a base alone."""
        return self.defense.name == self.base.name

    @property
    def brings_network(self) -> bool:
        """The defense does without a base: it is its own, with a network that its `fit` makes."""
        return self.is_base and self.network.name == self.defense.name

    @cached_property
    def base_key(self) -> str:
        """Key of the trained network: architecture, recipe, data and seed."""
        parts = [placeless(asdict(part)) for part in (self.base, self.network)]
        return digest(["base", HARNESS_VERSION, *parts, self.dataset.name, self.dataset.source, self.base_seed])

    @cached_property
    def fit_key(self) -> str:
        """Key of the fitted defense, before it has served anything."""
        return digest(["fit", placeless(asdict(self.defense)), self.base_key, self.seed])

    @cached_property
    def craft_key(self) -> str:
        """Key of images that are crafted against the base alone, whatever the runtime defense."""
        parts = [asdict(self.attack), self.threat.to_dict(), self.attacked_base.base_key, self.test_size, self.seed]
        return digest(["craft", *parts])

    @cached_property
    def attacked_base(self) -> RunSpec:
        """A run whose base is the network that the attacker gets: this run, or one with the surrogate as its base.

        A surrogate is trained with the base's recipe from another seed.
        """
        if self.surrogate is None:
            return self
        if self.surrogate_base is not None:
            base, seed = self.surrogate_base, seed_of(self.base_seed, "surrogate")
            return replace(self, base=base, base_seed=seed, network=self.surrogate, surrogate=None, surrogate_base=None)
        params = dict(self.base.params)
        if "model" in params:
            params["model"] = self.surrogate.name
        seed = seed_of(self.base_seed, "surrogate")
        return replace(
            self, base=replace(self.base, params=params), base_seed=seed, network=self.surrogate, surrogate=None
        )

    @property
    def crafted_on_base(self) -> bool:
        """The attack's images do not depend on the runtime defense: they are crafted once and cached."""
        whole = self.chosen is None  # blocks of a choice are its own
        alone = not self.threat.share  # else they depend on the inputs around them
        return whole and alone and self.threat.weights in ("trained", "surrogate") and not self.threat.queries

    @property
    def sees_state(self) -> bool:
        """What the attack is granted depends on what the defense has served."""
        return self.threat.weights in ("simulated", "adapted") or bool(self.threat.queries)

    @cached_property
    def order(self) -> list[int]:
        """All test indices in the seeded order; the run uses the first n, so a smaller n is a prefix of a larger."""
        rng = np.random.Generator(np.random.PCG64(seed_of(self.seed, "examples")))
        return [int(i) for i in rng.permutation(self.test_size)]

    @property
    def places(self) -> list[int]:
        """Places in the seeded order of the examples that are attacked."""
        return list(range(self.n)) if self.chosen is None else list(self.chosen)

    @property
    def indices(self) -> list[int]:
        """Test indices of the examples that are attacked."""
        return [self.order[place] for place in self.places]

    def noise_key(self, game: int) -> int:
        """Noise key of serving in one game."""
        return seed_of(self.seed, "noise", game)

    @property
    def minimal(self) -> bool:
        """The attack seeks the smallest perturbation; no radius bounds its images."""
        return self.attack_kind == "minimal"


# -- what is stored of a run -------------------------------------------------------------------------------------------

#: the largest number in a run, but for its seeds; and the largest number of its games
MOST, MOST_GAMES = 2**31, 10_000


def _check_form(values: Any) -> None:
    """`BadValue` where a stored run lacks something, or holds something of another type or size."""
    _check_table("it", values, RunSpec)
    for name, value in values.items():
        if name in ("surrogate", "surrogate_base") and value is None:
            continue
        if name in PARTS:
            _check_table(name, value, Part)
        if name not in ("seed", "base_seed"):
            _check_numbers(name, value)
    _check_table("threat", values["threat"], ThreatModel)
    _check_table("game", values["game"], GameSpec)
    _check_table("game.facts", values["game"]["facts"], GameFacts)
    key = values["game"]["facts"]["games_key"]
    n, places = values["n"], values.get("chosen")
    for what, value, least, most in (
        ("n", n, 1, values["test_size"]),
        (f"game.params.{key}", values["game"]["params"].get(key), 1, MOST_GAMES),
        *((f"chosen.{at}", place, 0, n - 1) for at, place in enumerate(places or ())),
    ):
        if type(value) is not int or not least <= value <= most:
            raise _wrong(what, value)


def _wrong(where: str, value: Any) -> BadValue:
    """The error for a value; what stands in a database may have names of any length and over many lines."""
    return BadValue(f"{' '.join(where.split()):.80} is {value!r:.60}")


def _check_table(where: str, table: Any, cls: type) -> None:
    """`BadValue` where a table lacks a field of a dataclass that has no default, or holds another type."""
    if not isinstance(table, dict):
        raise _wrong(where, table)
    form = _form(cls)
    if cls is not RunSpec and (unknown := table.keys() - {name for name, _, _ in form}):
        raise BadValue(f"{where} has the unknown field {min(unknown, key=repr)!r:.60}")
    for name, types, needed in form:
        if name not in table and not needed:
            continue
        value = table.get(name)
        if type(value) not in types:
            raise BadValue(f"{where} has no {name}" if name not in table else f"{where}: {name} is {value!r:.60}")


@lru_cache(maxsize=8)
def _form(cls: type) -> list[tuple[str, tuple[type, ...], bool]]:
    """Of each field of a dataclass: its name, its types in JSON, and whether it has to be there."""
    types: dict[str, tuple[type, ...]] = {
        "int": (int,), "float": (float, int), "bool": (bool,), "dict[str, Any]": (dict,), "ThreatModel": (dict,),
        "GameFacts": (dict,), "GameSpec": (dict,), "Part": (dict,), "Part | None": (dict, type(None)),
        "tuple[int, ...] | None": (list, type(None)),
    }  # fmt: skip
    return [
        (one.name, types.get(str(one.type), (str,)), one.default is MISSING and one.default_factory is MISSING)
        for one in fields(cls)
    ]


def _check_numbers(where: str, value: Any) -> None:
    """`BadValue` for a number that is not finite, or larger than any in a run."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(f"{where}.{key}", part)
    elif (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > MOST):
        raise _wrong(where, value)

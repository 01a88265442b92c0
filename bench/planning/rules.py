"""The part of a protocol that planning needs: its keys, its games and rows, its description, and what it refuses.

The other part of a protocol plays the games: see `bench.game.protocols.protocol`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from bench import registry
from bench.contracts import Attack
from bench.planning.spec import GameFacts, GameSpec, RunSpec
from bench.values import Params


class Rules(ABC):
    """The rules of a protocol, for one choice of its parameters.

    A class has `Params` (its keys in [game] of bench.toml), `facts` (see `GameFacts`) and the methods below.
    """

    Params: ClassVar[type[Params]]
    facts: ClassVar[GameFacts]
    #: values of its keys with which the check of a plug-in takes little time
    quick: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    @abstractmethod
    def places(self, spec: RunSpec, game: int) -> list[int]:
        """Places in the run's seeded order of the examples that one game attacks, in the order of its rows."""

    @abstractmethod
    def card(self, spec: RunSpec) -> str:
        """The game in one sentence, without a full stop."""

    def tag(self, spec: RunSpec) -> str:
        """The game in a few words that distinguish the rows of a table; "" if nothing has to be distinguished."""
        return spec.game.protocol

    def refuses(self, spec: RunSpec, attack: type[Attack]) -> str | None:
        """Why this run cannot be played (what, what was given, what to do), or None."""
        return None

    def others_served(self, spec: RunSpec) -> int:
        """The number of inputs of other users that one game serves, besides the attacked examples."""
        return 0

    def clean_game(self, spec: RunSpec) -> GameSpec | None:
        """The game of the paired run of the attack `clean`; None if the rows hold the clean answers."""
        return None if self.facts.answers_clean else spec.game


def rules_of(game: GameSpec) -> Any:
    """The protocol of a game, with its parameters: a `bench.game.protocols.Protocol`."""
    cls = registry.protocols.load(game.protocol)
    return cls(cls.Params(**game.params))


def with_card(spec: RunSpec) -> RunSpec:
    """The run, with the card and the tag of its game."""
    rules = rules_of(spec.game)
    return replace(spec, game=replace(spec.game, card=rules.card(spec), tag=rules.tag(spec)))


def game_of(protocol: str, params: dict[str, Any], batch: int = 0) -> GameSpec:
    """The game of a registered protocol with these values of its keys, still without card and tag: see `with_card`."""
    entry = registry.protocols[protocol]
    source = "" if entry.origin == registry.BUILT_IN else entry.source_hash()
    return GameSpec(protocol, params, entry.load().facts, batch, source)


def protocols_with(**facts: Any) -> list[str]:
    """Names of the built-in protocols that declare these facts, such as `background=True`."""
    built_in = [entry for entry in registry.protocols if entry.origin == registry.BUILT_IN]
    own = {entry.name: entry.load().facts for entry in built_in}
    return [name for name, had in own.items() if all(getattr(had, key) == value for key, value in facts.items())]


def rows_of(spec: RunSpec) -> int:
    """How many rows a finished run has."""
    rules = rules_of(spec.game)
    return sum(len(rules.places(spec, game)) for game in range(spec.game.games))


def paired_clean(spec: RunSpec, clean: Any) -> RunSpec | None:
    """The run of the attack `clean` (a `Part`) that gives the clean accuracy; None if the run itself gives it."""
    game = rules_of(spec.game).clean_game(spec)
    if game is None or spec.attack.name == clean.name:
        return None
    threat = type(spec.threat)(eps=0.0, weights="none", share=spec.threat.share, place=spec.threat.place)
    pair = replace(
        spec,
        attack=clean,
        attack_kind="budget",
        threat=threat,
        game=game,
        surrogate=None,
        surrogate_base=None,
        chosen=None,
    )
    return with_card(pair)

"""`replay`: the whole sequence is crafted first, against simulated copies, then served once to a fresh defense."""

from __future__ import annotations

from typing import ClassVar

from bench.contracts import Attack
from bench.game.crafting import Crafts
from bench.game.match import Match
from bench.game.protocols.stream import Stream
from bench.planning.rules import game_of, protocols_with
from bench.planning.spec import GameFacts, GameSpec, RunSpec


class Replay(Stream):
    """A stream that the attacker crafts before the deployed defense serves anything."""

    facts: ClassVar[GameFacts] = GameFacts(games_key="repeats", shared="stream")

    def card(self, spec: RunSpec) -> str:
        return "the sequence is crafted beforehand and served once to a fresh defense"

    def tag(self, spec: RunSpec) -> str:
        return spec.game.protocol

    def refuses(self, spec: RunSpec, attack: type[Attack]) -> str | None:
        if spec.threat.weights == "adapted" or spec.threat.queries:
            instead = [*protocols_with(background=True)[:1], "stream"]
            return (
                f"{spec.attack.name} needs the deployed defense while it crafts, and in the protocol "
                f"{spec.game.protocol} there is none yet; use game.protocol={' or '.join(instead)}."
            )
        return None

    def clean_game(self, spec: RunSpec) -> GameSpec:
        """Clean images are not crafted, so their sequence is a stream."""
        return game_of("stream", spec.game.params, spec.game.batch)

    def crafts(self, match: Match, places: list[int]) -> Crafts:
        """Blocks are cut from the sequence in the order in which it will be served. Nothing is deployed yet."""
        return match.crafts(places, lambda: match.oracle(deployed=False))

"""A protocol: one class that says how a game is played, what keys it has, and what it refuses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from bench.game.chunks import Chunk
from bench.game.match import Match
from bench.planning.rules import Rules
from bench.rows import Resume


class Protocol(Rules):
    """How a game is played. Subclass it, or a built-in protocol, and register it with `register_protocol`."""

    @abstractmethod
    def play(self, match: Match, resume: Resume) -> Iterator[Chunk]:
        """Play one game from where it was left (`resume.rows` rows are committed); yields its chunks in order."""

"""Refuses runs that cannot be played, before anything is trained or written."""

from __future__ import annotations

import torch

from bench import registry
from bench.contracts import Attack
from bench.errors import BadValue
from bench.norms import ball_of
from bench.planning.rules import protocols_with, rules_of
from bench.planning.spec import MOST_GAMES, Part, RunSpec
from bench.threat import ThreatModel


def check_sizes(spec: RunSpec) -> None:
    """Raise `BadValue` if the test set is too small for the run, if it has too many games, or if the seed does not fit
    into the database."""
    if not 1 <= spec.game.games <= MOST_GAMES:
        key = spec.game.facts.games_key
        raise BadValue(f"game.{key} is {spec.game.games}; it is the number of games: give 1 to {MOST_GAMES}.")
    if not 0 <= spec.seed < 2**63:
        raise BadValue(f"seed is {spec.seed}; give a whole number from 0 to {2**63 - 1}.")
    if not 1 <= spec.n <= spec.test_size:
        raise BadValue(
            f"n is {spec.n}; {spec.dataset.name} has {spec.test_size} test points, so give 1 to {spec.test_size}."
        )


def check_radius(threat: ThreatModel, image_shape: tuple[int, int, int]) -> None:
    """Raise `BadValue` for a radius that cannot be meant: its ball holds every image, so it bounds nothing."""
    widest = ball_of(threat.norm).distance(torch.ones(1, *image_shape))
    if threat.eps < float(widest) or threat.share:  # nobody judges what the attacker sends among others' inputs
        return
    guess = f"; did you mean {threat.eps:g}/255?" if threat.norm == "linf" and threat.eps > 1 else ""
    raise BadValue(
        f"eps is {threat.eps:g} in {threat.norm}, but pixels lie in [0, 1], where no two images are farther apart than "
        f"{float(widest):g}{guess} Give a smaller radius, or --force-eps to play without a bound."
    )


def check_protocol(spec: RunSpec, attack: type[Attack]) -> None:
    """Raise `BadValue` if the threat model needs something that the protocol does not have."""
    threat, protocol = spec.threat, spec.game.protocol
    if not spec.game.facts.background and (threat.delay or threat.known < 1):
        raise BadValue(
            f"threat.delay and threat.known have no meaning in the protocol {protocol} ({spec.attack.name} has delay "
            f"{threat.delay}, known {threat.known:g}); use game.protocol={protocols_with(background=True)[0]}."
        )
    if bool(threat.share) != spec.game.facts.among:
        other = "one that serves them, such as" if threat.share else "one that does not serve them, such as"
        raise BadValue(
            f"threat.share is {threat.share:g}, and the protocol {protocol} serves "
            f"{'no' if threat.share else 'an'} attacker's inputs among those of other users; use "
            f"{other} game.protocol={protocols_with(among=bool(threat.share))[0]}"
            f"{'' if threat.share else ', or an attack that poisons, such as dia'}."
        )
    if reason := rules_of(spec.game).refuses(spec, attack):
        raise BadValue(reason)


def no_company(spec: RunSpec) -> str | None:
    """Why the attacker cannot query a defense that answers batches; None if it can."""
    threat = spec.threat
    if spec.kind == "batch" and threat.queries and (threat.queries_served or not spec.game.facts.background):
        return (
            f"{spec.defense.name} answers batches of {spec.game.batch}, so a query needs company: use "
            f"game.protocol={protocols_with(background=True)[0]} and threat.queries_served=false"
        )
    return None


def no_poisoning(spec: RunSpec) -> str | None:
    """Why inputs among those of other users do nothing, or have no such place; None if they do."""
    if not spec.threat.share:
        return None
    if spec.kind == "static":
        return f"{spec.defense.name} is static: no answer depends on what other users send"
    if spec.kind == "online" and spec.threat.place == "within":
        return (
            f"{spec.defense.name} answers inputs one at a time, so none is sent within a batch: use "
            f"threat.place=before or threat.place=interleaved"
        )
    return None


def has_given_weights(base: Part) -> bool:
    """Whether a base is not trained from random weights, so that its recipe makes no other network."""
    return bool(base.params.get("weights")) or not getattr(registry.defenses.load(base.name), "trains", True)


def no_surrogate(spec: RunSpec) -> str | None:
    """Why the attacker cannot have the surrogate that its threat model grants; None if it can."""
    if spec.surrogate is None or spec.surrogate_base is not None:
        return None
    if has_given_weights(spec.base):
        return (
            f"the base {spec.base.name} has given weights, and a surrogate cannot be trained on {spec.dataset.name} by "
            f"itself: give training images, and a network as surrogate.model"
        )
    if "model" not in spec.base.params and spec.threat.surrogate != "same":
        return (
            f"the base {spec.base.name} has no parameter model, so no other architecture can be trained with its recipe"
        )
    return None

"""What cannot be played: said of a run before anything is trained or written."""

from __future__ import annotations

from bench.contracts import Attack
from bench.errors import BadValue
from bench.planning.spec import RunSpec


def check_sizes(spec: RunSpec) -> None:
    """Raise `BadValue` where the test set is too small for the run, or its seed too large for a table."""
    if not 0 <= spec.seed < 2**63:
        raise BadValue(f"seed is {spec.seed}; give a whole number from 0 to {2**63 - 1}.")
    if not 1 <= spec.n <= spec.test_size:
        raise BadValue(
            f"n is {spec.n}; {spec.dataset.name} has {spec.test_size} test points, so give 1 to {spec.test_size}."
        )
    game = spec.game
    if game.protocol != "probe":
        return
    company = max(game.batch - 1, 0)
    needed = game.p + spec.threat.delay + spec.victims_per_trial + company
    if needed > spec.test_size:
        raise BadValue(
            f"p {game.p} + delay {spec.threat.delay} + {spec.victims_per_trial} victims a trial"
            f"{f' + {company} points of company' if company else ''} = {needed}, but {spec.dataset.name} has "
            f"{spec.test_size} test points; lower game.p, threat.delay or n, or raise game.trials."
        )


def check_protocol(spec: RunSpec, attack: type[Attack]) -> None:
    """Raise `BadValue` where the threat model asks for what the protocol has not."""
    threat, protocol, name = spec.threat, spec.game.protocol, spec.attack.name
    if protocol != "probe" and (threat.delay or threat.known < 1):
        raise BadValue(
            f"threat.delay and threat.known have no meaning in the protocol {protocol} ({name} has delay "
            f"{threat.delay}, known {threat.known:g}); use game.protocol=probe."
        )
    if protocol == "stream" and threat.weights == "simulated":
        raise BadValue(f"{name} simulates a defense from a background, and a stream has none; use game.protocol=probe.")
    if protocol == "replay" and (threat.weights == "adapted" or threat.queries):
        raise BadValue(
            f"{name} needs the deployed defense while it crafts, and in the protocol replay there is none "
            f"yet; use game.protocol=probe or stream."
        )
    if protocol == "stream" and attack.block is None and spec.kind != "static" and spec.sees_state:
        raise BadValue(
            f"{name} crafts all images at once, and in a stream the state moves on; use game.protocol=probe."
        )
    if spec.kind != "batch":
        return
    size = spec.game.batch
    if protocol == "probe" and (spec.game.p % size or threat.delay % size):
        raise BadValue(
            f"{spec.defense.name} answers batches of {size}, so game.p ({spec.game.p}) and threat.delay "
            f"({threat.delay}) must be multiples of it."
        )


def no_company(spec: RunSpec) -> str | None:
    """Why the attacker of a run cannot ask a defense that answers batches; None where it can."""
    threat = spec.threat
    if spec.kind == "batch" and threat.queries and (threat.queries_served or spec.game.protocol == "stream"):
        return (
            f"{spec.defense.name} answers batches of {spec.game.batch}, so a query needs company: use "
            f"game.protocol=probe and threat.queries_served=false"
        )
    return None


def no_surrogate(spec: RunSpec) -> str | None:
    """Why the attacker of a run cannot have the surrogate that its threat model grants; None where it can."""
    if spec.surrogate is None:
        return None
    if spec.base.params.get("weights"):
        return f"the base {spec.base.name} starts from given weights, and a surrogate would need weights of its own"
    if "model" not in spec.base.params and spec.threat.surrogate != "same":
        return (
            f"the base {spec.base.name} has no parameter model, so no other architecture can be trained with its recipe"
        )
    return None

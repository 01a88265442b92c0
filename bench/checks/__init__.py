"""The contracts, run against one plug-in: what `bench check NAME` does, and the tests do for every registered name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench import plugins, registry
from bench.checks.attack import ATTACK_CHECKS, AttackSubject
from bench.checks.defense import DEFENSE_CHECKS, DefenseSubject, check_is_fitted
from bench.checks.verdict import Check, Result, Violated
from bench.config import Config, load
from bench.environment import one_thread
from bench.errors import BadValue, BenchError, one_line
from bench.game.resources import Resources
from bench.interrupts import from_outside, interrupts_noted
from bench.planning.plan import plan
from bench.planning.requests import Request
from bench.planning.spec import RunSpec
from bench.settings import Settings

__all__ = ["ATTACK_CHECKS", "DEFENSE_CHECKS", "Result", "check_file", "run_checks"]

#: points that the checks serve; more for large batches, fewer for attacks on a defense that answers slowly
POINTS = 12
FEW_POINTS = 5
#: queries per point for attacks that query: the contract does not ask for success
QUERIES = 10
#: what an attack is checked against where it declines the first of them: the first that it does not decline
STAND_INS = ("regular", "anti-adversary", "random-transform", "dent", "rmc")
NO_SETS: Mapping[str, Any] = MappingProxyType({})


@interrupts_noted()
def check_file(
    file: Path, name: str, cache: Path, dataset: str = "digits", base: str = "", sets: Mapping[str, Any] = NO_SETS
) -> list[Result]:
    """What `bench check NAME` does, for a test that lies beside a plug-in: all checks of what `file` registers as
    `name`.

    file   in the folder `defenses` or `attacks`, beside which a bench.toml may lie
    cache  a folder for what is trained, such as pytest's tmp_path
    base   the network under a defense, or the defense that an attack attacks; "": see `run_checks`
    sets   values by dotted keys, such as {"base.model": "cifar-resnet20"}

    `BrokenPlugin` if the file does not load.
    """
    toml = file.parent.parent / "bench.toml"
    plugins.load_all(toml, (str(file),))
    one_thread()
    settings = Settings(cache, None, "cpu", toml, (str(file),), chunk=50, checkpoint_s=5.0, workers=1)
    config = load(toml if toml.is_file() else None)
    return run_checks(name, registry.kind_of(name), config, Resources(settings), dataset, base, sets)


def run_checks(
    name: str,
    kind: str,
    config: Config,
    resources: Resources,
    dataset: str,
    base: str = "",
    sets: Mapping[str, Any] = NO_SETS,
) -> list[Result]:
    """All checks of one plug-in; `kind` is `defense` or `attack`. A check that raises has failed. Of a defense that
    cannot be fitted, that is the only result: there is nothing to ask the other checks of.

    base: the network under a defense, or the defense that an attack attacks. "": `regular`; for an attack that declines
    it, the first of `STAND_INS` that it does not decline. `BadValue` where there is none, or it declines the one given,
    or the one given cannot be fitted.
    sets: values by dotted keys, such as {"base.model": "cifar-resnet20"}.
    """
    if kind == "defense":
        request = Request(
            defenses=(name,), attacks=("clean",), bases=(base or "regular",), datasets=(dataset,), n=POINTS, sets=sets
        )
        spec = plan([request], config, resources.facts)[0].spec
        subject = DefenseSubject(resources, replace(spec, n=max(POINTS, 3 * spec.game.batch)))
        fitted, *others = DEFENSE_CHECKS
        first = _result(fitted, subject)
        return [first, *(_result(check, subject) for check in others)] if first.passed else [first]
    spec, declined = _against(name, config, resources, dataset, base, sets)
    fit = _result(check_is_fitted, DefenseSubject(resources, spec))
    if not fit.passed:
        raise BadValue(
            f"{name} cannot be checked against {spec.defense.name}, which {fit.message}. "
            f"Give another defense with --base, or what this one needs with --set."
        )
    return [_result(check, AttackSubject(resources, spec, declined)) for check in ATTACK_CHECKS]


def _against(
    name: str, config: Config, resources: Resources, dataset: str, base: str, sets: Mapping[str, Any]
) -> tuple[RunSpec, str]:
    """A run of an attack against a defense that it does not decline; what it says against the one before, or ""."""
    spec = _quick(name, config, resources, dataset, base or STAND_INS[0], sets)
    reason = _declines(resources, spec)
    if not reason:
        return spec, ""
    found = _stand_in(name, config, resources, dataset, spec.defense.name, sets)
    said = f"{name} declines {spec.defense.name}: {reason}"
    if found is None:
        raise BadValue(
            f"{said}. None of {', '.join(STAND_INS)} can stand in; give a defense that it does not decline with --base."
        )
    if base:
        raise BadValue(f"{said}. It can be checked with --base {found.defense.name}.")
    return found, said


def _stand_in(
    name: str, config: Config, resources: Resources, dataset: str, declined: str, sets: Mapping[str, Any]
) -> RunSpec | None:
    """A run against the first of `STAND_INS`, but for the one that was declined, which the attack does not decline."""
    for other in STAND_INS:
        if other == declined:
            continue
        try:
            spec = _quick(name, config, resources, dataset, other, sets)
        except BadValue:  # such as batches that do not fit the protocol: it cannot stand in
            continue
        if not _declines(resources, spec):
            return spec
    return None


def _declines(resources: Resources, spec: RunSpec) -> str | None:
    """Why the attack of a run declines; what it raises instead of an answer is the finding of the first check."""
    try:
        return resources.of(spec).declined()
    except BenchError:
        raise
    except BaseException as error:
        if from_outside(error):
            raise
        return None


def _quick(
    name: str, config: Config, resources: Resources, dataset: str, defense: str, given: Mapping[str, Any]
) -> RunSpec:
    """A run of an attack with few points, steps and queries, where those are not given."""
    entry = registry.attacks[name].resolved()
    quick = registry.protocols.load(str(entry.protocol)).quick
    sets: dict[str, Any] = {f"game.{key}": value for key, value in quick.items()}
    if (entry.preset or {}).get("queries") and "queries" in (entry.free or ()):
        sets["threat.queries"] = QUERIES
    sets.update({f"attack.{key}": value for key, value in entry.load().quick.items()})
    sets.update(given)
    count = POINTS if registry.defenses.load(defense).kind == "static" else FEW_POINTS
    request = Request(defenses=(defense,), attacks=(name,), datasets=(dataset,), n=count, sets=sets)
    return plan([request], config, resources.facts)[0].spec


def _result(check: Check, subject: object) -> Result:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        return Result(name, True, check(subject))
    except Violated as error:
        return Result(name, False, one_line(error))
    except BenchError:
        raise
    except BaseException as error:  # of the plug-in under test: anything it raises is its finding, sys.exit too
        if from_outside(error):
            raise
        return Result(name, False, f"raised {type(error).__name__}: {one_line(error)}")

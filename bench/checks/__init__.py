"""The contracts, run against one plug-in: what `bench check NAME` does, and the tests do for every registered name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import plugins, registry
from bench.checks.attack import ATTACK_CHECKS, AttackSubject
from bench.checks.defense import DEFENSE_CHECKS, DefenseSubject
from bench.checks.verdict import Check, Result, Violated
from bench.config import Config, load
from bench.environment import one_thread
from bench.errors import BenchError, one_line
from bench.game.resources import Resources
from bench.interrupts import from_outside, interrupts_noted
from bench.planning.facts import facts_of
from bench.planning.plan import plan
from bench.planning.requests import Request
from bench.settings import Settings

__all__ = ["ATTACK_CHECKS", "DEFENSE_CHECKS", "Result", "check_file", "run_checks"]

#: points that the checks serve; more for large batches, fewer for attacks on a defense that answers slowly
POINTS = 12
FEW_POINTS = 5
#: queries per point for attacks that query: the contract does not ask for success
QUERIES = 10


@interrupts_noted()
def check_file(file: Path, name: str, cache: Path, dataset: str = "digits", base: str = "regular") -> list[Result]:
    """What `bench check NAME` does, for a test that lies beside a plug-in: all checks of what `file` registers as
    `name`.

    file   in the folder `defenses` or `attacks`, beside which a bench.toml may lie
    cache  a folder for what is trained, such as pytest's tmp_path
    base   the network under a defense, or that an attack attacks

    `BrokenPlugin` if the file does not load.
    """
    toml = file.parent.parent / "bench.toml"
    plugins.load_all(toml, (str(file),))
    one_thread()
    settings = Settings(cache, None, "cpu", toml, (str(file),), chunk=50, checkpoint_s=5.0, workers=1)
    config = load(toml if toml.is_file() else None)
    return run_checks(name, registry.kind_of(name), config, Resources(settings), dataset, base)


def run_checks(name: str, kind: str, config: Config, resources: Resources, dataset: str, base: str) -> list[Result]:
    """All checks of one plug-in; `kind` is `defense` or `attack`. A check that raises has failed."""
    facts = facts_of(resources.settings.data_dir)
    if kind == "defense":
        request = Request(defenses=(name,), attacks=("clean",), bases=(base,), datasets=(dataset,), n=POINTS)
        spec = plan([request], config, facts)[0].spec
        subject = DefenseSubject(resources, replace(spec, n=max(POINTS, 3 * spec.game.batch)))
        return [_result(check, subject) for check in DEFENSE_CHECKS]
    entry = registry.attacks[name].resolved()
    quick = registry.protocols.load(str(entry.protocol)).quick
    sets: dict[str, Any] = {f"game.{key}": value for key, value in quick.items()}
    if (entry.preset or {}).get("queries") and "queries" in (entry.free or ()):
        sets["threat.queries"] = QUERIES
    sets.update({f"attack.{key}": value for key, value in entry.load().quick.items()})
    count = POINTS if registry.defenses.load(base).kind == "static" else FEW_POINTS
    request = Request(defenses=(base,), attacks=(name,), datasets=(dataset,), n=count, sets=sets)
    spec = plan([request], config, facts)[0].spec
    return [_result(check, AttackSubject(resources, spec)) for check in ATTACK_CHECKS]


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

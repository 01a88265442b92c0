"""The command that plays a run again, from what is stored of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from bench.config import Config
from bench.data.task import TaskFacts, TaskParams
from bench.errors import BenchError, one_line
from bench.plan import Request, plan
from bench.sections import PROTOCOLS
from bench.spec import RunSpec

#: parts of a run and the first half of the keys of their parameters
SECTIONS = ("defense", "base", "attack", "dataset")


def command_of(spec: RunSpec, config: Config, facts: Callable[[str, TaskParams], TaskFacts]) -> tuple[str, str]:
    """The shortest command that gives this very run under a configuration, and a note where it does not.

    What the configuration gives by itself is left out. The command is planned again and its key compared.
    """
    if spec.chosen is not None:
        return "", "This run attacked what others had left, as a step of an audit; repeat the audit: bench audit"
    names = (spec.defense.name,), (spec.attack.name,), () if spec.is_base else (spec.base.name,), (spec.dataset.name,)
    request = Request(*names, n=spec.n, seeds=(spec.seed,))
    try:
        plain = plan([request], config, facts)[0].spec
        sets = _differences(spec, plain)
        minimal = spec.attack_kind == "minimal" or spec.attack.name == "clean"
        norm = "" if minimal or spec.threat.norm == plain.threat.norm else spec.threat.norm
        same = spec.threat.eps == plain.threat.eps and not norm  # another norm has another default radius
        radius = () if minimal or same else (repr(spec.threat.eps),)
        repeats = None if spec.game.repeats == plain.game.repeats else spec.game.repeats
        again = Request(*names, eps=radius, norm=norm, n=spec.n, seeds=(spec.seed,), repeats=repeats, sets=sets)
        key = plan([again], config, facts)[0].spec.key
    except BenchError as error:
        return "", f"Its command cannot be told here: {one_line(error)}"
    note = "" if key == spec.key else "It gives another run now: what the run was made of has changed since."
    return _text(spec, radius, norm, repeats, sets), note


def _differences(spec: RunSpec, plain: RunSpec) -> dict[str, Any]:
    """Dotted keys in which a run differs from what the configuration gives."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        if section == "defense" and spec.is_base:
            continue
        own, given = getattr(spec, section).params, getattr(plain, section).params
        found |= {f"{section}.{name}": value for name, value in own.items() if given.get(name) != value}
    if spec.base_seed != plain.base_seed:
        found["base.seed"] = spec.base_seed
    own, given = asdict(spec.threat), asdict(plain.threat)
    found |= {f"threat.{k}": v for k, v in own.items() if v != given[k] and k not in ("eps", "norm")}
    own, given = ({**asdict(one.game), "protocol": one.game.name} for one in (spec, plain))
    keys = ("protocol", *(name for name in PROTOCOLS[spec.game.protocol] if name != "repeats"))
    return found | {f"game.{name}": own[name] for name in keys if own[name] != given[name]}


def _text(spec: RunSpec, radius: tuple[str, ...], norm: str, repeats: int | None, sets: dict[str, Any]) -> str:
    words = ["bench", "run", "--defense", spec.defense.name]
    if not spec.is_base:
        words += ["--base", spec.base.name]
    words += ["--attack", spec.attack.name, "--dataset", spec.dataset.name, "-n", str(spec.n), "--seed", str(spec.seed)]
    words += ["--eps", *radius] if radius else []
    words += ["--norm", norm] if norm else []
    words += ["--repeats", str(repeats)] if repeats else []
    for name, value in sets.items():
        words += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(words)

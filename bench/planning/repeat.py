"""The command that plays a stored run again, or audits what it attacked; for a network in memory, the call."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench import registry
from bench.config import Config
from bench.data.task import TaskFacts, TaskParams
from bench.errors import BadValue, BenchError, one_line
from bench.planning.plan import plan
from bench.planning.preflight import check_radius
from bench.planning.requests import Request
from bench.planning.spec import RunSpec
from bench.threat import ThreatModel

#: parts of a run and the first half of the keys of their parameters
SECTIONS = ("defense", "base", "attack", "dataset")

#: what is known of a dataset, by its name and parameters
Facts = Callable[[str, TaskParams], TaskFacts]

#: radii and norm, as in a request
Budget = tuple[tuple[str, ...], str]


def command_of(
    spec: RunSpec,
    config: Config,
    facts: Facts,
    options: Sequence[str] = (),
    checked: bool = False,
) -> tuple[str, str]:
    """The shortest command that gives exactly this run under a configuration; or a note that says why there is none.
    For a network in memory, the Python lines that give it, and a note on what they need.

    What the configuration gives by itself is left out. The command is planned again and its key compared.
    options: words to append to each command, such as --config, --plugin and --data-dir of this call
    checked: see `plan`
    """
    if spec.chosen is not None:
        return "", "This run attacked what others had left, as a step of an audit; repeat the audit: bench audit"
    if _was_in_memory(spec):
        return _call(spec, config), IN_MEMORY
    names = (spec.defense.name,), (spec.attack.name,), () if spec.is_base else (spec.base.name,), (spec.dataset.name,)
    request = Request(*names, n=spec.n, seeds=(spec.seed,), force_eps=True)
    bounded = spec.attack_kind != "minimal" and spec.attack.name != "clean"
    budget: Budget = ((repr(spec.threat.eps),), spec.threat.norm) if bounded else ((), "")
    first = replace(request, eps=budget[0], norm=budget[1])
    try:
        needed, plain = _plannable(spec, first, config, facts, checked)
    except BenchError as error:
        return "", f"Its command cannot be told here: {one_line(error)}"
    differ = _as_typed(_differences(spec, plain))
    games = spec.game.params.get("repeats")
    repeats = None if games == plain.game.params.get("repeats") else games
    budgets: list[Budget] = [((), ""), (budget[0], ""), budget]
    tried = [
        replace(request, eps=eps, norm=norm, repeats=repeats, sets=sets)
        for sets in (differ, {**needed, **differ})
        for eps, norm in dict.fromkeys(budgets)
    ]
    shortest = None
    for one in tried:
        key = _key(one, config, facts)
        if key == spec.key:
            fewest = _fewest(one, needed, lambda fewer: _key(fewer, config, facts) == spec.key)
            return _text(spec, fewest, options, facts), ""
        shortest = shortest or (one if key else None)
    note = "It gives another run now: what the run was made of has changed since."
    return _text(spec, shortest or tried[-1], options, facts), note


def command_against(
    spec: RunSpec,
    attacks: Sequence[str],
    config: Config,
    facts: Facts,
    options: Sequence[str] = (),
    checked: bool = False,
) -> str:
    """The command that plays other attacks against what a run attacked: the same defense, base, data, n and radius.

    "" if it cannot be planned here: the defense or an attack is gone, or refuses the other. options, checked: see
    `command_of`.
    """
    names = (spec.defense.name,), tuple(attacks), () if spec.is_base else (spec.base.name,), (spec.dataset.name,)
    request = Request(
        *names, n=spec.n, seeds=(spec.seed,), eps=(repr(spec.threat.eps),), norm=spec.threat.norm, force_eps=True
    )
    found = _same_entry(spec, request, config, facts, checked)
    return "" if found is None else _text(spec, found, options, facts)


def audit_of(spec: RunSpec, config: Config, facts: Facts, options: Sequence[str] = ()) -> str:
    """The command that audits what a run attacked: the same defense, base, data and seed, and its radius if in linf.

    "" if it cannot be planned here, or its network was in the memory of a program. options: see `command_of`.
    """
    if _was_in_memory(spec):
        return ""
    bases = () if spec.is_base else (spec.base.name,)
    request = Request((spec.defense.name,), ("pgd-skip",), bases, (spec.dataset.name,), n=spec.n, seeds=(spec.seed,))
    found = _same_entry(spec, request, config, facts, False)
    if found is None:
        return ""
    radius = plan([found], config, facts, checked=True)[0].spec.threat.eps
    words = ["bench", "audit", spec.defense.name]
    words += ["--base", spec.base.name] if not spec.is_base and spec.base.name != config.run.base else []
    words += ["--dataset", spec.dataset.name] if spec.dataset.name != config.run.dataset else []
    words += ["--seed", str(spec.seed)] if spec.seed != config.run.seed else []
    other = spec.threat.norm == "linf" and spec.threat.eps not in (0.0, radius)
    words += ["--eps", _radius_text(spec.threat.eps)] if other else []
    words += [word for key, value in found.sets.items() for word in ("--set", f"{key}={value}")]
    return shlex.join([*words, *options])


IN_MEMORY = (
    "No command can name what was in the memory of a Python program: its network and images. There these lines give "
    "the same run, with the same model, x and y, and the same normalize, outputs, classes and train if they were given."
)


def _was_in_memory(spec: RunSpec) -> bool:
    """Whether the run attacked a network that a program held: `given`, by a name that only that program knew."""
    model = str(spec.base.params.get("model", ""))
    if spec.base.name != "given" or spec.base.params.get("weights") or ":" in model:
        return False
    return model not in registry.models or registry.models[model].origin == registry.PROGRAM


def _call(spec: RunSpec, config: Config) -> str:
    """The call of `bench.evaluate` that gives a run of a network in memory. Values that may differ there are set."""
    arguments: dict[str, Any] = {"attack": spec.attack.name}
    if spec.attack.name != "clean":
        arguments["eps"] = spec.threat.eps
        if spec.threat.eps >= 1:  # no smaller one is ever refused; how large the images are is not known here
            arguments["force_eps"] = True
    if spec.attack_kind != "minimal" and spec.attack.name != "clean":
        arguments["norm"] = spec.threat.norm
    if not spec.is_base:
        arguments["defense"] = spec.defense.name
    arguments |= {"n": spec.n, "seed": spec.seed, "name": spec.dataset.name, "network": spec.network.name}
    if sets := _sets(spec, config):
        arguments["sets"] = sets
    words = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"import bench\n\nbench.evaluate(model, x, y, {words})"


def _sets(spec: RunSpec, config: Config) -> dict[str, Any]:
    """By dotted key what the classes and the configuration do not give by themselves, whatever the images are."""
    sets: dict[str, Any] = {}
    for section in ("attack",) if spec.is_base else ("attack", "defense"):
        part, names = getattr(spec, section), getattr(registry, f"{section}s")
        usual = _usual(section, names[part.name], config) if part.name in names else {}
        sets |= {f"{section}.{key}": value for key, value in part.params.items() if usual.get(key) != value}
    protocol = ""
    if spec.attack.name in registry.attacks:
        entry = registry.attacks[spec.attack.name].resolved()
        threat, usual = asdict(spec.threat), asdict(ThreatModel().with_fields(dict(entry.preset or {})))
        free = set(entry.free or ()) - {"eps", "norm"}
        sets |= {f"threat.{key}": threat[key] for key in sorted(free) if threat[key] != usual[key]}
        protocol = str(config.game.get("protocol", entry.protocol))
    if spec.base_seed:
        sets["base.seed"] = spec.base_seed
    if spec.surrogate_base is not None:
        usual = _usual("base", registry.defenses[spec.surrogate_base.name], config)
        own = spec.surrogate_base.params
        sets |= {f"surrogate.{key}": value for key, value in own.items() if usual.get(key) != value}
    game = {"protocol": spec.game.protocol, **spec.game.params}
    usual = {"protocol": protocol}
    if spec.game.protocol in registry.protocols:
        fields = registry.protocols.load(spec.game.protocol).Params.model_fields
        usual |= {name: config.game.get(name, field.default) for name, field in fields.items()}
    return sets | {f"game.{key}": value for key, value in game.items() if value != usual.get(key)}


def _usual(section: str, entry: registry.Entry, config: Config) -> dict[str, Any]:
    """The parameters that a plug-in has by its class and by its tables of the configuration."""
    tables: dict[str, Any] = {}
    for name in entry.sections if section == "attack" else [entry.name]:
        tables |= getattr(config, section).get(name, {})
    return {name: tables.get(name, field.default) for name, field in entry.load().Params.model_fields.items()}


def _plannable(
    spec: RunSpec, request: Request, config: Config, facts: Facts, checked: bool
) -> tuple[dict[str, Any], RunSpec]:
    """What a request must set, as text, to be planned at all, and what it then gives. `BenchError` where it cannot be.

    A dataset may have no default radius, and a base no network: with all of a run's own parameters there is nothing
    that a request may lack.
    """
    needed = _as_typed(_radii(spec))
    try:
        return needed, plan([replace(request, sets=needed)], config, facts, checked)[0].spec
    except BenchError:
        needed = _as_typed(_parameters(spec))
        return needed, plan([replace(request, sets=needed)], config, facts, checked)[0].spec


def _fewest(request: Request, needed: Mapping[str, Any], enough: Callable[[Request], bool]) -> Request:
    """The request without those of the parameters `needed` that it can do without."""
    for key in needed:
        fewer = replace(request, sets={name: value for name, value in request.sets.items() if name != key})
        if key in request.sets and enough(fewer):
            request = fewer
    return request


def _same_entry(spec: RunSpec, request: Request, config: Config, facts: Facts, checked: bool) -> Request | None:
    """The request with what it must set to attack exactly what a run attacked; None where that cannot be."""

    def same(one: Request) -> bool:
        try:
            return not _of_entry(spec, one, dict(one.sets), config, facts, True)
        except BenchError:
            return False

    for needed in ({}, _as_typed(_radii(spec)), _as_typed(_parameters(spec))):
        try:
            own = _as_typed(_of_entry(spec, request, needed, config, facts, checked))
        except BenchError:  # the next try, or none
            continue
        full = replace(request, sets={**needed, **own})
        if same(full):
            return _fewest(full, needed, same)
    return None


def _parameters(spec: RunSpec) -> dict[str, Any]:
    """All parameters of what a run attacked, by their dotted keys."""
    sections = {section for section in SECTIONS if section != "attack"} - _unnamed(spec)
    return {
        f"{section}.{key}": value
        for section in sorted(sections)
        for key, value in getattr(spec, section).params.items()
    }


def _unnamed(spec: RunSpec) -> set[str]:
    """The section that a request cannot set: a base has one of the two alone."""
    return set() if not spec.is_base else {"base"} if spec.brings_network else {"defense"}


def _of_entry(
    spec: RunSpec,
    request: Request,
    sets: dict[str, Any],
    config: Config,
    facts: Facts,
    checked: bool,
) -> dict[str, Any]:
    """The parameters of defense, base and dataset in which a run differs from what a request gives."""
    plain = plan([replace(request, sets=sets)], config, facts, checked)[0].spec
    differ = _differences(spec, plain)
    return {key: value for key, value in differ.items() if key.split(".")[0] in ("defense", "base", "dataset")}


def _is_forced(spec: RunSpec, facts: Facts) -> bool:
    """Whether the radius is refused unless it is forced."""
    try:
        params = registry.datasets.load(spec.dataset.name).Params(**spec.dataset.params)
        check_radius(spec.threat, facts(spec.dataset.name, params).image_shape)
    except BadValue:
        return True
    return False


def _radii(spec: RunSpec) -> dict[str, Any]:
    """The radii that a run's parts were made with, by their dotted keys."""
    sections = [section for section in SECTIONS if section not in _unnamed(spec)]
    return {f"{name}.eps": part["eps"] for name in sections if "eps" in (part := getattr(spec, name).params)}


def _as_typed(sets: dict[str, Any]) -> dict[str, Any]:
    """Values as text for the command line, so that the printed command is the planned one."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in sets.items()}


def _key(request: Request, config: Config, facts: Facts) -> str:
    """The key of the run that a request gives; "" if it cannot be planned."""
    try:
        return plan([request], config, facts, checked=True)[0].spec.key  # the first plan of this run looked
    except BenchError:
        return ""


def _differences(spec: RunSpec, plain: RunSpec) -> dict[str, Any]:
    """The dotted keys in which a run differs from the configuration's values."""
    differing: dict[str, Any] = {}
    for section in SECTIONS:
        if section in _unnamed(spec):
            continue
        own, given = getattr(spec, section).params, getattr(plain, section).params
        differing |= {f"{section}.{name}": value for name, value in own.items() if given.get(name) != value}
    if spec.base_seed != plain.base_seed and not spec.brings_network:
        differing["base.seed"] = spec.base_seed
    if spec.surrogate_base is not None and plain.surrogate_base is not None:
        own, given = spec.surrogate_base.params, plain.surrogate_base.params
        differing |= {f"surrogate.{name}": value for name, value in own.items() if given.get(name) != value}
    own, given = asdict(spec.threat), asdict(plain.threat)
    said = ("norm",) if spec.attack_kind == "minimal" else ("eps", "norm")  # by options of their own
    differing |= {f"threat.{k}": v for k, v in own.items() if v != given[k] and k not in said}
    own, given = ({"protocol": one.game.protocol, **one.game.params} for one in (spec, plain))
    return differing | {f"game.{k}": v for k, v in own.items() if k != "repeats" and v != given.get(k)}


def _radius_text(eps: float | str) -> str:
    """A radius as it is typed: 8/255 where that is the shortest text of exactly this number."""
    levels = round(float(eps) * 255)
    fraction = f"{levels}/255"
    return fraction if levels / 255 == float(eps) and len(fraction) < len(str(eps)) else str(eps)


def _text(spec: RunSpec, request: Request, options: Sequence[str], facts: Facts) -> str:
    words = ["bench", "run", "--defense", spec.defense.name]
    if not spec.is_base:
        words += ["--base", spec.base.name]
    words += [word for attack in request.attacks for word in ("--attack", attack)]
    words += ["--dataset", spec.dataset.name, "-n", str(spec.n), "--seed", str(spec.seed)]
    words += ["--eps", *map(_radius_text, request.eps)] if request.eps else []
    words += ["--norm", request.norm] if request.norm else []
    words += ["--repeats", str(request.repeats)] if request.repeats else []
    words += ["--force-eps"] if _is_forced(spec, facts) else []
    for name, value in request.sets.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join([*words, *options])

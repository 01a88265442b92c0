"""An audit, from its plan to its verdict. Its steps are ordinary runs, so it resumes, and its rows can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from bench import registry
from bench.analysis.compare import outcome_of
from bench.analysis.describe import clean_answers
from bench.analysis.harm import Harm, harm_of
from bench.analysis.metrics import Sharing
from bench.analysis.worst_case import (
    INCLUDES,
    Outcome,
    gain_over_base,
    seen_by_all,
    shared_games,
    tier_verdict,
    worst_case,
)
from bench.auditing.battery import Step, Subject, battery
from bench.auditing.behaviour import behaviour
from bench.auditing.cost import STREAMS, costs, pace, times_the_base
from bench.auditing.findings import Finding, finding, in_order
from bench.auditing.strength import Played, belief, comparisons, gain, others, planted, settled, silent
from bench.cache import digest
from bench.checks.defense import DefenseSubject
from bench.config import Config
from bench.draws import Draws
from bench.environment import collect
from bench.errors import BadValue
from bench.execution.runner import Listener, run_all
from bench.game.crafting import craft
from bench.game.resources import Resources
from bench.planning.facts import facts_of
from bench.planning.plan import Planned, plan
from bench.planning.requests import Request
from bench.planning.rules import rules_of
from bench.planning.spec import RunSpec
from bench.settings import Settings
from bench.store import Store
from bench.threat import ThreatModel, Tier, tier_of

#: points on which behaviour is measured: of a static defense, and of one that answers slowly
POINTS, SLOW_POINTS = 100, 12
#: points of the binarisation test
PLANTED = 20


@dataclass(frozen=True)
class Audit:
    """The plan of an audit: each step with its run, in the battery's order."""

    defense: str
    base: str
    dataset: str
    budget: str
    steps: list[Step]
    planned: dict[str, Planned]
    #: by the name of an optional step: why it cannot be played
    impossible: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> RunSpec:
        """The direct attack: PGD on what answers."""
        return self.planned["pgd-skip"].spec

    @property
    def key(self) -> str:
        return digest(["audit", self.budget, *(item.spec.key for item in self.planned.values())])


def prepare(
    defense: str,
    base: str,
    dataset: str,
    budget: str,
    config: Config,
    settings: Settings,
    *,
    eps: float | None = None,
    seed: int | None = None,
    n: int | None = None,
    sets: Mapping[str, Any] | None = None,
) -> Audit:
    """Plan an audit. Raises a `BenchError` if the request is wrong.

    eps: radius in linf, in units of [0, 1] pixels; None: the dataset's own. What the attacker sends among other users'
    inputs keeps the radius of its attack.
    """
    entry = registry.defenses[defense]
    cls = entry.load()
    own = entry.base or not cls.uses_base
    subject = Subject(cls.kind, own, cls.randomised, cls.differentiable, not cls.not_unrolled, cls.watches_queries)
    base = defense if own else base or config.run.base
    dataset = dataset or config.run.dataset
    facts, given = facts_of(settings.data_dir), dict(sets or {})
    if eps is not None and not ThreatModel(eps=eps).eps > 0:
        raise BadValue(f"eps is {eps:g}; an audit needs a radius above 0, such as 8/255.")
    if "threat.eps" in given:
        raise BadValue("An audit has one radius for all its attacks: leave out threat.eps, and give --eps (eps=).")
    if "game.repeats" in given:
        raise BadValue(
            "An audit plays every game once; leave out game.repeats, and see the spread with: bench run --repeats"
        )
    planned: dict[str, Planned] = {}
    impossible: dict[str, str] = {}
    steps = battery(subject, budget)
    if n is not None:
        steps = [replace(step, n=min(step.n, n)) for step in steps]
    radius = eps
    for step in steps:
        values = {k: v for k, v in given.items() if not (step.on_base and k.startswith("defense."))}
        radii, ranked = _radii_of(step, radius, eps)
        request = Request(
            defenses=(base if step.on_base else defense,),
            attacks=(step.attack,),
            bases=() if own or step.on_base else (base,),
            datasets=(dataset,),
            eps=radii,
            seeds=() if seed is None else (seed,),
            n=step.n,
            repeats=1,  # a verdict is over points, each played once
            sets={**values, **step.sets, **ranked},
            force_eps=step.eps in (0.0, 2.0),  # no bound, or twice a radius that may reach far
        )
        try:
            planned[step.name] = plan([request], config, facts)[0]
        except BadValue as error:  # the verdict says it: see `left_out`
            if not step.optional:
                raise
            impossible[step.name] = str(error)
        else:
            radius = planned[step.name].spec.threat.eps if radius is None else radius
    steps = [step for step in steps if step.name in planned]
    return Audit(defense, base, dataset, budget, steps, planned, impossible)


def _radii_of(step: Step, radius: float | None, given: float | None) -> tuple[tuple[float, ...], dict[str, float]]:
    """The radii of a step's request, and what it sets for an attack of minimal norm. radius: of the audit, once it is
    known; given: by the user. () and {}: as the dataset and the attack have it."""
    if step.eps != 1.0:
        assert radius is not None  # such a step is not the first
        return (min(radius * step.eps, 1.0) if step.eps else 1.0,), {}  # 1 reaches every image of the box
    attack = registry.attacks[step.attack].resolved()
    if given is None or "eps" in (attack.preset or {}):
        return (), {}
    return ((), {"threat.eps": given}) if attack.load().kind == "minimal" else ((given,), {})


def play(audit: Audit, store: Store, settings: Settings, listener: Listener) -> dict[str, Any]:
    """Play an audit to its end, store its verdict, and return it. `BadValue` where nothing can be played."""
    player = Player(audit, store, settings)
    if reason := player.fit(listener):
        raise BadValue(f"The audit cannot begin: {reason}")
    player.play(listener)
    result = player.result()
    store.put_audit(audit.key, result, collect(settings.device))
    return result


class Player:
    """Plays an audit."""

    def __init__(self, audit: Audit, store: Store, settings: Settings) -> None:
        self.audit = audit
        self._store = store
        self._settings = settings
        self.resources = Resources(settings)
        self.played: dict[str, Played] = {}
        #: by the name of a step: why it was not played
        self.left_out: dict[str, str] = dict(audit.impossible)
        #: by the name of a step: what other users lost in it
        self.harms: dict[str, Harm] = {}
        #: names of the steps that failed: the verdict lacks the examples that they might have broken
        self.failed: list[str] = []
        self.runs: dict[str, str] = {}
        #: estimated seconds of one process for each run, by its key, and for the checks of behaviour; {} before `costs`
        self.expected: dict[str, float] = {}

    def fit(self, listener: Listener) -> str:
        """Train and prepare what all steps need. Returns why nothing can be played, or ""."""
        first = self.audit.planned["fgsm"]
        self._run([first], listener)
        record = self._store.find(first.spec.key)
        assert record is not None
        return f"fgsm {record.status}: {record.reason}" if record.status == "FAILED" else ""

    def _run(self, planned: list[Planned], listener: Listener) -> None:
        """Play runs to their end; runs that failed before are tried again."""
        run_all(planned, self._store, self._settings, "failed", listener)

    def costs(self) -> dict[str, float]:
        """Estimated seconds of one process for each step, and for the checks of behaviour."""
        measured = pace(self.resources, self.audit.main)
        specs = {name: planned.spec for name, planned in self.audit.planned.items()}
        steps = costs(self.audit.steps, specs, measured)
        behaviour = STREAMS * self._subject().spec.n * measured.answer
        self.expected = {specs[name].key: seconds for name, seconds in steps.items()} | {"behaviour": behaviour}
        return {**steps, "behaviour": behaviour}

    def play(self, listener: Listener) -> None:
        """Play all steps: first those that attack every example, then the others on the examples that are left."""
        first = [step for step in self.audit.steps if not step.survivors]
        self._run([self.audit.planned[step.name] for step in first], listener)
        for step in first:
            self._take(step, self.audit.planned[step.name].spec)
        for step in (step for step in self.audit.steps if step.survivors):
            planned = self.audit.planned[step.name]
            left = self._left(step, planned.spec)
            expected = self.expected.pop(planned.spec.key, 0.0)
            if not left:
                self.left_out[step.name] = "nothing was left to attack"
                continue
            spec = planned.spec if len(left) == planned.spec.n else replace(planned.spec, chosen=tuple(left))
            self.expected[spec.key] = expected * len(left) / planned.spec.n
            self._run([Planned(spec, planned.clean)], listener)
            self._take(step, spec)

    def _left(self, step: Step, spec: RunSpec) -> list[int]:
        """Places in the seeded order of the examples that no attack of the step's tier has broken yet."""
        verdict = tier_verdict(self._tiers(), self._outcomes(), tier_of(spec.threat), None)
        broken = {int(index) for index, name in (verdict or {"examples": {}})["examples"].items() if name is not None}
        return [place for place in range(step.n) if spec.order[place] not in broken]

    def _take(self, step: Step, spec: RunSpec) -> None:
        """Read the rows of a step's run."""
        record = self._store.find(spec.key)
        assert record is not None
        self.runs[step.name] = record.key
        if record.status != "DONE":
            self.left_out[step.name] = f"{record.status}: {record.reason}"
            if record.status == "FAILED":
                self.failed.append(step.name)
            return
        rows = self._store.all_rows(record.key)
        if spec.threat.share:  # it measures what others lose, and no example of it is attacked
            lost = harm_of(record, rows, clean_answers(self._store, record))
            if lost is None:
                self.left_out[step.name] = "its clean run has no answers, so what others lose cannot be told"
                return
            self.harms[step.name], self.played[step.name] = lost, Played({}, rows)
            return
        outcome = {index: right for (_, index), right in outcome_of(self._store, record, rows).items()}
        self.played[step.name] = Played(outcome, rows)

    def _outcomes(self) -> dict[str, Outcome]:
        return {name: step.outcome for name, step in self.played.items()}

    @property
    def _of_the_rest(self) -> set[str]:
        """The steps that attack only what the others have left."""
        return {step.name for step in self.audit.steps if step.survivors}

    def _tiers(self) -> list[tuple[str, Tier]]:
        """The steps that count for the worst case, with their tiers, in the battery's order."""
        return [(s.name, tier_of(self.audit.planned[s.name].spec.threat)) for s in self.audit.steps if s.counts]

    # -- the verdict ------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """What `--json` prints."""
        audit, main = self.audit, self.audit.main
        trials = None
        if main.kind != "static":
            trials = _trials(main)
        verdicts = {name: self._verdict(name) for name in get_args(Tier)}
        difference, findings = self._gain(trials)
        findings = in_order([*behaviour(self._subject()), *self._strength(trials), *findings])
        return {
            "defense": audit.defense,
            "base": audit.base,
            "dataset": audit.dataset,
            "budget": audit.budget,
            "eps": main.threat.eps,
            "norm": main.threat.norm,
            "n": main.n,
            "seed": main.seed,
            "clean_accuracy": self._clean(),
            "verdict": {name: verdict for name, verdict in verdicts.items() if verdict is not None},
            "gain": difference,
            "checks": [asdict(one) for one in findings],
            "flags": [one.id for one in findings if one.tripped],
            "runs": self.runs,
            "left_out": self.left_out,
            "failed": self.failed,
        }

    def _verdict(self, tier: Tier) -> dict[str, Any] | None:
        """The worst case of a tier, in the clusters in which its own steps were played."""
        tiers = self._tiers()
        here = {name: of for name, of in tiers if of in INCLUDES[tier] and name in self.played}
        own = [name for name, of in here.items() if of == tier] or list(here)
        games = [{row.index: row.game for row in self.played[name].rows} for name in own]
        specs = [self.audit.planned[name].spec for name in own]
        given = max((Sharing.of(spec.to_dict()).shared for spec in specs), default="")
        examples = {index for name in here for index in self.played[name].outcome}
        trials = None if self.audit.main.kind == "static" else shared_games(games, examples)
        return tier_verdict(tiers, self._outcomes(), tier, trials, given, self._of_the_rest)

    def _clean(self) -> float | None:
        rows = self.played["pgd-skip"].rows if "pgd-skip" in self.played else []
        right = [row.clean_answer == row.label for row in rows if row.clean_answer is not None]
        return sum(right) / len(right) if right else None

    def _gain(self, trials: Mapping[int, int] | None) -> tuple[dict[str, Any] | None, list[Finding]]:
        if not (names := [name for name in ("base: pgd-skip", "base: pgd", "base: autoattack") if name in self.played]):
            return None, []
        counted = [step.name for step in self.audit.steps if step.counts and step.name in self.played]
        outcomes = self._outcomes()
        stood = worst_case([outcomes[name] for name in counted])
        seen = seen_by_all(counted, outcomes, self._of_the_rest, stood)
        own = [{index: right for index, right in outcomes[name].items() if index in seen} for name in counted]
        compared = gain_over_base(own, [self.played[name].outcome for name in names], trials)
        if compared is None:
            return None, []
        ours, theirs, difference = compared
        times = self._times_the_base()
        described = {
            "defense": ours,
            "base": theirs,
            "difference": asdict(difference),
            "n": len(seen),
            "times_the_base": times,
        }
        return described, [gain(difference, times)]

    def _times_the_base(self) -> float:
        """The time of an answer, in answers of the base alone: see `times_the_base`."""
        subject = self._subject()
        return times_the_base(subject.fresh(), self.resources.of(self.audit.main).trained(), subject.x)

    def _subject(self) -> DefenseSubject:
        """The defense, with the points on which its behaviour is measured."""
        main = self.audit.main
        batch = max(main.game.batch, 1)
        count = POINTS if main.kind == "static" else max(SLOW_POINTS // batch, 2) * batch
        return DefenseSubject(self.resources, replace(main, n=min(count, main.test_size)))

    def _strength(self, trials: Mapping[int, int] | None) -> list[Finding]:
        violations = sum(bool(row.violation) for played in self.played.values() for row in played.rows)
        findings = [finding("V1", violations, f"{violations} in all steps")]
        aware = [name for name, tier in self._tiers() if tier == "aware-full" and name in self.played]
        whole = [name for name in aware if len(self.played[name].outcome) == self.audit.main.n]
        if whole:
            strongest = min(whole, key=lambda name: sum(self.played[name].outcome.values()))
            findings += [one for one in (belief(self.played, strongest),) if one is not None]
        findings += [one for one in (others(self.harms),) if one is not None]
        findings += comparisons(self.played, self.audit.base, trials)
        findings += [one for one in (silent(self.played, "pgd-skip"),) if one is not None]
        return findings + self._direct()

    def _direct(self) -> list[Finding]:
        """The checks of the direct attack at work: the curve of its loss, and planted points."""
        spec = self.audit.main
        if not registry.defenses.load(spec.defense.name).differentiable:
            return []
        spec = replace(spec, n=min(spec.n, PLANTED))
        serving = self.resources.of(spec).serving(spec.noise_key(0))
        x, y = self.resources.of(spec).points(spec.indices)
        oracle = self.resources.of(spec).oracle(0, serving)
        craft(self.resources.of(spec).attack, oracle, x, y, spec, spec.indices)
        curve = settled(oracle.trace, len(x), "pgd-skip")
        params, draws = spec.attack.params, Draws(spec.seed, "audit", spec.indices)
        made = planted(serving.defense.proxy(), x, spec.threat, params["steps"], params["rel_step_size"], draws)
        return [made] if curve is None else [curve, made]


def _trials(spec: RunSpec) -> dict[int, int]:
    """The game of each test point (by index) if each point belongs to one game; else one game for all."""
    if not spec.game.facts.splits:
        return dict.fromkeys(spec.order, 0)
    whole, rules = replace(spec, n=spec.test_size, chosen=None), rules_of(spec.game)
    return {whole.order[place]: game for game in range(spec.game.games) for place in rules.places(whole, game)}

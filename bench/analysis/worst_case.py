"""Worst cases: the accuracy over several attacks, in which an example counts as right only if no attack broke it.

Per example first, then the mean (Carlini et al.: On Evaluating Adversarial Robustness, 2019): the smallest of the means
over the attacks would be too good. An attacker who knows more can also run attacks that need less, so the worst case of
a kind of knowledge (a tier) includes the attacks of other tiers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from bench.analysis.intervals import Estimate, clustered, wilson_given
from bench.analysis.pairs import Difference, paired
from bench.threat import Tier

#: whether each example (by its dataset index) was answered right
Outcome = Mapping[int, bool]

#: the tiers whose attacks an attacker of each tier can run
INCLUDES: dict[str, tuple[str, ...]] = {
    "gray-black-box": ("gray-black-box",),
    "train-time": ("train-time",),
    "aware-realistic": ("gray-black-box", "train-time", "aware-realistic"),
    "aware-full": get_args(Tier),
}


def breakers_of(steps: Sequence[tuple[str, Tier]], outcomes: Mapping[str, Outcome], tier: str) -> dict[int, str | None]:
    """By example: the first step that broke it, in the order of the steps; None: no step broke it.

    Steps that need the tier's own knowledge come first: a step that needs less is named only if it alone broke the
    example.
    """
    breakers: dict[int, str | None] = {}
    of_tier = sorted((step for step in steps if step[1] in INCLUDES[tier]), key=lambda step: step[1] != tier)
    for name, _ in of_tier:
        if name in outcomes:
            for index, right in outcomes[name].items():
                if breakers.get(index) is None:
                    breakers[index] = None if right else name
    return breakers


def shared_games(runs: Sequence[Mapping[int, int]], examples: Collection[int]) -> dict[int, int] | None:
    """The game of each of these examples, in which examples share a state; None if there are fewer than two games.

    runs: for every run, the game of each example by index. The run with most games decides; an example that it lacks
    gets a game of its own.
    """
    games = max(runs, key=lambda one: (len(set(one.values())), len(one)), default={})
    if len(set(games.values())) < 2:
        return None
    return {index: games.get(index, -1 - index) for index in examples}


def tier_verdict(
    steps: Sequence[tuple[str, Tier]],
    outcomes: Mapping[str, Outcome],
    tier: str,
    trials: Mapping[int, int] | None,
    given: str = "",
    of_the_rest: Collection[str] = (),
) -> dict[str, Any] | None:
    """Worst-case robust accuracy of a tier with its interval, and which step broke what; None if no step was played.

    steps        names and tiers, in the order in which a breaker is looked for
    outcomes     of the steps that were played, by name
    trials       the game of each example, where examples of a game share a state; None: examples share nothing
    given        what all examples share in a single game (`bench.analysis.metrics.Sharing`)
    of_the_rest  names of the steps that attacked only what the others had left

    Where some steps saw fewer examples than others, `seen_by_all` has the figure over those that every step saw: the
    one over all examples is then too high.
    """
    broken = breakers_of(steps, outcomes, tier)
    if not broken:
        return None
    stood = {index: name is None for index, name in broken.items()}
    seen = seen_by_all([name for name, of in steps if of in INCLUDES[tier]], outcomes, of_the_rest, stood)
    fewer = {index: stood[index] for index in stood if index in seen}
    names = [name for name in broken.values() if name is not None]
    return {
        "robust_accuracy": asdict(_estimate(stood, trials, given)),
        "n": len(stood),
        "seen_by_all": None
        if len(fewer) in (0, len(stood))
        else {"robust_accuracy": asdict(_estimate(fewer, trials, given)), "n": len(fewer)},
        "breakers": {name: names.count(name) / len(names) for name in dict.fromkeys(names)},
        "examples": {str(index): name for index, name in sorted(broken.items())},
    }


def seen_by_all(
    names: Collection[str], outcomes: Mapping[str, Outcome], of_the_rest: Collection[str], stood: Mapping[int, bool]
) -> set[int]:
    """The examples that every played step saw; one that attacks what is left need not see what others had broken. All
    examples, where those that stand are among them: what is broken is broken whoever saw it.

    names: of the steps; stood: by example, whether it stands after all of them. For the others see `tier_verdict`.
    """
    seen = set(stood)
    for name in names:
        if name in outcomes:
            own = set(outcomes[name])
            seen &= own | {index for index, right in stood.items() if not right} if name in of_the_rest else own
    return seen if any(right for index, right in stood.items() if index not in seen) else set(stood)


def worst_of(verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a tier's verdict, what has the lower `robust_accuracy`, with its `n`: the examples that every step saw, which
    estimate what would be left if every step saw all; or all of them, of which no more would be left."""
    fewer = verdict.get("seen_by_all")
    return min((verdict, fewer), key=lambda one: one["robust_accuracy"]["value"]) if fewer else verdict


def _estimate(stood: Mapping[int, bool], trials: Mapping[int, int] | None, given: str) -> Estimate:
    games: dict[int, list[bool]] = {}
    for index, right in stood.items():
        games.setdefault(0 if trials is None else trials[index], []).append(right)
    if trials is None or len(games) < 2:
        return wilson_given(sum(stood.values()), len(stood), given)
    return clustered(list(games.values()))


@dataclass(frozen=True)
class AttackRun:
    """A run as one attack of a worst case.

    key, attack, tier  of the run
    cost               what the attack spent on an example, in passes and queries
    right, game        whether each example was answered right, by its index in the dataset; in which game
    shared             what the examples of a single game share (`bench.analysis.metrics.Sharing`)
    """

    key: str
    attack: str
    tier: Tier
    cost: float
    right: Outcome
    game: Mapping[int, int]
    shared: str = ""


def over_runs(
    runs: Sequence[AttackRun], examples: Collection[int], tier: str, judging: Sequence[AttackRun] | None = None
) -> dict[str, Any] | None:
    """The verdict of a tier over these examples (`tier_verdict`), with what broke them by the name of the attack.

    Of the runs that broke an example the cheapest is its breaker; of equals, the attack in the fewest wrappers.
    judging: the runs whose games make the interval; None: all of them.
    """
    cheapest_first = sorted(runs, key=lambda run: (run.cost, run.attack.count(":"), run.attack, run.key))
    outcomes = {run.key: {i: ok for i, ok in run.right.items() if i in examples} for run in runs}
    judging = runs if judging is None else judging
    shared = max((run.shared for run in judging), default="")  # "" for a static defense: its examples share nothing
    games = shared_games([run.game for run in judging], examples) if shared else None
    verdict = tier_verdict([(run.key, run.tier) for run in cheapest_first], outcomes, tier, games, shared)
    if verdict is None:
        return None
    attacks = {run.key: run.attack for run in runs}
    breakers: dict[str, float] = defaultdict(float)
    for key, part in verdict["breakers"].items():
        breakers[attacks[key]] += part
    return {**verdict, "breakers": dict(breakers)}


def gain_over_base(
    defense: Sequence[Mapping[int, bool]], base: Sequence[Mapping[int, bool]], trials: Mapping[int, int] | None
) -> tuple[float, float, Difference] | None:
    """Worst case of the defense and of its base alone, on the same examples, and the difference of the two."""
    ours, theirs = worst_case(defense), worst_case(base)
    keys = sorted(ours.keys() & theirs.keys())
    if not keys:
        return None
    first, second = [theirs[key] for key in keys], [ours[key] for key in keys]
    difference = paired(first, second, None if trials is None else [trials[key] for key in keys])
    return sum(second) / len(keys), sum(first) / len(keys), difference


def worst_case(runs: Sequence[Mapping[int, bool]]) -> dict[int, bool]:
    """By example: whether it was answered right in every run that has it."""
    worst: dict[int, bool] = {}
    for run in runs:
        for index, right in run.items():
            worst[index] = worst.get(index, True) and right
    return worst


def breakers_in_words(breakers: Mapping[str, float]) -> str:
    """The attacks that broke examples, each with its share of the broken examples; the largest share first."""
    ordered = sorted(breakers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {part:.0%}" for name, part in ordered)

"""From the outcomes of an audit's steps to its verdict: worst cases by what the attacker knows, and the gain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from bench.analysis.metrics import Difference, clustered, paired, wilson_given, worst_case
from bench.audit.strength import Played
from bench.threat import Tier

#: what an attacker of a tier can do besides what is of that tier: who knows more can also do what needs less
INCLUDES: dict[str, tuple[str, ...]] = {
    "gray-black-box": ("gray-black-box",),
    "train-time": ("train-time",),
    "aware-realistic": ("gray-black-box", "train-time", "aware-realistic"),
    "aware-full": get_args(Tier),
}


def breakers_of(steps: Sequence[tuple[str, Tier]], played: Mapping[str, Played], tier: str) -> dict[int, str | None]:
    """By example: the first step of a tier, in the battery's order, that broke it; None: it stood under all.

    What needs the tier's knowledge comes first: an example is put down to less only where that is what broke it.
    """
    found: dict[int, str | None] = {}
    of_tier = sorted((step for step in steps if step[1] in INCLUDES[tier]), key=lambda step: step[1] != tier)
    for name, _ in of_tier:
        if name in played:
            for index, right in played[name].outcome.items():
                if found.get(index) is None:
                    found[index] = None if right else name
    return found


def shared_games(outcomes: Sequence[Mapping[int, int]], examples: Collection[int]) -> dict[int, int] | None:
    """Which of these examples share a state, as the run with most games says; one that it has not is alone.

    outcomes: the game of each example (by index), for every run. None: there is one game, or none.
    """
    games = max(outcomes, key=lambda one: (len(set(one.values())), len(one)), default={})
    if len(set(games.values())) < 2:
        return None
    return {index: games.get(index, -1 - index) for index in examples}


def tier_verdict(
    steps: Sequence[tuple[str, Tier]],
    played: Mapping[str, Played],
    tier: str,
    trials: Mapping[int, int] | None,
    given: str = "",
) -> dict[str, Any] | None:
    """Worst-case robust accuracy of a tier with its interval, and which attack broke what; None where nothing ran.

    trials: which game each example belongs to, where examples share a state; None: they are in no games.
    given: what they share in a single game (`bench.analysis.metrics.Sharing`).
    """
    broken = breakers_of(steps, played, tier)
    if not broken:
        return None
    stood = {index: name is None for index, name in broken.items()}
    if trials is None:
        estimate = wilson_given(sum(stood.values()), len(stood), given)
    else:
        games: dict[int, list[bool]] = {}
        for index, right in stood.items():
            games.setdefault(trials[index], []).append(right)
        estimate = clustered(list(games.values()))
    names = [name for name in broken.values() if name is not None]
    return {
        "robust_accuracy": asdict(estimate),
        "n": len(stood),
        "breakers": {name: names.count(name) / len(names) for name in dict.fromkeys(names)},
        "examples": {str(index): name for index, name in sorted(broken.items())},
    }


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

"""The ranking rule. It stands in this module only.

Standings are ordered by the worst case over the attacks of the tier, then by clean accuracy. The worst case is taken
per example: an example counts as robust only if no attack broke it. An attacker who knows more can also run attacks
that need less, so the tiers of aware attackers include the other tiers.

A standing is shown without a rank, with the reason, in two cases: no attack of the tier itself was run on an unbiased
sample of examples, or an image of one of its attacks broke the threat model (flag V1). An attack that knows the random
draws of the defense belongs to no tier, nor does one that leaves the judged inputs alone (flag poison).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.analysis.worst_case import INCLUDES, breakers_in_words, shared_games, tier_verdict
from leaderboard.content import TIERS, Board, Entry, RunSummary, Share, Standing, share


@dataclass(frozen=True)
class AnsweredRun:
    """A run with its answers.

    right    whether each example was answered right, by its index in the dataset; game: in which game
    shared   what the examples of a single game share (`bench.analysis.metrics.Sharing`)
    """

    summary: RunSummary
    right: Mapping[int, bool]
    game: Mapping[int, int]
    shared: str = ""


def standings_of(entry: Entry, runs: Sequence[AnsweredRun]) -> list[Standing]:
    """The standings of one entry, without ranks: one for each tier of every board on which it was attacked."""
    boards: dict[Board, list[AnsweredRun]] = defaultdict(list)
    for run in runs:
        if run.summary.attacked and not any(_has(run.summary, flag) for flag in ("draws", "poison")):
            boards[run.summary.board].append(run)
    return [_standing(entry, board, tier, own) for board, own in boards.items() for tier in TIERS]


def _standing(entry: Entry, board: Board, tier: str, runs: Sequence[AnsweredRun]) -> Standing:
    done = [run for run in runs if run.summary.tier in INCLUDES[tier] and run.summary.status == "DONE" and run.right]
    fair = [run for run in done if run.summary.tier == tier and not _has(run.summary, "survivors")]
    summaries = [run.summary for run in fair or done or runs]
    robust, breakers, n = _worst_case(tier, done, fair) if fair else (None, "", 0)
    return Standing(
        entry=entry,
        board=board,
        tier=tier,
        robust=robust,
        clean=max(summaries, key=lambda summary: summary.n).clean,
        refused=max(summaries, key=lambda summary: summary.n).refused,
        n=n,
        attacks=_attack_names(done, n) if fair else (),
        breakers=breakers,
        answer_s=_median([one.answer_s for one in summaries if one.answer_s is not None]),
        times_base=_median([one.times_base for one in summaries if one.times_base is not None]),
        flags=tuple(sorted({flag for run in done for flag in run.summary.flags if flag[0] != "survivors"})),
        why=_why_unranked(tier, done, fair, runs),
    )


def _attack_names(done: Sequence[AnsweredRun], n: int) -> tuple[str, ...]:
    """The attacks in the worst case. An attack that saw fewer than n examples says how many."""
    seen: dict[str, int] = defaultdict(int)
    for run in done:
        seen[run.summary.attack] = max(seen[run.summary.attack], len(run.right))
    return tuple(name if count >= n else f"{name} ({count} of {n})" for name, count in sorted(seen.items()))


def _worst_case(tier: str, done: Sequence[AnsweredRun], fair: Sequence[AnsweredRun]) -> tuple[Share | None, str, int]:
    """Robust accuracy, the breakers in words and n, over the examples that an attack of the tier itself was run on."""
    examples = {index for run in fair for index in run.right}
    cheapest_first = sorted(done, key=_cost)  # the cheapest attack that broke an example counts as its breaker
    steps = [(run.summary.run, run.summary.tier) for run in cheapest_first]
    outcomes = {run.summary.run: {i: ok for i, ok in run.right.items() if i in examples} for run in done}
    shared = max(run.shared for run in fair)  # "" for a static defense: its examples share nothing
    games = shared_games([run.game for run in fair], examples) if shared else None
    verdict = tier_verdict(steps, outcomes, tier, games, shared)  # type: ignore[arg-type]
    assert verdict is not None
    attacks = {run.summary.run: run.summary.attack for run in done}
    breakers: dict[str, float] = defaultdict(float)
    for run, part in verdict["breakers"].items():
        breakers[attacks[run]] += part
    return share(verdict["robust_accuracy"]), breakers_in_words(breakers), verdict["n"]


def _cost(run: AnsweredRun) -> tuple[float, str]:
    """Passes and queries that the attack spent on an example; equal costs are ordered by the key of the run."""
    return sum(run.summary.spent.get(name, 0.0) for name in ("forwards", "backwards", "queries")), run.summary.run


def _why_unranked(
    tier: str, done: Sequence[AnsweredRun], fair: Sequence[AnsweredRun], runs: Sequence[AnsweredRun]
) -> str:
    """Why a standing has no rank; "" if it has one."""
    if cheating := sorted({run.summary.attack for run in done if _has(run.summary, "V1")}):
        return f"images of {', '.join(cheating)} broke the threat model (V1)"
    if fair:
        return ""
    of_tier = [run for run in runs if run.summary.tier == tier]
    if ended := [run.summary for run in of_tier if run.summary.status != "DONE"]:
        return f"{ended[0].attack} {ended[0].status}: {ended[0].reason}"
    if lacking := [run.summary.attack for run in of_tier if not run.right]:
        return f"{lacking[0]} has no clean answers for the examples that it moved beyond the budget"
    return f"no attack of the tier {tier} was played here"


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """The standings with their ranks and the Pareto front, by board and tier."""
    groups: dict[tuple[Board, str], list[Standing]] = defaultdict(list)
    for standing in standings:
        groups[standing.board, standing.tier].append(standing)
    with_ranks = []
    for group in groups.values():
        ordered = sorted(group, key=rank_order)
        last: tuple[float, float] | None = None
        rank = 0
        for number, standing in enumerate(ordered, 1):
            if standing.why:
                with_ranks.append(standing)
                continue
            if (accuracies := _accuracies(standing)) != last:
                rank, last = number, accuracies
            with_ranks.append(replace(standing, rank=rank, front=_on_front(standing, ordered)))
    return with_ranks


def rank_order(standing: Standing) -> tuple[bool, float, float, str, str]:
    """The key by which standings are sorted, the best first; standings without a rank come last."""
    robust, clean = _accuracies(standing)
    return bool(standing.why), -robust, -clean, standing.entry.label, standing.entry.key


def _accuracies(standing: Standing) -> tuple[float, float]:
    robust, clean = (-1.0 if part is None else part.value for part in (standing.robust, standing.clean))
    return robust, clean


def _on_front(standing: Standing, others: Sequence[Standing]) -> bool:
    """Whether no other standing is at least as robust and as fast, and better in one of the two."""
    if standing.times_base is None or standing.robust is None:
        return False
    return not any(
        other.robust is not None
        and other.times_base is not None
        and not other.why
        and other.robust.value >= standing.robust.value
        and other.times_base <= standing.times_base
        and (other.robust.value, -other.times_base) != (standing.robust.value, -standing.times_base)
        for other in others
    )


def _has(summary: RunSummary, flag: str) -> bool:
    return any(name == flag for name, _ in summary.flags)


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None

"""The ranking rule. It stands in this module only.

Every tier has a battery: attacks that a defense must have met (`site.battery` in bench.toml). Standings are ordered by
the worst case over the battery, then by clean accuracy, so all of them met the same attacks on the same examples. The
worst case is taken per example: an example counts as robust only if no attack broke it. An attack inside a wrapper
counts as that attack. Beside it stands the worst case over all attacks that were played; an attacker who knows more can
also run attacks that need less, so there the tiers of aware attackers include the other tiers.

A standing is listed without a rank, with the reason, in three cases: it has not met the whole battery, no attack of the
tier itself was run on an unbiased sample of examples, or an image of one of its attacks broke the threat model (flag
V1). Where only one standing can be compared there are no ranks. An attack that knows the random draws of the defense
belongs to no tier, nor does one that leaves the judged inputs alone (flag poison).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from bench.analysis.worst_case import INCLUDES, AttackRun, breakers_in_words, over_runs
from leaderboard.content import TIERS, Board, Entry, RunSummary, Share, Standing, level_name, share

#: by tier, the attacks that a defense must have met
Battery = Mapping[str, Sequence[str]]


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

    @property
    def as_attack(self) -> AttackRun:
        """The run as one attack of a worst case."""
        one = self.summary
        cost = sum(one.spent.get(name, 0.0) for name in ("forwards", "backwards", "queries"))
        tier: Any = one.tier
        return AttackRun(one.run, one.attack, tier, cost, self.right, self.game, self.shared)


def standings_of(entry: Entry, runs: Sequence[AnsweredRun], battery: Battery) -> list[Standing]:
    """The standings of one entry, without ranks: one for each tier of every board on which it was attacked."""
    boards: dict[Board, list[AnsweredRun]] = defaultdict(list)
    for run in runs:
        if run.summary.attacked and not any(_has(run.summary, flag) for flag in ("draws", "poison")):
            boards[run.summary.board].append(run)
    return [_standing(entry, board, tier, own, battery[tier]) for board, own in boards.items() for tier in TIERS]


def _standing(entry: Entry, board: Board, tier: str, runs: Sequence[AnsweredRun], battery: Sequence[str]) -> Standing:
    done = [run for run in runs if run.summary.tier in INCLUDES[tier] and run.summary.status == "DONE" and run.right]
    whole = [run for run in done if not _has(run.summary, "survivors")]
    fair = [run for run in whole if run.summary.tier == tier]
    met = {name: [run for run in whole if _plain(run.summary.attack) == name] for name in battery}
    missing = tuple(name for name, played in met.items() if not played)
    counted = [run for name in battery for run in met[name]] if fair and not missing else fair
    examples = _seen_by_all(list(met.values()) if fair and not missing else [fair])
    summaries = [run.summary for run in fair or done or runs]
    robust, _, n = _worst_case(tier, counted, examples, fair)
    worst, breakers, _ = _worst_case(tier, done if fair else [], examples, fair)
    return Standing(
        entry=entry,
        board=board,
        tier=tier,
        robust=robust,
        worst=worst,
        clean=max(summaries, key=lambda summary: summary.n).clean,
        refused=max(summaries, key=lambda summary: summary.n).refused,
        n=n,
        attacks=_attack_names(done, n) if fair else (),
        breakers=breakers,
        answer_s=_median([one.answer_s for one in summaries if one.answer_s is not None]),
        times_base=_median([one.times_base for one in summaries if one.times_base is not None]),
        flags=tuple(sorted({flag for run in done for flag in run.summary.flags if flag[0] != "survivors"})),
        spent=_spent(counted),
        published=_published([run.summary for run in fair]),
        missing=missing,
        why=_why_unranked(tier, done, fair, runs, missing) or ("" if n else "its attacks have no example in common"),
    )


def _published(runs: Sequence[RunSummary]) -> RunSummary | None:
    """Of the runs for which a paper has a figure, the one with the lowest, which claims least."""
    known = [(run.published[0], run.run, run) for run in runs if run.published is not None and run.robust is not None]
    return min(known, key=lambda one: one[:2])[2] if known else None


def _spent(runs: Sequence[AnsweredRun]) -> dict[str, float]:
    """What these runs spent on one example together."""
    names = ("forwards", "backwards", "queries")
    return {name: sum(run.summary.spent.get(name, 0.0) for run in runs) for name in names} if runs else {}


def _plain(attack: str) -> str:
    """The attack inside its wrappers."""
    return attack.rpartition(":")[2]


def _seen_by_all(attacks: Sequence[Sequence[AnsweredRun]]) -> set[int]:
    """The examples that every attack saw; each attack is given by its runs."""
    seen = [{index for run in runs for index in run.right} for runs in attacks]
    return reduce(set.intersection, seen) if seen else set()


def _attack_names(done: Sequence[AnsweredRun], n: int) -> tuple[str, ...]:
    """The attacks in the worst case. An attack that saw fewer than n examples says how many."""
    seen: dict[str, int] = defaultdict(int)
    for run in done:
        seen[run.summary.attack] = max(seen[run.summary.attack], len(run.right))
    return tuple(name if count >= n else f"{name} ({count} of {n})" for name, count in sorted(seen.items()))


def _worst_case(
    tier: str, runs: Sequence[AnsweredRun], examples: Collection[int], judging: Sequence[AnsweredRun]
) -> tuple[Share | None, str, int]:
    """Robust accuracy over these examples, the breakers in words and n."""
    verdict = over_runs([run.as_attack for run in runs], examples, tier, [run.as_attack for run in judging])
    if verdict is None:
        return None, "", 0
    return share(verdict["robust_accuracy"]), breakers_in_words(verdict["breakers"]), verdict["n"]


def _why_unranked(
    tier: str,
    done: Sequence[AnsweredRun],
    fair: Sequence[AnsweredRun],
    runs: Sequence[AnsweredRun],
    missing: Sequence[str],
) -> str:
    """Why a standing is not compared with others; "" if it is."""
    if cheating := sorted({run.summary.attack for run in done if _has(run.summary, "V1")}):
        return f"images of {', '.join(cheating)} broke the threat model (V1)"
    of_tier = [run for run in runs if run.summary.tier == tier]
    needed = [run for run in of_tier if _plain(run.summary.attack) in missing] if fair else of_tier
    if (missing or not fair) and (ended := [run.summary for run in needed if run.summary.status != "DONE"]):
        return f"{ended[0].attack} {ended[0].status}: {ended[0].reason}"
    if (missing or not fair) and (lacking := [run.summary.attack for run in needed if not run.right]):
        return f"{lacking[0]} has no clean answers for the examples that it moved beyond the budget"
    if missing:
        return f"it has not met {', '.join(missing)}"
    return "" if fair else f"no attack was played that has: {level_name(tier).lower()}"


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """The standings with their ranks and the Pareto front, by board and tier."""
    groups: dict[tuple[Board, str], list[Standing]] = defaultdict(list)
    for standing in standings:
        groups[standing.board, standing.tier].append(standing)
    with_ranks = []
    for group in groups.values():
        ordered = sorted(group, key=rank_order)
        alone = sum(not standing.why for standing in group) < 2
        last: tuple[float, float] | None = None
        rank = 0
        for number, standing in enumerate(ordered, 1):
            if standing.why or alone:
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

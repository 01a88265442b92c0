"""The ranking rule, in one place.

Ranked by the worst case over the attacks of the tier, per example (an example stands only if it stood under all of
them), then by clean accuracy. Who knows more may also do what needs less, so the tiers of aware attackers include the
others. Shown but not ranked, with the reason: an entry against which no attack of the tier itself was played on a fair
draw of examples, and one of whose attacks broke the threat model (V1). Attackers who know the defense's random draws
belong to no tier.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.audit.strength import Played
from bench.audit.verdict import INCLUDES, shared_games, tier_verdict
from leaderboard.rows import TIERS, Entry, RunLine, Share, Standing, share

#: flags of runs whose number must not be compared
UNRANKED = ("V1", "survivors", "draws")


@dataclass(frozen=True)
class Outcome:
    """A run with its answers: whether each example (by its dataset index) was answered right, and in which game.

    given: what its examples share in a single game (`bench.analysis.metrics.Sharing`).
    """

    line: RunLine
    right: Mapping[int, bool]
    game: Mapping[int, int]
    given: str = ""


def standings_of(entry: Entry, outcomes: Sequence[Outcome]) -> list[Standing]:
    """The standing of one entry in every tier of every board on which it was attacked; ranks come later."""
    boards: dict[tuple[str, str, float], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.line.attack != "clean" and not _has(outcome.line, "draws"):
            boards[outcome.line.board].append(outcome)
    return [_standing(entry, board, tier, played) for board, played in boards.items() for tier in TIERS]


def _standing(entry: Entry, board: tuple[str, str, float], tier: str, outcomes: Sequence[Outcome]) -> Standing:
    done = [one for one in outcomes if one.line.tier in INCLUDES[tier] and one.line.status == "DONE" and one.right]
    fair = [one for one in done if one.line.tier == tier and not _has(one.line, "survivors")]
    broken = [one.line for one in done if _has(one.line, "V1")]
    lines = [one.line for one in fair or done] or [one.line for one in outcomes]
    largest = max(lines, key=lambda line: line.n)
    robust, breakers, count = _worst_case(tier, done, fair) if fair else (None, "", 0)
    times = [line.answer_s for line in lines if line.answer_s is not None]
    bases = [line.times_base for line in lines if line.times_base is not None]
    flags = {flag for one in done for flag in one.line.flags if flag[0] != "survivors"}
    return Standing(
        entry=entry,
        board=board,
        tier=tier,
        robust=robust,
        clean=largest.clean,
        n=count,
        attacks=_named(done, count) if fair else (),
        breakers=breakers,
        answer_s=_median(times),
        times_base=_median(bases),
        flags=tuple(sorted(flags)),
        why=_why(tier, fair, broken, outcomes),
    )


def _named(done: Sequence[Outcome], count: int) -> tuple[str, ...]:
    """The attacks that entered, those that saw fewer examples with how many."""
    seen: dict[str, int] = defaultdict(int)
    for one in done:
        seen[one.line.attack] = max(seen[one.line.attack], len(one.right))
    return tuple(name if n >= count else f"{name} ({n} of {count})" for name, n in sorted(seen.items()))


def _worst_case(tier: str, done: Sequence[Outcome], fair: Sequence[Outcome]) -> tuple[Share | None, str, int]:
    """The worst case over the examples that an attack of the tier itself was played on."""
    examples = {index for one in fair for index in one.right}
    steps = [(one.line.run, one.line.tier) for one in sorted(done, key=_effort)]  # put down to what costs least
    played = {one.line.run: Played({i: ok for i, ok in one.right.items() if i in examples}, ()) for one in done}
    given = max(one.given for one in fair)  # "" of a static defense: its examples share nothing
    trials = shared_games([one.game for one in fair], examples) if given else None
    verdict = tier_verdict(steps, played, tier, trials, given)  # type: ignore[arg-type]
    assert verdict is not None
    names = {one.line.run: one.line.attack for one in done}
    shares: dict[str, float] = defaultdict(float)
    for run, part in verdict["breakers"].items():
        shares[names[run]] += part
    return share(verdict["robust_accuracy"]), in_words(shares), verdict["n"]


def _effort(one: Outcome) -> tuple[float, str]:
    """Passes and queries that the attack spent on an example; the run's key settles ties."""
    return sum(one.line.spent.get(name, 0.0) for name in ("forwards", "backwards", "queries")), one.line.run


def in_words(breakers: Mapping[str, float]) -> str:
    """What broke most of what fell, with its share of that."""
    ordered = sorted(breakers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {part:.0%}" for name, part in ordered)


def _why(tier: str, fair: Sequence[Outcome], broken: Sequence[RunLine], outcomes: Sequence[Outcome]) -> str:
    if broken:
        return f"images of {', '.join(sorted({line.attack for line in broken}))} broke the threat model (V1)"
    if fair:
        return ""
    of_tier = [one for one in outcomes if one.line.tier == tier]
    ended = [one.line for one in of_tier if one.line.status != "DONE"]
    if ended:
        return f"{ended[0].attack} {ended[0].status}: {ended[0].reason}"
    if lacking := [one.line.attack for one in of_tier if not one.right]:
        return f"{lacking[0]} has no clean answers for the examples that it moved beyond the budget"
    return f"no attack of the tier {tier} was played here"


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """Standings with their ranks and the front of robustness against time, board by board and tier by tier."""
    groups: dict[tuple[object, ...], list[Standing]] = defaultdict(list)
    for standing in standings:
        groups[standing.board, standing.tier].append(standing)
    found = []
    for group in groups.values():
        ordered = sorted(group, key=place)
        last: tuple[float, float] | None = None
        rank = 0
        for number, standing in enumerate(ordered, 1):
            if standing.why:
                found.append(standing)
                continue
            if (merit := _merit(standing)) != last:
                rank, last = number, merit
            found.append(replace(standing, rank=rank, front=_on_front(standing, ordered)))
    return found


def place(standing: Standing) -> tuple[bool, float, float, str, str]:
    """The key by which a board is sorted, best first."""
    robust, clean = _merit(standing)
    return bool(standing.why), -robust, -clean, standing.entry.label, standing.entry.key


def _merit(standing: Standing) -> tuple[float, float]:
    return tuple(-1.0 if part is None else part.value for part in (standing.robust, standing.clean))  # type: ignore[return-value]


def _on_front(standing: Standing, others: Sequence[Standing]) -> bool:
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


def _has(line: RunLine, flag: str) -> bool:
    return any(name == flag for name, _ in line.flags)


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None

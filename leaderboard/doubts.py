"""Reasons not to believe a figure of the ranking, and what an audit adds to a standing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.auditing.battery import BUDGETS
from leaderboard.content import SMALL, AuditSummary, RunSummary, Share, Standing

#: flags of a run by which its own figure is in doubt; others say what it may be compared with
DOUBTED = ("V1", "claimed")


def judged(standings: Iterable[Standing], audits: Sequence[AuditSummary]) -> list[Standing]:
    """The standings with the flags of their audits, and with the doubts about them."""
    found = {(audit.entry, audit.board): audit for audit in sorted(audits, key=_strength) if audit.entry}
    return [_judged(standing, found.get((standing.entry.key, standing.board))) for standing in standings]


def _strength(audit: AuditSummary) -> tuple[int, int]:
    """Of several audits the one that spent most counts, of these the newest."""
    return (BUDGETS.index(audit.budget) if audit.budget in BUDGETS else -1), audit.n


def _judged(standing: Standing, audit: AuditSummary | None) -> Standing:
    flags = standing.flags if audit is None else (*standing.flags, *audit.flags)
    budget = "" if audit is None else audit.budget
    return replace(standing, flags=flags, audit=budget, doubts=tuple(_doubts(replace(standing, flags=flags))))


def _doubts(standing: Standing) -> Iterable[tuple[str, str]]:
    """Each with a name and in words; none for a standing without a figure."""
    if standing.robust is None:
        return
    yield from _small(standing.robust, standing.n)
    if standing.missing:
        yield "unequal attacks", f"It has not met {', '.join(standing.missing)}, so others met more."
    if standing.worst is not None and standing.worst.value < standing.robust.low:
        words = f"Attacks beyond the battery leave {standing.worst.value:.1f} %"
        yield "broken further", f"{words} (broken by {standing.breakers})."
    for name, message in standing.flags:
        if re.fullmatch(r"S\d+", name):
            yield name, message


def _small(robust: Share, n: int) -> Iterable[tuple[str, str]]:
    if n < SMALL:
        yield (
            "small sample",
            f"{n} examples: the true share may be anywhere from {robust.low:.1f} to {robust.high:.1f} %.",
        )


def doubts_of_run(run: RunSummary) -> list[tuple[str, str]]:
    """Reasons not to believe the figure of a run, from the run alone, each with a name and in words."""
    if run.robust is None:
        return []
    told = [(name, message) for name, message in run.flags if name in DOUBTED]
    return [*_small(run.robust, run.n), *told]

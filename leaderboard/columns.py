"""The columns of every table. A new column is one entry here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from leaderboard.addresses import defense_address, paper_address, registered
from leaderboard.content import (
    LEVELS,
    TIERS,
    AttackStanding,
    AuditSummary,
    Entry,
    Example,
    RunSummary,
    Standing,
    level_name,
    sample_in_words,
)
from leaderboard.tables import Column, figure_cell, share_cell


def _name(entry: Entry) -> list[str]:
    on = "" if entry.base == entry.defense else f"on {entry.base}"
    return [entry.defense, defense_address(entry.defense), ", ".join(filter(None, (on, entry.variant)))]


def _trust(standing: Standing) -> list[Any]:
    state = "doubt" if standing.doubts else "checked" if standing.audit else "unchecked"
    reasons = [f"{name}: {message}" for name, message in standing.doubts]
    if not reasons:
        reasons = ["An audit found no reason to doubt it." if standing.audit else "No audit of it is here: bench audit"]
    return [standing.trust, state, "\n".join(reasons), standing.flags]


def _robust(standing: Standing) -> list[Any]:
    return [share_cell(standing.robust), sample_in_words(standing.n)]


def _milliseconds(seconds: float | None) -> float | None:
    return figure_cell(None if seconds is None else 1000 * seconds)


def _paper(standing: Standing) -> list[str] | None:
    address, known = paper_address(standing.entry.defense), registered(standing.entry.defense)
    return [known.cited or "paper", address] if known is not None and address else None


def _published(standing: Standing) -> list[str] | None:
    run = standing.published
    if run is None or run.published is None or run.robust is None:
        return None
    figure, source = run.published
    return [f"{figure:g}", f"ours {run.robust.value:.1f} under {run.attack}; {source}"]


def _difference(standing: Standing) -> float | None:
    run = standing.published
    if run is None or run.published is None or run.robust is None:
        return None
    return round(run.robust.value - run.published[0], 1)


def _spent(name: str) -> Column[Standing]:
    tooltip = f"What the attacks of the battery spent on one example together, in {name} of the network or the defense."
    return Column(name, name.capitalize(), tooltip, lambda one: figure_cell(one.spent.get(name)), "figure",
                  layout="number", shown=False)  # fmt: skip


ROBUST_TOOLTIP = "Share of the examples that are still answered right under attack, with its 95 % interval."
WORST_TOOLTIP = (
    "Worst case over the battery, the attacks that all ranked defenses met, taken per example, with its 95 % interval."
)
CLEAN_TOOLTIP = "Share of the examples that are answered right without an attack, with its 95 % interval."
RANK_TOOLTIP = (
    "By robust accuracy in the worst case, then by clean accuracy. A refusal counts at the false rejections beside it."
)
REFUSED_TOOLTIP = (
    "Share of the examples whose clean image the defense refuses; empty for a defense that never refuses. A refusal "
    "under attack counts as robust only where the clean image is answered right."
)
DETECTED_TOOLTIP = "Share of the attacked images that the defense refuses; empty for a defense that never refuses."
LOST_TOOLTIP = "Points of accuracy that other users lose by the attacker's inputs among theirs, with a 95 % interval."
MS_TOOLTIP = "Median time of one answer of the defense, in milliseconds."
TIMES_TOOLTIP = "The time of one answer, in answers of the base alone on the same machine."
LEVEL_TOOLTIP = "The level of knowledge of the attacks."
DEFENSE_TOOLTIP = "The defense, its base, and the parameters in which its entries differ."
BASE_TOOLTIP = "The trained network that the defense runs on."


#: the board by its parts: a table on the page shows one board, its CSV may be laid beside that of another
PLACE: tuple[Column[Any], ...] = (
    Column("dataset", "Dataset", "The dataset.", lambda one: one.board.dataset, shown=False),
    Column("norm", "Norm", "The norm in which the attacks are bounded.", lambda one: one.board.norm, shown=False),
    Column("eps", "Radius", "The radius of the attacks, in units of [0, 1] pixels.", lambda one: one.board.eps,
           "precise", layout="number", shown=False),
)  # fmt: skip


RANK = Column[Standing]("rank", "Rank", RANK_TOOLTIP, lambda one: one.rank, "whole", layout="number")
DEFENSE = Column[Standing]("defense", "Defense", DEFENSE_TOOLTIP, lambda one: _name(one.entry), "name", layout="name")
ROBUST = Column[Standing]("robust", "Robust %", WORST_TOOLTIP, _robust, "share-note", layout="number")
TRUST = Column[Standing](
    "trust", "Trust", "Whether the figure is to be believed; then flags of runs and audits. Point at one to read it.",
    _trust, "trust", layout="flags",
)  # fmt: skip
WHY = Column[Standing]("why", "Why it has no rank", "What is missing.", lambda one: one.why, layout="wide")
RANKING: tuple[Column[Standing], ...] = (
    RANK,
    DEFENSE,
    Column("base", "Base", BASE_TOOLTIP, lambda one: one.entry.base, layout="name", shown=False),
    ROBUST,
    TRUST,
    Column("worst", "Worst known %", "Worst case over all attacks that were played, also those that only this one met. "
           "Where attacks saw fewer examples than n, it is a bound from above.",
           lambda one: share_cell(one.worst), "share", layout="number"),
    Column("clean", "Clean %", CLEAN_TOOLTIP, lambda one: share_cell(one.clean), "share", layout="number"),
    Column("refused", "Refuses %", REFUSED_TOOLTIP, lambda one: share_cell(one.refused), "share",
           layout="number"),
    Column("n", "n", "Number of examples in the worst case.", lambda one: one.n or None, "whole", layout="number",
           shown=False),
    Column("breakers", "Broken by", "Which attack broke which share of the examples broken in the worst known case.",
           lambda one: one.breakers, layout="wide"),
    Column("attacks", "Attacks", "The attacks in the worst known case; those that saw fewer examples say how many.",
           lambda one: one.attacks, "list", layout="wide"),
    Column("ms", "ms per answer", MS_TOOLTIP, lambda one: _milliseconds(one.answer_s), "figure", layout="number",
           shown=False),
    Column("times", "Answers of the base", TIMES_TOOLTIP, lambda one: figure_cell(one.times_base), "figure",
           layout="number"),
    Column("published", "Published %", "The lowest figure that a paper gives for this defense and attacker; its "
           "source, and ours under that attack.", _published, "folded", layout="name"),
    Column("difference", "Difference", "Our figure under that attack minus the published one, in points.",
           _difference, "figure", layout="number"),
    _spent("forwards"),
    _spent("backwards"),
    _spent("queries"),
    Column("network", "Architecture", "The network that the base trained or was given.", lambda one: one.entry.network,
           layout="name", shown=False),
    Column("extra", "Extra data", "Whether the network saw more than the training set; unknown where its weights are "
           "from elsewhere.", lambda one: one.entry.extra_data, shown=False),
    Column("paper", "Paper", "The paper that describes the defense: authors, year, venue.", _paper, "link",
           layout="name"),
    *PLACE,
    Column("level", "The attacker knows", LEVEL_TOOLTIP, lambda one: level_name(one.tier), shown=False),
)  # fmt: skip

#: what is not compared, below the ranking
UNRANKED: tuple[Column[Standing], ...] = (
    DEFENSE,
    Column("robust", "Robust % so far", "Worst case over the attacks of the level that it met.", _robust, "share-note",
           layout="number"),
    TRUST,
    WHY,
    Column("command", "What plays it", "The command that plays the attacks which are missing.",
           lambda one: one.command, "code", layout="wide"),
)  # fmt: skip

#: the page of a defense: these four, the columns of the ranking without those of `SAME_ON_DEFENSE_PAGE`, and `WHY`
STANDINGS: tuple[Column[Standing], ...] = (
    Column("board", "Board", "Dataset, norm and radius.", lambda one: one.board.name, layout="name"),
    Column("tier", "The attacker knows", LEVEL_TOOLTIP, lambda one: level_name(one.tier),
           sort=lambda one: TIERS.index(one.tier)),
    Column("base", "Base", BASE_TOOLTIP, lambda one: one.entry.base),
    Column("variant", "Parameters", "The parameters in which the entries differ.", lambda one: one.entry.variant),
)  # fmt: skip
SAME_ON_DEFENSE_PAGE = ("defense", "base", "attacks", "paper", "dataset", "norm", "eps", "level")


def _work(name: str) -> Column[AttackStanding]:
    tooltip = f"What it spent on one example, on average: {name}."
    return Column(name, name.capitalize(), tooltip, lambda one: figure_cell(one.spent.get(name)), "figure",
                  layout="number")  # fmt: skip


ATTACKS: tuple[Column[AttackStanding], ...] = (
    Column("rank", "Rank", "By the share of the breakable examples that it breaks.", lambda one: one.rank, "whole",
           layout="number"),
    Column("attack", "Attack", "The attack.", lambda one: one.attack, layout="name"),
    Column("tier", "Knows", "How much the attacker knows.", lambda one: level_name(one.tier),
           sort=lambda one: TIERS.index(one.tier) if one.tier in TIERS else None),
    Column("alone", "Breaks %", "Of the examples that it and another attack saw and that one of them broke: its share.",
           lambda one: figure_cell(one.alone), "figure", layout="number"),
    Column("beyond", "Breaks alone %", "Of the same examples: the share that no other attack broke.",
           lambda one: figure_cell(one.beyond), "figure", layout="number"),
    Column("breakable", "Breakable", "How many such examples there are, over all defenses; each counts once for each.",
           lambda one: one.breakable, "whole", layout="number"),
    Column("defenses", "Defenses", "How many entries it was played against.", lambda one: one.defenses, "whole",
           layout="number"),
    *(_work(name) for name in ("forwards", "backwards", "queries", "seconds")),
)  # fmt: skip

RUNS: tuple[Column[RunSummary], ...] = (
    Column("defense", "Defense", DEFENSE_TOOLTIP, lambda run: _name(run.entry), "name", layout="name"),
    Column("base", "Base", BASE_TOOLTIP, lambda run: run.entry.base, layout="name", shown=False),
    Column("attack", "Attack", "The attack.", lambda run: run.attack, layout="name"),
    Column("board", "Board", "Dataset, norm and radius.", lambda run: run.board.name, layout="name"),
    Column("threat", "Threat", "What the attacker may do and know; unfold it for the whole threat card.",
           lambda run: [run.threat_tag, run.threat], "folded", layout="name"),
    Column("tier", "Knows", "How much the attacker knows.", lambda run: level_name(run.tier),
           sort=lambda run: TIERS.index(run.tier) if run.tier in TIERS else None),
    Column("n", "n", "Number of attacked examples.", lambda run: run.n, "whole", layout="number"),
    Column("clean", "Clean %", CLEAN_TOOLTIP, lambda run: share_cell(run.clean), "share", layout="number"),
    Column("robust", "Robust %", ROBUST_TOOLTIP, lambda run: share_cell(run.robust), "share", layout="number"),
    Column("refused", "Refuses %", REFUSED_TOOLTIP, lambda run: share_cell(run.refused), "share",
           layout="number"),
    Column("detected", "Detects %", DETECTED_TOOLTIP, lambda run: share_cell(run.detected), "share",
           layout="number"),
    Column("lost", "Others lose", LOST_TOOLTIP, lambda run: share_cell(run.lost), "share", layout="number"),
    Column("ms", "ms per answer", MS_TOOLTIP, lambda run: _milliseconds(run.answer_s), "figure", layout="number"),
    Column("flags", "Flags and reasons", "Warnings about the run, and why it was skipped or failed.",
           lambda run: [run.flags, "" if run.status == "DONE" else f"{run.status}: {run.reason}"], "flags",
           layout="wide"),
    *PLACE,
    Column("run", "Run", "The key of the run.", lambda run: [run.run, run.page], "run"),
)  # fmt: skip

#: runs without an attack: what only an attack gives them is left out
CLEAN: tuple[Column[RunSummary], ...] = tuple(
    replace(one, shown=True) if one.name == "dataset" else one
    for one in RUNS
    if one.name not in ("attack", "board", "threat", "tier", "robust", "detected", "lost", "norm", "eps")
)

#: the figures at the top of the page of a run
RUN_FIGURES: tuple[Column[RunSummary], ...] = (
    Column("robust", "robust %", ROBUST_TOOLTIP, lambda run: share_cell(run.robust), "share"),
    Column("clean", "clean %", CLEAN_TOOLTIP, lambda run: share_cell(run.clean), "share"),
    Column("refused", "refuses %", REFUSED_TOOLTIP, lambda run: share_cell(run.refused), "share"),
    Column("detected", "detects %", DETECTED_TOOLTIP, lambda run: share_cell(run.detected), "share"),
    Column("lost", "others lose", LOST_TOOLTIP, lambda run: share_cell(run.lost), "share"),
    Column("ms", "ms per answer", MS_TOOLTIP, lambda run: _milliseconds(run.answer_s), "figure"),
    Column("times", "times the base", TIMES_TOOLTIP, lambda run: figure_cell(run.times_base), "figure"),
)

EXAMPLES: tuple[Column[Example], ...] = (
    Column("index", "Example", "Its index in the dataset.", lambda one: one.index, "whole", layout="number"),
    Column("game", "Game", "The game in which it was answered.", lambda one: one.game, "whole", layout="number"),
    Column("position", "Position", "Its position in the game.", lambda one: one.position, "whole", layout="number"),
    Column("label", "Label", "The true label.", lambda one: one.label, "whole", layout="number"),
    Column("clean", "Clean answer", "The answer without an attack; -1: refused.", lambda one: one.clean, "whole",
           layout="number"),
    Column("answer", "Answer", "The answer under attack; -1: refused.", lambda one: one.answer, "whole",
           layout="number"),
    Column("outcome", "Outcome", "survived, broken, or violation: the image broke the threat model.",
           lambda one: one.outcome, "outcome"),
    Column("distance", "Distance", "How far the image was moved, in the norm of the run.", lambda one: one.distance,
           "precise", layout="number"),
    Column("queries", "Queries", "How often the attack asked the defense.", lambda one: one.queries, "whole",
           layout="number"),
    Column("passes", "Passes", "Forward and backward passes of the attack.", lambda one: one.passes, "whole",
           layout="number"),
    Column("resent", "Answers to it again", "Where the image is sent several times: the answers in their order.",
           lambda one: " ".join(map(str, one.resent))),
    Column("resent-clean", "To the clean image", "The answers to the clean image, sent as often.",
           lambda one: " ".join(map(str, one.resent_clean))),
    Column("violation", "Note", "How the image broke the threat model.", lambda one: one.violation, layout="wide"),
)  # fmt: skip


def _of_tier(number: int, tier: str) -> Column[AuditSummary]:
    def value(audit: AuditSummary) -> list[Any]:
        robust, breakers = audit.tiers[number]
        return [share_cell(robust), breakers]

    name, words = LEVELS[tier]
    return Column(f"robust-{tier}", name, f"Robust % in the worst case of this level. {words}", value, "share-note")


AUDITS: tuple[Column[AuditSummary], ...] = (
    Column("defense", "Defense", "The audited defense.", lambda audit: [audit.defense, "", audit.variant], "name"),
    Column("base", "Base", BASE_TOOLTIP, lambda audit: audit.base),
    Column("board", "Board", "Dataset, norm and radius.", lambda audit: audit.board.name),
    Column("budget", "Budget", "How much the audit spends: quick, standard or full.", lambda audit: audit.budget),
    Column("n", "n", "Number of examples.", lambda audit: audit.n, "whole", layout="number"),
    Column("clean", "Clean", "Share of the examples that are answered right without an attack.",
           lambda audit: None if audit.clean is None else f"{audit.clean:.1f}", layout="number"),
    *(_of_tier(number, tier) for number, tier in enumerate(TIERS)),
    Column("gain", "Gain over the base", "Robust accuracy of the defense minus that of its base.",
           lambda audit: share_cell(audit.gain), "signed-share", layout="number"),
    Column("times", "Times its cost", "The cost of one answer divided by that of the base.",
           lambda audit: figure_cell(audit.times), "figure", layout="number"),
    Column("flags", "Flags", "What the checks of the audit found; point at one to read it.",
           lambda audit: [audit.flags, ""], "flags", layout="flags"),
)  # fmt: skip

#: the columns of every table, by the id of the table in its page
TABLES: dict[str, tuple[Column[Any], ...]] = {
    "ranking": RANKING,
    "unranked": UNRANKED,
    "attacks": ATTACKS,
    "runs": RUNS,
    "clean": CLEAN,
    "audits": AUDITS,
    "figures": RUN_FIGURES,
    "examples": EXAMPLES,
}


def columns_of(table: str) -> tuple[Column[Any], ...]:
    """The columns of a table. The table of a defense has those of the ranking too."""
    if table != "standings":
        return TABLES[table]
    ranking = [column for column in TABLES["ranking"] if column.name not in SAME_ON_DEFENSE_PAGE]
    return (*STANDINGS, *ranking, WHY)

"""What every flag of a run and every check of an audit means: for `bench show M3`, the site and the documents."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.analysis.figures import UNRANKED
from bench.auditing.findings import CHECKS, Check


@dataclass(frozen=True)
class Term:
    """One flag or check.

    of        what carries it: `run` or `audit`
    measured  the quantity, in words
    trips     when it trips, such as `above 0.05`; "" for a flag that is there or is not
    meaning   what a reader must know, and what to do
    unranked  the figure of a run with it is not compared with others
    """

    id: str
    of: str
    measured: str
    trips: str
    meaning: str
    unranked: bool = False


#: what stands for a paper in the texts of checks
SOURCES = {
    "C19": "Carlini et al. 2019",
    "A18": "Athalye et al. 2018",
    "AA": "the flags of AutoAttack",
    "IoAF": "Pintor et al. 2022",
    "C22": "Croce et al. 2022",
    "GMSA": "Chen et al. 2022",
    "Z22": "Zimmermann et al. 2022",
}

#: flags of runs that are no checks: what is counted, and what it means (see `bench.analysis.describe.flags`)
_OF_RUNS = {
    "survivors": (
        "examples that were attacked",
        "Only those that other attacks had left, so the share is theirs and not that of a fair draw.",
    ),
    "draws": (
        "copies that draw what the deployed defense draws",
        "No attacker of a tier knows those draws: the run measures an attack (S11), not the defense.",
    ),
    "poison": (
        "inputs that the attacker sent among those of others",
        "Unperturbed inputs of other users are judged: the run measures what the defense loses by what it serves.",
    ),
    "no-clean": (
        "clean answers that are missing",
        "The paired clean run is not there or has not ended, so there is no clean accuracy. Play it.",
    ),
    "claimed": (
        "games of a bundle that were replayed here",
        "The run came in a bundle: its hashes and figures agree, and its rows are the sender's word. Replay it: "
        "bench merge FILE --replay all.",
    ),
    "replayed": (
        "games of a bundle that were replayed here",
        "The run came in a bundle, and some of its games, drawn here, gave the same rows again. The others are the "
        "sender's word.",
    ),
    "short-batch": (
        "points in the last batch of a game",
        "A defense that answers batches got a smaller one at the end. Give an n that is a multiple of the batch.",
    ),
}


def glossary() -> list[Term]:
    """All terms: the flags of runs, then the checks of an audit in their order."""
    incomplete = Term(
        "incomplete", "audit", "steps that failed or could not be told", "",
        "The verdict lacks the examples that these attacks might have broken. Mend what failed, and audit again.",
    )  # fmt: skip
    return [*(_of_run(name) for name in _OF_RUNS), *(_of_audit(check) for check in CHECKS.values()), incomplete]


def term(name: str) -> Term | None:
    """The flag or check of this name, in any case; None where there is none."""
    return next((one for one in glossary() if one.id.lower() == name.lower()), None)


def _of_run(name: str) -> Term:
    measured, meaning = _OF_RUNS[name]
    return Term(name, "run", measured, "", meaning, name in UNRANKED)


def _of_audit(check: Check) -> Term:
    own = "run" if check.id in UNRANKED else "audit"  # V1 is a flag of runs too
    codes = re.compile(rf"\b({'|'.join(SOURCES)})\b(?=[^()]*\))")  # in brackets at the end of a sentence
    meaning = codes.sub(lambda found: SOURCES[found[1]], check.meaning)
    return Term(check.id, own, check.value, f"{check.sign} {check.threshold:g}", meaning, check.id in UNRANKED)

"""From the store to the rows of the table: what the page shows, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.results import describe
from bench.store import Store


@dataclass(frozen=True)
class Share:
    """A share in percent with its 95 % interval, and where that comes from."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class LeaderboardRow:
    """One run on the page. `ranked` is False where a flag says that the number must not be compared."""

    run: str
    status: str
    reason: str
    defense: str
    base: str
    attack: str
    dataset: str
    norm: str
    eps: float
    threat: str
    threat_tag: str
    protocol: str
    n: int
    seed: int
    clean: Share | None
    robust: Share | None
    answer_s: float | None
    seconds: float
    flags: tuple[tuple[str, str], ...]
    ranked: bool


def load_rows(store: Store) -> list[LeaderboardRow]:
    """All runs that have ended, robust first, then those without a number."""
    ended = [record for record in store.runs() if record.status in ("DONE", "SKIPPED", "FAILED")]
    rows = [_row(describe(store, record)) for record in ended]
    return sorted(rows, key=_place)


def _place(row: LeaderboardRow) -> tuple[str, str, float, str, bool, float, str]:
    """Side by side what may be compared: dataset, norm, eps, attack; there ranked before unranked, robust first."""
    robust = -row.robust.value if row.robust else 1.0
    return row.dataset, row.norm, row.eps, row.attack, not row.ranked, robust, row.defense


def _row(result: dict[str, Any]) -> LeaderboardRow:
    done = result["status"] == "DONE"
    return LeaderboardRow(
        run=result["run"],
        status=result["status"],
        reason=result["reason"],
        defense=result["defense"],
        base=result["base"],
        attack=result["attack"],
        dataset=result["dataset"],
        norm=result["norm"],
        eps=result["eps"],
        threat=result["threat_in_words"],
        threat_tag=result["threat_in_short"],
        protocol=result["protocol"],
        n=result["n"],
        seed=result["seed"],
        clean=_share(result["clean_accuracy"]),
        robust=_share(result["robust_accuracy"]) if done else None,
        answer_s=result["answer_s"],
        seconds=result["seconds"]["total"],
        flags=tuple((flag["id"], flag["message"]) for flag in result["flags"]),
        ranked=done and not any(flag["id"] in ("V1", "survivors") for flag in result["flags"]),
    )


def _share(estimate: dict[str, Any] | None) -> Share | None:
    if estimate is None:
        return None
    return Share(100 * estimate["value"], 100 * estimate["low"], 100 * estimate["high"], estimate["method"])

"""From the store to the rows of the table: what the page shows, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from bench.describe import describe
from bench.store import Store
from bench.threat import Tier


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


@dataclass(frozen=True)
class AuditLine:
    """One audit on the page. tiers: worst case by what the attacker knows, and in words which attacks broke it."""

    defense: str
    base: str
    dataset: str
    norm: str
    eps: float
    budget: str
    n: int
    clean: float | None
    tiers: tuple[tuple[Share | None, str], ...]
    gain: Share | None
    times: float | None
    flags: tuple[tuple[str, str], ...]


#: the columns of the audits, weakest knowledge first
TIERS: tuple[str, ...] = get_args(Tier)


def load_audits(store: Store) -> list[AuditLine]:
    """The verdicts of all audits, those that stand best against full knowledge first."""
    return sorted((_audit(result) for result in store.audits()), key=_standing)


def _standing(line: AuditLine) -> tuple[str, str, float, float, str]:
    full = line.tiers[-1][0]
    return line.dataset, line.norm, line.eps, -(full.value if full else -1.0), line.defense


def _audit(result: dict[str, Any]) -> AuditLine:
    verdicts = [result["verdict"].get(tier) for tier in TIERS]
    gain = result["gain"]
    return AuditLine(
        defense=result["defense"],
        base=result["base"],
        dataset=result["dataset"],
        norm=result["norm"],
        eps=result["eps"],
        budget=result["budget"],
        n=result["n"],
        clean=None if result["clean_accuracy"] is None else 100 * result["clean_accuracy"],
        tiers=tuple(
            (None, "") if verdict is None else (_share(verdict["robust_accuracy"]), _breakers(verdict["breakers"]))
            for verdict in verdicts
        ),
        gain=None if gain is None else _share(gain["difference"]),
        times=None if gain is None else gain["times_the_base"],
        flags=tuple((check["id"], check["message"]) for check in result["checks"] if check["tripped"]),
    )


def _breakers(shares: dict[str, float]) -> str:
    """What broke most of what fell."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ranked)


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

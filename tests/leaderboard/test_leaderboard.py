"""The leaderboard's rows, ranking and pages: what stands on them, and that nothing from the database becomes markup."""

from __future__ import annotations

import json
import math
import re
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from bench import config, registry
from bench.analysis.gallery import choose
from bench.errors import BadValue
from bench.planning.facts import facts_of
from bench.planning.repeat import audit_of, command_against, command_of
from bench.planning.spec import RunSpec
from bench.store import Store
from leaderboard import charts, columns, ranking
from leaderboard.addresses import slug
from leaderboard.attack_ranking import Key, Tally, attacks_of, count
from leaderboard.charts.chart import LeaderboardChart, RunData, Scope, on_base, parts_of
from leaderboard.charts.files import fullest_part
from leaderboard.charts.neighbours import label_records
from leaderboard.charts.running import accuracy_records
from leaderboard.collect import Rules, collect, collect_audits
from leaderboard.content import (
    LEVELS,
    AttackStanding,
    AuditSummary,
    Board,
    Entry,
    Example,
    Leaderboard,
    RunSummary,
    Share,
    Standing,
    radius_in_words,
)
from leaderboard.doubts import judged
from leaderboard.overview import boards_of, chart_states
from leaderboard.page import POLICY, script
from leaderboard.ranking import AnsweredRun, ranked
from leaderboard.run_page import RunDetails, verdict_of
from leaderboard.site import runs_with_page, write_site
from leaderboard.tables import Column, Format
from tests.auditing.test_audit import ROW
from tests.conftest import QUICK, Bench, plan_quick, sets, spec_of

HOSTILE = "<script>alert(1)</script>\"'&\u202eevil"
NOW = datetime(2026, 1, 1)
ROOT = Path(__file__).parents[2]
SITE = config.load(None).site
BATTERY = {str(tier): attacks for tier, attacks in SITE.battery.items()}
RULES = Rules(BATTERY)
RMC = Entry("e1", "rmc", "regular", "digits", 0)
BASE = Entry("e2", "regular", "regular", "digits", 0)


def line(entry: Entry = RMC, **values: object) -> RunSummary:
    facts: dict[str, Any] = {
        "run": "a" * 64, "status": "DONE", "reason": "", "entry": entry, "attack": "pgd", "norm": "linf", "eps": 0.2,
        "tier": "train-time", "threat": "words", "threat_tag": "linf 0.2, p 40", "protocol": "stream", "n": 4,
        "clean": Share(97.0, 91.5, 99.0, "Wilson"), "robust": Share(12.5, 7.3, 20.4, "bootstrap over 5 games"),
        "answer_s": 0.0123, "seconds": 3.0, "flags": (), "ranked": True, "coordinates": {"eps": 0.2},
        "spent": {"forwards": 1.0, "backwards": 1.0, "queries": 0.0, "simulated": 0.0, "seconds": 0.1},
    }  # fmt: skip
    return RunSummary(**{**facts, **values})


def standings_of(entry: Entry, runs: Sequence[AnsweredRun], **battery: Sequence[str]) -> list[Standing]:
    """Standings by the default battery, or by another for some tiers (with _ for -)."""
    own = {tier.replace("_", "-"): attacks for tier, attacks in battery.items()}
    return ranking.standings_of(entry, runs, {**BATTERY, **own})


def outcome(right: str, of: RunSummary, start: int = 0) -> AnsweredRun:
    """1 and 0 for examples that were answered right and wrong."""
    answers = {start + i: mark == "1" for i, mark in enumerate(right)}
    return AnsweredRun(of, answers, dict.fromkeys(answers, 0))


class Page(HTMLParser):
    """Text, tags, what is fetched, and the data blocks of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetches: list[str] = []
        self.text = ""
        self.blocks: dict[str, Any] = {}
        self._block = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.fetches += [str(given[name]) for name in ("src", "srcset", "action") if name in given]
        self.fetches += [str(given["href"])] if tag == "link" else []
        self._block = str(given.get("id")) if given.get("type") == "application/json" else ""
        self.text += " ".join(str(value) for name, value in attrs if name in ("title", "data-tip", "aria-label"))

    def handle_data(self, data: str) -> None:
        if self._block:
            self.blocks[self._block] = json.loads(data)
            self._block = ""
        self.text += data


# -- the ranking rule -------------------------------------------------------------------------------------------------


def test_the_worst_case_is_per_example_and_over_the_attacks_of_the_tier() -> None:
    """Two attacks that each leave a half leave nothing together; what needs more knowledge is of another tier."""
    played = [
        outcome("1100", line(run="1", attack="pgd")),
        outcome("0011", line(run="2", attack="fgsm")),
        outcome("1111", line(run="3", attack="square", tier="gray-black-box")),
        outcome("1000", line(run="4", attack="pgd-skip", tier="aware-full")),
    ]
    found = {one.tier: one for one in standings_of(RMC, played, train_time=("pgd", "fgsm"))}
    values = {tier: one.robust and one.robust.value for tier, one in found.items()}
    assert values == {"gray-black-box": 100.0, "train-time": 0.0, "aware-realistic": None, "aware-full": 25.0}
    assert found["train-time"].attacks == ("fgsm", "pgd") and found["train-time"].breakers == "fgsm 50%, pgd 50%"
    worst = {tier: one.worst and one.worst.value for tier, one in found.items()}
    assert worst == {**values, "aware-full": 0.0}, "an attacker who knows more can also run what needs less"
    assert found["aware-full"].attacks == ("fgsm", "pgd", "pgd-skip", "square")
    assert found["aware-realistic"].why == "it has not met pgd-skip-delayed"


def test_examples_that_no_attack_of_the_tier_saw_do_not_count() -> None:
    skip = outcome("10", line(run="1", attack="pgd-skip", tier="aware-full", n=2))
    wide = outcome("1111", line(run="2", attack="fgsm"))
    (full,) = [one for one in standings_of(RMC, [skip, wide]) if one.tier == "aware-full"]
    assert full.n == 2 and full.robust is not None and full.robust.value == 50.0


def test_attacks_that_saw_fewer_examples_say_how_many() -> None:
    few = outcome("00", line(run="1", attack="pgd-skip", tier="aware-full", n=2))
    many = outcome("1111", line(run="2", attack="random-search", tier="aware-full"))
    (full,) = [one for one in standings_of(RMC, [few, many], aware_full=["random-search"]) if one.tier == "aware-full"]
    assert full.attacks == ("pgd-skip (2 of 4)", "random-search") and full.n == 4


def test_what_broke_an_example_is_what_costs_least_of_what_broke_it() -> None:
    def spent(passes: float) -> dict[str, float]:
        return {"forwards": passes, "backwards": passes, "queries": 0.0, "simulated": 0.0, "seconds": 0.1}

    dear = outcome("0001", line(run="1", attack="autoattack", spent=spent(900.0)))
    cheap = outcome("0111", line(run="2", attack="fgsm", spent=spent(1.0)))
    (one,) = [s for s in standings_of(RMC, [dear, cheap]) if s.tier == "train-time"]
    assert one.breakers == "autoattack 67%, fgsm 33%"


def test_what_is_not_ranked_says_why() -> None:
    cheat = outcome("11", line(run="1", flags=(("V1", "2 proposals"),), ranked=False))
    (one,) = [s for s in standings_of(RMC, [cheat]) if s.tier == "train-time"]
    assert one.why == "images of pgd broke the threat model (V1)" and one.robust is not None
    left = outcome("11", line(run="1", flags=(("survivors", "2 of 9"),), ranked=False))
    (one,) = [s for s in standings_of(RMC, [left]) if s.tier == "train-time"]
    assert one.why == "it has not met pgd" and one.missing == ("pgd",) and one.robust is None
    lacking = AnsweredRun(line(run="1", attack="cw-l2"), {}, {})
    (one,) = [s for s in standings_of(RMC, [lacking]) if s.tier == "train-time"]
    assert "cw-l2 has no clean answers" in one.why
    failed = AnsweredRun(line(status="FAILED", reason="out of memory", robust=None, ranked=False), {}, {})
    (one,) = [s for s in standings_of(RMC, [failed]) if s.tier == "train-time"]
    assert one.why == "pgd FAILED: out of memory"
    assert all(
        s.rank is None and not s.front for s in ranked(standings_of(RMC, [cheat]) + standings_of(BASE, [failed]))
    )


def test_who_knows_the_draws_of_the_defense_belongs_to_no_tier() -> None:
    fair = outcome("1110", line(tier="aware-full"))
    knows = outcome("0000", line(run="b" * 64, tier="aware-full", attack="eot:pgd-skip", flags=(("draws", "words"),)))
    (standing,) = [one for one in standings_of(RMC, [fair, knows]) if one.tier == "aware-full"]
    assert standing.robust is not None and standing.robust.value == 75.0 and standing.attacks == ("pgd",)
    assert standings_of(RMC, [knows]) == []


def test_a_run_that_knows_the_draws_says_so(bench: Bench) -> None:
    few = ("-n", 2, "--workers", 1, "--set", "base.epochs=1", "--set", "defense.samples=2", "--set", "attack.steps=2")
    knows = ("--set", "threat.randomness=shared", "--json")
    done = bench("run", "--defense", "noise-vote", "--attack", "eot:pgd-skip", *few, *knows)
    assert [flag["id"] for flag in json.loads(done.out)["flags"]] == ["draws"], done.err


def test_ranks_go_by_the_worst_case_then_by_clean_accuracy() -> None:
    def standing(name: str, robust: float, clean: float, times: float | None, why: str = "") -> Standing:
        entry = Entry(name, name, "regular", "digits", 0)
        shares = (Share(value, 0, 100, "Wilson") for value in (robust, clean))
        return Standing(
            entry, Board("digits", "linf", 0.2), "aware-full", *shares, 10, ("pgd",), "", 0.01, times, (), why
        )

    made = [
        standing("a", 50, 90, 3.0), standing("b", 50, 95, 4.0), standing("c", 60, 10, 9.0), standing("d", 50, 90, 1.0),
        standing("e", 99, 99, 0.1, "broke the threat model"), standing("f", 55, 9, None),  # whose base has no time
    ]  # fmt: skip
    found = {one.entry.defense: one for one in ranked(made)}
    assert {name: one.rank for name, one in found.items()} == {"a": 4, "b": 3, "c": 1, "d": 4, "e": None, "f": 2}
    assert {name for name, one in found.items() if one.front} == {"c", "d"}


def test_games_that_share_a_state_widen_the_interval() -> None:
    run = line(run="1", attack="pgd-skip", tier="aware-full", n=20)
    other = line(run="2", attack="gmsa-avg", tier="aware-full", n=24)  # breaks nothing, and saw four examples more
    answers = {i: i < 10 for i in range(20)}
    halves = {i: i // 10 for i in answers}
    wide = AnsweredRun(other, dict.fromkeys(range(24), True), dict.fromkeys(range(24), 0), "state")
    found = [
        standings_of(RMC, outcomes, aware_full=[outcomes[-1].summary.attack])
        for outcomes in (
            [AnsweredRun(run, answers, dict.fromkeys(answers, 0), "state")],
            [AnsweredRun(run, answers, halves, "state"), wide],
            [AnsweredRun(run, answers, halves)],  # of a static defense
        )
    ]
    alone, clustered, static = (
        next(s.worst for s in standings if s.tier == "aware-full" and s.worst is not None) for standings in found
    )
    assert alone is not None and clustered is not None and static is not None
    assert alone.method == "Wilson, given this one state" and static.method == "Wilson"
    assert "6 games" in clustered.method and clustered.high - clustered.low > alone.high - alone.low


def test_attacks_are_ranked_by_what_they_break_of_what_falls() -> None:
    """pgd breaks 0 and 1, fgsm 1 and 2 of RMC's four; of the base's, pgd breaks the only one that falls."""
    tallies: dict[Key, Tally] = {}
    count([
        outcome("0011", line(run="1")), outcome("1001", line(run="2", attack="fgsm")),
        outcome("1000", line(run="3", attack="autoattack", flags=(("survivors", "left"),), ranked=False)),
        outcome("11", line(run="4", attack="clean")),
    ], tallies)  # fmt: skip
    count([outcome("01", line(BASE, run="5")), outcome("11", line(BASE, run="6", attack="square"))], tallies)
    count([outcome("11", line(BASE, run="7", eps=0.1, attack="square"))], tallies)
    found = {(one.board.eps, one.attack): one for one in attacks_of(tallies)}
    pgd, fgsm, square = (found[0.2, name] for name in ("pgd", "fgsm", "square"))
    assert len(found) == 4 and found[0.1, "square"].rank is None and found[0.1, "square"].alone is None
    assert (pgd.defenses, pgd.breakable, pgd.alone, pgd.beyond) == (2, 4, 75.0, 50.0)
    assert (fgsm.defenses, fgsm.breakable) == (1, 3)
    assert (fgsm.alone, fgsm.beyond) == (pytest.approx(200 / 3), pytest.approx(100 / 3))
    assert (square.breakable, square.alone, square.beyond) == (1, 0.0, 0.0)
    assert [one.rank for one in (pgd, fgsm, square)] == [1, 2, 3] and pgd.spent["forwards"] == 1.0
    dear = {"forwards": 99.0}
    lone: dict[Key, Tally] = {}
    count([outcome("00", line(run="1")), outcome("1", line(run="2", attack="fgsm"))], lone)
    assert [(one.attack, one.breakable) for one in attacks_of(lone)] == [("fgsm", 1), ("pgd", 1)][::-1], (
        "an example that one attack alone met says nothing about attacks"
    )
    equal: dict[Key, Tally] = {}
    count([outcome("01", line(run="1", attack="dear", spent=dear)), outcome("01", line(run="2"))], equal)
    assert [(one.attack, one.rank) for one in attacks_of(equal)] == [("pgd", 1), ("dear", 1)], "the cheaper one first"


def test_only_those_who_met_the_whole_battery_are_ranked_and_by_it_alone() -> None:
    both = {"train_time": ("pgd", "fgsm")}
    pgd, fgsm = line(run="1"), line(run="2", attack="bpda:fgsm")  # inside a wrapper it is the same attack
    dear = outcome("0000", line(run="3", attack="autoattack"))
    met = standings_of(RMC, [outcome("1101", pgd), outcome("111", fgsm, 1), dear], **both)
    lacks = standings_of(BASE, [outcome("1111", line(BASE, run="4"))], **both)
    (one,), (other,) = ([s for s in found if s.tier == "train-time"] for found in (met, lacks))
    assert (one.why, one.missing, one.n) == ("", (), 3), "only the examples that both attacks saw count"
    assert one.robust is not None and one.robust.value == pytest.approx(200 / 3), "autoattack is not of the battery"
    assert one.worst is not None and one.worst.value == 0.0
    assert (other.why, other.missing) == ("it has not met fgsm", ("fgsm",)) and other.robust is not None
    left = outcome("1", line(run="5", attack="fgsm", flags=(("survivors", "1 of 4"),)))
    (few,) = [s for s in standings_of(RMC, [outcome("1101", pgd), left], **both) if s.tier == "train-time"]
    assert few.missing == ("fgsm",), "who attacked the survivors only has not attacked the defense"
    apart = standings_of(RMC, [outcome("1", pgd), outcome("1", line(run="6", attack="fgsm"), 1)], **both)
    assert [s.why for s in apart if s.tier == "train-time"] == ["its attacks have no example in common"]
    assert {s.rank for s in ranked(met + lacks)} == {None}, "one entry that can be compared has no rank"
    better = [outcome("1111", line(BASE, run=name, attack=name)) for name in ("pgd", "fgsm")]
    ranks = ranked(met + standings_of(BASE, better, **both))
    assert {s.entry: s.rank for s in ranks if s.tier == "train-time"} == {BASE: 1, RMC: 2}


def test_reasons_not_to_believe_a_figure() -> None:
    many = outcome("1" * 90 + "0" * 30, line(run="1", n=120))
    (fair,) = [s for s in standings_of(RMC, [many]) if s.tier == "train-time"]
    verdict = AuditSummary("rmc", "", "regular", "digits", "linf", 0.2, "quick", 9, None, ((None, ""),) * 4, None, None,
                           (("M3", "adapts"), ("S5", "more steps break more")), RMC.key)  # fmt: skip

    def seen(standing: Standing, *audits: AuditSummary) -> tuple[str, list[str], list[str]]:
        (one,) = judged([standing], audits)
        return one.trust, [name for name, _ in one.doubts], [name for name, _ in one.flags]

    assert seen(fair) == ("not audited", [], [])
    assert seen(fair, verdict) == ("not to be believed", ["S5"], ["M3", "S5"])
    better = replace(verdict, budget="standard", n=100, flags=(("M3", "adapts"),))
    for order in ((verdict, better), (better, verdict)):  # the audit that spent most counts
        assert seen(fair, *order) == ("no doubt found (standard audit)", [], ["M3"])
    for other in (replace(better, entry="e9"), replace(better, eps=0.1), replace(better, entry="")):
        assert seen(fair, other)[0] == "not audited"
    assert seen(replace(fair, n=99), better)[:2] == ("not to be believed", ["small sample"])
    assert seen(replace(fair, missing=("fgsm",)), better)[:2] == ("not to be believed", ["unequal attacks"])
    assert fair.robust is not None
    below = replace(fair.robust, value=fair.robust.low - 1)
    assert seen(replace(fair, worst=below), better)[:2] == ("not to be believed", ["broken further"])
    assert seen(replace(fair, worst=replace(below, value=fair.robust.low)), better)[1] == []
    assert seen(replace(fair, robust=None, n=0), verdict)[1] == [], "where there is no figure nothing is doubted"


def test_what_a_paper_publishes_stands_beside_ours() -> None:
    known = line(run="1", published=(80.0, "a paper"), robust=Share(75.5, 70, 80, "Wilson"))
    other = line(run="2", published=(90.0, "a paper"), attack="fgsm")
    (one,) = [s for s in standings_of(RMC, [outcome("1", known), outcome("1", other)]) if s.tier == "train-time"]
    assert one.published == known, "the lowest figure claims least"
    cells = {column.name: column.value(one) for column in columns.RANKING}
    assert cells["published"] == ["80", "ours 75.5 under pgd; a paper"] and cells["difference"] == -4.5
    (none,) = [s for s in standings_of(RMC, [outcome("1", line())]) if s.tier == "train-time"]
    assert none.published is None
    assert {column.value(none) for column in columns.RANKING if column.name in ("published", "difference")} == {None}


# -- from the store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(bench: Bench) -> Store:
    """Runs of two bases' worth of defenses, in three tiers."""
    quick = sets(**{key.replace(".", "__"): value for key, value in QUICK.items()})
    probe = sets(game__p=4, game__trials=2)
    for args in (
        ("--defense", "regular", "--defense", "rmc", "--attack", "pgd", "--attack", "fgsm", *quick),
        ("--defense", "rmc", "--attack", "pgd-skip", *quick, *probe),
        ("--defense", "rmc", "--attack", "pgd", *quick, "--set", "defense.k=64"),
        ("--defense", "rmc", "--attack", "pgd-skip-delayed", *quick, *probe, "--set", "threat.delay=0"),
        ("--defense", "rmc", "--attack", "pgd-skip-delayed", *quick, *probe, "--set", "threat.delay=3"),
    ):
        assert bench("run", *args, "-n", 6, "--workers", 1).code == 0
    found = Store.open(config.load(None).store.db)
    assert found is not None
    return found


def test_the_leaderboard_of_a_store(store: Store) -> None:
    whole = collect(store, RULES)
    assert len(whole.runs) == 11 and {one.entry.defense for one in whole.runs} == {"regular", "rmc"}
    assert {one.entry.variant for one in whole.runs if one.entry.defense == "rmc"} == {"k 64", "k 128"}
    assert {one.entry.variant for one in whole.runs if one.entry.defense == "regular"} == {""}
    times = [one.times_base for one in whole.runs if one.entry.defense == "rmc"]
    assert all(value is not None and value > 1 for value in times)
    delays = [one for one in whole.runs if one.attack == "pgd-skip-delayed"]
    assert {one.coordinates["delay"] for one in delays} == {0, 3} and len({one.family for one in delays}) == 1
    assert len({one.family for one in whole.runs}) == 10  # all others are alone
    (full,) = [s for s in whole.standings if s.tier == "aware-full" and not s.why and s.entry.variant == "k 128"]
    assert full.attacks == ("fgsm", "pgd", "pgd-skip", "pgd-skip-delayed") and full.n == 6
    rows = {one.run: store.rows(one.run) for one in whole.runs}
    by_hand = {row.index for row in rows[delays[0].run]}
    for one in whole.runs:
        if one.entry.variant == "k 128" and one.attack != "clean":
            by_hand -= {row.index for row in rows[one.run] if row.answer != row.label}
    assert full.worst is not None and full.worst.value == pytest.approx(100 * len(by_hand) / 6)
    assert {one.attack for one in whole.attacks} == {"pgd", "fgsm", "pgd-skip", "pgd-skip-delayed"}
    assert {one.rank for one in whole.attacks} <= {1, 2, 3, 4, 5}
    assert {(s.entry.network, s.entry.extra_data) for s in whole.standings} == {("digits-cnn", "none")}
    assert full.spent["backwards"] > 0 and full.spent["queries"] == 0
    assert full.rank is None, "there is nothing to compare it with"


def test_what_an_entry_lacks_is_played_by_the_command_beside_it(bench: Bench, store: Store) -> None:
    import shlex

    assert bench("leaderboard", "--out", "site", "--runs", 0).code == 0
    rows = table_of(Page(Path("site/index.html").read_text()).blocks["data"], "unranked")
    commands = {(row["defense"][2], row["tier"]): row["command"] for row in rows if row["defense"][0] == "rmc"}
    assert "--attack pgd-skip-delayed" in commands["on regular, k 64", "aware-realistic"]
    command = commands["on regular, k 64", "aware-full"]
    assert command.startswith("bench run --defense rmc --base regular --attack pgd-skip --dataset digits -n 6")
    (planned,) = bench(*shlex.split(command)[1:], "--dry-run", "--json").runs
    (played,) = [record for record in store.runs() if record.spec["defense"]["params"].get("k") == 64
                 and record.spec["attack"]["name"] == "pgd"]  # fmt: skip
    for part in ("defense", "base", "dataset", "seed", "n"):
        assert planned["spec"][part] == played.spec[part], part
    gone = replace(RunSpec.from_dict(played.spec), defense=replace(RunSpec.from_dict(played.spec).defense, name="gone"))
    assert command_against(gone, ["pgd"], config.load(None), facts_of(None)) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('aware-full = ["pgd-skp"]', "No attack is called 'pgd-skp'. Did you mean 'pgd-skip'?"),
        ('aware = ["pgd"]', "site.battery.aware"),
        ("train-time = []", "site.battery.train-time in bench.toml is []"),
    ],
)
def test_a_wrong_battery_is_one_line(bench: Bench, text: str, message: str) -> None:
    Path("bench.toml").write_text(f"[site.battery]\n{text}\n")
    done = bench("leaderboard")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_other_points_are_another_board(bench: Bench) -> None:
    base = ("--defense", "regular", "--attack", "fgsm", "-n", 6, "--workers", 1, *sets(base__epochs=8))
    for more in ((), ("--set", "dataset.split=validation")):
        assert bench("run", *base, *more).code == 0
    store = Store.open(config.load(None).store.db)
    assert store is not None
    whole = collect(store, RULES)
    boards = {one.board[0] for one in whole.runs}
    assert boards == {"digits", "digits (validation)"}
    assert {s.board[0] for s in whole.standings if s.tier == "train-time" and s.robust} == boards
    assert bench("run", *base, "--seed", 1).code == 0  # another order of the points: another first six
    whole = collect(store, RULES)
    assert {one.board[0] for one in whole.runs} == {"digits (seed 0)", "digits (seed 1)", "digits (validation)"}
    assert {one.entry.variant for one in whole.runs} == {""}
    assert bench("plot", "heatmap", "--out", "x.svg", "--dataset", "digits (seed 0)").code == 0


def test_entries_are_told_apart_by_what_differs_and_by_nothing_else() -> None:
    from leaderboard.entries import entries_of

    class Record:
        def __init__(self, key: str, **changes: Any) -> None:
            values = json.loads(json.dumps(spec_of("rmc", "pgd").to_dict()))
            for part, value in changes.items():
                values[part] = {**values[part], **value}
            self.key, self.spec = key, values

    plain, other = Record("a"), Record("b", defense={"source": "other"})
    found = entries_of([plain, other])  # type: ignore[list-item]
    assert found["a"].variant != found["b"].variant and found["a"].variant.startswith("source ")
    params = plain.spec["base"]["params"]
    here, there = (Record(key, base={"params": {**params, "weights": path}}) for key, path in
                   (("a", "w.safetensors"), ("b", "/x/w.safetensors")))  # fmt: skip
    assert len(set(entries_of([here, there]).values())) == 1  # type: ignore[list-item]


def test_a_site_survives_a_defense_that_is_gone_or_changed(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    text = "from bench import register_defense\nfrom defenses.rmc import RMC\nclass Mine(RMC):\n    pass\n"
    plugin.write_text(text + "register_defense('mine', Mine)\n")
    quick = sets(base__epochs=8, defense__epochs=1, defense__k=64, defense__bank_steps=3)
    run = ("--defense", "mine", "--attack", "fgsm", "-n", 4, "--workers", 1, "--plugin", plugin, *quick)
    assert bench("run", *run).code == 0
    for number, (edit, options, said) in enumerate(
        (("", ("--plugin", plugin), "neighbour 1 in D"), ("# edited\n", ("--plugin", plugin), "mine has changed since"),
         ("", (), "No defense is called"))
    ):  # fmt: skip
        plugin.write_text(plugin.read_text() + edit)
        assert bench("leaderboard", "--out", f"site{number}", *options).code == 0
        pages = [path.read_text() for path in (tmp_path / f"site{number}" / "runs").glob("*.html")]
        assert len(pages) == 2 and all(said in page for page in pages)


def test_curves_are_of_runs_that_differ_in_one_thing(store: Store) -> None:
    whole = collect(store, RULES)
    drawn = charts.LEADERBOARD_CHARTS["curve-delay"].records(whole)
    assert [row["x"] for row in drawn] == [0, 3] and len({row["line"] for row in drawn}) == 1
    assert (
        charts.LEADERBOARD_CHARTS["curve-p"].records(whole) == []
        and charts.LEADERBOARD_CHARTS["curve-delta"].records(whole) == []
    )
    surface = charts.LEADERBOARD_CHARTS["surface-delay"].records(whole)
    assert {(row["p"], row["x"]) for row in surface} == {(4, 0), (4, 3)}
    cells = charts.LEADERBOARD_CHARTS["heatmap"].records(whole)
    played = [row for row in cells if row["robust"] is not None]
    assert len(cells) == len({(row["defense"], row["attack"]) for row in cells}) > len(played)
    assert {(row["text"], row["why"]) for row in cells if row not in played} == {("not run", "not played")}
    assert len(played) == 7  # runs without an attack are no cells


@pytest.mark.parametrize("kind", [*charts.LEADERBOARD_CHARTS, *charts.RUN_CHARTS])
def test_every_chart_is_valid_and_is_drawn(kind: str) -> None:
    import vl_convert

    chart = charts.RUN_CHARTS.get(kind) or charts.LEADERBOARD_CHARTS[kind]
    chart.spec().to_dict(validate=True)
    assert chart.name == kind and chart.title and chart.empty.endswith(".")
    value = {"robust": 50.0, "low": 40.0, "high": 60.0, "interval": "40.0 to 60.0", "n": 9}
    row = {
        **value, "defense": "rmc", "attack": "pgd", "threat": "linf", "times": 3.0, "front": True, "clean": 99.0,
        "x": 1, "p": 2, "line": "rmc", "work": 5, "forwards": 1, "backwards": 1, "queries": 3, "seconds": 0.1,
        "set": "in D", "label": 3, "count": 4, "true": "other", "game": "0", "position": 1, "accuracy": 50.0,
    }  # fmt: skip
    svg = vl_convert.vegalite_to_svg(charts.drawing(chart, [row, {**row, "x": 2, "position": 2}]), vl_version="6.4")
    assert svg.startswith("<svg") and len(svg) > 1000


def test_labels_and_the_running_accuracy_as_records() -> None:
    made = label_records({"D": [3, 0, 1], "D'": [0, 4, 0]}, 1)
    assert len(made) == 6 and {row["count"] for row in made if row["true"] == "true label"} == {0, 4}
    assert [row["accuracy"] for row in accuracy_records([[True, False, True, True]])] == [100, 50, 66.67, 75]
    assert len(accuracy_records([[True] * 5000])) <= 210


# -- the pages --------------------------------------------------------------------------------------------------------


def table_of(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a table in the data of a page: values by the name of the column, and the facts beside them."""
    table = data["tables"][name]
    names = [column["name"] for column in table["columns"]]
    return [{**row, **dict(zip(names, row["cells"], strict=True))} for row in table["rows"]]


def texts(value: Any) -> list[str]:
    """All texts in a value of JSON."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def made(whole: Leaderboard, folder: Path, **values: Any) -> dict[str, str]:
    """The written pages by their path in the folder."""
    details = RunDetails(**values)
    written = write_site(whole, folder, lambda run: details, SITE, "all", now=NOW)
    return {str(path.relative_to(folder)): path.read_text() for path in written.pages}


def test_a_site_has_an_overview_a_page_for_each_defense_and_for_each_run(tmp_path: Path) -> None:
    runs = [line(run="a" * 64), line(BASE, run="b" * 64)]
    clean = line(run="c" * 64, attack="clean")
    whole = Leaderboard(
        [*runs, clean],
        ranked(standings_of(RMC, [outcome("10", runs[0])]) + standings_of(BASE, [outcome("00", runs[1])])),
    )
    pages = made(whole, tmp_path)
    assert set(pages) == {
        "index.html", "flags.html", "about.html", "defenses/rmc.html", "defenses/regular.html",
        f"runs/{'a' * 16}.html", f"runs/{'b' * 16}.html", f"runs/{'c' * 16}.html",
    }  # fmt: skip
    assert (tmp_path / "assets/site.js").read_text() == script()
    data = Page(pages["index.html"]).blocks["data"]
    ranking = table_of(data, "ranking")
    assert [row["rank"] for row in ranking if row["tier"] == "train-time"] == [1, 2]
    (board,) = data["menus"]
    assert (board["dataset"], board["radius"], board["bases"]) == ("digits", "linf 0.2", ["regular"])
    assert [tier[:2] for tier in board["tiers"]] == [
        ["train-time", ""],
        *([tier, "nothing played"] for tier in ("aware-full", "aware-realistic", "gray-black-box")),
    ]
    pages_of_runs = {row["run"][1] for row in table_of(data, "runs")}
    assert pages_of_runs == {f"runs/{'a' * 16}.html", f"runs/{'b' * 16}.html"}
    for of in (data, Page(pages["defenses/rmc.html"]).blocks["data"]):  # a run without an attack is not among these
        assert [row["run"][0] for row in table_of(of, "clean")] == ["c" * 64]
        assert "c" * 64 not in {row["run"][0] for row in table_of(of, "runs")}
    assert "clean" not in Page(pages["defenses/regular.html"]).blocks["data"]["tables"]
    assert next(row["paper"] for row in ranking if row["defense"][0] == "rmc")[1].startswith("https://")
    assert made(whole, tmp_path) == pages  # the same input gives the same pages


#: pages without text of plug-ins and databases
OWN = ("flags.html", "about.html")


def hostile_pages(folder: Path) -> dict[str, str]:
    """A written site with hostile text wherever a plug-in or a database can put text."""
    entry = Entry("e", HOSTILE, HOSTILE, HOSTILE, 0, HOSTILE)
    known = registry.Entry(HOSTILE, "x:Y", summary=HOSTILE, paper="javascript:alert(1)")
    registry.defenses._entries[HOSTILE] = known  # no plug-in may be called so, but a database may hold anything
    names = dict.fromkeys(("attack", "threat", "threat_tag", "norm", "protocol", "reason"), HOSTILE)
    bad = line(entry, **names, status="FAILED", robust=Share(1, 0, 2, HOSTILE), flags=((HOSTILE, HOSTILE),))
    tiers = ((Share(1, 0, 2, HOSTILE), HOSTILE),) * 4
    audit = AuditSummary(*[HOSTILE] * 5, 0.2, HOSTILE, 9, None, tiers, None, None, ((HOSTILE, HOSTILE),))
    example = Example(1, 0, 0, 1, None, 1, HOSTILE, None, 0, 0, HOSTILE)
    image = {"src": "data:,", "alt": HOSTILE, "caption": HOSTILE, "width": 1, "height": 1}
    said = ((HOSTILE, HOSTILE),)
    standings = [replace(one, command=HOSTILE, why=HOSTILE, doubts=said, flags=said)
                 for one in standings_of(entry, [AnsweredRun(bad, {}, {})])]  # fmt: skip
    attack = AttackStanding(HOSTILE, HOSTILE, bad.board, 1, 1, 50.0, 0.0, {}, 1)
    return made(
        Leaderboard([bad], standings, [audit], {tier: [HOSTILE] for tier in BATTERY}, [attack]), folder,
        command=HOSTILE, command_note=HOSTILE, gallery_note=HOSTILE, examples=[example], facts=[(HOSTILE, HOSTILE)],
        gallery=[{"index": 1, "kind": "broken", "words": HOSTILE, "images": [image]}],
        drawings=[{"chart": "running", "title": HOSTILE, "rows": [{"game": HOSTILE, "position": 1, "accuracy": 50.0}]}],
    )  # fmt: skip


def test_names_and_reasons_stay_text(tmp_path: Path) -> None:
    pages = hostile_pages(tmp_path)
    assert len(pages) == 5
    assert all(re.fullmatch(r"[a-z]+/[a-z0-9-]+\.html|(index|flags|about)\.html", name) for name in pages)
    for name, html in pages.items():
        page = Page(html)
        blocks = len(page.blocks)
        assert page.tags.count("script") == 1 + blocks and "alert(1)</script>" not in html.replace("&lt;", "<!")
        assert "javascript:" not in html and (HOSTILE in texts(page.blocks) or name in OWN), name
        assert name in ("index.html", *OWN) or HOSTILE in page.text, name


def two_boards() -> Leaderboard:
    """Entries on two bases and two boards, with runs in three tiers, at two delays and without an attack."""
    skip: dict[str, Any] = {"attack": "pgd-skip-delayed", "tier": "aware-realistic"}
    adversarial = Entry("e3", "pgd-at", "pgd-at", "digits", 0)
    lines = [
        *(line(entry, run=f"{name}{eps}", eps=eps, attack=name, robust=Share(value, value - 5, value + 5, "Wilson"),
               times_base=2.0)
          for entry, value in ((RMC, 60.0), (BASE, 10.0), (adversarial, 40.0)) for name in ("pgd", "fgsm")
          for eps in (0.1, 0.2)),
        *(line(run=f"delay {delay}", coordinates={"eps": 0.2, "p": 4.0, "delay": delay}, **skip)
          for delay in (0.0, 5.0)),
        line(run="clean", attack="clean", eps=0.0),
    ]  # fmt: skip
    standings = [
        one
        for entry in (RMC, BASE, adversarial)
        for one in standings_of(entry, [outcome("1100", run) for run in lines if run.entry == entry])
    ]
    return Leaderboard(lines, ranked(standings))


def test_the_page_has_the_records_of_every_chart_in_every_state(tmp_path: Path) -> None:
    """The browser picks a state; what it then draws is what the entry of the chart gave."""
    whole = two_boards()
    data = Page(made(whole, tmp_path)["index.html"]).blocks
    boards = boards_of(whole)
    assert len(boards) == 2 and len(data["charts"]["drawings"]) >= 5
    seen = 0
    for drawing in data["charts"]["drawings"]:
        chart = charts.LEADERBOARD_CHARTS[drawing["chart"]]
        parts = parts_of(chart, whole)
        for number, board in enumerate(boards):
            for tier in ("gray-black-box", "train-time", "aware-realistic", "aware-full"):
                for base in (None, "regular", "pgd-at"):
                    found = [state for state in drawing["states"] if number in state["boards"]
                             and state["tier"] in (None, tier) and state["base"] == base]  # fmt: skip
                    part = parts.get(Scope(*board, tier if chart.scope == "tier" else ""), Leaderboard())
                    records = chart.records(on_base(part, base))
                    assert [[drawing["pool"][at] for at in state["rows"]] for state in found] == [records][: len(found)]
                    assert len(found) == bool(records)
                    seen += len(found)
        assert all(state["rows"] for state in drawing["states"])
    assert seen > 40


def test_the_script_knows_formats_and_neither_columns_nor_charts() -> None:
    import leaderboard.page

    own = (leaderboard.page.ASSETS / "app.js").read_text()
    formats = re.search(r"const FORMATS = \{\n(.*?)\n\};", own, re.S)
    assert formats is not None
    assert sorted(re.findall(r'^  "?([a-z-]+)"?[:,]', formats[1], re.M)) == sorted(get_args(Format))
    whole = two_boards()
    fields = {
        name
        for chart in charts.LEADERBOARD_CHARTS.values()
        for part in parts_of(chart, whole).values()
        for record in chart.records(part)
        for name in record
    }
    assert {"robust", "front", "times", "work"} <= fields
    assert not re.findall(rf"\.({'|'.join(fields)})\b", own)
    named = [*charts.LEADERBOARD_CHARTS, *charts.RUN_CHARTS, "pgd"]
    named += [column.title for columns_ in columns.TABLES.values() for column in columns_ if len(column.title) > 6]
    assert [name for name in named if name in own] == []


def test_names_of_charts_and_columns_differ() -> None:
    assert not charts.LEADERBOARD_CHARTS.keys() & charts.RUN_CHARTS.keys()
    with pytest.raises(ValueError, match="Two charts have the same name"):
        charts.by_name(*charts.RUN_CHARTS.values(), *charts.RUN_CHARTS.values())
    for table in (*columns.TABLES, "standings"):
        names = [column.name for column in columns.columns_of(table)]
        assert len(names) == len(set(names)) and all(column.tooltip for column in columns.columns_of(table))


def test_a_new_column_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine: Column[Standing] = Column("seed", "Seed", "The seed of the entry.", lambda one: one.entry.seed, "whole",
                                    sort=lambda one: -one.entry.seed, layout="number", shown=False)  # fmt: skip
    monkeypatch.setitem(columns.TABLES, "ranking", (*columns.RANKING, mine))
    pages = made(two_boards(), tmp_path)
    for name, table in (("index.html", "ranking"), ("defenses/rmc.html", "standings")):
        data = Page(pages[name]).blocks["data"]
        (added,) = [one for one in data["tables"][table]["columns"] if one["name"] == "seed"]
        assert added == {
            "name": "seed", "title": "Seed", "tooltip": "The seed of the entry.", "format": "whole", "layout": "number",
            "exported": True, "shown": False, "has_sort": True,
        }  # fmt: skip
        assert {tuple(row["seed"]) for row in table_of(data, table)} == {(0, 0)}


def test_a_new_chart_is_one_entry(bench: Bench, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import altair as alt

    def records(part: Leaderboard) -> list[dict[str, Any]]:
        return [{"attack": run.attack, "n": run.n} for run in part.runs if run.attack == "fgsm"]

    mine = LeaderboardChart(
        name="examples-of-fgsm", title="Examples of FGSM", note="a note", empty="It needs a run of fgsm.",
        spec=lambda: alt.Chart(alt.Data(name="rows")).mark_bar().encode(x="n:Q", y="attack:N"), records=records,
        pages=("overview", "defense"),
    )  # fmt: skip
    monkeypatch.setitem(charts.LEADERBOARD_CHARTS, mine.name, mine)
    pages = made(two_boards(), tmp_path / "site")
    for name in ("index.html", "defenses/rmc.html"):
        page = Page(pages[name])
        (drawing,) = [one for one in page.blocks["charts"]["drawings"] if one["chart"] == mine.name][:1]
        assert f'<figure class="chart" id="{drawing["id"]}"' in pages[name] and "Examples of FGSM" in page.text
        assert drawing.get("pool", drawing.get("rows")) == [{"attack": "fgsm", "n": 4}]
        assert page.blocks["charts"]["specs"][mine.name] == charts.spec_of(mine)
    assert bench("plot", mine.name, "--out", "mine.svg").out == "mine.svg (2 points)\n"
    assert "Examples of FGSM: digits, linf 0.2" in (tmp_path / "mine.svg").read_text().replace("&nbsp;", " ")
    none = bench("plot", mine.name, "--out", "mine.svg", "--norm", "l2")
    assert none.code == 2 and "It needs a run of fgsm." in none.err
    unknown = bench("plot", mine.name, "--out", "mine.svg", "--norm", "l3")
    assert unknown.code == 2 and "No norm is called 'l3'." in unknown.err


def test_pages_fetch_nothing_but_the_two_files_beside_them(tmp_path: Path) -> None:
    for name, html in made(Leaderboard([line()]), tmp_path).items():
        root = "../" if "/" in name else ""
        page = Page(html)
        assert sorted(page.fetches) == [f"{root}assets/site.css", f"{root}assets/site.js"]
        assert f'http-equiv="Content-Security-Policy" content="{POLICY}"' in html.replace("&#39;", "'")
        assert "style=" not in html
    assert "unsafe" not in POLICY and "http" not in POLICY and "default-src 'none'" in POLICY


def test_the_site_says_where_its_documents_are_and_how_to_cite_it(tmp_path: Path) -> None:
    (title,) = re.findall(r'^title: "?(.*?)"?$', (ROOT / "CITATION.cff").read_text(), re.M)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    plain = made(Leaderboard(), tmp_path)["about.html"]
    assert f"{{{title}}}" in plain and f"{{{version}}}" in plain
    assert all(f'id="{name}"' in plain for name in ("levels", "add", "cite", "documents", "repository", *LEVELS))
    own = SITE.model_copy(update={"name": "mine", "documents": "https://d.test/", "repository": "https://r.test/"})
    write_site(Leaderboard(), tmp_path, lambda run: RunDetails(), own, now=NOW)
    for name in ("index.html", *OWN):
        html = (tmp_path / name).read_text()
        assert '<a href="https://d.test/" rel="noreferrer">Documents</a>' in html and ">mine</a>" in html
        assert '<a href="https://r.test/" rel="noreferrer">Repository</a>' in html


def test_addresses_of_the_site_start_with_https(bench: Bench) -> None:
    Path("bench.toml").write_text('[site]\nrepository = "javascript:alert(1)"\n')
    done = bench("leaderboard")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "site.repository in bench.toml is 'javascript:alert(1)'" in done.err and "starts with https://" in done.err


def test_an_empty_database_says_what_to_run(tmp_path: Path) -> None:
    pages = made(Leaderboard(), tmp_path)
    assert (
        list(pages) == ["index.html", *OWN]
        and "bench run --defense rmc --attack pgd-skip-delayed" in pages["index.html"]
    )


def test_which_runs_get_a_page() -> None:
    whole = Leaderboard([line(run=str(i), ranked=i > 0) for i in range(4)])
    assert [one.run for one in runs_with_page(whole, "all")] == ["0", "1", "2", "3"]
    assert [one.run for one in runs_with_page(whole, "ranked")] == ["1", "2", "3"]
    assert [one.run for one in runs_with_page(whole, "2")] == ["1", "2"]
    for wrong in ("some", "-1", "1.5", ""):
        with pytest.raises(BadValue, match="--runs is"):
            runs_with_page(whole, wrong)


def test_radii_that_differ_are_told_apart() -> None:
    assert [radius_in_words("linf", eps) for eps in (0.2, 8 / 255, 0.0313725, 0.1 + 0.2)] == [
        "linf 0.2", "linf 8/255", "linf 0.0313725", "linf 0.30000000000000004",
    ]  # fmt: skip


def test_a_single_point_is_no_chart_and_many_series_differ() -> None:
    one, two = (line(run=name, attack=name) for name in ("pgd", "fgsm"))
    cost = charts.LEADERBOARD_CHARTS["attack-cost"]
    assert cost.records(Leaderboard([one])) == [] and len(cost.records(Leaderboard([one, two]))) == 2
    standings = [
        replace(s, times_base=1.0, rank=1)
        for entry in (RMC, BASE) for s in standings_of(entry, [outcome("11", line(entry))]) if s.tier == "train-time"
    ]  # fmt: skip
    pareto = charts.LEADERBOARD_CHARTS["pareto"]
    assert pareto.records(Leaderboard([], standings[:1])) == [] and len(pareto.records(Leaderboard([], standings))) == 2
    heatmap, boards = charts.LEADERBOARD_CHARTS["heatmap"], [Board("digits", "linf", 0.2)]
    assert chart_states(heatmap, Leaderboard([one]), boards)["states"] == []
    assert len(chart_states(heatmap, Leaderboard([one, two]), boards)["pool"]) == 2
    for answers, points in (([[True]], 0), ([[True, False]], 2)):
        data = RunData([replace(ROW, index=i, position=i) for i in range(len(answers[0]))],
                       {(0, i): right for i, right in enumerate(answers[0])}, [])  # fmt: skip
        assert sum(len(one.records) for one in charts.RUN_CHARTS["running"].records(data)) == points
    encoding = charts.spec_of(cost)["encoding"]
    assert encoding["color"]["scale"]["scheme"] == "tableau20", "twenty colours"
    symbols = encoding["shape"]["scale"]["range"]
    assert math.lcm(20, len(set(symbols))) >= 60, "so many series differ in colour or symbol"
    assert encoding["shape"]["legend"] == encoding["color"]["legend"]


def test_a_file_is_drawn_of_the_part_with_most_figures() -> None:
    sparse = [line(Entry(str(i), f"d{i}", "regular", "digits", 0), run=str(i), attack=f"a{i}") for i in range(4)]
    dense = [line(run=f"m{i}", attack=f"a{i}", eps=0.3) for i in range(5)]
    heatmap = charts.LEADERBOARD_CHARTS["heatmap"]
    found = fullest_part(heatmap, Leaderboard([*sparse, *dense]), lambda scope: True)
    assert found is not None and found[0].eps == 0.3 and len(found[1]) == 5  # not the 4 figures among 16 cells


def test_an_empty_cell_of_the_heat_map_says_why() -> None:
    on = [Entry(f"k{k}", "rmc", "regular", "digits", 0, f"k {k}") for k in (10, 9)]
    runs = [
        line(on[0], run="1", attack="pgd"), line(on[1], run="2", attack="pgd", robust=Share(40, 30, 50, "Wilson")),
        line(on[0], run="3", attack="bpda", status="SKIPPED", reason="it has a gradient", robust=None),
        line(on[1], run="4", attack="square", status="FAILED", reason="ValueError: no", robust=None),
        line(on[0], run="5", attack="fgsm", ranked=False, flags=(("V1", "too far"),)),
        line(on[1], run="6", attack="clean"),
    ]  # fmt: skip
    heatmap = charts.LEADERBOARD_CHARTS["heatmap"]
    cells = {(row["defense"], row["attack"]): (row["text"], row["why"]) for row in heatmap.records(Leaderboard(runs))}
    first, second = (entry.label for entry in on)
    assert cells == {  # k 9 before k 10
        (second, "bpda"): ("not run", "not played"), (second, "fgsm"): ("not run", "not played"),
        (second, "pgd"): ("40", None), (second, "square"): ("failed", "FAILED: ValueError: no"),
        (first, "bpda"): ("skipped", "SKIPPED: it has a gradient"), (first, "fgsm"): ("flagged", "V1: too far"),
        (first, "pgd"): ("12", None), (first, "square"): ("not run", "not played"),
    }  # fmt: skip
    assert [defense for defense, _ in cells] == [second] * 4 + [first] * 4
    assert heatmap.records(Leaderboard(runs[2:])) == []


def test_charts_take_the_run_of_most_examples_and_the_lowest_of_a_cell() -> None:
    at = {"eps": 0.2, "p": 4.0, "delay": 5.0}
    common: dict[str, Any] = {"attack": "pgd-skip-delayed", "family": "f"}
    few = line(run="1", n=10, robust=Share(20, 5, 40, "Wilson"), coordinates=at, **common)
    many = line(run="2", n=1000, robust=Share(40, 38, 42, "Wilson"), coordinates=at, **common)
    far = line(run="3", n=9, coordinates={**at, "delay": 9.0}, **common)
    for order in ([few, many, far], [many, few, far]):
        curve = {
            row["x"]: row["robust"] for row in charts.LEADERBOARD_CHARTS["curve-delay"].records(Leaderboard(order))
        }
        surface = {
            row["x"]: row["robust"] for row in charts.LEADERBOARD_CHARTS["surface-delay"].records(Leaderboard(order))
        }
        assert curve[5.0] == 40 and surface[5.0] == 20 and len(curve) == len(surface) == 2


def test_audits_say_what_they_are_of_and_what_they_lack() -> None:
    result: dict[str, Any] = {
        "defense": "rmc", "base": "regular", "dataset": "digits", "norm": "linf", "eps": 0.2, "budget": "quick", "n": 9,
        "clean_accuracy": None, "verdict": {}, "gain": None, "checks": [], "failed": ["pgd-skip"],
        "runs": {"pgd-skip": "a"},
    }  # fmt: skip

    class Audits:
        def audits(self) -> list[dict[str, Any]]:
            return [result]

    entries = {"a": Entry("key", "rmc", "regular", "digits (seed 1)", 1, "k 64")}
    (found,) = collect_audits(Audits(), entries)  # type: ignore[arg-type]
    assert (found.dataset, found.variant) == ("digits (seed 1)", "k 64")
    assert found.flags[0][0] == "incomplete" and "pgd-skip FAILED" in found.flags[0][1]


def test_file_names_of_any_names() -> None:
    assert slug("rmc-plus") == "rmc-plus"
    others = ["../../etc/passwd", "A", "a b", "..", "", "x" * 200, "con:1"]
    assert len({slug(name) for name in others}) == len(others)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", slug(name)) for name in others)


# -- the commands -----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_site_of_a_store(bench: Bench, store: Store, tmp_path: Path) -> None:
    done = bench("leaderboard", "--out", "site", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["runs"] == 11 and found["pages"] == 1 + 2 + 2 + 11
    shown = next(one for one in collect(store, RULES).runs if one.entry.variant == "k 128" and one.attack == "pgd")
    html = (tmp_path / "site" / "runs" / f"{shown.run[:16]}.html").read_text()
    page = Page(html)
    assert page.tags.count("img") >= 6 * 3 and "neighbour 1 in D&#39;, label" in html
    assert "the trained weights, not the adapted ones" in page.text and "D': the" in page.text
    assert len(table_of(page.blocks["data"], "examples")) == 6
    assert page.blocks["charts"]["drawings"][0]["rows"][-1]["position"] == 6
    assert "bench run --defense rmc --base regular --attack pgd --dataset digits -n 6 --seed 0" in page.text
    assert bench("leaderboard", "--out", "few", "--runs", 2).out.endswith("7 pages)\n")
    assert bench("leaderboard", "--runs", "some").code == 2
    (tmp_path / "file").touch()
    assert bench("leaderboard", "--out", "file").code == 2
    assert bench("leaderboard", "--db", "none.db", "--out", "empty").code == 0 and not Path("none.db").exists()


def test_charts_as_files_without_a_browser(bench: Bench, store: Store) -> None:
    run = next(one.run for one in collect(store, RULES).runs if one.entry.defense == "rmc" and one.attack == "pgd")
    for form, head in (("png", b"\x89PNG"), ("svg", b"<svg"), ("html", b"<!DOCTYPE html>")):
        for kind in ("heatmap", "curve-delay", "pareto"):
            done = bench("plot", kind, "--out", f"{kind}.{form}", "--tier", "train-time")
            assert done.code == 0, done.err
            assert Path(f"{kind}.{form}").read_bytes().lstrip()[:15].lower().startswith(head.lower())
        for kind in ("running", "neighbours"):
            assert bench("plot", kind, "--run", run[:12], "--out", f"{kind}.{form}").code == 0


WRONG_CHARTS = (
    (("heatmp", "--out", "x.png"), "Did you mean 'heatmap'"),
    (("heatmap", "--out", "x.gif"), "ends in .png, .svg or .html"),
    (("heatmap", "--out", "x.png", "--dataset", "mnist"), "no runs here of which heatmap"),
    (("heatmap", "--out", "no/x.png"), "cannot be written"),
    (("curve-known", "--out", "x.png"), "no runs here of which curve-known"),
    (("running", "--out", "x.png"), "name it with --run"),
    (("pareto", "--out", "x.png", "--tier", "all"), "No tier is called 'all'"),
    (("pareto", "--out", "x.png", "--scale", "0"), "--scale is 0"),
    (("pareto", "--out", "x.png", "--scale", "nan"), "--scale is nan"),
    (("heatmap", "--out", "x.png", "--eps", "big"), "--eps is 'big'"),
)


def test_a_wrong_request_for_a_chart_is_one_line(bench: Bench, store: Store) -> None:
    for args, message in WRONG_CHARTS:
        done = bench("plot", *args)
        assert done.code == 2 and message in done.err and done.err.count("\n") == 1, args


def test_neighbours_of_an_example_that_has_none(bench: Bench, store: Store) -> None:
    run = next(one.run for one in collect(store, RULES).runs if one.entry.defense == "regular" and one.attack == "pgd")
    done = bench("plot", "neighbours", "--run", run[:12], "--out", "x.png")
    assert done.code == 2 and "neighbours cannot be drawn of any example" in done.err
    assert "an example for which the defense searched neighbours" in done.err


# -- how to repeat a run, and what is shown of it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "attack", "keys"),
    [
        ("regular", "pgd", {}),
        ("rmc", "pgd-skip-delayed", {"threat.delay": 7, "game.p": 3, "game.trials": 2, "defense.k": 64}),
        ("rmc-plus", "pgd-skip-partial", {"defense.delta": 0.5, "threat.known": 0.3}),
        ("noise-vote", "eot:pgd-skip", {"attack.samples": 3, "base.seed": 4}),
        ("webnn", "square", {"threat.queries": 17, "threat.queries_served": True, "dataset.train_size": 800}),
        ("pgd-at", "cw-l2", {"attack.steps": 3}),
        ("regular", "cw-l2", {"attack.steps": 3, "threat.eps": 1.5}),
        ("dent", "fpa", {"defense.batch_size": 3}),
        ("regular", "pgd-skip", {"game.protocol": "stream"}),
        ("rmc", "fgsm", {"game.protocol": "replay"}),
    ],
)
def test_the_command_of_a_run_gives_the_same_run(
    bench: Bench, defense: str, attack: str, keys: dict[str, object]
) -> None:
    given = {key.replace(".", "__"): value for key, value in keys.items()}
    spec = spec_of(defense, attack, n=5, **given)
    text, note = command_of(spec, config.load(None), facts_of(None))
    assert note == "" and text.startswith(f"bench run --defense {defense}")
    import shlex

    done = bench(*shlex.split(text)[1:], "--dry-run", "--json")
    assert [row["run"] for row in done.runs] == [spec.key]


def test_another_norm_has_its_radius_in_the_command(bench: Bench) -> None:
    import shlex

    args = ("--defense", "regular", "--attack", "pgd", "--norm", "l2", "--eps", "0.2", "-n", 5)
    (planned,) = bench("run", *args, "--dry-run", "--json").runs
    text, note = command_of(RunSpec.from_dict(planned["spec"]), config.load(None), facts_of(None))
    assert note == "" and "--eps 0.2 --norm l2" in text
    assert [row["run"] for row in bench(*shlex.split(text)[1:], "--dry-run", "--json").runs] == [planned["run"]]


def test_a_radius_that_was_forced_is_forced_in_the_command(bench: Bench) -> None:
    import shlex

    args = ("--defense", "regular", "--attack", "pgd", "--norm", "l2", "--eps", "8", "-n", 5, "--dry-run", "--json")
    (planned,) = bench("run", *args, "--force-eps").runs
    text, note = command_of(RunSpec.from_dict(planned["spec"]), config.load(None), facts_of(None))
    assert note == "" and text.endswith("--force-eps")
    assert [row["run"] for row in bench(*shlex.split(text)[1:], "--dry-run", "--json").runs] == [planned["run"]]


def test_radii_stand_in_the_command_where_the_dataset_has_none(bench: Bench) -> None:
    import shlex

    args = ("--defense", "rmc", "--attack", "pgd", "--eps", "0.3", "-n", 5, "--set", "defense.eps=0.1", "--dry-run")
    (planned,) = bench("run", *args, "--json").runs
    own = config.load(None)
    digits = {name: part for name, part in own.dataset["digits"].items() if name != "eps"}
    bare = own.model_copy(update={"dataset": {**own.dataset, "digits": digits}})
    text, note = command_of(RunSpec.from_dict(planned["spec"]), bare, facts_of(None))
    assert note == "" and "--eps 0.3" in text and "defense.eps=0.1" in text
    assert [row["run"] for row in bench(*shlex.split(text)[1:], "--dry-run", "--json").runs] == [planned["run"]]


NETWORK = """
from torch import nn

def build(num_classes, image_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.mark.parametrize("defense", ["given", "hedge"])
def test_the_network_of_a_base_that_is_not_trained_stands_in_every_command(
    bench: Bench, tmp_path: Path, defense: str
) -> None:
    import shlex

    from safetensors.torch import save_file
    from torch import nn

    (tmp_path / "own.py").write_text(NETWORK)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), "own.safetensors")
    own = ("--base", "given", "--set", "base.model=own.py:build", "--set", "base.weights=own.safetensors")
    args = ("--defense", defense, "--attack", "pgd", "--eps", "2/255", "-n", 5, *own, "--set", "dataset.train_size=900")
    (planned,) = bench("run", *args, "--dry-run", "--json").runs
    spec, settings = RunSpec.from_dict(planned["spec"]), (config.load(None), facts_of(None))
    needed = {"base.model=own.py:build", "base.weights=own.safetensors", "dataset.train_size=900"}
    text, note = command_of(spec, *settings)
    assert note == "" and {word for word in shlex.split(text) if "=" in word} == needed and "--eps 2/255" in text
    assert [row["run"] for row in bench(*shlex.split(text)[1:], "--dry-run", "--json").runs] == [planned["run"]]
    others = shlex.split(command_against(spec, ["fgsm", "bim"], *settings))
    assert {word for word in others if "=" in word} == needed
    rows = bench(*others[1:], "--dry-run", "--json").runs
    assert [row["attack"] for row in rows] == ["fgsm", "bim"]
    assert all(row["spec"][part] == planned["spec"][part] for row in rows for part in ("defense", "base", "dataset"))
    audit = shlex.split(audit_of(spec, *settings))
    assert audit[:3] == ["bench", "audit", defense] and {word for word in audit if "=" in word} == needed
    assert audit[audit.index("--eps") + 1] == "2/255" and ("--base" in audit) == (defense == "hedge")
    assert bench(*audit[1:], "--dry-run").code == 0


def test_what_a_run_does_not_share_with_an_audit_is_not_in_its_command(bench: Bench) -> None:
    settings = config.load(None), facts_of(None)
    args = ("--defense", "regular", "--attack", "hopskipjump", "-n", 5, "--set", "threat.queries=9", "--dry-run")
    (minimal,) = bench("run", *args, "--json").runs
    assert audit_of(RunSpec.from_dict(minimal["spec"]), *settings) == "bench audit regular"
    far = plan_quick("rmc", "pgd", 5, {"base.epochs": 3, "defense.k": 64}, ("0.1",))
    audit = audit_of(far, *settings)
    assert audit.startswith("bench audit rmc --eps 0.1 --set ") and "-n" not in audit
    assert "--set defense.k=64" in audit and "--set base.epochs=3" in audit and "attack." not in audit
    gone = RunSpec.from_dict({**far.to_dict(), "defense": {**far.to_dict()["defense"], "name": "gone"}})
    assert audit_of(gone, *settings) == ""
    held = spec_of("regular", "pgd").to_dict()
    held["defense"] = held["base"] = {**held["base"], "name": "given", "params": {"model": "network", "weights": ""}}
    assert audit_of(RunSpec.from_dict(held), *settings) == ""


def test_a_command_has_what_the_pages_were_made_with(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[run]\nn = 3\n")
    with_it = ("--config", "own.toml")
    assert bench("run", "--defense", "regular", "--attack", "pgd", "--set", "base.epochs=1", *with_it).code == 0
    assert bench("leaderboard", "--runs", "all", "--out", "site", *with_it).code == 0
    pages = [path.read_text() for path in (tmp_path / "site" / "runs").glob("*.html")]
    assert pages and all("--config own.toml" in page for page in pages)


def test_a_run_that_no_command_gives_says_so() -> None:
    spec = spec_of("regular", "pgd", n=5)
    left = RunSpec.from_dict({**spec.to_dict(), "chosen": [1, 3]})
    assert command_of(left, config.load(None), facts_of(None)) == (
        "", "This run attacked what others had left, as a step of an audit; repeat the audit: bench audit",
    )  # fmt: skip
    old = RunSpec.from_dict({**spec.to_dict(), "base": {**spec.to_dict()["base"], "source": "older"}})
    text, note = command_of(old, config.load(None), facts_of(None))
    assert text and "changed since" in note
    gone = RunSpec.from_dict({**spec.to_dict(), "attack": {**spec.to_dict()["attack"], "name": "gone"}})
    text, note = command_of(gone, config.load(None), facts_of(None))
    assert text == "" and "No attack is called 'gone'" in note


@pytest.mark.parametrize(
    "more",
    [
        {"attack": "pgd", "eps": 0.3, "norm": "l2", "n": 3, "seed": 2, "sets": {"attack.steps": 2}},
        {"attack": "eot:pgd", "eps": 0.1, "defense": "noise-vote", "sets": {"defense.samples": 3, "attack.samples": 2}},
        {"attack": "square", "eps": 0.1, "network": "mine", "name": "images", "sets": {"threat.queries": 7}},
        {"attack": "pgd-skip", "eps": 0.1, "sets": {"game.protocol": "stream", "attack.steps": 2}},
        {"attack": "clean", "sets": {"base.seed": 3}},
        {"attack": "fgsm", "eps": 1.0, "force_eps": True},
    ],
)
def test_the_lines_of_a_network_in_memory_give_the_same_run(tmp_path: Path, more: dict[str, Any]) -> None:
    import bench as lib

    x, y = np.random.default_rng(0).random((4, 1, 8, 8), dtype="float32"), np.arange(4) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    given = {"db": str(tmp_path / "runs.db"), "normalize": (0.5, 0.5)}
    with warnings.catch_warnings(action="ignore"):
        played = lib.evaluate(model, x, y, **more, **given)
        text, note = command_of(RunSpec.from_dict(played.spec), config.load(None), facts_of(None))
        lines = text.replace("bench.evaluate(", "found = bench.evaluate(").removesuffix(")") + ", **given)"
        there: dict[str, Any] = {"model": model, "x": x, "y": y, "given": given}
        exec(lines, there)
    assert text.startswith("import bench\n\nbench.evaluate(model, x, y, attack=") and "No command can name" in note
    assert there["found"].run == played.run


def test_the_verdict_of_a_run_says_what_its_figure_means_and_whether_to_believe_it() -> None:
    whole = line(n=200)
    one = verdict_of(whole)
    assert (one.figure, one.trust, one.state) == (whole.robust, "no doubt found in this run", "checked")
    assert one.words == (
        "Of 200 images of digits it answers 97.0 % right without an attack and 12.5 % under pgd; with 95 % confidence "
        "the latter is from 7.3 to 20.4 %."
    )
    small = verdict_of(line(n=30, clean=None))
    assert (small.trust, small.state) == ("not to be believed", "doubt") and small.reasons.startswith(
        "small sample: 30"
    )
    assert "it answers 12.5 % right under pgd; with 95 % confidence it is from" in small.words
    moved = verdict_of(line(n=200, ranked=False, flags=(("V1", "too far"), ("seen", "often"))))
    assert moved.trust == "not to be believed" and moved.reasons == "V1: too far"
    drawn = verdict_of(line(n=200, ranked=False, flags=(("draws", "it knows the draws"),)))
    assert (drawn.trust, drawn.reasons) == ("not to be compared", "draws: it knows the draws")
    assert "right without an attack; with 95 % confidence it is" in verdict_of(line(n=200, attack="clean")).words
    poison = verdict_of(line(n=200, lost=Share(4.0, 1.0, 7.0, "paired"))).words
    assert "that other users sent, unperturbed" in poison and "cost 4.0 points (1.0 to 7.0)" in poison
    failed = verdict_of(line(status="FAILED", reason="ValueError: no", robust=None))
    assert failed.figure is None and failed.words == "There is no figure: FAILED: ValueError: no."
    assert verdict_of(line(robust=None)).words == "There is no figure: it has no rows that count."


def test_the_gallery_shows_both_outcomes_and_violations_first() -> None:
    rows = [replace(ROW, index=i, position=i, answer=int(i < 6), violation="far" if i == 9 else "") for i in range(10)]
    assert [row.index for row in choose(rows, 5)] == [9, 0, 6, 1, 7]
    assert [row.index for row in choose(rows[:6], 3)] == [0, 1, 2]


def test_a_run_without_its_images_says_so(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "other"))
    assert bench("leaderboard", "--out", "site").code == 0
    page = next((tmp_path / "site" / "runs").glob("*.html")).read_text()
    assert "The images of this run are not here" in page and "<img" not in page


def test_a_run_whose_dataset_has_changed_is_shown_without_its_points(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def raises(*_: object) -> None:
        raise KeyError("a column that is gone")

    monkeypatch.setattr("bench.game.resources.RunResources.points", raises)
    assert bench("leaderboard", "--out", "site").code == 0
    page = next((tmp_path / "site" / "runs").glob("*.html")).read_text()
    assert "The clean points of this run are not here" in page and "a column that is gone" in page


def test_a_page_of_a_minimal_attack_speaks_of_its_budget(bench: Bench, tmp_path: Path) -> None:
    """Images that were moved farther than the budget count with the clean answer: headline, chart and table agree."""
    far = sets(base__epochs=8, attack__steps=20, attack__binary_search_steps=1, attack__initial_const=1000.0,
               attack__step_size=1.0)  # fmt: skip
    assert bench("run", "--defense", "regular", "--attack", "cw-l2", "-n", 6, "--workers", 1, *far).code == 0
    assert bench("leaderboard", "--out", "site").code == 0
    store = Store.open(config.load(None).store.db)
    assert store is not None
    (one,) = [found for found in collect(store, RULES).runs if found.attack == "cw-l2"]
    blocks = Page((tmp_path / "site" / "runs" / f"{one.run[:16]}.html").read_text()).blocks
    outcomes = [row["outcome"] for row in table_of(blocks["data"], "examples")]
    assert one.robust is not None and one.robust.value > 0
    assert outcomes.count("survived") / 6 == pytest.approx(one.robust.value / 100)
    assert blocks["charts"]["drawings"][0]["rows"][-1]["accuracy"] == pytest.approx(one.robust.value, abs=0.01)


def test_large_images_stay_small() -> None:
    from bench.analysis.gallery import Shown
    from leaderboard.images import BYTES, gallery_data

    torch.manual_seed(0)
    many = [Shown(ROW, torch.rand(3, 224, 224), torch.rand(3, 224, 224)) for _ in range(12)]
    found = gallery_data(many, lambda row: "broken")
    spent = sum(len(image["src"]) for one in found for image in one["images"])
    assert 1 <= len(found) < 12 and spent <= BYTES
    (small,) = gallery_data([Shown(ROW, torch.zeros(1, 8, 8), torch.ones(1, 8, 8))], lambda row: "broken")
    assert all(image["src"].startswith("data:image/png") for image in small["images"])

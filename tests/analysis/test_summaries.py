"""Summaries of runs: they say what the rows say, spare readers the rows, and are believed only while they are fresh."""

from __future__ import annotations

import ast
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench as lib
from bench.analysis import summaries
from bench.analysis.figures import figures_of, outcomes_of
from bench.analysis.forms import FiguresForm, OutcomesForm, has_form
from bench.execution.runner import Runner, _Active
from bench.planning.spec import RunSpec
from bench.rows import REFUSED
from bench.settings import Settings
from bench.store import Claim, GameRecord, RunRecord, Store, WholeRun, examples, is_sqlite
from tests.analysis.test_metrics import ROW
from tests.conftest import ROOT, Bench, sets, spec_of
from tests.hostile.places import not_writable

PLAY = ("run", "--defense", "regular", "--attack", "pgd", "-n", 6, "--workers", 1, *sets(base__epochs=2))
#: a number of violations that no run of six examples has: it is seen where a summary is believed
PLANTED = 77


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "sound.db"


@pytest.fixture
def db(bench: Bench, made: Path) -> str:
    """A copy of a database with a clean and an attacked run."""
    if not made.exists():
        assert bench(*PLAY, "--db", made).code == 0
    with sqlite3.connect(made) as sound, sqlite3.connect("copy.db") as copy:
        sound.backup(copy)
    return "copy.db"


def sql(db: str, statement: str, *values: object) -> list[Any]:
    connection = sqlite3.connect(db)
    with connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


def listed(bench: Bench, db: str) -> dict[str, dict[str, Any]]:
    told = bench("list", "runs", "--json", "--db", db)
    assert told.code == 0 and not told.err, told
    return {run["attack"]: run for run in json.loads(told.out)}


def plant(db: str) -> None:
    """Write a figure into the summaries that the rows do not give."""
    sql(db, "UPDATE summaries SET figures = json_set(figures, '$.violations', ?)", PLANTED)


def test_readers_of_runs_read_no_rows(bench: Bench, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise AssertionError("rows are read")

    sql(db, "UPDATE summaries SET stamp = 'of then'")
    with monkeypatch.context() as patched:  # control: without a summary, they are
        patched.setattr(examples, "columns_by_run", refused)
        with pytest.raises(AssertionError, match="rows are read"):
            lib.results(db).to_pandas()
    before = listed(bench, db)
    monkeypatch.setattr(examples, "columns_by_run", refused)
    assert listed(bench, db) == before and before["pgd"]["robust_accuracy"]["value"] <= 1
    assert list(lib.results(db).to_pandas()["violations"]) == [0, 0]
    assert bench("leaderboard", "--runs", 0, "--out", "site", "--db", db).code == 0


def test_a_run_that_ends_has_its_summary_and_it_says_what_the_rows_say(bench: Bench, db: str) -> None:
    assert len(sql(db, "SELECT * FROM summaries")) == 2
    store = Store.open(db)
    assert store is not None
    fresh = {record.key: one for record, one in summaries.summaries(store, store.runs(), outcomes=True)}
    assert fresh == summaries.from_rows(store, store.runs()) and all(one.answered.right for one in fresh.values())  # type: ignore[union-attr]
    assert [summaries.differences(store, record) for record in store.runs()] == [{}, {}]
    plant(db)
    assert listed(bench, db)["pgd"]["violations"] == PLANTED  # control: this is what the others read
    store.close()


#: the runs with this attack
OF = "(SELECT key FROM runs WHERE attack = '{}')"
#: what outdates the summary of the attacked run
CHANGES = {
    "an answer": f"UPDATE examples SET answer = 1 - min(answer, 1) WHERE run IN {OF.format('pgd')}",
    "two answers exchanged": "UPDATE examples SET answer = (SELECT answer FROM examples e WHERE e.run = examples.run "
    f"AND e.position = 5 - examples.position) WHERE run IN {OF.format('pgd')}",
    "a text": "UPDATE examples SET violation = 'it is too far' WHERE position = 3",
    "seconds": "UPDATE examples SET attack_s = attack_s + 1",
    "a row": "DELETE FROM examples WHERE position = 5",
    "a game": "UPDATE games SET wall_s = wall_s + 1",
    "a flag": "UPDATE games SET flags = '{\"short-batch\": \"it is short\"}'",
    "a clean answer": f"UPDATE examples SET answer = 1 - min(answer, 1) WHERE run IN {OF.format('clean')}",
    "no clean run": "UPDATE runs SET clean_key = NULL",
    "a bundle": "UPDATE runs SET origin = '{\"file\": \"x.zip\", \"replayed\": []}'",
    "a new end": "UPDATE runs SET finished = finished + 1",
    "a request": "UPDATE runs SET spec = json_set(spec, '$.threat.eps', 0.19)",
    "a failure": "UPDATE runs SET status = 'FAILED', reason = 'so it is'",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_summary_of_what_was_is_not_believed(bench: Bench, db: str, change: str) -> None:
    plant(db)
    sql(db, CHANGES[change])
    assert listed(bench, db)["pgd"]["violations"] in (0, 1)
    assert listed(bench, db)["pgd"]["violations"] != PLANTED  # nor is it the second time: the new one is kept
    kept = f"SELECT json_extract(figures, '$.violations') FROM summaries WHERE run IN {OF.format('pgd')}"
    assert sql(db, kept) in ([(0,)], [(1,)])


def test_a_summary_by_other_code_is_not_believed(bench: Bench, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(db)
    monkeypatch.setattr(summaries, "computed_by", lambda: ["of another version"])
    assert listed(bench, db)["pgd"]["violations"] == 0


def test_the_code_of_a_summary_is_that_of_all_that_its_modules_import() -> None:
    """A module that is imported from elsewhere in the package would change figures without outdating them."""
    known = {f"bench.{name.removesuffix('.py')}" for name in summaries.SOURCES}
    own = ("answered", "figures", "forms", "harm", "intervals", "metrics", "pairs", "worst_case")
    for path in (*(ROOT / "bench" / "analysis" / f"{name}.py" for name in own), ROOT / "bench" / "rows.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench"):
                assert any(f"{node.module}.".startswith(f"{name}.") for name in known), (path.name, node.module)


@pytest.mark.parametrize("column", ["figures", "outcomes"])
@pytest.mark.parametrize(
    "text",
    ["", "[1", "null", '"text"', "{}", "[" * 20_000, '{"violations": 0}',
     lambda figures: {**figures, "robust_accuracy": {"value": 7.0, "low": 0, "high": 1, "method": "x"}},
     lambda figures: {**figures, "answer_s": "soon"}, lambda figures: {**figures, "redraws": None},
     lambda figures: {**figures, "seconds": {}}, lambda figures: {**figures, "harm": {"lost": 3, "moments": []}},
     lambda figures: {**figures, "uncut_accuracy": None}, lambda figures: {**figures, "answer_s": float("nan")},
     lambda outcomes: {**outcomes, "right": "1"}, lambda outcomes: {**outcomes, "index": ["one"]}],
)  # fmt: skip
def test_a_damaged_summary_is_made_anew(bench: Bench, db: str, column: str, text: Any) -> None:
    ((before,),) = sql(db, f"SELECT {column} FROM summaries WHERE run IN {OF.format('pgd')}")
    damaged = text if isinstance(text, str) else json.dumps(text(json.loads(before)))
    plant(db)
    sql(db, f"UPDATE summaries SET {column} = ?", damaged)
    store = Store.open(db)
    assert store is not None
    (record,) = store.runs(attack=["pgd"])
    assert summaries.differences(store, record)["summary"] == ("damaged", "computed anew")
    assert summaries.summary(store, record, outcomes=True) == summaries.from_rows(store, [record])[record.key]
    assert summaries.differences(store, record) == {}
    store.close()


def test_an_older_database_has_no_summaries_and_gets_them(bench: Bench, db: str) -> None:
    before = listed(bench, db)
    sql(db, "DROP TABLE summaries")
    sql(db, "UPDATE alembic_version SET version_num = '0008'")
    assert listed(bench, db) == before and len(sql(db, "SELECT * FROM summaries")) == 2


def test_a_database_that_cannot_be_written_is_read_without_summaries(bench: Bench, db: str) -> None:
    before = listed(bench, db)
    sql(db, "DELETE FROM summaries")
    Path("theirs").mkdir()
    assert is_sqlite(Path(db))
    with sqlite3.connect(db) as connection:
        connection.execute("VACUUM INTO 'theirs/bench.db'")
    connection.close()
    with not_writable(Path("theirs")):
        assert listed(bench, "theirs/bench.db") == before
    assert sql("theirs/bench.db", "SELECT * FROM summaries") == []


def test_a_reader_does_not_wait_for_a_writer(bench: Bench, db: str) -> None:
    before = listed(bench, db)
    sql(db, "PRAGMA journal_mode = WAL")
    sql(db, "DELETE FROM summaries")
    writer = sqlite3.connect(db, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    assert listed(bench, db) == before and time.monotonic() - start < 20  # with the patience of writers it is a minute
    writer.execute("ROLLBACK")
    writer.close()
    assert sql(db, "SELECT * FROM summaries") == []
    assert listed(bench, db) == before and len(sql(db, "SELECT * FROM summaries")) == 2


# -- runs of every kind ----------------------------------------------------------------------------------------------


def record_of(spec: dict[str, Any], **values: Any) -> RunRecord:
    record = RunRecord(
        key="a" * 64, status="DONE", reason="", detail="", spec=spec, clean_key=None, provenance={}, host="", pid=0,
        process_start=0.0, heartbeat=0.0, created=1.0, finished=2.0,
    )  # fmt: skip
    return replace(record, **values)


def kinds() -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    spec = json.loads(json.dumps(spec_of("regular", "pgd").to_dict()))
    rows = [replace(ROW, position=i, index=i) for i in range(6)]
    yield "plain", spec, rows
    yield "no rows", spec, []
    yield "minimal", {**spec, "attack_kind": "minimal"}, rows
    yield "abstains", {**spec, "abstains": True}, [replace(rows[0], answer=REFUSED, clean_answer=None), *rows[1:]]
    yield "draws", spec, [replace(row, game=game) for game in (0, 1) for row in rows]
    yield "resent", spec, [replace(row, resent={"attacked": [row.label, 9], "clean": [1, 2]}) for row in rows]
    yield "harm", {**spec, "kind": "runtime"}, [replace(row, poison=row.position < 2) for row in rows]
    yield "broken", {**spec, "chosen": [1]}, [replace(rows[0], violation="too far")]


def test_the_forms_take_the_figures_of_every_kind_of_run() -> None:
    found = set()
    for kind, spec, rows in kinds():
        record = record_of(
            {**spec, "game": {**spec["game"], "facts": {**spec["game"]["facts"], "splits": kind == "plain"}}}
        )
        clean = {(row.game, row.index): row.label for row in rows} if kind in ("harm", "abstains", "minimal") else {}
        right = outcomes_of(record, [row for row in rows if not row.poison], clean)
        games = [GameRecord(0, 6, 6, "", True, 0.1, 0.2, 0.3, 0, 0, 0.0, [0.5], {"short-batch": "it is short"})]
        figures = json.loads(json.dumps(figures_of(record, rows, games, clean, right, None)))
        assert has_form(FiguresForm, figures), (kind, figures)
        found |= set(figures)
        answered = summaries.Answered.of(record, rows, {(row.game, row.index): True for row in rows})
        assert has_form(OutcomesForm, json.loads(json.dumps(answered.to_json())))
        assert summaries.Answered.from_json(answered.to_json()) == answered
    assert found == set(FiguresForm.model_fields)


# -- who keeps them --------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[], tuple[Store, RunSpec, RunSpec]]:
    """A database in which this process holds an attacked run and its clean one."""

    def begin() -> tuple[Store, RunSpec, RunSpec]:
        store = Store.open(str(tmp_path / "pair.db"))
        assert store is not None
        clean, attacked = spec_of("regular", "clean"), spec_of("regular", "pgd")
        for spec, key in ((clean, None), (attacked, clean.key)):
            assert store.claim(spec, key, {"environment": {}}, "missing") is Claim.MINE
        return store, clean, attacked

    return begin


def test_a_summary_waits_for_the_clean_run(
    pair: Callable[[], tuple[Store, RunSpec, RunSpec]], cache_root: Path
) -> None:
    """Whichever of the two ends first, both have one when both have ended."""
    store, clean, attacked = pair()
    runner = Runner(store, Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1))
    for spec, clean_key, kept in ((attacked, clean.key, set()), (clean, None, {clean.key, attacked.key})):
        active = _Active(spec, clean_key, iter(()))  # type: ignore[arg-type]
        runner._end(active, "SKIPPED", "nothing is played")
        assert set(store.summaries([clean.key, attacked.key])) == kept
    store.close()


def test_a_run_that_is_played_anew_loses_its_summary_and_so_does_one_that_is_deleted(bench: Bench, db: str) -> None:
    store = Store.open(db)
    assert store is not None
    (record,) = store.runs(attack=["pgd"])
    spec = RunSpec.from_dict(record.spec)
    assert store.claim(spec, record.clean_key, record.provenance, "all") is Claim.MINE
    assert record.key not in store.summaries([record.key]) and listed(bench, db)["pgd"]["status"] == "RUNNING"
    assert record.key not in store.summaries([record.key])  # of what goes on, none is kept
    store.finish(record.key, "FAILED", "it was stopped")
    assert listed(bench, db)["pgd"]["reason"] == "it was stopped" and record.key in store.summaries([record.key])
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("DELETE FROM runs WHERE attack = 'pgd'")
    connection.commit()
    connection.close()
    assert record.key not in store.summaries([record.key])
    store.close()


def test_runs_of_a_bundle_are_summed_up_too(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "x.db"))
    assert store is not None
    spec = spec_of("regular", "clean")
    record = record_of(spec.to_dict(), key=spec.key, origin={"file": "x.zip", "replayed": []})
    store.add_runs([WholeRun(record, [replace(ROW, position=i, index=i) for i in range(3)], [], [])])
    assert summaries.keep(store, [record]) == {spec.key}
    (flag,) = store.summaries([spec.key])[spec.key].figures["flags"]
    assert flag["id"] == "claimed"
    store.note_replayed(spec.key, [0])
    found = store.resolve(spec.key)
    assert summaries.keep(store, [record]) == set()  # it has changed since it was read
    assert summaries.summary(store, found).figures["flags"] == []
    store.close()

"""The contract of the store, every test over SQLite and PostgreSQL: leases, chunks, suites, audits, refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Float, Integer, inspect, text
from sqlalchemy.exc import IntegrityError

from bench.errors import StoreError, UnknownName
from bench.rows import Cost, Meter, Resume
from bench.store import (
    Claim,
    GameRecord,
    LeaseLost,
    Needs,
    RunRecord,
    Store,
    StoredSummary,
    WholeRun,
    glance_at,
    schema,
)
from bench.store.tables import Table
from tests.analysis.test_metrics import ROW
from tests.conftest import ROOT, migrate, spec_of

PROVENANCE: dict[str, Any] = {"environment": {"torch": "1", "device": "cpu"}}
#: takes the run whose spec is on standard input, commits its first chunk, says so, and waits to be killed
HOLDER = """
import json, sys, time
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume
from bench.store import Store
from tests.store.test_store import PROVENANCE, rows
spec, store = RunSpec.from_dict(json.load(sys.stdin)), Store.open(sys.argv[1])
print(store.claim(spec, None, PROVENANCE, "missing").value)
store.commit(spec.key, rows(0, 2), "f" * 64, Resume(2, 2, "a"), Meter(), 0.0)
print("committed", flush=True)
time.sleep(600)
"""

Opener = Callable[[], Store]


@pytest.fixture
def open_store(db_url: str) -> Iterator[Opener]:
    """Opens the database once more, as another process would; all are closed after the test."""
    stores: list[Store] = []

    def opener() -> Store:
        store = Store.open(db_url)
        assert store is not None
        stores.append(store)
        return store

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Opener) -> Store:
    return open_store()


def claim(store: Store, rerun: str = "missing", provenance: dict[str, Any] = PROVENANCE) -> Claim:
    return store.claim(spec_of("regular", "clean"), None, provenance, rerun)


def key() -> str:
    return spec_of("regular", "clean").key


def rows(start: int, count: int, game: int = 0) -> list[Any]:
    return [replace(ROW, game=game, position=i, index=i) for i in range(start, start + count)]


def pretend(store: Store, **values: object) -> None:
    """Write columns of all runs, past the rules of leases."""
    with store._engine.begin() as connection:
        for column, value in values.items():
            connection.execute(text(f"UPDATE runs SET {column} = :v"), {"v": value})


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What `call(0)`, ..., `call(count - 1)` give, each in a thread of its own."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


# -- leases ----------------------------------------------------------------------------------------------------------


def test_a_run_is_claimed_once_and_finished_once(store: Store, open_store: Opener) -> None:
    assert claim(store) is Claim.MINE
    assert claim(open_store()) is Claim.HELD  # this process is alive
    store.commit(key(), rows(0, 3), "f" * 64, Resume(3, 3, "a"), Meter(1.0, 2.0), 4.0)
    store.end_game(key(), 0, Meter(0.5, 0.5), 1.0)
    store.finish(key(), "DONE")
    assert claim(store) is Claim.FINISHED and store.find(key()).status == "DONE"  # type: ignore[union-attr]
    (game,) = store.games(key())
    assert (game.attack_s, game.defense_s, game.wall_s, game.done, game.rows) == (1.5, 2.5, 5.0, True, 3)
    with pytest.raises(LeaseLost):
        store.commit(key(), rows(3, 1), "f" * 64, Resume(4, 4, "a"), Meter(), 0.0)


def test_of_many_claims_at_once_one_gets_the_run(open_store: Opener) -> None:
    """A run that nobody has begun, and one whose holder is dead."""
    stores = [open_store() for _ in range(4)]
    for _ in ("new", "abandoned"):
        claims = at_once(4, lambda i: claim(stores[i]))
        assert sorted(one.value for one in claims) == ["held", "held", "held", "mine"]
        pretend(stores[0], pid=2**22 + 1)


def test_a_run_of_a_killed_process_is_taken_over_with_its_rows(store: Store, db_url: str) -> None:
    spec = spec_of("regular", "clean")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, db_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(spec.to_dict()))
        process.stdin.close()
        assert [process.stdout.readline().strip() for _ in range(2)] == ["mine", "committed"]
        assert claim(store) is Claim.HELD and store.needs().played == (key(),)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert store.needs() == Needs(frozenset({"f" * 64}), frozenset({"a"}))
    assert claim(store) is Claim.MINE and len(store.rows(key())) == 2
    assert store.games(key())[0].resume == Resume(2, 2, "a")


def test_a_dead_holder_is_followed_at_once_on_this_host_and_after_a_minute_on_another(store: Store) -> None:
    claim(store)
    pretend(store, pid=2**22 + 1)
    assert claim(store) is Claim.MINE
    zombie = subprocess.Popen(["true"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    pretend(store, pid=zombie.pid, process_start=psutil.Process(zombie.pid).create_time())
    assert claim(store) is Claim.MINE
    zombie.wait()
    pretend(store, process_start=1.0)  # the number of a dead process, given to a new one
    assert claim(store) is Claim.MINE
    pretend(store, host="elsewhere", heartbeat=time.time() - 30)
    assert claim(store) is Claim.HELD
    pretend(store, heartbeat=time.time() - 61)
    assert claim(store) is Claim.MINE


def test_a_heartbeat_is_written_only_by_the_holder(store: Store) -> None:
    claim(store)
    pretend(store, heartbeat=1.0)
    assert store.heartbeat([key()]) and store.find(key()).heartbeat > 1.0  # type: ignore[union-attr]
    pretend(store, heartbeat=1.0, pid=1)
    assert store.heartbeat([key()]) and store.find(key()).heartbeat == 1.0  # type: ignore[union-attr]


def test_who_lost_the_lease_writes_nothing_more(store: Store) -> None:
    claim(store)
    pretend(store, pid=1)
    for write in (
        lambda: store.commit(key(), rows(0, 1), "f" * 64, Resume(1, 1, ""), Meter(), 0.0),
        lambda: store.end_game(key(), 0, Meter(), 0.0),
        lambda: store.finish(key(), "DONE"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.rows(key()) == [] and store.games(key()) == []


def test_a_run_that_was_never_claimed_cannot_be_written(store: Store) -> None:
    with pytest.raises(LeaseLost):
        store.commit(key(), rows(0, 1), "f" * 64, Resume(1, 1, ""), Meter(), 0.0)
    assert store.rows(key()) == [] and store.find(key()) is None


def test_rerun_all_starts_again_and_failed_takes_only_the_failed(store: Store) -> None:
    claim(store)
    store.commit(key(), rows(0, 2), "f" * 64, Resume(2, 2, ""), Meter(), 0.0)
    store.finish(key(), "FAILED", "why", "trace")
    assert claim(store) is Claim.FINISHED
    assert claim(store, "failed") is Claim.MINE
    assert store.rows(key()) == [] and store.games(key()) == [] and store.image_files(key()) == []
    store.finish(key(), "DONE")
    assert claim(store, "failed") is Claim.FINISHED and claim(store, "all") is Claim.MINE


def test_any_message_can_be_a_reason(store: Store) -> None:
    """A file's name that is no UTF-8, a zero byte: what somebody's code may say, and no database takes."""
    claim(store)
    store.finish(key(), "FAILED", "no \udcff.png\0", "trace\0 \ud800 ä")
    found = store.find(key())
    assert found is not None and (found.status, found.reason) == ("FAILED", "no \\udcff.png\\x00")
    assert found.detail == "trace\\x00 \\ud800 ä"


def test_rows_of_another_environment_are_not_mixed(store: Store) -> None:
    claim(store)
    store.release(key())
    other = {"environment": {"torch": "2", "device": "cpu"}}
    assert claim(store, provenance=other) is Claim.MINE  # nothing was written yet: the run is the new one's
    store.commit(key(), rows(0, 2), "f" * 64, Resume(2, 2, ""), Meter(), 0.0)
    store.release(key())
    for refuse in (lambda: claim(store), lambda: store.check_resumable(key(), PROVENANCE)):
        with pytest.raises(StoreError, match=r"torch 2 then, 1 now.*--rerun all"):
            refuse()
    store.check_resumable(key(), other)
    assert claim(store, "all") is Claim.MINE
    assert store.find(key()).provenance == PROVENANCE  # type: ignore[union-attr]


# -- rows, games and files -------------------------------------------------------------------------------------------


def test_a_chunk_replaces_what_stands_after_its_start(store: Store) -> None:
    claim(store)
    for chunk, resume in (
        (rows(0, 3), Resume(3, 3, "a")),
        (rows(3, 3), Resume(6, 6, "b")),
        (rows(0, 2), Resume(2, 2, "c")),
    ):
        store.commit(key(), chunk, "f" * 64, resume, Meter(), 0.0)
    assert [row.position for row in store.rows(key())] == [0, 1]
    assert store.games(key())[0].resume == Resume(2, 2, "c")
    assert store.image_files(key()) == [(0, 0, 2, "f" * 64)]


def test_rows_come_back_as_they_were_by_game_and_position(store: Store) -> None:
    claim(store)
    second = [replace(row, neighbours={"bank": [0, 7]}, believed=None, violation='"ε"') for row in rows(0, 2, game=1)]
    store.commit(key(), second, "b" * 64, Resume(2, 2, ""), Meter(), 0.0)
    store.commit(key(), rows(0, 3), "a" * 64, Resume(3, 3, ""), Meter(), 0.0)
    assert store.rows(key()) == rows(0, 3) + second and store.count_rows(key()) == 5
    assert store.image_files(key()) == [(0, 0, 3, "a" * 64), (1, 0, 2, "b" * 64)]
    facts = dict(store.facts([key(), "0" * 64], ("game", "index")))
    assert [tuple(one) for one in facts[key()]] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] and facts["0" * 64] == []


def test_many_runs_are_read_as_one_by_one(store: Store) -> None:
    specs = [spec_of("regular", "clean", n=number + 3) for number in range(3)]
    keys = [spec.key for spec in specs]
    for number, name in enumerate(keys[:2]):
        assert store.claim(specs[number], None, PROVENANCE, "missing") is Claim.MINE
        many = [replace(row, neighbours={"D": [number]}) for row in rows(0, number + 1)]
        store.commit(name, many, "a" * 64, Resume(number + 1, number + 1, ""), Meter(), 0.5)
    together, games = store.all_rows_of(keys), store.games_of(keys)
    assert list(together) == list(games) == keys and [len(together[name]) for name in keys] == [1, 2, 0]
    for name in keys:
        assert together[name] == store.all_rows(name) and games[name] == store.games(name)
    lean = store.all_rows_of(keys, without=("neighbours", "distances"))
    expected = [replace(row, neighbours=None, distances={}) for row in together[keys[1]]]
    assert lean[keys[1]] == expected and together[keys[1]][0].neighbours == {"D": [1]}


def test_a_distance_that_is_not_a_number_comes_back_as_one(store: Store) -> None:
    claim(store)
    unmeasured = replace(ROW, distances={**ROW.distances, "linf": math.nan})
    store.commit(key(), [unmeasured], "f" * 64, Resume(1, 1, ""), Meter(), 0.0)
    (row,) = store.rows(key())
    assert math.isnan(row.distances.pop("linf")) and row.distances == {"l2": 0.2, "l0": 1.0}


def test_a_game_keeps_its_background_and_its_flags(store: Store) -> None:
    claim(store)
    background = Cost(2, 10, 3.0, (1.0, 2.0))
    store.commit(key(), rows(0, 1), "f" * 64, Resume(1, 3, ""), Meter(background=background, flags={"a": "1"}), 0.0)
    store.end_game(key(), 0, Meter(flags={"b": "2"}), 0.0)
    (game,) = store.games(key())
    assert (game.background_answers, game.background_steps, game.background_s) == (2, 10, 3.0)
    assert game.background_delays == [1.0, 2.0] and game.flags == {"a": "1", "b": "2"} and game.served == 3


def test_a_game_that_is_done_needs_no_state(store: Store) -> None:
    claim(store)
    store.commit(key(), rows(0, 1), "f" * 64, Resume(1, 1, "a"), Meter(), 0.0)
    store.commit(key(), rows(0, 1, game=1), "e" * 64, Resume(1, 1, "b"), Meter(), 0.0)
    store.end_game(key(), 0, Meter(), 0.0)
    assert store.needs() == Needs(frozenset({"e" * 64, "f" * 64}), frozenset({"b"}), (key(),))
    store.finish(key(), "DONE")
    assert store.needs() == Needs(frozenset({"e" * 64, "f" * 64}))


# -- runs, suites and audits -----------------------------------------------------------------------------------------


def test_runs_are_listed_by_their_beginning_and_selected_by_their_columns(store: Store) -> None:
    specs = [spec_of("regular", "clean"), spec_of("fgsm-at", "clean"), spec_of("regular", "pgd")]
    for spec in specs:
        store.claim(spec, None, PROVENANCE, "missing")
    assert [run.key for run in store.runs()] == [spec.key for spec in specs]
    assert [run.key for run in store.runs(defense=["regular"], attack=["pgd", "fgsm"])] == [specs[2].key]
    assert store.runs(defense=[]) == []


def test_a_run_is_named_by_a_unique_prefix(store: Store) -> None:
    claim(store)
    assert store.resolve(key()[:6]).key == key()
    with pytest.raises(UnknownName):
        store.resolve("0000000000")
    for wrong in ("abc", "zzzz", "%", "' OR 1=1"):
        with pytest.raises(StoreError, match="is no run"):
            store.resolve(wrong)
    pretend(store, key=key()[:6] + "0" * 58)
    claim(store)
    with pytest.raises(StoreError, match="several runs; give more digits"):
        store.resolve(key()[:6])


def test_a_suite_has_the_runs_that_have_begun(store: Store) -> None:
    store.add_to_suite("tiny", [key(), "c" * 64])
    assert store.suite_runs("tiny") == []
    claim(store)
    store.add_to_suite("tiny", [key()])
    assert [run.key for run in store.suite_runs("tiny")] == [key()] and store.suite_runs("other") == []


def test_many_processes_may_note_the_same_suite_at_once(open_store: Opener) -> None:
    stores = [open_store() for _ in range(4)]
    keys = [f"{i:064x}" for i in range(300)]
    at_once(4, lambda i: stores[i].add_to_suite("tiny", keys))
    with stores[0]._engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM suite_runs")).scalar() == 300


def verdict(defense: str, number: int = 0) -> dict[str, Any]:
    return {"defense": defense, "base": "regular", "dataset": "digits", "budget": "quick", "number": number}


def test_a_later_verdict_replaces_the_one_with_its_key(store: Store) -> None:
    for audit_key, result in (("a", verdict("rmc")), ("b", verdict("dent")), ("a", verdict("rmc", 1))):
        store.put_audit(audit_key, result, PROVENANCE)
    assert store.audits() == [verdict("dent"), verdict("rmc", 1)]


def test_many_processes_may_keep_the_same_verdict_at_once(open_store: Opener) -> None:
    stores = [open_store() for _ in range(4)]
    at_once(4, lambda i: stores[i].put_audit("a", verdict("rmc", i), PROVENANCE))
    (kept,) = stores[0].audits()
    assert kept in [verdict("rmc", i) for i in range(4)]


def test_a_write_that_can_never_succeed_is_not_tried_for_ever(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.put_audit("a", {**verdict("rmc"), "budget": None}, PROVENANCE)
    assert store.audits() == []


# -- databases -------------------------------------------------------------------------------------------------------


def test_a_database_that_is_not_there_is_made_only_when_asked(db_url: str, open_store: Opener) -> None:
    assert Store.open(db_url, create=False) is None and glance_at(db_url).schema is None
    claim(open_store())
    again = Store.open(db_url, create=False)
    assert again is not None and again.find(key()) is not None
    again.close()


def test_a_glance_counts_runs_and_tells_held_from_abandoned(store: Store, db_url: str) -> None:
    claim(store)
    glance = glance_at(db_url)
    assert glance.schema == glance.newest and glance.runs == {"RUNNING": 1} and glance.played == (key(),)
    store.release(key())
    glance = glance_at(db_url)
    assert glance.played == () and glance.left == (key(),)


def test_the_tables_are_those_of_the_migrations(store: Store) -> None:
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_database_of_an_older_version_is_brought_up_to_date_with_its_rows(db_url: str) -> None:
    """Also by a command that only reads."""
    engine = schema.engine_of(schema.parse_url(db_url))
    spec = json.dumps(spec_of("regular", "clean").to_dict())
    with engine.connect() as connection:
        command.upgrade(schema._config(connection), "0001")
        values = {
            "runs": {"key": "ab12", "status": "DONE", "spec": spec, "defense": "d", "provenance": "{}", "pid": 0},
            "examples": {"run": "ab12", "game": 0, "position": 0, "index": 7, "label": 1, "answer": 1},
            "games": {"run": "ab12", "game": 0, "rows": 1, "served": 1, "digest": "", "done": True, "flags": "{}"},
        }
        for table, known in values.items():
            columns = [column for column in inspect(connection).get_columns(table) if not column["nullable"]]
            line = {c["name"]: 0 if isinstance(c["type"], (Integer, Float)) else "" for c in columns} | known
            names = ", ".join(f'"{name}"' for name in line)
            places = ", ".join(f":{name}" for name in line)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), line)
        connection.commit()
    engine.dispose()
    store = Store.open(db_url, create=False)
    assert store is not None
    (row,), (game,) = store.rows("ab12"), store.games("ab12")
    assert row.index == 7 and row.neighbours is None and game.background_delays is None
    store.add_to_suite("tiny", ["ab12", "cd34"])
    assert [record.key for record in store.suite_runs("tiny")] == ["ab12"]
    store.close()


def test_many_processes_may_make_the_same_database_at_once(open_store: Opener) -> None:
    stores = at_once(4, lambda _: open_store())
    with stores[0]._engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_databases_of_other_programs_and_of_newer_versions_are_refused(db_url: str, open_store: Opener) -> None:
    engine = schema.engine_of(schema.parse_url(db_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE cats (name TEXT)"))
    for look in (Store.open, glance_at):
        with pytest.raises(StoreError, match="'cats'"):
            look(db_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE cats"))
    open_store()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for look in (Store.open, glance_at):
        with pytest.raises(StoreError, match=r"newer version.*9999"):
            look(db_url)
    engine.dispose()


def test_a_database_that_breaks_while_it_is_open_is_told_in_one_line(store: Store) -> None:
    claim(store)
    with store._engine.begin() as connection:
        for table in ("summaries", "images", "games", "examples", "runs"):
            connection.execute(text(f"DROP TABLE {table}"))
    for use in (
        lambda: store.runs(),
        lambda: store.rows(key()),
        lambda: list(store.facts([key()], ("index",))),
        lambda: store.finish(key(), "DONE"),
    ):
        with pytest.raises(StoreError, match=r"cannot be used as a database: .*Give --db another") as refused:
            use()
        assert "\n" not in str(refused.value)
    assert store.heartbeat([key()]) is False


# -- runs of a bundle ------------------------------------------------------------------------------------------------


def whole_run(origin: dict[str, Any] | None) -> WholeRun:
    """A finished run of five rows, as a bundle brings it."""
    spec = spec_of("regular", "clean")
    record = RunRecord(
        key=spec.key, status="DONE", reason="", detail="", spec=spec.to_dict(), clean_key=None, provenance=PROVENANCE,
        host="", pid=0, process_start=0.0, heartbeat=0.0, created=1.0, finished=2.5, origin=origin,
    )  # fmt: skip
    game = GameRecord(0, 5, 5, "", True, 0.1, 0.2, 0.3, 0, 0, 0.0, [0.5], {"short-batch": "it is short"})
    return WholeRun(record, rows(0, 5), [game], [(0, 0, 3, "a" * 64), (0, 3, 2, "b" * 64)])


def test_a_whole_run_comes_in_as_it_was_and_replayed_games_are_noted(store: Store) -> None:
    whole = whole_run({"file": "x.zip", "bundle": "f" * 64, "merged": "now", "replayed": []})
    store.add_runs([whole])
    assert store.find(key()) == whole.record and store.all_rows(key()) == whole.rows
    assert store.games(key()) == whole.games and store.image_files(key()) == whole.images
    assert store.needs().images == {"a" * 64, "b" * 64}
    assert store.resolve(key()[:9]).verification == "claimed"
    store.note_replayed(key(), [0])
    store.note_replayed(key(), [0])
    found = store.resolve(key())
    assert found.verification == "verified" and found.origin is not None and found.origin["replayed"] == [0]
    assert claim(store) is Claim.FINISHED
    assert (
        claim(store, "all") is Claim.MINE
        and store.resolve(key()).verification == "played here"
        and not store.rows(key())
    )


def test_a_summary_is_stored_replaced_and_gone_with_its_run(store: Store, db_url: str) -> None:
    store.add_runs([whole_run(None)])
    one = StoredSummary(key(), "a" * 64, {"number": 0.1 + 0.2}, {"right": "01"})
    assert store.put_summaries([one, replace(one, run="0" * 64)])  # of a run that is not there, none
    assert store.summaries([key(), "0" * 64]) == {key(): replace(one, outcomes=None)}
    assert store.put_summaries([replace(one, stamp="b" * 64)])
    assert store.summaries([key()], outcomes=True) == {key(): replace(one, stamp="b" * 64)}
    store.close()
    migrate(db_url, "0008", upwards=False)
    migrate(db_url, "head")
    assert store.summaries([key()]) == {} and store.all_rows(key()) == rows(0, 5)
    store.put_summaries([one])
    store._write(lambda session: session.execute(text("DELETE FROM runs")))
    assert store.summaries([key()]) == {}


@pytest.mark.parametrize(
    "change",
    ["answer = 4", "label = 9223372036854775807", "violation = 'x'", "distances = '{}'", "attack_s = 1e300",
     "attack_s = 7", "clean_answer = 0", "adv_sha256 = 'ab'", "resent = '{\"attacked\": [1], \"clean\": [1]}'"],
)  # fmt: skip
def test_what_a_summary_is_of_is_told_from_what_it_becomes(store: Store, change: str) -> None:
    """The database sums it up; no value, however large, ends that."""
    store.add_runs([whole_run(None)])
    before = store.marks([key(), "0" * 64])
    assert set(before) == {key()} and store.marks([key()]) == before
    if "9223372036854775807" in change and store.url.startswith("postgresql"):
        change = "label = 2147483647"  # its whole numbers end there
    with store._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE examples SET {change} WHERE position = 2")
    assert store.marks([key()]) != before


def test_of_runs_that_come_together_none_is_added_where_one_is_there(store: Store) -> None:
    claim(store)
    other = whole_run(None)
    other = replace(other, record=replace(other.record, key="0" * 64))
    with pytest.raises(StoreError, match="added one of these runs since they were looked up; merge the bundle again"):
        store.add_runs([other, whole_run(None)])
    assert store.find("0" * 64) is None and store.count_rows("0" * 64) == 0 and store.count_rows(key()) == 0
    with pytest.raises(StoreError, match="came in no bundle"):
        store.note_replayed(key(), [0])


def test_urls_of_no_database_are_refused_in_one_line() -> None:
    for url, message in (
        ("sqlite://", "in memory"),
        ("://", "no database URL"),
        ("postgresql+psycopg://bench:secret@/x?host=/nowhere", r"bench:\*\*\*@/x.*cannot be used|No driver"),
        ("nosuchkind://localhost/x", "No driver"),
    ):
        with pytest.raises(StoreError, match=message) as refused:
            Store.open(url)
        assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_reading_runs_needs_no_torch() -> None:
    """It takes more than a second to import, longer than the rows of a thousand runs take to read."""
    code = "import sys, bench.library, bench.analysis.describe, bench.cli.lists; print('torch' in sys.modules)"
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=there)
    assert done.stdout == "False\n"

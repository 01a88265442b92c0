"""Damaged databases: one line that says what is damaged, and the sound runs are there as before."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bench, sets

PLAY = ("run", "--defense", "regular", "--attack", "pgd", "-n", 6, *sets(base__epochs=4))
SOUND = ("run", "--defense", "regular", "--attack", "fgsm", "-n", 6, *sets(base__epochs=4))
READING = [("list", "runs"), ("export",), ("leaderboard", "--out", "site"), ("plot", "heatmap", "--out", "x.svg")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"db": tmp_path_factory.mktemp("made") / "sound.db"}


@pytest.fixture
def db(bench: Bench, made: dict[str, Path]) -> str:
    """A copy of a database with three runs: clean, pgd, fgsm."""
    if not made["db"].exists():
        for command in (PLAY, SOUND):
            told = bench(*command, "--db", made["db"])
            assert told.code == 0, told.err
    with sqlite3.connect(made["db"]) as sound, sqlite3.connect("copy.db") as copy:
        sound.backup(copy)
    return "copy.db"


def key_of(db: str, attack: str) -> str:
    with sqlite3.connect(db) as connection:
        return str(connection.execute("SELECT key FROM runs WHERE attack = ?", [attack]).fetchone()[0])


def damaged(db: str, statement: str, *values: object) -> None:
    with sqlite3.connect(db) as connection:
        assert connection.execute(statement, values).rowcount != 0


def test_what_was_damaged_here_is_sound_before(bench: Bench, db: str) -> None:
    for command in READING:
        told = bench(*command, "--db", db)
        assert told.code == 0 and not told.err, command


@pytest.mark.parametrize("column", ["spec", "provenance"])
@pytest.mark.parametrize("text", ["", "[" * 99999, "null", '{"environment": 3}'])
def test_a_run_that_cannot_be_read_is_left_out_by_name(bench: Bench, db: str, column: str, text: str) -> None:
    key = key_of(db, "pgd")
    damaged(db, f"UPDATE runs SET {column} = ? WHERE key = ?", text, key)
    for command in READING:
        told = bench(*command, "--db", db)
        lines = told.err.splitlines()
        assert told.code == 0 and len(lines) == 1, (command, told)
        assert lines[0].startswith(f"bench: The run {key[:12]} is damaged") and "left out" in lines[0]
    assert {run["attack"] for run in json.loads(bench("list", "runs", "--json", "--db", db).out)} == {"clean", "fgsm"}
    for name in ("show", "verify"):
        told = bench(name, key, "--db", db)
        assert told.code == 2 and len(told.err.splitlines()) == 1 and key[:12] in told.err
    told = bench(*PLAY, "--db", db)
    assert told.code == 2 and "--rerun all plays it" in told.err
    assert bench(*PLAY, "--rerun", "all", "--db", db).code == 0
    assert len(json.loads(bench("list", "runs", "--json", "--db", db).out)) == 3


def test_an_export_leaves_out_a_run_with_a_damaged_row_and_reads_no_more_than_it_writes(bench: Bench, db: str) -> None:
    key = key_of(db, "pgd")
    assert bench("list", "runs", "--db", db).code == 0  # its figures are kept, and do not depend on what is damaged
    damaged(db, "UPDATE examples SET neighbours = '{' WHERE run = ? AND position = 1", key)
    told = bench("export", "--db", db)
    assert told.code == 0 and {run["attack"] for run in json.loads(told.out)} == {"clean", "fgsm"}
    assert told.err.count("\n") == 1 and told.err.startswith(f"bench: The run {key[:12]} is damaged")
    assert "position 1 of game 0" in told.err and told.err.endswith("It is left out.\n")
    table = bench("export", "--format", "csv", "--db", db)
    assert table.code == 0 and not table.err and f"{key[:12]}" in table.out


def test_doctor_holds_all_summaries_against_their_rows_and_names_those_it_cannot(bench: Bench, db: str) -> None:
    pgd, fgsm = key_of(db, "pgd"), key_of(db, "fgsm")
    damaged(db, "UPDATE examples SET resent = 'null' WHERE run = ?", pgd)
    assert bench("list", "runs", "--db", db).code == 0
    damaged(db, "UPDATE summaries SET figures = '{}' WHERE run = ?", fgsm)
    told = " ".join(bench("doctor", "--deep", "--db", db).out.split())
    assert f"of run {fgsm[:12]}: summary are not of its rows" in told and "2 of 3 runs have none, or the one" in told
    damaged(db, "UPDATE examples SET resent = 'nil?' WHERE run = ? AND position = 1", pgd)
    told = " ".join(bench("doctor", "--deep", "--db", db).out.split())
    assert f"The run {pgd[:12]} is damaged. The row at position 1 of game 0" in told and "1 of 3 runs have none" in told
    damaged(db, "UPDATE alembic_version SET version_num = '0008'")
    assert "they were not compared: the next command that writes" in " ".join(
        bench("doctor", "--deep", "--db", db).out.split()
    )


#: what is changed inside a stored request, and the words that name it
INNER: list[tuple[tuple[str, ...], Any, str]] = [
    (("defense", "name"), 3, "defense: name is 3"),
    (("threat", "eps"), float("nan"), "threat.eps is nan"),
    (("n",), 10**400, "n is 1000"),
    (("attack", "params"), None, "attack: params is None"),
    (("game", "facts", "games_key"), "nosuch", "game.params.nosuch is None"),
    (("threat", "norm"), "l7", "threat.norm is 'l7'"),
    (("base", "version"), "1", "base: version is '1'"),
    (("chosen",), [0, 99], "chosen.1 is 99"),
    (("game", "strange"), 1, "game has the unknown field 'strange'"),
    (("defense", "params", "deep"), {"x": [float("inf")]}, "deep.x.0 is inf"),
    (("two\nlines" + "x" * 5000,), 2**63, "two linesxxx"),
]


@pytest.mark.parametrize("number", range(len(INNER)))
def test_a_request_with_a_wrong_part_is_one_line_in_every_command(bench: Bench, db: str, number: int) -> None:
    """Each with `list` and two other commands in turn."""
    path, value, words = INNER[number]
    key = key_of(db, "pgd")
    with sqlite3.connect(db) as connection:
        spec = json.loads(connection.execute("SELECT spec FROM runs WHERE key = ?", [key]).fetchone()[0])
        inner = spec
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        sys.set_int_max_str_digits(0)
        connection.execute("UPDATE runs SET spec = ? WHERE key = ?", [json.dumps(spec), key])
    sys.set_int_max_str_digits(4300)
    one = [
        ("show", key),
        ("verify", key),
        ("compare", key, key_of(db, "fgsm")),
        ("bundle", key, "--out", "x.zip"),
        PLAY,
    ]
    for command in (("list", "runs"), READING[1 + number % 3], one[number % 5]):
        told = bench(*command, "--db", db)
        assert told.code == (2 if command in one else 0) and len(told.err.splitlines()) == 1, (command, told)
        assert told.err.startswith(f"bench: The run {key[:12]} is damaged in the database: what was asked for")
        assert words in told.err and "--rerun all plays it" in told.err


def test_a_request_without_its_parts_is_damaged_too(bench: Bench, db: str) -> None:
    damaged(db, "UPDATE runs SET spec = '{\"n\": 3}' WHERE attack = 'pgd'")
    told = bench("list", "runs", "--db", db)
    assert told.code == 0 and "what was asked for cannot be read" in told.err and "fgsm" in told.out


def test_a_row_that_cannot_be_read_costs_its_run_and_no_other(bench: Bench, db: str) -> None:
    key = key_of(db, "pgd")
    damaged(db, "UPDATE examples SET resent = 'oops' WHERE run = ? AND position = 2", key)
    told = bench("list", "runs", "--db", db)
    assert told.code == 0 and "fgsm" in told.out and len(told.err.splitlines()) == 1
    assert f"The run {key[:12]} is damaged. The row at position 2 of game 0 cannot be read" in told.err
    told = bench("show", key, "--db", db)
    assert told.code == 2 and "position 2 of game 0" in told.err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda db: damaged(db, "INSERT INTO alembic_version VALUES ('0001')"), "does not say which schema it has"),
        (lambda db: damaged(db, "DROP TABLE examples"), "no such table: examples"),
        (lambda db: os.truncate(db, 60_000), "cannot be used as a database"),
        (lambda db: Path(db).write_bytes(b"SQLite format 3\0" + os.urandom(5000)), "cannot be used as a database"),
    ],
    ids=["two heads", "no table", "truncated", "noise"],
)
def test_a_database_that_cannot_be_used_is_one_line(
    bench: Bench, db: str, damage: Callable[[str], None], words: str
) -> None:
    damage(db)
    for command in (*READING, ("show", "0123456789")):
        told = bench(*command, "--db", db)
        assert told.code == 2 and len(told.err.splitlines()) == 1, (command, told)
        assert words in told.err or "No run is called" in told.err


def broken_page(db: str, table: str) -> None:
    """Fill the head of a table's first page with ones."""
    with sqlite3.connect(db) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    with Path(db).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)


def test_what_is_whole_of_a_damaged_database_is_saved(bench: Bench, db: str) -> None:
    lost = key_of(db, "fgsm")
    damaged(db, "DELETE FROM examples WHERE run = ? AND position = 2", lost)
    with sqlite3.connect(db) as connection:
        connection.execute("VACUUM INTO 'as_it_was.db'")
    connection.close()
    as_it_was = ("--json", "--db", "as_it_was.db")
    shown = {name: bench("show", key_of(db, name), *as_it_was).out for name in ("clean", "pgd")}
    broken_page(db, "audits")
    told = bench("doctor", "--db", db)
    assert told.code == 1 and f"bench doctor --db {db} --save copy-saved.db" in " ".join(told.out.split())
    told = bench("doctor", "--db", db, "--save", "saved.db")
    assert told.code == 1 and "2 runs saved" in told.out and f"not saved: {lost[:12]}: 5 of its 6 rows" in told.out
    assert {name: bench("show", key_of("saved.db", name), "--json", "--db", "saved.db").out for name in shown} == shown
    assert bench(*PLAY, "--db", "saved.db").code == 0 == bench(*SOUND, "--db", "saved.db").code
    told = bench("doctor", "--db", db, "--save", "saved.db")
    assert told.code == 2 and "saved.db is there already" in told.err


def test_a_page_of_rows_that_is_broken_costs_the_runs_on_it(bench: Bench, db: str) -> None:
    broken_page(db, "examples")
    told = bench("doctor", "--db", db, "--save", "saved.db", "--json")
    said = json.loads(told.out)
    assert told.code == 1 and not said["saved"] and set(said["lost"].values()) == {"database disk image is malformed"}
    for there, to in ((db, "postgresql://x/y"), ("missing.db", "s.db")):
        told = bench("doctor", "--db", there, "--save", to)
        assert told.code == 2 and "Only what is in a SQLite file" in told.err


def test_an_old_or_unreadable_file_cannot_be_saved_from(bench: Bench, db: str) -> None:
    damaged(db, "UPDATE alembic_version SET version_num = '0001'")
    told = bench("doctor", "--db", db, "--save", "saved.db")
    assert told.code == 2 and "has the schema 0001; only" in told.err and not Path("saved.db").exists()
    Path("noise.db").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    told = bench("doctor", "--db", "noise.db", "--save", "saved.db")
    assert told.code == 2 and "take an older copy" in told.err and not Path("saved.db").exists()

"""`bench cache`: what nothing needs goes, and nothing else, whoever else uses the folder."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from bench.errors import StoreError
from bench.game.resources import Resources
from bench.rows import Meter, Resume
from bench.store import Claim, Store
from bench.store.prune import size_text
from tests.conftest import QUICK, Bench, sets, spec_of
from tests.store.test_store import PROVENANCE, pretend, rows

#: no process has this number
NOBODY = 2**22 + 1


def name(letter: str, more: str = "") -> str:
    return letter * 64 + more


class Place:
    """A database, and files as processes leave them beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "bench-files"
        found = Store.open(str(folder / "bench.db"))
        assert found is not None
        self.store = found
        self.spec = spec_of("regular", "clean")

    def put(self, kind: str, called: str, size: int = 1000, age_s: float = 0.0) -> Path:
        path = self.root / kind / called
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in ("bases", "banks"):
            path.mkdir()
            (path / "data").write_bytes(bytes(size))
            Path(f"{path}.lock".replace(".part.", ".")).touch()
        else:
            path.write_bytes(bytes(size))
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    def commit(self, image: str, state: str = "") -> None:
        """A run of this process, which is alive, with rows that refer to an image, and a state to go on from."""
        assert self.store.claim(self.spec, None, PROVENANCE, "missing") is Claim.MINE
        self.store.commit(self.spec.key, rows(0, 3), image, Resume(3, 3, state), Meter(), 0.0)

    def names(self) -> set[str]:
        found = {path.relative_to(self.root).as_posix() for kind in self.root.iterdir() for path in kind.iterdir()}
        return {path for path in found if not path.endswith(".lock")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("BENCH_CACHE")
    return Place(tmp_path)


def prune(bench: Bench, *args: object) -> dict[str, Any]:
    done = bench("cache", "prune", "--db", "bench.db", "--json", *args)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_what_no_run_needs_goes_and_what_is_dear_stays(bench: Bench, place: Place) -> None:
    place.commit(name("a"))
    place.store.finish(place.spec.key, "DONE")
    for kind, called in (("images", "a"), ("images", "b"), ("states", "c"), ("crafts", "d"), ("bases", "e")):
        place.put(kind, name(called, "-0" if kind == "crafts" else ""))
    whole = place.names()
    planned = prune(bench, "--dry-run")
    assert place.names() == whole and planned["dry_run"]
    assert planned["removed"] == {"states": {"count": 1, "bytes": 1000}, "images": {"count": 1, "bytes": 1000}}
    done = prune(bench)
    assert done["removed"] == planned["removed"] and done["freed"] == 2000 and done["shared"] == ""
    assert whole - place.names() == {f"images/{name('b')}", f"states/{name('c')}"}
    assert prune(bench)["freed"] == 0


def test_what_is_dear_goes_when_its_kind_is_asked_for(bench: Bench, place: Place) -> None:
    old, new = place.put("banks", name("a"), age_s=3 * 86400), place.put("banks", name("b"))
    place.put("crafts", name("c", "-12"))
    place.put("plugs", name("d"))
    place.put("states", name("e"))
    assert prune(bench, "--kind", "banks", "--older-than", 2)["removed"] == {"banks": {"count": 1, "bytes": 1000}}
    assert new.exists() and not old.exists() and not old.with_name(f"{name('a')}.part").exists()
    assert set(prune(bench, "--kind", "crafts")["removed"]) == {"crafts"}
    assert set(prune(bench, "--kind", "plugs")["removed"]) == {"plugs"}  # a plug-in's own kind
    assert place.names() == {f"banks/{name('b')}", f"states/{name('e')}"}
    assert prune(bench, "--older-than", 0.5)["removed"] == {}


def test_a_run_that_is_being_played_keeps_everything(bench: Bench, place: Place) -> None:
    place.commit(name("a"), state=name("b"))
    for kind, called in (("images", "a"), ("images", "c"), ("states", "b"), ("states", "d"), ("bases", "e")):
        place.put(kind, name(called))
    place.put("images", name("9", f".part-{NOBODY}"))  # a process on another machine may be writing it
    whole = place.names()
    left = place.put("images", name("f", f".part-{NOBODY}"), age_s=7200)
    for kind in ((), ("--kind", "states"), ("--kind", "bases"), ("--kind", "images")):
        assert "being played" in prune(bench, *kind)["notes"][0]
    assert place.names() == whole and not left.exists()


def test_an_interrupted_run_keeps_its_state_until_it_is_asked_for(bench: Bench, place: Place) -> None:
    place.commit(name("a"), state=name("b"))
    place.store.release(place.spec.key)
    for kind, called in (("images", "a"), ("states", "b"), ("states", "c")):
        place.put(kind, name(called))
    done = prune(bench)
    assert done["removed"] == {"states": {"count": 1, "bytes": 1000}} and "interrupted" in done["notes"][0]
    assert place.names() == {f"images/{name('a')}", f"states/{name('b')}"}
    assert prune(bench, "--kind", "states")["removed"] == {"states": {"count": 1, "bytes": 1000}}
    pretend(place.store, pid=NOBODY)  # killed instead of given back
    place.put("states", name("b"))
    assert prune(bench)["removed"] == {} and place.names() == {f"images/{name('a')}", f"states/{name('b')}"}


def test_what_a_process_was_writing_goes_once_the_process_is_dead(bench: Bench, place: Place) -> None:
    dead = place.put("states", name("a", f".part-{NOBODY}"))
    mine = place.put("states", name("b", f".part-{os.getpid()}"))
    began = psutil.Process(os.getppid()).create_time()
    recycled = place.put("images", name("c", f".part-{os.getppid()}"), age_s=time.time() - began + 60)
    half = place.put("banks", name("d", ".part"))
    building = place.put("bases", name("e", ".part"))
    with FileLock(f"{building.with_name(name('e'))}.lock"):
        assert set(prune(bench, "--dry-run")["removed"]) == {"temporary"}
        assert prune(bench)["removed"] == {"temporary": {"count": 3, "bytes": 3000}}
        assert mine.exists() and building.exists() and not any(path.exists() for path in (dead, recycled, half))
    assert prune(bench, "--kind", "temporary")["removed"]["temporary"]["count"] == 1 and not building.exists()


def test_a_lock_of_another_user_is_held(bench: Bench, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose file cannot be opened for writing here."""
    building = place.put("bases", name("e", ".part"), age_s=7200)
    building.with_name(name("e", ".lock")).touch()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bench.store.prune.FileLock", refused)
    assert prune(bench)["removed"] == {} and building.exists()


def test_what_somebody_makes_just_now_is_left_and_told(bench: Bench, place: Place) -> None:
    bank = place.put("banks", name("a"))
    with FileLock(f"{bank}.lock"):
        done = bench("cache", "prune", "--kind", "banks", "--db", "bench.db")
    assert (
        done.code == 1 and bank.exists() and "another process is making it now" in done.err and "0 removed" in done.out
    )


def test_files_that_other_databases_may_need_stay(bench: Bench, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that BENCH_CACHE names; and one that another database beside this one, or a link, leads to."""
    place.put("images", name("a"))
    place.put("states", name("b"))
    old = place.put("states", name("c"), age_s=7200)
    fresh = place.put("states", name("d", f".part-{NOBODY}"))
    bank, young = place.put("banks", name("e"), age_s=7200), place.put("banks", name("f"))
    monkeypatch.setenv("BENCH_CACHE", str(place.root))
    done = prune(bench)
    assert done["removed"] == {} and old.exists() and fresh.exists()
    assert "BENCH_CACHE" in done["shared"] and "states stay" in done["notes"][0] and "images stay" in done["notes"][1]
    assert prune(bench, "--kind", "states")["freed"] == 1000 and not old.exists()  # the other may be in use
    refused = bench("cache", "prune", "--kind", "images", "--db", "bench.db")
    assert refused.code == 2 and refused.err.count("\n") == 1 and "other databases" in refused.err
    assert prune(bench, "--kind", "banks")["freed"] == 1000 and not bank.exists() and young.exists()
    monkeypatch.delenv("BENCH_CACHE")
    with sqlite3.connect(place.folder / "bench.sqlite") as connection:
        connection.execute("CREATE TABLE x (y)")
    assert "bench.sqlite beside it" in prune(bench)["shared"]
    (place.folder / "bench.sqlite").unlink()
    (place.folder / "bench.txt").write_text("notes")
    place.root.rename(place.folder / "elsewhere")
    place.root.symlink_to(place.folder / "elsewhere")
    assert prune(bench)["shared"] == "the folder is a link" and (place.root / "images" / name("a")).exists()


def test_folders_and_files_that_are_not_ours_are_left_alone(bench: Bench, place: Place) -> None:
    (place.folder / "elsewhere").mkdir()
    (place.folder / "elsewhere" / name("a")).touch()
    for called in ("thesis.pdf", "ab12", name("A"), name("a", "!"), "c0ffee"):
        place.put("images", called)
    (place.root / "states").symlink_to(place.folder / "elsewhere")
    (place.root / "images" / name("f")).symlink_to(place.folder / "elsewhere" / name("a"))
    (place.root / "notes.txt").touch()
    assert "is a link" in prune(bench)["notes"][0]
    assert prune(bench, "--kind", "states")["removed"] == {} and prune(bench)["removed"] == {}
    assert (place.folder / "elsewhere" / name("a")).exists() and (place.root / "images" / "thesis.pdf").exists()


def test_without_a_database_nothing_says_which_images_are_needed(bench: Bench, place: Place) -> None:
    place.put("images", name("a"))
    place.put("states", name("b"))
    place.store.close()
    (place.folder / "bench.db").unlink()
    done = prune(bench)
    assert set(done["removed"]) == {"states"} and "no database" in done["notes"][0]
    assert not (place.folder / "bench.db").exists() and place.names() == {f"images/{name('a')}"}


def test_no_run_begins_while_images_are_removed(place: Place) -> None:
    connection = sqlite3.connect(place.folder / "bench.db", timeout=0)
    with place.store.standstill(), pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("UPDATE runs SET pid = 0")
    connection.close()
    place.commit(name("a"))  # and goes on after it
    engine = place.store._engine
    with sqlite3.connect(place.folder / "bench.db") as connection:
        connection.execute("BEGIN IMMEDIATE")
        with engine.connect() as other:
            other.exec_driver_sql("PRAGMA busy_timeout = 10")
        with pytest.raises(StoreError, match="locked"), place.store.standstill():
            pass


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sizes"], "Did you mean 'size'?"),
        (["prune", "--kind", "bank"], "No kind of file is called 'bank'. Did you mean 'banks'?"),
        (["prune", "--older-than", "-1"], "--older-than is -1"),
        (["prune", "--older-than", "nan"], "--older-than is nan"),
        (["prune", "--older-than", "week"], "not a valid float"),
        (["size", "--dry-run"], "are of `bench cache prune`"),
        (["--kind", "banks"], "are of `bench cache prune`"),
        (["prune", "--db", "sqlite://"], "in memory"),
    ],
)
def test_a_wrong_request_is_one_line(bench: Bench, tmp_path: Path, args: list[str], message: str) -> None:
    refused = bench("cache", *args)
    assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err, refused.err
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_told_by_kind_and_nothing_is_made(bench: Bench, place: Place, tmp_path: Path) -> None:
    place.put("images", name("a"), 1500)
    place.put("images", name("b"), 500)
    place.put("bases", name("c"), 2_000_000)
    place.put("states", name("d", f".part-{NOBODY}"), 10)
    found = json.loads(bench("cache", "--json", "--db", "bench.db").out)
    assert found["kinds"] == {
        "bases": {"count": 1, "bytes": 2_000_000},
        "images": {"count": 2, "bytes": 2000},
        "temporary": {"count": 1, "bytes": 10},
    }
    assert found["bytes"] == 2_002_010 and found["root"] == "bench-files" and found["free"] > 0
    told = bench("cache", "size", "--db", "bench.db").out
    assert "2.0 MB" in told and "trained networks" in told and "other databases" not in told.lower()
    assert max(len(line) for line in told.splitlines()) <= 80
    before = sorted(tmp_path.rglob("*"))
    empty = bench("cache", "--db", "none/none.db")
    assert empty.code == 0 and "it is not there" in empty.out and sorted(tmp_path.rglob("*")) == before


def test_bytes_in_words() -> None:
    given = (0, 999, 1000, 99_949, 99_950, 999_499, 999_500, 10**9, 5 * 10**15)
    words = ["0 bytes", "999 bytes", "1.0 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "1.0 GB", "5000 TB"]
    assert [size_text(number) for number in given] == words


def test_finished_runs_hold_after_pruning(bench: Bench, place: Place, resources: Resources) -> None:
    """Real files: states go, the stored run is verified row by row, and a further run uses what stayed."""
    quick = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    cell = ("run", "--defense", "rmc", "-n", 4, "--workers", 1, "--db", "bench.db", "--json", *quick,
            *sets(game__p=4, game__trials=2))  # fmt: skip
    (run,) = bench(*cell, "--attack", "pgd-skip").runs
    (place.root / "images" / name("0")).write_bytes(b"left by a chunk that was never committed")
    done = prune(bench)
    assert done["removed"]["states"]["count"] >= 2 and done["removed"]["images"]["count"] == 1
    assert set(prune(bench, "--dry-run", "--kind", "bases")["removed"]) == {"bases"}
    assert bench("verify", run["run"], "--db", "bench.db").code == 0
    assert bench(*cell, "--attack", "pgd-skip").runs == [run]
    (again,) = bench(*cell, "--attack", "pgd-skip", "--rerun", "all").runs
    assert again["robust_accuracy"] == run["robust_accuracy"]


def test_a_killed_run_goes_on_where_it_stopped_after_pruning(bench: Bench, place: Place, cache_root: Path) -> None:
    """Its rows and its state are those of the process that was killed."""
    for kind in ("bases", "banks"):
        (cache_root / kind).mkdir(exist_ok=True)
        place.root.mkdir(exist_ok=True)
        (place.root / kind).symlink_to(cache_root / kind)
    keys = {key: value for key, value in QUICK.items() if not key.startswith("attack.")}
    quick = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    cell = ["run", "--defense", "rmc", "--attack", "clean", "-n", "160", "--workers", "1", "--db", "bench.db", "--json",
            *quick, *sets(runner__chunk=2)]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "BENCH_CACHE"}
    process = subprocess.Popen([sys.executable, "-m", "bench.cli.main", *cell], cwd=place.folder, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    until = time.monotonic() + 120
    while not (place.store.runs() and place.store.count_rows(place.store.runs()[0].key) >= 6):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    during = prune(bench)
    assert "being played" in " ".join(during["notes"]) and set(during["removed"]) <= {"temporary"}
    process.kill()
    process.wait()
    (record,) = place.store.runs()
    (game,) = place.store.games(record.key)
    prune(bench)
    assert (place.root / "states" / game.digest).exists()
    done = bench(*cell)
    assert done.code == 0 and f"goes on after {game.rows} rows" in done.err
    assert bench("verify", record.key, "--db", "bench.db").code == 0

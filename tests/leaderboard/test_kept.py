"""Pages of runs that stay: which are drawn again, which are removed, and that several processes draw the same."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import call
from bench.errors import StoreError
from bench.execution.session import open_session
from leaderboard import drawing, stored_runs
from leaderboard.drawing import Painter
from leaderboard.kept import FILE, Kept, write_page
from tests.conftest import Bench, sets
from tests.hostile.places import not_writable
from tests.leaderboard.test_leaderboard import line

PLAY = ("--attack", "pgd", "--attack", "fgsm", "-n", 4, "--workers", 1, *sets(base__epochs=1, attack__steps=1))
PLUGIN = """
import warnings
import bench
from tests.planted import Wrapped

class Mine(Wrapped):
    def pieces(self, task, base, context):
        warnings.warn("it looks", stacklevel=1)
        return []

bench.register_defense("mine", Mine, summary="mine")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "one"


@pytest.fixture
def runs(bench: Bench, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has bench.db with three runs of a base and three of a plug-in, and its files."""
    monkeypatch.delenv("BENCH_CACHE")
    Path("mine.py").write_text(PLUGIN)
    if not made.exists():
        names = ("--defense", "regular", "--defense", "mine", "--plugin", "mine.py")
        assert bench("run", *names, *PLAY, "--db", made / "bench.db").code == 0
    shutil.copytree(made / "bench-files", "bench-files")
    with sqlite3.connect(made / "bench.db") as connection:
        connection.execute("VACUUM INTO 'bench.db'")
    connection.close()
    return Path("bench.db")


def drawn(bench: Bench, *options: Any, out: str = "site") -> int:
    """How many pages of runs the command draws. The others are as a command draws them that finds none."""
    arguments = ("--db", "bench.db", "--plugin", "mine.py", "--workers", 1, "--json", *options)
    told = bench("leaderboard", "--runs", "all", "--out", out, *arguments)
    assert told.code == 0 and "bench: " not in told.err, told
    count = int(json.loads(told.out)["drawn"])
    if 0 < count < 6:
        shutil.rmtree("anew", ignore_errors=True)
        assert bench("leaderboard", "--runs", "all", "--out", "anew", *arguments).code == 0
        assert pages(Path(out)) == pages(Path("anew"))
    return count


def pages(site: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (site / "runs").iterdir()}


def change(statement: str, *values: object) -> None:
    with sqlite3.connect("bench.db") as connection:
        connection.execute(statement, values)
    connection.close()


def test_a_page_stays_until_something_on_it_changes(bench: Bench, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(bench) == 6
    times = {path: path.stat().st_mtime_ns for path in Path("site/runs").iterdir()}
    assert drawn(bench) == 0 and {path: path.stat().st_mtime_ns for path in times} == times
    first, second, *_ = times
    first.write_text("edited")
    second.unlink()
    assert drawn(bench) == 2
    change("UPDATE runs SET finished = finished + 60 WHERE attack = 'fgsm' AND defense = 'regular'")
    assert drawn(bench) == 1
    change("UPDATE runs SET finished = finished + 60 WHERE attack = 'clean' AND defense = 'regular'")
    assert drawn(bench) == 3, "the clean answers of the others are its rows"
    Path("elsewhere").mkdir()
    assert drawn(bench, "--data-dir", "elsewhere") == 6, "the commands on the pages name the folder"
    Path("bench.toml").write_text("[attack.pgd]\nsteps = 3\n")
    assert drawn(bench) == 6, "the commands leave out what the configuration says"
    Path("bench.toml").write_text("[attack.pgd]\nsteps = 3\n[runner]\nworkers = 1\n")
    assert drawn(bench) == 0
    Path("mine.py").write_text(PLUGIN.replace("it looks", "it looked"))
    assert drawn(bench) == 6, "a plug-in has changed since its runs, and the commands say so"
    monkeypatch.setattr(stored_runs, "drawn_by", lambda: "other code")
    monkeypatch.setattr("leaderboard.site.drawn_by", lambda: "other code")
    assert drawn(bench) == 6


def test_a_page_follows_the_run_that_has_its_clean_answers(bench: Bench, runs: Path) -> None:
    assert drawn(bench) == 6
    clean = "attack = 'clean' AND defense = 'regular'"
    for statement in (
        f"UPDATE runs SET status = 'RUNNING', finished = NULL WHERE {clean}",
        f"DELETE FROM examples WHERE position = 0 AND run = (SELECT key FROM runs WHERE {clean})",
        f"UPDATE runs SET spec = '{{' WHERE {clean}",
        f"DELETE FROM runs WHERE {clean}",
    ):
        change(statement)
        told = bench(
            "leaderboard", "--runs", "all", "--out", "site", "--db", "bench.db", "--json", "--plugin", "mine.py"
        )
        assert told.code == 0 and json.loads(told.out)["drawn"] == 2, statement


def test_a_run_that_is_removed_in_the_meantime_is_told_in_one_line(runs: Path) -> None:
    stored = stored_runs.StoredRuns(stored_runs.Place(open_session(None), "bench.db"))
    with pytest.raises(StoreError, match="The run aaaaaaaaaaaa was removed while its page was drawn; give the command"):
        stored(line())


def test_a_page_follows_the_files_that_it_uses(bench: Bench, runs: Path) -> None:
    assert drawn(bench) == 6
    for kind, words, count in (
        ("images", "The images of this run are not here", 6),
        ("bases", "Neighbours are not shown: the base of this run", 3),
    ):
        Path("bench-files", kind).rename("aside")
        assert drawn(bench) == count
        assert sum(words.encode() in page for page in pages(Path("site")).values()) == count
        assert drawn(bench) == 0
        shutil.rmtree(Path("bench-files", kind), ignore_errors=True)
        Path("aside").rename(Path("bench-files", kind))
        assert drawn(bench) == count


DAMAGED = (
    "", "{", "[]", "null", "1", '{"form": 2, "pages": {}}', '{"form": 1, "pages": [1]}', "[" * 100_000, "\ud800",
    '{"form": 1, "pages": {"x": {}}}', '{"form": 1, "pages": {"x": {"inputs": 1, "sha256": "2"}}}',
    '{"form": 1, "pages": {"x": {"inputs": "1", "sha256": "2", "uses": {"images/a": ["a"]}}}}',
    '{"form": 1, "pages": {"x": {"inputs": "1", "sha256": "2", "uses": 3}}}',
    '{"form": 1, "pages": {"x": {"inputs": "1", "sha256": "2", "more": 3}}}',
)  # fmt: skip


def test_a_file_that_is_damaged_or_foreign_names_no_page() -> None:
    page = write_page(Path(), "x", "text")
    for text in DAMAGED:
        Path(FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
        assert not Kept(Path()).stays("x", "1"), text
    sound = {"form": 1, "pages": {"x": {"inputs": "1", "sha256": page, "uses": {"images/a": "3 bytes"}}}}
    Path(FILE).write_text(json.dumps(sound))
    assert Kept(Path()).stays("x", "1", {"images/a": "3 bytes"}.__getitem__)
    assert not Kept(Path()).stays("x", "1", {"images/a": "4 bytes"}.__getitem__)
    Path(FILE).unlink()
    os.mkfifo(FILE)
    assert not Kept(Path()).stays("x", "1"), "a pipe would be waited for"
    Path("x").unlink()
    os.mkfifo("x")
    Path(FILE).unlink()
    Path(FILE).write_text(json.dumps(sound))
    assert not Kept(Path()).stays("x", "1", {"images/a": "3 bytes"}.__getitem__)


def test_where_that_file_is_damaged_all_is_drawn(bench: Bench, runs: Path) -> None:
    assert drawn(bench) == 6
    Path("site", FILE).write_text("{")
    assert drawn(bench) == 6
    Path("site", FILE).unlink()
    Path("site", FILE).mkdir()
    told = bench("leaderboard", "--out", "site", "--db", "bench.db", "--workers", 1)
    assert told.code == 2 and "'site' cannot be written: Is a directory" in told.err and told.err.count("\n") == 1


def test_names_of_files_that_somebody_wrote_there_are_not_followed(bench: Bench, runs: Path) -> None:
    assert drawn(bench) == 6
    noted = json.loads(Path("site", FILE).read_text())
    for page in noted["pages"].values():
        page["uses"] = {"images/../../mine.py": "", "../x": "", "": "no artefact"}
    Path("site", FILE).write_text(json.dumps(noted))
    assert drawn(bench) == 6


def test_pages_that_this_program_wrote_and_that_the_site_lacks_are_removed(bench: Bench, runs: Path) -> None:
    assert drawn(bench) == 6
    keys = [name.removesuffix(".html") for name in sorted(pages(Path("site")))]
    Path("site/runs/own.html").write_text("theirs")
    Path("outside.html").write_text("theirs")
    Path("site/runs", f"{keys[0]}.html").write_text("edited")
    noted = json.loads(Path("site", FILE).read_text())
    for address in (
        "../outside.html",
        "runs/../../outside.html",
        str(Path("outside.html").absolute()),
        "runs/own.html",
    ):
        noted["pages"][address] = {"inputs": "", "sha256": hashlib.sha256(b"theirs").hexdigest()}
    Path("site", FILE).write_text(json.dumps(noted))
    change("DELETE FROM runs WHERE substr(key, 1, 16) IN (?, ?)", *keys[:2])
    options = ("--out", "site", "--db", "bench.db", "--plugin", "mine.py", "--workers", 1)
    assert bench("leaderboard", "--runs", "all", *options).code == 0
    left = {path.stem for path in Path("site/runs").iterdir()}
    assert left == {"own", keys[0], *keys[2:]}, "one was edited, so it is not this program's any more"
    assert Path("outside.html").read_text() == "theirs"
    assert bench("leaderboard", "--runs", 0, *options).code == 0
    assert {path.stem for path in Path("site/runs").iterdir()} == {"own", keys[0]}
    change("DELETE FROM runs WHERE defense = 'mine'")
    assert bench("leaderboard", "--runs", 0, *options).code == 0
    assert {path.name for path in Path("site/defenses").iterdir()} == {"regular.html"}


def test_what_was_drawn_before_an_interruption_stays(bench: Bench, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, seen = Painter.draw, []

    def interrupted(self: Painter, task: drawing.Task) -> Any:
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        seen.append(task)
        return draw(self, task)

    with monkeypatch.context() as patched:
        patched.setattr(Painter, "draw", interrupted)
        options = ("--runs", "all", "--out", "site", "--db", "bench.db", "--plugin", "mine.py", "--workers", 1)
        assert bench("leaderboard", *options).code == 130
    assert len(pages(Path("site"))) == 2
    assert drawn(bench) == 4


# -- several processes ------------------------------------------------------------------------------------------------

ALL = ("leaderboard", "--runs", "all", "--db", "bench.db", "--plugin", "mine.py")


def test_any_number_of_processes_draws_the_same(bench: Bench, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes, with the plug-in and the configuration of the command."""
    Path("own.toml").write_text("[attack.pgd]\nsteps = 3\n")
    monkeypatch.setattr(drawing, "WORTH", 1)
    given = (*ALL, "--config", "own.toml")
    one = bench(*given, "--out", "site", "--workers", 1)
    here = Painter.draw

    def late(self: Painter, task: drawing.Task) -> Any:
        drawing.wait([process.sentinel for process in multiprocessing.active_children()], timeout=2)
        return here(self, task)

    monkeypatch.setattr(Painter, "draw", late)  # so that the others draw most of the pages
    told: list[int] = []
    said = drawing._Helper.said

    def counted(self: drawing._Helper) -> Any:
        done = said(self)
        told.extend(number for number, _ in done)
        return done

    monkeypatch.setattr(drawing._Helper, "said", counted)
    more = bench(*given, "--out", "more", "--workers", 2)
    assert one.code == more.code == 0 and told and len(told) < 6
    assert pages(Path("site")) == pages(Path("more"))
    notes = [json.loads(Path(site, FILE).read_text())["pages"] for site in ("site", "more")]
    inputs = [{name: page["inputs"] for name, page in noted.items() if name.startswith("runs/")} for noted in notes]
    assert inputs[0] == inputs[1] and len(inputs[0]) == 6
    assert one.err == more.err, "warnings of the plug-in"


def forked(work: Callable[..., None], *given: Any) -> tuple[BaseProcess, Connection]:
    """As `start`, but at once: the imports of this process are there already."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *given), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.fixture
def quick(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page is worth a process, and this one draws none: it is the others that fail."""
    monkeypatch.setattr(drawing, "WORTH", 1)
    monkeypatch.setattr(drawing, "start", forked)


def only_apart(monkeypatch: pytest.MonkeyPatch, act: Callable[[drawing.Task], None]) -> None:
    """Do something before each page in another process; this process waits for the others before its own pages."""
    here, draw = os.getpid(), Painter.draw

    def changed(self: Painter, task: drawing.Task) -> Any:
        if os.getpid() != here:
            act(task)
        else:
            time.sleep(0.3)
        return draw(self, task)

    monkeypatch.setattr(Painter, "draw", changed)


def test_what_goes_wrong_in_a_process_is_told_as_in_one(
    bench: Bench, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = json.loads(bench("list", "runs", "--json", "--db", "bench.db").out)[-1]["run"]
    change("UPDATE examples SET neighbours = '{' WHERE run = ?", key)
    told = [bench(*ALL, "--out", f"site-{count}", "--workers", count) for count in (1, 3)]
    assert [one.code for one in told] == [0, 0] and told[0].err.count(f"bench: The run {key[:12]} is damaged") == 1
    assert told[0].err == told[1].err and pages(Path("site-1")) == pages(Path("site-3"))
    assert "cannot be read" in Path(f"site-1/runs/{key[:16]}.html").read_text()
    Path("closed/runs").mkdir(parents=True)
    only_apart(monkeypatch, lambda task: None)
    change("UPDATE examples SET neighbours = NULL WHERE run = ?", key)
    with not_writable(Path("closed/runs")):
        told = [bench(*ALL, "--out", "closed", "--workers", count) for count in (1, 3)]
    assert [one.code for one in told] == [2, 2] and "'closed' cannot be written: Permission denied" in told[0].err
    assert told[0].err == told[1].err and told[0].err.count("bench: ") == 1


def ends(task: drawing.Task) -> None:
    raise SystemExit("enough")


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        (ends, 1, "a plug-in asked Python to exit (code 'enough')"),
        (lambda task: os.kill(os.getpid(), signal.SIGKILL), 2, "was ended by signal 9 (SIGKILL). Give the command"),
        (lambda task: os._exit(3), 2, "ended itself with exit code 3"),
    ],
)
def test_a_process_that_ends_is_one_line(
    bench: Bench, quick: None, monkeypatch: pytest.MonkeyPatch, act: Any, code: int, words: str
) -> None:
    only_apart(monkeypatch, act)
    told = bench(*ALL, "--out", "site", "--workers", 3)
    assert told.code == code and words in told.err and told.err.count("bench: ") == 1
    assert not multiprocessing.active_children()


def test_a_fault_of_this_program_keeps_its_traceback(
    bench: Bench, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(task: drawing.Task) -> None:
        raise ZeroDivisionError("a fault")

    only_apart(monkeypatch, fault)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in fault.*ZeroDivisionError: a fault"):
        call([*map(str, ALL), "--out", "site", "--workers", "3"])


def test_interrupted_in_the_middle_no_process_and_no_half_page_stays(
    bench: Bench, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, draw = os.getpid(), Painter.draw
    Path("site/runs").mkdir(parents=True)
    begun = iter(range(5))
    monkeypatch.setattr(drawing, "AHEAD", 1)  # else the others take all

    def interrupted(self: Painter, task: drawing.Task) -> Any:
        if os.getpid() != here:
            Path(f"site/runs/x.html.part-{os.getpid()}").write_text("half")
            time.sleep(60)
        if next(begun) == 0:  # the others say that they are ready, and get pages after this one
            time.sleep(1)
            return draw(self, task)
        for _ in range(100):
            if list(Path("site/runs").glob("x.html.part-*")):
                break
            time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Painter, "draw", interrupted)
    assert bench(*ALL, "--out", "site", "--workers", 3).code == 130
    assert not multiprocessing.active_children()
    left = [path.name for path in Path("site/runs").iterdir()]
    assert len(left) == 1 and left[0].endswith(".html"), "the page that was whole"


def test_names_that_a_program_registered_are_drawn_in_its_own_process(
    bench: Bench, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench as harness
    from tests.planted import Wrapped

    harness.register_defense("own", Wrapped)
    monkeypatch.setattr(drawing, "start", None)  # there is no other
    assert bench(*ALL, "--out", "site", "--workers", 3).code == 0

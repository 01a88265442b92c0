"""The store: runs, rows, games and audits in one database. Everybody reads; only the holder of a run writes it.

`Store` opens the database, and each of its methods is one transaction. What a transaction does stands in the modules
beside this one: leases.py (who may write), runs.py, examples.py (rows), games.py, audits.py and folder.py (files).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from bench.errors import DiskError, StoreError, one_line
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume, Row
from bench.store import audits, examples, folder, games, leases, merged, runs, summaries
from bench.store.folder import Needs
from bench.store.games import GameRecord
from bench.store.leases import Claim, Holder
from bench.store.merged import WholeRun
from bench.store.runs import RunRecord
from bench.store.schema import Frozen, connect, file_of, parse_url, shown, unusable
from bench.store.summaries import StoredSummary

#: how often a write is tried that other processes may make at the same time; one more is enough in most cases
WRITE_ATTEMPTS = 10
#: seconds for which a server that does not answer is tried again, and the longest pause between two tries
RECONNECT_S = 60.0
PAUSE_S = 5.0
#: how PostgreSQL's error codes that say so begin: a broken connection; a shutdown, a start that goes on
GONE = ("08", "57P")


def _is_gone(error: DBAPIError) -> bool:
    """Whether a server was lost, or cannot be reached now: the same statement may succeed later."""
    if error.connection_invalidated:
        return True
    server = isinstance(error, OperationalError) and "sqlite3" not in type(error.orig).__module__
    state = getattr(error.orig, "sqlstate", None) or ""  # none where no server has answered
    return server and (state == "" or state.startswith(GONE))


def _say(line: str) -> None:
    warnings.warn(line, stacklevel=4)


def _storable(text: str) -> str:
    """A message that a database takes: file names that are no UTF-8, and zero bytes, as Python writes them."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


#: runs that are read by one statement
TOGETHER = 100

Anything = TypeVar("Anything")


def in_parts(things: Sequence[Anything], size: int = TOGETHER) -> Iterator[Sequence[Anything]]:
    """The things in their order, in parts of at most `size`."""
    return (things[start : start + size] for start in range(0, len(things), size))


class Store:
    """A database of results. Open with `Store.open`.

    Any method raises `StoreError` where the database fails, and `DiskError` where its disk is full.
    """

    def __init__(self, engine: Engine, url: str, files: Path, frozen: Frozen | None = None) -> None:
        self._engine = engine
        self._frozen = frozen
        self.url = url
        self.files = files
        self._holder = Holder.this_process()
        #: a server has not answered for RECONNECT_S: nobody waits for it again
        self._given_up = False

    @staticmethod
    def open(url: str, create: bool = True) -> Store | None:
        """The store behind a URL or a path; None where it does not exist and `create` is False."""
        opened = connect(parse_url(url), create)
        return None if opened is None else Store(opened.engine, url, folder.files_of(url), opened.frozen)

    @property
    def place(self) -> str:
        """Where the rows are: the path of the file, or the URL of the server without its password."""
        parsed = parse_url(self.url)
        return str(file_of(parsed) or shown(parsed))

    def close(self) -> None:
        self._engine.dispose()

    # -- transactions -----------------------------------------------------------------------------------------------

    def _read(self, look: Callable[[Session], Anything]) -> Anything:
        """What `look` finds, in a session that is rolled back at the end."""

        def once(again: bool) -> Anything:
            with Session(self._engine) as session:
                found = look(session)
                if self._frozen is not None:
                    self._frozen.check()
                return found

        return self._answered(once)

    def _write(self, write: Callable[[Session], Anything], patient: bool = True) -> Anything:
        """Run a transaction, which an exception rolls back. It may run twice, where a server was lost while it
        committed: so what it does twice must be what it does once."""

        def once(again: bool) -> Anything:
            with Session(self._engine) as session, session.begin():
                return write(session)

        return self._answered(once, patient)

    def _write_bare(self, write: Callable[[Connection], None]) -> None:
        """As `_write`, for what is written again and again: statements alone, without a session and its objects."""

        def once(again: bool) -> None:
            with self._engine.begin() as connection:
                write(connection)

        self._answered(once)

    def _answered(self, once: Callable[[bool], Anything], patient: bool = True) -> Anything:
        """The result of `once`, which is told whether it was tried before. A server that does not answer is tried
        again for RECONNECT_S; what else the database driver raises becomes a `StoreError`."""
        started, pause_s, again = time.monotonic(), 0.1, False
        while True:
            try:
                return once(again)
            except IntegrityError:  # another process has inserted the same key: the caller knows what to do
                raise
            except DBAPIError as error:
                gone = _is_gone(error)
                if not gone or not patient or self._given_up or time.monotonic() - started > RECONNECT_S:
                    self._given_up = self._given_up or (gone and patient)
                    raise unusable(parse_url(self.url), error) from None
                if not again:
                    _say(f"{one_line(error.orig or error)}; the database is tried again for {RECONNECT_S:.0f} s")
            again = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S)

    def _retried(self, write: Callable[[Session], None]) -> None:
        """Run a write that inserts what it finds missing; once more where another process inserted the same since."""
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                self._write(write)
                return
            except IntegrityError:
                if attempt == WRITE_ATTEMPTS:
                    raise

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """Within it, no run can begin and nothing is committed: writers wait. Only for a SQLite file."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield
                finally:
                    connection.rollback()
        except DBAPIError as error:
            raise unusable(parse_url(self.url), error) from None

    # -- leases -----------------------------------------------------------------------------------------------------

    def claim(self, spec: RunSpec, clean_key: str | None, provenance: dict[str, Any], rerun: str) -> Claim:
        """Take the run if it needs work: new, abandoned, or to be run again (`rerun`: missing, failed or all).

        The rows of an abandoned run stay, and the run goes on after them. A run that is run again loses its rows.
        """

        def once(again: bool) -> Claim:
            with Session(self._engine) as session:  # a damaged one is made whole by a new play
                run = runs.find(session, spec.key, checked=rerun != "all")
            if run is None:
                try:
                    with Session(self._engine) as session, session.begin():
                        leases.begin(session, self._holder, spec, clean_key, provenance)
                except IntegrityError:
                    return Claim.HELD  # another process began it since `find`
                return Claim.MINE
            if again and self._holder.holds(run):  # the server was lost after it had committed
                return Claim.MINE
            if refusal := leases.refusal(run, rerun):
                return refusal
            goes_on = run.status == "RUNNING" and rerun != "all" and self.count_rows(run.key) > 0
            if goes_on:
                leases.check_environment(run, provenance)
            with Session(self._engine) as session, session.begin():
                new_values = {} if goes_on else {"provenance": provenance, "spec": spec.to_dict(), "origin": None}
                if not leases.take_over(session, self._holder, run, clean_key, **new_values):
                    return Claim.HELD
                if not goes_on:
                    examples.delete_rows(session, run.key)
                    games.delete_games(session, run.key)
                    summaries.drop_summary(session, run.key)
            return Claim.MINE

        return self._answered(once)

    def check_resumable(self, key: str, provenance: dict[str, Any]) -> None:
        """Raise `StoreError` where the run is unfinished and its rows were made in another environment."""
        run = self.find(key)
        if run is not None and run.status == "RUNNING" and self.count_rows(key):
            leases.check_environment(run, provenance)

    def heartbeat(self, keys: Iterable[str]) -> bool:
        """Say that the holder of these runs is alive. False where it could not be written: the next beat repeats it."""
        try:
            self._write(lambda session: leases.beat(session, self._holder, keys), patient=False)
        except (StoreError, DiskError):
            return False
        return True

    def release(self, key: str) -> None:
        """Give the lease back with the run unfinished; any process may take the run over at once."""
        self._write(lambda session: leases.release(session, self._holder, key))

    # -- writing a run that this process holds ----------------------------------------------------------------------

    def commit(
        self, key: str, rows: Sequence[Row], image_file: str, resume: Resume, meter: Meter, wall_s: float
    ) -> None:
        """Commit a chunk: rows of one game in order, the file with their images, the state after them, the seconds."""

        def write(connection: Connection) -> None:
            leases.hold(connection, self._holder, key)
            examples.put_chunk(connection, key, rows, image_file)
            games.advance(connection, key, rows[0].game, resume, meter, wall_s)

        self._write_bare(write)

    def end_game(self, key: str, game: int, meter: Meter, wall_s: float) -> None:
        """Mark a game as done, with the seconds since its last chunk."""

        def write(connection: Connection) -> None:
            leases.hold(connection, self._holder, key)
            games.end(connection, key, game, meter, wall_s)

        self._write_bare(write)

    def finish(self, key: str, status: str, reason: str = "", detail: str = "") -> None:
        """End a run: DONE, SKIPPED or FAILED with its reason."""
        told = {"reason": _storable(reason), "detail": _storable(detail)}
        values = {"status": status, **told, "finished": time.time(), "pid": 0}
        self._write(lambda session: leases.hold(session, self._holder, key, **values))

    # -- runs of a bundle -------------------------------------------------------------------------------------------

    def add_runs(self, whole: Iterable[WholeRun]) -> None:
        """Insert finished runs that were played elsewhere, all or none; `StoreError` where one is there already."""
        runs_of_bundle = list(whole)

        def write(session: Session) -> None:
            for run in runs_of_bundle:
                merged.add(session, run)

        try:
            self._write(write)
        except IntegrityError:
            raise StoreError(
                "Another process has added one of these runs since they were looked up; merge the bundle again."
            ) from None

    def note_replayed(self, key: str, games: Iterable[int]) -> None:
        """Add to the games of a merged run that were replayed here, without a difference."""
        numbers = list(games)
        self._write(lambda session: merged.note_replayed(session, key, numbers))

    # -- runs and suites --------------------------------------------------------------------------------------------

    def find(self, key: str) -> RunRecord | None:
        """The run with this key; None where there is none."""
        return self._read(lambda session: runs.find(session, key))

    def resolve(self, prefix: str) -> RunRecord:
        """The run with this key, or the only one whose key begins with it."""
        return self._read(lambda session: runs.resolve(session, prefix))

    def runs(self, **among: Iterable[str]) -> list[RunRecord]:
        """All runs, oldest first; `defense=["rmc"]`: only those whose column has one of these values."""
        return self._read(lambda session: runs.select_runs(session, among, _say))

    def add_to_suite(self, suite: str, keys: Iterable[str]) -> None:
        """Note that these runs belong to a suite; they need not have begun."""
        keys = set(keys)
        self._retried(lambda session: runs.add_to_suite(session, suite, keys))

    def suite_runs(self, suite: str) -> list[RunRecord]:
        """The runs of a suite that have begun, oldest first."""
        return self._read(lambda session: runs.runs_of_suite(session, suite, _say))

    # -- rows, games and images -------------------------------------------------------------------------------------

    def rows(self, key: str) -> list[Row]:
        """The rows of a run whose answers are judged, by game and position."""
        return self._read(lambda session: examples.rows_by_run(session, [key], judged=True)[key])

    def all_rows(self, key: str) -> list[Row]:
        """All rows of a run: also the attacker's inputs that were served among those of other users."""
        return self.all_rows_of([key])[key]

    def all_rows_of(self, keys: Sequence[str], without: Sequence[str] = ()) -> dict[str, list[Row]]:
        """All rows of some runs, a hundred or so: they are in memory at once.

        without: columns that are not read, since they take long and nobody asks for them; see `examples.rows_by_run`.
        """
        return self._read(lambda session: examples.rows_by_run(session, keys, judged=False, without=without))

    def count_rows(self, key: str) -> int:
        """How many rows a run has, all of them."""
        return self._read(lambda session: examples.count_rows(session, key))

    def facts(self, keys: Iterable[str], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
        """The judged rows of many runs as bare tuples of these columns, run by run, in each by game and position."""
        for part in in_parts(list(keys)):
            found = self._read(partial(examples.columns_by_run, keys=part, names=names))
            yield from ((key, found[key]) for key in part)

    def columns(self, keys: Sequence[str], names: Sequence[str]) -> Iterator[tuple[list[int], list[Sequence[Any]]]]:
        """The judged rows of many runs as columns, a hundred runs at a time: see `examples.columns`."""
        return (self._read(partial(examples.columns, keys=part, names=names)) for part in in_parts(keys))

    def games(self, key: str) -> list[GameRecord]:
        """The games of a run that have rows or seconds."""
        return self.games_of([key])[key]

    def games_of(self, keys: Sequence[str]) -> dict[str, list[GameRecord]]:
        """The games of some runs, a hundred or so."""
        return self._read(lambda session: games.games_by_run(session, keys))

    def image_files(self, key: str) -> list[tuple[int, int, int, str]]:
        """(game, start, count, file) of the proposed images of a run."""
        return self._read(lambda session: examples.image_files(session, key))

    def needs(self) -> Needs:
        """What the database needs of its folder now."""
        return self._read(lambda session: folder.needs(session))

    # -- summaries ---------------------------------------------------------------------------------------------------

    def marks(self, keys: Iterable[str]) -> dict[str, list[Any]]:
        """What tells the state of these runs from others, by key: see `summaries.marks`."""
        found: dict[str, list[Any]] = {}
        for part in in_parts(list(keys)):
            found |= self._read(partial(summaries.marks, keys=part))
        return found

    def summaries(self, keys: Iterable[str], outcomes: bool = False) -> dict[str, StoredSummary]:
        """The stored summaries of these runs, by key, as they stand there; outcomes: with those."""
        found: dict[str, StoredSummary] = {}
        for part in in_parts(list(keys)):
            found |= self._read(partial(summaries.stored_summaries, keys=part, outcomes=outcomes))
        return found

    def put_summaries(self, made: Sequence[StoredSummary]) -> bool:
        """Store summaries. False where that cannot be done now or here: readers do without, and the next one tries."""
        if self._frozen is not None:
            return False
        try:
            self._write(lambda session: summaries.put_summaries(session, made), patient=False)
        except (StoreError, DiskError, IntegrityError):  # IntegrityError: another process has stored one since
            return False
        return True

    # -- audits -----------------------------------------------------------------------------------------------------

    def put_audit(self, key: str, result: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Keep the verdict of an audit; a later one with the same key replaces it."""
        self._retried(lambda session: audits.put_audit(session, key, result, provenance))

    def audits(self) -> list[dict[str, Any]]:
        """The verdicts of all audits, oldest first."""
        return self._read(lambda session: audits.audits(session))

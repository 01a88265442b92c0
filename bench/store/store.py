"""The store: runs with their leases, progress of games, rows of facts. Everybody reads; only a holder writes."""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import CursorResult, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from bench.errors import RunError, StoreError, UnknownName
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume, Row
from bench.store.schema import connect, file_of, parse_url, unusable
from bench.store.tables import AuditRow, ExampleRow, GameRow, ImageRow, RunRow, SuiteRow

#: seconds without a heartbeat after which a run on another host is taken for dead
LEASE_S = 60.0


#: a process start is computed from the boot time, which moves a little when the clock is set
START_SLACK_S = 5.0


class LeaseLost(RunError):
    """Another process has taken the run over; this one must not write it any more."""


class Claim(Enum):
    """What became of a request for a run."""

    MINE = "mine"
    FINISHED = "finished"
    HELD = "held"


@dataclass(frozen=True)
class RunRecord:
    """A run as stored."""

    key: str
    status: str
    reason: str
    detail: str
    spec: dict[str, Any]
    clean_key: str | None
    provenance: dict[str, Any]
    host: str
    pid: int
    process_start: float
    heartbeat: float
    created: float
    finished: float | None


@dataclass(frozen=True)
class GameRecord:
    """How far a game has come, and its seconds."""

    game: int
    rows: int
    served: int
    digest: str
    done: bool
    attack_s: float
    defense_s: float
    wall_s: float
    background_answers: int
    background_steps: int
    background_s: float
    background_delays: list[float] | None
    flags: dict[str, str]

    @property
    def resume(self) -> Resume:
        return Resume(self.rows, self.served, self.digest)


@dataclass(frozen=True)
class Needs:
    """What a database needs of its folder.

    images   names of the files that rows refer to
    resumes  digests of states that unfinished games go on from
    played   keys of runs that a live process holds
    """

    images: frozenset[str] = frozenset()
    resumes: frozenset[str] = frozenset()
    played: tuple[str, ...] = ()


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    host: str
    pid: int
    process_start: float

    @staticmethod
    def me() -> Holder:
        return Holder(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def alive(self, heartbeat: float) -> bool:
        """Known for this host; on another, by its heartbeat. A lease that was given back has no process."""
        if not self.pid:
            return False
        if self.host != socket.gethostname():
            return time.time() - heartbeat < LEASE_S
        try:
            process = psutil.Process(self.pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):  # killed, and nobody has waited for it
                return False
            return abs(process.create_time() - self.process_start) < START_SLACK_S
        except psutil.NoSuchProcess:
            return False


class Store:
    """A database of results. Open with `Store.open`."""

    def __init__(self, engine: Engine, url: str, files: Path) -> None:
        self._engine = engine
        self.url = url
        self.files = files
        self._me = Holder.me()

    @staticmethod
    def open(url: str, create: bool = True) -> Store | None:
        """The store behind a URL or a path; None where it does not exist and `create` is False."""
        parsed = parse_url(url)
        engine = connect(parsed, create)
        return None if engine is None else Store(engine, url, files_of(url))

    def close(self) -> None:
        self._engine.dispose()

    # -- claiming ---------------------------------------------------------------------------------------------------

    def claim(self, spec: RunSpec, clean_key: str | None, provenance: dict[str, Any], rerun: str) -> Claim:
        """Take the run if it needs work: new, abandoned, or to be run again (`rerun`: missing, failed or all)."""
        record = self.find(spec.key)
        if record is None:
            return self._begin(spec, clean_key, provenance)
        holder = Holder(record.host, record.pid, record.process_start)
        if record.status == "RUNNING":
            if holder.alive(record.heartbeat):
                return Claim.HELD
            fresh = rerun == "all"
        elif rerun == "all" or (rerun == "failed" and record.status == "FAILED"):
            fresh = True
        else:
            return Claim.FINISHED
        fresh = fresh or not self.count_rows(record.key)
        if not fresh:
            _same_environment(record, provenance)
        return self._take_over(record, clean_key, provenance, fresh)

    def check_resumable(self, key: str, provenance: dict[str, Any]) -> None:
        """Raise `StoreError` where the run has rows of another environment that going on would mix with."""
        record = self.find(key)
        if record is not None and record.status == "RUNNING" and self.count_rows(key):
            _same_environment(record, provenance)

    def _begin(self, spec: RunSpec, clean_key: str | None, provenance: dict[str, Any]) -> Claim:
        now = time.time()
        run = RunRow(
            key=spec.key,
            status="RUNNING",
            spec=spec.to_dict(),
            defense=spec.defense.name,
            base=spec.base.name,
            attack=spec.attack.name,
            dataset=spec.dataset.name,
            clean_key=clean_key,
            provenance=provenance,
            heartbeat=now,
            created=now,
            **asdict(self._me),
        )
        try:
            with Session(self._engine) as session, session.begin():
                session.add(run)
        except IntegrityError:
            return Claim.HELD  # somebody else began it between our look and our write
        return Claim.MINE

    def _take_over(self, old: RunRecord, clean_key: str | None, provenance: dict[str, Any], fresh: bool) -> Claim:
        values: dict[str, Any] = {
            "status": "RUNNING",
            "reason": "",
            "detail": "",
            "finished": None,
            "clean_key": clean_key,
        }
        if fresh:
            values["provenance"] = provenance
        with Session(self._engine) as session, session.begin():
            taken = session.execute(
                update(RunRow)
                .where(RunRow.key == old.key, RunRow.status == old.status, RunRow.pid == old.pid)
                .where(RunRow.host == old.host, RunRow.heartbeat == old.heartbeat)
                .values(**values, **asdict(self._me), heartbeat=time.time())
            )
            if not _count(taken):
                return Claim.HELD
            if fresh:
                for table in (ExampleRow, ImageRow, GameRow):
                    session.execute(delete(table).where(table.run == old.key))
        return Claim.MINE

    def _mine(self, session: Session, key: str, **values: Any) -> None:
        """Write a run's own columns as its holder; the first write of every transaction, so that it locks."""
        written = session.execute(
            update(RunRow)
            .where(RunRow.key == key, RunRow.host == self._me.host, RunRow.pid == self._me.pid)
            .where(RunRow.process_start == self._me.process_start, RunRow.status == "RUNNING")
            .values(heartbeat=time.time(), **values)
        )
        if not _count(written):
            raise LeaseLost(f"The run {key[:12]} was taken over by another process.")

    def heartbeat(self, keys: Iterable[str]) -> bool:
        """Say that the holder of these runs is alive. False where the database was busy: the next beat repeats it."""
        try:
            with Session(self._engine) as session, session.begin():
                session.execute(
                    update(RunRow)
                    .where(RunRow.key.in_(list(keys)), RunRow.host == self._me.host, RunRow.pid == self._me.pid)
                    .where(RunRow.status == "RUNNING")
                    .values(heartbeat=time.time())
                )
        except DBAPIError:
            return False
        return True

    def release(self, key: str) -> None:
        """Give the lease back with the run unfinished; anybody may go on with it at once."""
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(RunRow)
                .where(RunRow.key == key, RunRow.pid == self._me.pid, RunRow.status == "RUNNING")
                .values(pid=0)
            )

    # -- writing a run that is mine ---------------------------------------------------------------------------------

    def commit(
        self, key: str, rows: Sequence[Row], image_file: str, resume: Resume, meter: Meter, wall_s: float
    ) -> None:
        """Commit a chunk: rows of one game in order, the file with their images, the state after them, the seconds."""
        game, start = rows[0].game, rows[0].position
        done = resume.rows
        with Session(self._engine) as session, session.begin():
            self._mine(session, key)
            for table, column in ((ExampleRow, ExampleRow.position), (ImageRow, ImageRow.start)):
                session.execute(delete(table).where(table.run == key, table.game == game, column >= start))
            session.execute(insert(ExampleRow), [{"run": key, **_columns(row)} for row in rows])
            session.execute(
                insert(ImageRow), [{"run": key, "game": game, "start": start, "count": len(rows), "file": image_file}]
            )
            row = self._game(session, key, game)
            row.rows, row.served, row.digest = done, resume.served, resume.digest
            _add_seconds(row, meter, wall_s)

    def end_game(self, key: str, game: int, meter: Meter, wall_s: float) -> None:
        """Mark a game done, with the seconds since its last chunk."""
        with Session(self._engine) as session, session.begin():
            self._mine(session, key)
            row = self._game(session, key, game)
            row.done = True
            _add_seconds(row, meter, wall_s)

    @staticmethod
    def _game(session: Session, key: str, game: int) -> GameRow:
        row = session.get(GameRow, (key, game))
        if row is None:
            row = GameRow(
                run=key, game=game, rows=0, served=0, digest="", done=False, attack_s=0.0, defense_s=0.0, wall_s=0.0,
                background_answers=0, background_steps=0, background_s=0.0, flags={},
            )  # fmt: skip
            session.add(row)
        return row

    def finish(self, key: str, status: str, reason: str = "", detail: str = "") -> None:
        """End a run: DONE, SKIPPED or FAILED with its reason."""
        with Session(self._engine) as session, session.begin():
            self._mine(session, key, status=status, reason=reason, detail=detail, finished=time.time(), pid=0)

    # -- reading ----------------------------------------------------------------------------------------------------

    def find(self, key: str) -> RunRecord | None:
        with Session(self._engine) as session:
            run = session.get(RunRow, key)
            return None if run is None else _record(run)

    def resolve(self, prefix: str) -> RunRecord:
        """The run with this key, or whose key alone begins with it."""
        if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
            raise StoreError(f"{prefix!r} is no run: give its key or at least 4 hex digits of it; see: bench list runs")
        with Session(self._engine) as session:
            found = session.scalars(select(RunRow).where(RunRow.key.startswith(prefix)).limit(3)).all()
            if len(found) > 1:
                raise StoreError(f"{prefix!r} begins the keys of several runs; give more digits; see: bench list runs")
            if not found:
                raise UnknownName("run", prefix, [], "bench list runs")
            return _record(found[0])

    def runs(self, **among: Iterable[str]) -> list[RunRecord]:
        """All runs, in the order of their beginning; `defense=["rmc"]`: those whose column has one of these values."""
        wanted = [getattr(RunRow, column).in_(list(values)) for column, values in among.items()]
        with Session(self._engine) as session:
            found = session.scalars(select(RunRow).where(*wanted).order_by(RunRow.created, RunRow.key))
            return [_record(run) for run in found]

    def rows(self, key: str) -> list[Row]:
        """The rows of a run by game and position."""
        names = [f.name for f in fields(Row)]
        columns = [getattr(ExampleRow, name) for name in names]
        with Session(self._engine) as session:
            found = session.execute(
                select(*columns).where(ExampleRow.run == key).order_by(ExampleRow.game, ExampleRow.position)
            )
            return [_row(dict(zip(names, values, strict=True))) for values in found]

    def facts(self, keys: Iterable[str], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
        """The rows of many runs as bare tuples of these columns, run by run, in each by game and position."""
        wanted = select(*(getattr(ExampleRow, name) for name in names))
        wanted = wanted.where(ExampleRow.run == bindparam("key")).order_by(ExampleRow.game, ExampleRow.position)
        with self._engine.connect() as connection:
            for key in keys:
                yield key, list(connection.execute(wanted, {"key": key}).all())

    def games(self, key: str) -> list[GameRecord]:
        """The games of a run that have rows or seconds."""
        names = [f.name for f in fields(GameRecord)]
        with Session(self._engine) as session:
            found = session.scalars(select(GameRow).where(GameRow.run == key).order_by(GameRow.game))
            return [GameRecord(**{name: getattr(game, name) for name in names}) for game in found]

    def add_to_suite(self, suite: str, keys: Iterable[str]) -> None:
        """Note that these runs, which need not have begun, belong to a suite."""
        missing = set(keys)
        while missing:
            try:
                with Session(self._engine) as session, session.begin():
                    missing -= set(session.scalars(select(SuiteRow.run).where(SuiteRow.suite == suite)))
                    session.add_all(SuiteRow(suite=suite, run=key) for key in sorted(missing))
                return
            except IntegrityError:
                continue  # somebody else noted some of them between our look and our write

    def suite_runs(self, suite: str) -> list[RunRecord]:
        """The runs of a suite, in the order of their beginning."""
        with Session(self._engine) as session:
            found = session.scalars(
                select(RunRow).join(SuiteRow, SuiteRow.run == RunRow.key).where(SuiteRow.suite == suite)
                .order_by(RunRow.created, RunRow.key)
            )  # fmt: skip
            return [_record(run) for run in found]

    def put_audit(self, key: str, result: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Keep the verdict of an audit; a later one of the same runs takes its place."""
        cell = {name: result[name] for name in ("defense", "base", "dataset", "budget")}
        row = AuditRow(key=key, **cell, result=result, provenance=provenance, created=time.time())
        with Session(self._engine) as session, session.begin():
            session.merge(row)

    def audits(self) -> list[dict[str, Any]]:
        """The verdicts of all audits, oldest first."""
        with Session(self._engine) as session:
            return [row.result for row in session.scalars(select(AuditRow).order_by(AuditRow.created, AuditRow.key))]

    def image_files(self, key: str) -> list[tuple[int, int, int, str]]:
        """(game, start, count, file) of the proposed images of a run."""
        with Session(self._engine) as session:
            found = session.scalars(select(ImageRow).where(ImageRow.run == key).order_by(ImageRow.game, ImageRow.start))
            return [(image.game, image.start, image.count, image.file) for image in found]

    def needs(self) -> Needs:
        """What the database needs of its folder now."""
        with Session(self._engine) as session:
            images = frozenset(session.scalars(select(ImageRow.file).distinct()))
            running = session.scalars(select(RunRow).where(RunRow.status == "RUNNING").order_by(RunRow.created)).all()
            held = [run.key for run in running if Holder(run.host, run.pid, run.process_start).alive(run.heartbeat)]
            unfinished = select(GameRow.digest).join(RunRow, RunRow.key == GameRow.run)
            digests = session.scalars(unfinished.where(RunRow.status == "RUNNING", ~GameRow.done, GameRow.digest != ""))
            return Needs(images, frozenset(digests), tuple(held))

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """Within: no run can begin and nothing is committed; whoever tries waits. Only for a SQLite file."""
        with self._engine.connect() as connection:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except DBAPIError as error:
                raise unusable(parse_url(self.url), error) from None
            try:
                yield
            finally:
                connection.rollback()

    def count_rows(self, key: str) -> int:
        with Session(self._engine) as session:
            return int(session.scalar(select(func.count()).where(ExampleRow.run == key)) or 0)


def files_of(url: str) -> Path:
    """Where images, states and bases lie: BENCH_CACHE, else beside a SQLite file, else the user's cache."""
    given = os.environ.get("BENCH_CACHE")
    if given:
        return Path(given)
    file = file_of(parse_url(url))
    if file is not None:
        return file.with_name(f"{file.stem}-files")
    import platformdirs

    return Path(platformdirs.user_cache_dir("bench")) / "files"


def shares_files(url: str) -> str:
    """Why other databases may have files in the folder of this one; "" where it has the folder for itself."""
    if os.environ.get("BENCH_CACHE"):
        return "BENCH_CACHE names the folder"
    file = file_of(parse_url(url))
    if file is None:
        return "it is the folder of all databases on servers"
    if files_of(url).is_symlink():
        return "the folder is a link"
    if not file.parent.is_dir():
        return ""
    others = (path for path in sorted(file.parent.iterdir()) if path.stem == file.stem and path.name != file.name)
    return next((f"{path.name} beside it has the same" for path in others if _is_sqlite(path)), "")


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _same_environment(record: RunRecord, provenance: dict[str, Any]) -> None:
    """Raise where unfinished rows were made with other versions or on another device type."""
    old, new = record.provenance.get("environment", {}), provenance["environment"]
    changed = [name for name in new if old.get(name) != new[name]]
    if changed:
        differences = ", ".join(f"{name} {old.get(name)} then, {new[name]} now" for name in changed)
        raise StoreError(
            f"The run {record.key[:12]} was begun in another environment ({differences}); its rows would be mixed. "
            f"Start it again with --rerun all."
        )


def _record(run: RunRow) -> RunRecord:
    return RunRecord(**{f.name: getattr(run, f.name) for f in fields(RunRecord)})


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def _add_seconds(row: GameRow, meter: Meter, wall_s: float) -> None:
    row.attack_s += meter.attack_s
    row.defense_s += meter.defense_s
    row.wall_s += wall_s
    if meter.background.answers:
        row.background_answers = meter.background.answers
        row.background_steps = meter.background.steps
        row.background_s = meter.background.seconds
        row.background_delays = list(meter.background.delays)
    row.flags = {**row.flags, **meter.flags}


def _columns(row: Row) -> dict[str, Any]:
    """A row as it is stored. A distance that is not finite is null: JSON has no NaN."""
    distances = {norm: far if math.isfinite(far) else None for norm, far in row.distances.items()}
    return {**asdict(row), "distances": distances}


def _row(values: dict[str, Any]) -> Row:
    distances = {norm: math.nan if far is None else far for norm, far in values["distances"].items()}
    return Row(**{**values, "distances": distances})

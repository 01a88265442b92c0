"""From a bundle to the database: all of its runs or, where anything is wrong, none and nothing else.

The runs are laid into a database of their own in a temporary folder. There their figures are computed again and their
games replayed; only then are they copied.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.analysis.summaries import differing, keep
from bench.bundles.archive import Archive
from bench.bundles.check import CheckedRun, check_pairs, checked_run, images_of, read_manifest
from bench.bundles.manifest import Manifest, RunForm
from bench.bundles.pack import metrics_of
from bench.bundles.plugins import trusted, with_plugins
from bench.bundles.replay import check_weights, drawn, raise_difference, replay
from bench.bundles.rows import chain_of
from bench.cache import Cache
from bench.data.files import data_dir as data_folder
from bench.environment import environment, pick_device
from bench.errors import BenchError, one_line
from bench.execution.session import Session
from bench.execution.sources import other_plugins
from bench.execution.verify import other_data, verify
from bench.game.resources import Resources
from bench.store import GameRecord, RunRecord, Store, WholeRun, in_parts
from bench.store.schema import connect, parse_url


@dataclass(frozen=True)
class MergedRun:
    """A run of a merged bundle. verification: as of `RunRecord`; known: it was here before, with the same rows."""

    run: str
    defense: str
    attack: str
    dataset: str
    verification: str
    known: bool


@dataclass
class Merged:
    """What came of a bundle. seed: of the draw of games; notes: what could not be checked here, one line each."""

    file: str
    bundle: str
    seed: int
    runs: list[MergedRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def merge(
    path: Path,
    session: Session,
    *,
    db: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    games: int | None = 0,
    seed: int | None = None,
    trust: bool = False,
) -> Merged:
    """Check a bundle and add its runs to a database; `BadBundle` or another `BenchError` where it does not hold.

    games: how many games, of all of the bundle, are replayed; None: all. seed: of their draw; None: a secret one, which
    the answer names. trust: plug-in code of the bundle may run.
    """
    seed = secrets.randbits(32) if seed is None else seed
    with Archive(path) as archive, tempfile.TemporaryDirectory(prefix="bench-merge-") as folder:
        manifest = read_manifest(archive)
        merged, place = Merged(archive.name, archive.sha256, seed), Path(folder)
        session, paths = with_plugins(session, archive, manifest, place / "plugins", trust)
        settings = session.settings(session.db(db), data_folder(data_dir), pick_device(device), 1)
        staged = _staging(place)
        try:
            runs = [_stage(archive, manifest, form, staged) for form in manifest.runs]
            merged.notes += _other_versions(runs, environment(settings.device))
            check_pairs(archive, runs)
            chosen = drawn(runs, games, seed)
            resources = Resources(settings)
            for run in runs:
                own = chosen.get(run.form.key, [])
                if own:
                    trusted(archive, run.form.key, run.spec, trust)
                _check(archive, run, staged, resources, own, merged.notes, paths)
            _store(archive, runs, staged, session.db(db), chosen, merged)
        finally:
            staged.close()
    merged.notes = list(dict.fromkeys(merged.notes))
    return merged


# -- a database of its own ------------------------------------------------------------------------------------------


def _staging(folder: Path) -> Store:
    url = f"sqlite:///{folder / 'staged.db'}"
    opened = connect(parse_url(url), create=True)
    assert opened is not None
    return Store(opened.engine, url, folder / "files")


def _stage(archive: Archive, manifest: Manifest, form: RunForm, staged: Store) -> CheckedRun:
    """Check a run and lay it into the staging database. Its rows stay there: those of one run are in memory at once."""
    run = checked_run(archive, manifest, form)
    cache, images = Cache(staged.files), []
    for line, data in images_of(archive, manifest, run):
        cache.put_file("images", data)
        images.append((line.game, line.start, line.count, line.file))
    staged.add_runs([WholeRun(_record(run), run.rows, _games(run), images)])
    return CheckedRun(run.form, run.spec, [])


def _other_versions(runs: Sequence[CheckedRun], here: dict[str, str]) -> list[str]:
    """What differs between where the runs were made and here, so that their games cannot be replayed here."""
    differing: dict[str, int] = {}
    for run in runs:
        made = run.form.made.environment
        if other := "; ".join(
            f"{name} {made.get(name, 'unknown')}, here {here[name]}" for name in here if made.get(name) != here[name]
        ):
            differing[other] = differing.get(other, 0) + 1
    return [
        f"{count} of {len(runs)} runs cannot be replayed here: made with {other}" for other, count in differing.items()
    ]


def _record(run: CheckedRun) -> RunRecord:
    form = run.form
    return RunRecord(
        key=form.key, status="DONE", reason="", detail="", spec=run.spec.to_dict(), clean_key=form.clean,
        provenance=form.made.model_dump(), host="", pid=0, process_start=0.0, heartbeat=0.0, created=form.created,
        finished=form.finished,
    )  # fmt: skip


def _games(run: CheckedRun) -> list[GameRecord]:
    given = (game.model_dump(exclude={"chain"}) for game in run.form.games)
    return [GameRecord(**game, served=0, digest="", done=True) for game in given]


# -- what the rows say ----------------------------------------------------------------------------------------------


def _check(
    archive: Archive,
    run: CheckedRun,
    staged: Store,
    resources: Resources,
    games: list[int],
    notes: list[str],
    paths: dict[str, str],
) -> None:
    """Figures, labels, weights and games of a staged run."""
    record = staged.find(run.form.key)
    assert record is not None
    what = f"its run {run.form.key[:12]}"
    for name, (said, found) in differing(run.form.metrics.model_dump(), metrics_of(staged, record)).items():
        raise archive.wrong(f"{what}: its rows give {name} {found!r:.80}, in the manifest {said!r:.80}")
    check_weights(archive, run, resources)
    notes += [
        f"the {other.what} {other.name!r} is not here as it was then, so what the bundle says of it is not checked"
        for other in other_plugins(run.spec)
    ]
    try:
        told = other_data(run.spec, record, resources)
        size = run.spec.test_size if told else resources.task(run.spec.dataset).facts.test_size
        found = verify(staged, record, resources, games=()) if not told and size == run.spec.test_size else None
    except BenchError as error:
        told, size, found = one_line(error), run.spec.test_size, None
    if size != run.spec.test_size:
        raise archive.wrong(f"{what}: its test set has {run.spec.test_size} points, and here {size} with the same hash")
    if told:
        notes.append(f"the labels of run {run.form.key[:12]} were not checked: {told}")
    if found is not None:
        raise_difference(archive, run, found)
    if games:
        replay(archive, run, staged, _located(record, run, paths), games, resources)


def _located(record: RunRecord, run: CheckedRun, paths: dict[str, str]) -> RunRecord:
    """The run with the places of the network files of the bundle in place of their names; its key is the same."""
    return replace(record, spec=run.spec.with_files(lambda text: paths.get(text, text)).to_dict())


# -- into the database ----------------------------------------------------------------------------------------------


def _store(
    archive: Archive,
    runs: Sequence[CheckedRun],
    staged: Store,
    url: str,
    chosen: dict[str, list[int]],
    merged: Merged,
) -> None:
    target = Store.open(url, create=False)
    known = {run.form.key for run in runs if target is not None and _is_known(archive, run, target)}
    target = target or Store.open(url)
    assert target is not None
    origin = {"file": archive.name, "bundle": archive.sha256, "merged": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        target.add_runs(_copies(runs, known, staged, target, origin, chosen))
        for key in known & set(chosen):
            record = target.find(key)
            if record is not None and record.origin is not None:
                target.note_replayed(key, chosen[key])
        records = []
        for run in runs:
            record = target.find(run.form.key)
            assert record is not None
            records.append(record)
            names = {part: record.spec[part]["name"] for part in ("defense", "attack", "dataset")}
            merged.runs.append(
                MergedRun(record.key, **names, verification=record.verification, known=record.key in known)
            )
        for part in in_parts(records):
            keep(target, part)
    finally:
        target.close()


def _copies(
    runs: Sequence[CheckedRun],
    known: set[str],
    staged: Store,
    target: Store,
    origin: dict[str, str],
    chosen: dict[str, list[int]],
) -> Iterator[WholeRun]:
    """The runs as they are stored; their files come first, so that no row names a file that is not there."""
    cache, files = Cache(target.files), Cache(staged.files)
    for run in runs:
        key = run.form.key
        record = staged.find(key)
        if key in known or record is None:
            continue
        images = staged.image_files(key)
        for *_, file in images:
            cache.put_file("images", files.path("images", file).read_bytes())
        whole = replace(record, origin={**origin, "replayed": chosen.get(key, [])})
        yield WholeRun(whole, staged.all_rows(key), staged.games(key), images)


def _is_known(archive: Archive, run: CheckedRun, target: Store) -> bool:
    """Whether the database has the run with the same rows; `BadBundle` where it has it otherwise."""
    record = target.find(run.form.key)
    if record is None:
        return False
    what = f"its run {run.form.key[:12]} is here already"
    if record.status != "DONE":
        raise archive.wrong(f"{what}, and {record.status}; finish it, or give another --db")
    rows = target.all_rows(record.key)
    for game in run.form.games:
        own = [row for row in rows if row.game == game.game]
        if chain_of(record.key, game.game, own) != game.chain:
            raise archive.wrong(f"{what}, with other rows in game {game.game}; give another --db and compare the two")
    return True

"""`bench cache`: the files beside a database."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import folders, one_of
from bench.cli.options import reading_options
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bench.store.prune import Pruned, Size

ACTIONS = ("size", "prune")


@click.command()
@click.argument(
    "action", required=False, default="size", metavar="[size|prune]", shell_complete=one_of("size", "prune")
)
@click.option("--dry-run", is_flag=True, help="prune: say what would go, and remove nothing.")
@click.option("--older-than", type=float, metavar="DAYS", help="prune: only what was not written for so long.")
@click.option(
    "--kind",
    metavar="KIND",
    default="",
    show_default=False,
    help="prune: only this kind, also where it is dear to make again.",
)
@click.option(
    "--store",
    "address",
    metavar="DIR|URL",
    shell_complete=folders,
    help="This store of several machines, in place of the files beside the database.",
)
@reading_options
def cache(
    action: str,
    dry_run: bool,
    older_than: float | None,
    kind: str,
    address: str | None,
    as_json: bool,
    db: str | None,
    config: str | None,
) -> int:
    """Show how much space the files beside the database take, by kind; or remove files that are not needed.

    `prune` removes what killed processes left half written, states that no interrupted run goes on from, and images
    that no run of the database refers to. Trained bases, banks and crafted images take long to make again: they are
    removed only with --kind. While a run is being played, only files that dead processes left are removed.

    Of a store that several machines share, it removes uploads that ended half-way; with --kind all of a kind, except
    images, which other databases may need. What was written within the last hour stays.

    \b
    bench cache
    bench cache prune --dry-run
    bench cache prune --kind banks --older-than 30
    bench cache prune --store s3://lab/bench --kind states --older-than 7
    """
    if action not in ACTIONS:
        raise UnknownName("action of bench cache", action, ACTIONS, "bench cache --help")
    if action == "size" and (dry_run or kind or older_than is not None):
        raise BadValue("--dry-run, --older-than and --kind are of `bench cache prune`; drop them.")
    if older_than is not None and not older_than >= 0:
        raise BadValue(f"--older-than is {older_than:g}; give a number of days of at least 0.")
    session, older_s = open_session(config), 86400 * (older_than or 0.0)
    if address is not None:
        return _in_store(session.shared(address), action, kind, older_s, dry_run, as_json)
    url = session.db(db)
    from bench.store import files_of, shares_files

    root, shared = files_of(url), shares_files(url)
    if action == "size":
        return _size(root, shared, session.config.store.shared, as_json)
    from bench.store import Store
    from bench.store.prune import prune, survey

    _check_kind(kind, lambda: survey(root))
    done = prune(root, Store.open(url, create=False), shared, kind, older_s, dry_run)
    return _tell_pruned(str(root), shared, done, dry_run, as_json)


def _in_store(url: str, action: str, kind: str, older_s: float, dry_run: bool, as_json: bool) -> int:
    """The same for a store that several machines share."""
    from bench.store.prune import Size, artefacts_of, prune_store
    from bench.tiers import shared_store

    store, why = shared_store(url), "a store serves all who name it"
    if store is None:
        raise BadValue("--store is empty; give a folder or a URL such as s3://BUCKET/bench.")
    if action == "size":
        return _tell_sizes(url, True, Size.of(artefacts_of(store)), None, why, as_json)
    _check_kind(kind, lambda: Size.of(artefacts_of(store)))
    return _tell_pruned(url, why, prune_store(store, kind, older_s, dry_run), dry_run, as_json)


def _check_kind(kind: str, there: Callable[[], Iterable[str]]) -> None:
    """there: the kinds that are there, asked for where it is no usual one; a bucket takes long to list."""
    from bench.store.prune import KINDS, TEMPORARY

    if kind and kind not in (*KINDS, TEMPORARY) and kind not in (found := set(there())):
        raise UnknownName("kind of file", kind, {*KINDS, TEMPORARY, *found}, "bench cache")


def _size(root: Path, shared: str, store: str, as_json: bool) -> int:
    from bench.store.prune import nearest_folder, survey

    free = shutil.disk_usage(nearest_folder(root)).free
    _tell_sizes(str(root), root.exists(), survey(root), free, shared, as_json)
    if store and not as_json:
        click.echo(f"The store that bench.toml names is not among it: bench cache --store {store}")
    return 0


def _tell_sizes(root: str, exists: bool, sizes: dict[str, Size], free: int | None, shared: str, as_json: bool) -> int:
    """Print sizes by kind. free: bytes that are left there, None where nobody knows."""
    from bench.store.prune import KINDS, TEMPORARY, size_text

    total = sum(size.bytes for size in sizes.values())
    if as_json:
        kinds = {kind: asdict(size) for kind, size in sizes.items()}
        click.echo(json.dumps({"root": root, "shared": shared, "kinds": kinds, "bytes": total, "free": free}))
        return 0
    left = "" if free is None else f"; {size_text(free)} free"
    if not sizes:
        click.echo(f"{root}: nothing{'' if exists else ' (it is not there)'}{left}")
        return 0
    from bench.cli.tables import print_table

    about = {**KINDS, TEMPORARY: "half written: bench cache prune removes those of dead processes"}
    rows = [[kind, *_amounts(size), about.get(kind, "")] for kind, size in _largest_first(sizes)]
    print_table(f"{root}: {size_text(total)}{left}", ("kind", "number", "size", "what"), rows)
    if shared:
        click.echo(f"Other databases may have files there: {shared}.")
    return 0


def _tell_pruned(root: str, shared: str, done: Pruned, dry_run: bool, as_json: bool) -> int:
    """Print what was removed and what was not; 1 where something could not be."""
    from bench.store.prune import Size, size_text

    sizes = Size.of(done.removed)
    freed = sum(size.bytes for size in sizes.values())
    if as_json:
        click.echo(json.dumps(_as_json(root, shared, dry_run, sizes, freed, done)))
        return int(bool(done.failed))
    verb = "would be removed" if dry_run else "removed"
    for name, size in _largest_first(sizes):
        number, amount = _amounts(size)
        click.echo(f"{name}: {number} {verb}, {amount}")
    click.echo(f"{root}: {len(done.removed)} {verb}, {size_text(freed)} {'would be ' if dry_run else ''}freed")
    for note in done.notes:
        click.echo(f"  {note}")
    for path, reason in done.failed:
        click.echo(f"bench: {path} could not be removed: {reason}", err=True)
    return int(bool(done.failed))


def _as_json(root: str, shared: str, dry_run: bool, sizes: dict[str, Size], freed: int, done: Pruned) -> dict[str, Any]:
    return {
        "root": root,
        "shared": shared,
        "dry_run": dry_run,
        "removed": {kind: asdict(size) for kind, size in sizes.items()},
        "freed": freed,
        "failed": [{"path": str(path), "reason": reason} for path, reason in done.failed],
        "notes": done.notes,
    }


def _amounts(size: Size) -> tuple[str, str]:
    from bench.store.prune import size_text

    return str(size.count), size_text(size.bytes)


def _largest_first(sizes: dict[str, Size]) -> list[tuple[str, Size]]:
    return sorted(sizes.items(), key=lambda item: -item[1].bytes)

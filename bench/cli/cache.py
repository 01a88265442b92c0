"""`bench cache`: the files beside a database."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import one_of
from bench.cli.options import reading_options
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session

if TYPE_CHECKING:
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
@reading_options
def cache(
    action: str, dry_run: bool, older_than: float | None, kind: str, as_json: bool, db: str | None, config: str | None
) -> int:
    """Show how much space the files beside the database take, by kind; or remove files that are not needed.

    `prune` removes what killed processes left half written, states that no interrupted run goes on from, and images
    that no run of the database refers to. Trained bases, banks and crafted images take long to make again: they are
    removed only with --kind. While a run is being played, only files that dead processes left are removed.

    \b
    bench cache
    bench cache prune --dry-run
    bench cache prune --kind banks --older-than 30
    """
    if action not in ACTIONS:
        raise UnknownName("action of bench cache", action, ACTIONS, "bench cache --help")
    if action == "size" and (dry_run or kind or older_than is not None):
        raise BadValue("--dry-run, --older-than and --kind are of `bench cache prune`; drop them.")
    if older_than is not None and not older_than >= 0:
        raise BadValue(f"--older-than is {older_than:g}; give a number of days of at least 0.")
    url = open_session(config).db(db)
    from bench.store import files_of, shares_files

    root, shared = files_of(url), shares_files(url)
    if action == "size":
        return _size(root, shared, as_json)
    return _prune(root, shared, url, kind, 86400 * (older_than or 0.0), dry_run, as_json)


def _size(root: Path, shared: str, as_json: bool) -> int:
    from bench.store.prune import KINDS, TEMPORARY, nearest_folder, size_text, survey

    sizes = survey(root)
    total = sum(size.bytes for size in sizes.values())
    free = shutil.disk_usage(nearest_folder(root)).free
    if as_json:
        kinds = {kind: asdict(size) for kind, size in sizes.items()}
        click.echo(json.dumps({"root": str(root), "shared": shared, "kinds": kinds, "bytes": total, "free": free}))
        return 0
    if not sizes:
        click.echo(f"{root}: nothing {'' if root.exists() else '(it is not there)'}; {size_text(free)} free")
        return 0
    from bench.cli.tables import print_table

    about = {**KINDS, TEMPORARY: "half written: bench cache prune removes those of dead processes"}
    rows = [[kind, *_amounts(size), about.get(kind, "")] for kind, size in _largest_first(sizes)]
    print_table(f"{root}: {size_text(total)}; {size_text(free)} free", ("kind", "number", "size", "what"), rows)
    if shared:
        click.echo(f"Other databases may have files there: {shared}.")
    return 0


def _prune(root: Path, shared: str, url: str, kind: str, older_s: float, dry_run: bool, as_json: bool) -> int:
    from bench.store import Store
    from bench.store.prune import KINDS, TEMPORARY, Size, prune, size_text, survey

    known = {*KINDS, TEMPORARY, *survey(root)}
    if kind and kind not in known:
        raise UnknownName("kind of file", kind, known, "bench cache")
    done = prune(root, Store.open(url, create=False), shared, kind, older_s, dry_run)
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


def _as_json(
    root: Path, shared: str, dry_run: bool, sizes: dict[str, Size], freed: int, done: Pruned
) -> dict[str, Any]:
    return {
        "root": str(root),
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

"""`bench bundle`, `bench merge` and `bench board`: results that go to others, and come from them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import all_of, device_option, named, plugin_option, reading_options, using_options
from bench.errors import BadValue, BenchError, one_line
from bench.execution.session import open_session

if TYPE_CHECKING:
    from bench.bundles.merge import Merged
    from bench.execution.session import Session

replay_option = click.option(
    "--replay", metavar="K|all", default="0", show_default=True, help="Games to play again here, drawn at random."
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="Of the draw; default: a secret one."
)
trust_option = click.option("--trust", is_flag=True, help="Run plug-in code of the bundle. Read it first.")
#: for commands that take bundles in: replay, seed, trust, device, as_json, db, data_dir, plugins, config
merging_options = all_of(replay_option, seed_option, trust_option, device_option, using_options)


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--out", metavar="FILE", required=True, help="The file to write, such as mine.zip.")
@plugin_option
@reading_options
def bundle(
    runs: tuple[str, ...],
    out: str,
    plugins: tuple[str, ...],
    as_json: bool,
    db: str | None,
    config: str | None,
) -> int:
    """Finished runs (default: all) as one file: parameters, rows, images, sources of plug-ins, hashes.

    The paired clean runs come along. The same runs give the same bytes.

    \b
    bench bundle --out mine.zip
    bench bundle RUN RUN --out mine.zip
    """
    session = open_session(config, plugins, strict=False)
    store = session.store(db)
    from bench.bundles.pack import pack

    path = Path(out)
    if path.suffix != ".zip" or path.is_dir():
        raise BadValue(f"--out is {out!r}; give a file that ends in .zip.")
    records = [store.resolve(run) for run in dict.fromkeys(runs)] if runs else store.runs(status=["DONE"])
    if not records:
        raise BadValue("The database has no finished run to send; see: bench list runs")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = pack(store, records, path)
    except OSError as error:
        raise BadValue(f"{out!r} cannot be written: {error.strerror}; give --out another.") from None
    for note in packed.notes:
        click.echo(f"bench: {note}", err=True)
    if as_json:
        click.echo(json.dumps({"file": out, **asdict(packed)}))
    else:
        click.echo(f"{out}: {len(packed.runs)} runs, {packed.bytes} bytes, sha256 {packed.sha256}")
    return 0


@click.command()
@click.argument("file")
@merging_options
def merge(
    file: str,
    replay: str,
    seed: int | None,
    trust: bool,
    device: str,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Check a bundle and add its runs: all of them, or none where anything in it is wrong.

    Hashes, key, rows and figures are always checked. A replay plays games again, with the attack, and compares every
    fact; what was not replayed is stored as claimed. See docs/howto/share.md.

    \b
    bench merge theirs.zip
    bench merge theirs.zip --replay 2
    """
    session = open_session(config, plugins)
    merged = _merge(session, file, replay, seed, trust, device, db, data_dir)
    if as_json:
        click.echo(json.dumps(asdict(merged)))
        return 0
    _tell(merged)
    return 0


@click.command()
@click.argument("folder", metavar="DIR", callback=named)
@click.option(
    "--out", metavar="DIR", default="results/board", show_default=True, help="Folder of the site.", callback=named
)
@merging_options
def board(
    folder: str,
    out: str,
    replay: str,
    seed: int | None,
    trust: bool,
    device: str,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Merge every bundle of a folder and render the leaderboard of them. Exit code 1 if one was refused.

    The database is a new one that is removed afterwards, so the board shows the bundles and nothing else; --db keeps
    it, with what it had before.
    """
    session = open_session(config, plugins)
    from bench.cli.leaderboard import render_site

    files = sorted(Path(folder).glob("*.zip")) if Path(folder).is_dir() else []
    if not files:
        raise BadValue(f"{folder!r} is no folder with bundles (*.zip); write one with: bench bundle RUN --out FILE.zip")
    refused, merged = [], []
    with tempfile.TemporaryDirectory(prefix="bench-board-") as place:
        url = db or f"sqlite:///{place}/board.db"
        for file in files:
            try:
                merged.append(_merge(session, str(file), replay, seed, trust, device, url, data_dir))
            except BenchError as error:
                refused.append(one_line(error))
                click.echo(f"bench: {refused[-1]}", err=True)
            else:
                if not as_json:
                    _tell(merged[-1])
        (pages, _), count = render_site(session, url, out, "ranked", data_dir, [])
    if as_json:
        facts = {"page": str(pages[0]), "runs": count, "merged": [asdict(one) for one in merged], "refused": refused}
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{pages[0]} ({count} runs of {len(merged)} bundles; {len(refused)} bundles refused)")
    return int(bool(refused))


def _merge(
    session: Session,
    file: str,
    replay: str,
    seed: int | None,
    trust: bool,
    device: str,
    db: str | None,
    data_dir: str | None,
) -> Merged:
    from bench.bundles.merge import merge as merge_bundle

    if replay != "all" and not (replay.isascii() and replay.isdigit() and len(replay) < 10):
        raise BadValue(f"--replay is {replay!r}; give a number of games, or all.")
    games = None if replay == "all" else int(replay)
    return merge_bundle(
        Path(file), session, db=db, data_dir=data_dir, device=device, games=games, seed=seed, trust=trust
    )


def _tell(merged: Merged) -> None:
    from bench.cli.tables import hanging

    for run in merged.runs:
        known = ", was here already" if run.known else ""
        click.echo(f"{run.run[:12]} {run.defense} / {run.attack} / {run.dataset}: {run.verification}{known}")
    for note in merged.notes:
        click.echo(hanging(f"  {note}", 2))
    if any(run.verification != "claimed" for run in merged.runs):
        click.echo(f"  the games were drawn with --seed {merged.seed}")

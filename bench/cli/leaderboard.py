"""`bench leaderboard`: the page."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import click

from bench.cli.options import config_option, db_option, json_option, unused_data_option, write_text
from bench.errors import BadValue
from bench.session import open_session


@click.command()
@click.option("--out", metavar="DIR", default="results/leaderboard", help="Folder of the page.")
@click.option("--open", "show", is_flag=True, help="Open it in a browser.")
@json_option
@db_option
@unused_data_option
@config_option
def leaderboard(out: str, show: bool, as_json: bool, db: str | None, config: str | None) -> int:
    """Render all finished runs as one HTML page that needs no network."""
    session = open_session(config)
    from bench.store import Store
    from leaderboard.page import render
    from leaderboard.rows import load_audits, load_rows

    store = Store.open(session.db(db), create=False)
    rows = [] if store is None else load_rows(store)
    audits = [] if store is None else load_audits(store)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadValue(f"--out {out!r} is a file; give a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadValue(f"The folder {out!r} cannot be made: {error.strerror}; give --out another.") from None
    page = folder / "index.html"
    write_text(str(page), render(rows, audits))
    if as_json:
        click.echo(json.dumps({"page": str(page), "runs": len(rows)}))
    else:
        click.echo(f"{page} ({len(rows)} runs)")
    if show:
        webbrowser.open(page.resolve().as_uri())
    return 0

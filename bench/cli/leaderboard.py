"""`bench leaderboard`: the site. `bench plot`: its pictures as files."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import config_option, data_option, db_option, json_option, plugin_option, unused_data_option
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session

if TYPE_CHECKING:
    from leaderboard.rows import Book


@click.command()
@click.option("--out", metavar="DIR", default="results/leaderboard", help="Folder of the site.")
@click.option("--runs", metavar="all|ranked|N", default="ranked", help="Which runs get a page of their own.")
@click.option("--open", "show", is_flag=True, help="Open it in a browser.")
@json_option
@db_option
@data_option
@plugin_option
@config_option
def leaderboard(
    out: str,
    runs: str,
    show: bool,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Render all finished runs as a site of HTML pages that needs no network.

    Pages of runs show examples where the images of the run and its dataset are here.
    """
    session = open_session(config, plugins, strict=False)
    from bench.data.files import data_dir as data_folder
    from bench.game.resources import Resources
    from bench.planning.facts import facts_of
    from bench.planning.repeat import command_of
    from bench.planning.spec import RunSpec
    from bench.store import Store
    from leaderboard.book import load
    from leaderboard.details import details
    from leaderboard.rows import Book
    from leaderboard.site import RunPage, pages_of, write

    if runs not in ("all", "ranked"):
        pages_of(Book(), runs)  # a wrong request is found out before anything is read
    url = session.db(db)
    store = Store.open(url, create=False)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadValue(f"--out {out!r} is a file; give a folder.")
    folder_of_data = data_folder(data_dir)
    workbench = Resources(session.settings(url, folder_of_data, "cpu"))
    facts = facts_of(folder_of_data)
    given = [word for plugin in plugins for word in ("--plugin", plugin)]  # they are needed where the pages were made
    given += ["--config", config] if config else []
    given += ["--data-dir", data_dir] if data_dir else []

    def page(line: Any) -> RunPage:
        assert store is not None
        record = store.find(line.run)
        assert record is not None
        command = command_of(RunSpec.from_dict(record.spec), session.config, facts, given)
        return details(store, line, workbench, command)

    def report(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{line[:78]:<78}", nl=False, err=True)

    book = Book() if store is None else load(store)
    try:
        written = write(book, folder, page, runs, report)
    except OSError as error:
        raise BadValue(f"The folder {out!r} cannot be written: {error.strerror}; give --out another.") from None
    report("")
    if as_json:
        click.echo(json.dumps({"page": str(written[0]), "runs": len(book.runs), "pages": len(written)}))
    else:
        click.echo(f"{written[0]} ({len(book.runs)} runs, {len(written)} pages)")
    if show:
        webbrowser.open(written[0].resolve().as_uri())
    return 0


@click.command()
@click.argument("kind")
@click.option("--out", metavar="FILE", required=True, help="A file that ends in .png, .svg or .html.")
@click.option("--run", "run", metavar="RUN", help="neighbours, running: of this run.")
@click.option("--example", type=int, metavar="I", help="neighbours: of this example.")
@click.option("--dataset", metavar="NAME", help="Only runs on it; default: of the fullest board.")
@click.option("--norm", metavar="linf|l2|l0", help="Only runs of this norm; default: likewise.")
@click.option("--eps", metavar="EPS", help="Only runs of this radius; default: likewise, but for curve-eps.")
@click.option("--base", metavar="NAME", help="Only runs on it.")
@click.option("--tier", metavar="NAME", default="aware-full", help="pareto: what the attacker knows.")
@click.option("--scale", type=float, default=2.0, metavar="X", help="Pixels of a PNG, relative to the page's.")
@db_option
@unused_data_option
@config_option
def plot(
    kind: str,
    out: str,
    run: str | None,
    example: int | None,
    dataset: str | None,
    norm: str | None,
    eps: str | None,
    base: str | None,
    tier: str,
    scale: float,
    db: str | None,
    config: str | None,
) -> int:
    """Draw one of the leaderboard's pictures into a file; no browser is needed.

    \b
    bench plot heatmap --out robust.png
    bench plot curve-delay --out delay.svg --dataset mnist
    bench plot neighbours --run RUN --example I --out neighbours.html
    """
    store = open_session(config).store(db)
    from bench.threat import parse_number
    from leaderboard import charts
    from leaderboard.book import load
    from leaderboard.rows import TIERS

    kinds = [*charts.KINDS, *charts.OF_A_RUN]
    if kind not in kinds:
        raise UnknownName("picture", kind, kinds)
    if tier not in TIERS:
        raise UnknownName("tier", tier, TIERS)
    form = Path(out).suffix.lower()
    if form not in (".png", ".svg", ".html"):
        raise BadValue(f"--out is {out!r}; give a file that ends in .png, .svg or .html.")
    if not 0 < scale <= 10:  # a picture of ten times the size has 100 million pixels
        raise BadValue(f"--scale is {scale:g}; give a number above 0 and up to 10.")
    if kind in charts.OF_A_RUN:
        if run is None:
            raise BadValue(f"{kind} is a picture of one run; name it with --run, see: bench list runs")
        title, rows = _of_a_run(kind, store, run, example)
    else:
        radius = None if eps is None else parse_number("--eps", eps)
        title, rows = _of_a_board(kind, load(store), dataset, norm, radius, base, tier)
    if not rows:
        raise BadValue(f"There are no runs here of which {kind} could be drawn; see: bench list runs")
    _write_picture(charts.spec(kind, rows, title), out, form, scale)
    click.echo(f"{out} ({len(rows)} points)")
    return 0


def _of_a_run(kind: str, store: Any, run: str, example: int | None) -> tuple[str, list[dict[str, Any]]]:
    from bench.analysis.compare import outcome_of
    from bench.analysis.metrics import by_game
    from leaderboard import charts

    record = store.resolve(run)
    rows = store.rows(record.key)
    if kind == "running":
        games = by_game(rows, outcome_of(store, record, rows))
        return f"run {record.key[:12]}", charts.running_records(dict(enumerate(games)))
    known = [row for row in rows if row.neighbours and example in (None, row.index)]
    if not known:
        what = f"the example {example}" if example is not None else "any example"
        raise BadValue(f"The run {record.key[:12]} has no neighbours of {what}; see: bench show {run[:12]} --example I")
    row = known[0]
    return f"example {row.index}, label {row.label}", charts.neighbour_records(row.neighbours, row.label)


def _of_a_board(
    kind: str, book: Book, dataset: str | None, norm: str | None, eps: float | None, base: str | None, tier: str
) -> tuple[str, list[dict[str, Any]]]:
    """The title and the records of a picture: of the board that was asked for, or of the fullest that fits."""
    from leaderboard import charts
    from leaderboard.rows import Book, budget

    def fits(board: tuple[str, str, float]) -> bool:
        named = dataset is None or board[0] == dataset or board[0].startswith(f"{dataset} (")
        return named and norm in (None, board[1]) and eps in (None, board[2])

    lines = [line for line in book.runs if base in (None, line.entry.base) and line.attack != "clean"]
    standings = [one for one in book.standings if base in (None, one.entry.base) and one.tier == tier]
    drawn: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for board in {line.board for line in lines if fits(line.board)}:
        name = board[:2] if kind == "curve-eps" else board
        part = Book(
            [line for line in lines if line.board[: len(name)] == name],
            [one for one in standings if one.board[: len(name)] == name],
        )
        drawn[name] = charts.KINDS[kind].records(part)
    if not drawn:
        return "", []
    name = max(drawn, key=lambda board: (len(drawn[board]), board))
    radius = budget(*name[1:]) if len(name) > 2 else name[1]
    of_tier = f", {tier}" if kind == "pareto" else ""
    return f"{charts.KINDS[kind].title}: {name[0]}, {radius}{of_tier}", drawn[name]


def _write_picture(spec: dict[str, Any], out: str, form: str, scale: float) -> None:
    import vl_convert

    from leaderboard.page import VEGA_LITE

    if form == ".png":
        data = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=scale)
    elif form == ".svg":
        data = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE).encode()
    else:
        data = vl_convert.vegalite_to_html(spec, vl_version=VEGA_LITE, bundle=True).encode()
    try:
        Path(out).write_bytes(data)
    except OSError as error:
        raise BadValue(f"{out!r} cannot be written: {error.strerror}; give --out another.") from None

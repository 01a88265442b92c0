"""`bench leaderboard` writes the site, `bench plot` one chart as a file."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import (
    config_option,
    db_option,
    named,
    unused_data_option,
    using_options,
    workers_option,
    write_out,
)
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session
from bench.norms import NORMS, ball_of

if TYPE_CHECKING:
    from bench.execution.session import Session
    from bench.store import RunRecord, Store
    from leaderboard.charts import LeaderboardChart, RunChart
    from leaderboard.collect import Rules
    from leaderboard.content import RunSummary
    from leaderboard.run_page import RunDetails
    from leaderboard.site import Written


@click.command()
@click.option("--out", metavar="DIR", default="results/leaderboard", help="Folder of the site.", callback=named)
@click.option("--runs", metavar="all|ranked|N", default="ranked", help="Which runs get a page of their own.")
@click.option("--open", "show", is_flag=True, help="Open the site in a browser.")
@workers_option
@using_options
def leaderboard(
    out: str,
    runs: str,
    show: bool,
    workers: int | None,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Render all finished runs as a site of HTML pages that needs no network.

    The page of a run shows examples if the stored images of the run and its dataset are on this machine.

    A page of a run in DIR stays as it is where it would be drawn the same: pages.json in DIR notes what each was made
    from (the run and its figures, the configuration, the code and the files that it uses). A page that is missing or
    was edited is drawn again, and so are all if pages.json is removed or damaged. Pages that this command wrote into
    DIR before and that are not part of the site any more are removed; other files stay. Many pages are drawn by several
    processes; any number gives the same pages.
    """
    session = open_session(config, plugins, strict=False)
    given = [word for plugin in plugins for word in ("--plugin", plugin)]  # repeating a run needs these options too
    given += ["--config", config] if config else []
    given += ["--data-dir", data_dir] if data_dir else []
    (pages, drawn), count = render_site(session, session.db(db), out, runs, data_dir, given, workers)
    with_page = sum(page.parent.name == "runs" for page in pages)
    if as_json:
        click.echo(json.dumps({"page": str(pages[0]), "runs": count, "pages": len(pages), "drawn": drawn}))
    else:
        stayed = f"; {with_page - drawn} pages of runs stayed as they were" if drawn < with_page else ""
        click.echo(f"{pages[0]} ({count} runs, {len(pages)} pages{stayed})")
    if show:
        webbrowser.open(pages[0].resolve().as_uri())
    return 0


def render_site(
    session: Session,
    url: str,
    out: str,
    runs: str,
    data_dir: str | None,
    given: Sequence[str],
    workers: int | None = None,
) -> tuple[Written, int]:
    """Write the site of a database; what was written, and the number of runs.

    given: options of this command that a command to repeat a run needs too; workers: None: as the configuration says
    """
    from bench.data.files import data_dir as data_folder
    from bench.store import Store
    from leaderboard.collect import collect
    from leaderboard.content import Leaderboard
    from leaderboard.site import runs_with_page, write_site
    from leaderboard.stored_runs import Place, StoredRuns

    if runs not in ("all", "ranked"):
        runs_with_page(Leaderboard(), runs)  # refuses a wrong value before the database is read
    store = Store.open(url, create=False)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise BadValue(f"--out {out!r} is a file; give a folder.")
    data = data_folder(data_dir)
    count = session.settings(url, data, "cpu", workers, {"engine": "local"}).workers
    rules = _rules(session, data_dir, given)
    whole, details = Leaderboard(), _no_run
    if store is not None:
        whole, details = collect(store, rules), StoredRuns(Place(session, url, data, tuple(given)), store)
    try:
        written = write_site(whole, folder, details, session.config.site, runs, _report, workers=count)
    except OSError as error:
        raise BadValue(f"The folder {out!r} cannot be written: {error.strerror}; give --out another.") from None
    _report("")
    return written, len(whole.runs)


def _no_run(run: RunSummary) -> RunDetails:
    raise AssertionError("there is no database, so there are no runs")


def _rules(session: Session, data_dir: str | None = None, given: Sequence[str] = ()) -> Rules:
    """By what the ranking is made. given: options that a command which plays more needs too."""
    from bench import registry
    from bench.data.files import data_dir as data_folder
    from bench.planning.config_check import sections_hold
    from bench.planning.facts import facts_of
    from bench.planning.repeat import command_against
    from bench.planning.spec import RunSpec
    from leaderboard.collect import Rules

    battery = {str(tier): names for tier, names in session.config.site.battery.items()}
    for name in (name for names in battery.values() for name in names):
        registry.attacks[name]  # raises `UnknownName`
    facts = facts_of(data_folder(data_dir))

    @cache
    def checked() -> bool:
        return sections_hold(session.config)

    def command(record: RunRecord, attacks: Sequence[str]) -> str:
        return command_against(RunSpec.from_dict(record.spec), attacks, session.config, facts, given, checked())

    return Rules(battery, session.config.suite, command)


def _report(line: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{line[:78]:<78}", nl=False, err=True)


class _WithKinds(click.Command):
    """A command whose help lists the kinds of charts."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from leaderboard.charts import LEADERBOARD_CHARTS, RUN_CHARTS

        for title, charts in (("Kinds, of many runs", LEADERBOARD_CHARTS), ("Kinds, of one run", RUN_CHARTS)):
            with formatter.section(title):
                formatter.write_dl([(name, chart.title) for name, chart in charts.items()])
        super().format_options(ctx, formatter)


@click.command(cls=_WithKinds)
@click.argument("kind", required=False, metavar="KIND")
@click.option("--out", metavar="FILE", required=True, help="A file that ends in .png, .svg or .html.")
@click.option("--run", "run", metavar="RUN", help="neighbours, running: the run to draw.")
@click.option("--example", type=int, metavar="I", help="neighbours: the example to draw.")
@click.option("--dataset", metavar="NAME", help="Only runs on this dataset.", show_default="the board with most points")
@click.option("--norm", metavar="|".join(NORMS), help="Only runs with this norm.", show_default="as for --dataset")
@click.option(
    "--eps", metavar="EPS", help="Only runs with this radius; not for curve-eps.", show_default="as for --dataset"
)
@click.option("--base", metavar="NAME", help="Only runs on this base.")
@click.option("--tier", metavar="NAME", default="aware-full", help="pareto: the tier of the worst case.")
@click.option("--scale", type=float, default=2.0, metavar="X", help="PNG: size relative to the page's chart.")
@db_option
@unused_data_option
@config_option
def plot(
    kind: str | None,
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
    """Draw a chart of the leaderboard into a file, without a browser.

    \b
    bench plot heatmap --out robust.png
    bench plot curve-delay --out delay.svg --dataset mnist
    bench plot neighbours --run RUN --example I --out neighbours.html
    """
    from bench.threat import parse_number
    from leaderboard.charts import LEADERBOARD_CHARTS, RUN_CHARTS, drawing
    from leaderboard.charts.files import ENDINGS, chart_file
    from leaderboard.content import TIERS

    if kind is None:
        kinds = ", ".join([*LEADERBOARD_CHARTS, *RUN_CHARTS])
        raise BadValue(f"Give the kind of chart: {kinds}; see: bench plot --help")
    session = open_session(config)
    store = session.store(db)
    chart = RUN_CHARTS.get(kind) or LEADERBOARD_CHARTS.get(kind)
    if chart is None:
        raise UnknownName("chart", kind, [*LEADERBOARD_CHARTS, *RUN_CHARTS])
    if tier not in TIERS:
        raise UnknownName("tier", tier, TIERS)
    if norm is not None:
        ball_of(norm)  # raises `UnknownName`
    if Path(out).suffix.lower() not in ENDINGS:
        raise BadValue(f"--out is {out!r}; give a file that ends in .png, .svg or .html.")
    if not 0 < scale <= 10:  # a chart of ten times the size has 100 million pixels
        raise BadValue(f"--scale is {scale:g}; give a number above 0 and up to 10.")
    if kind in RUN_CHARTS:
        title, records = _of_a_run(RUN_CHARTS[kind], store, run, example)
    else:
        radius = None if eps is None else parse_number("--eps", eps)
        title, records = _of_a_board(
            LEADERBOARD_CHARTS[kind], store, dataset, norm, radius, base, tier, _rules(session)
        )
    write_out(out, chart_file(drawing(chart, records, title), Path(out).suffix.lower(), scale))
    click.echo(f"{out} ({len(records)} points)")
    return 0


def _of_a_run(chart: RunChart, store: Store, run: str | None, example: int | None) -> tuple[str, list[dict[str, Any]]]:
    """The title and the records of a chart of one run."""
    from bench.analysis.compare import outcome_of
    from bench.analysis.describe import clean_answers
    from bench.analysis.harm import harm_of
    from leaderboard.charts.chart import RunData

    if run is None:
        raise BadValue(f"{chart.name} is a chart of one run; name it with --run, see: bench list runs")
    record = store.resolve(run)
    served = store.all_rows(record.key)
    rows = [row for row in served if not row.poison]
    shown = [row for row in rows if example in (None, row.index)]
    lost = harm_of(record, served, clean_answers(store, record))
    drawings = chart.records(RunData(rows, outcome_of(store, record, rows), shown, lost))
    if not drawings:
        what = f"the example {example}" if example is not None else "any example"
        raise BadValue(
            f"{chart.name} cannot be drawn of {what} of the run {record.key[:12]}. {chart.empty} "
            f"See: bench show {run[:12]}"
        )
    return f"{chart.title}: {drawings[0].title or f'run {record.key[:12]}'}", drawings[0].records


def _of_a_board(
    chart: LeaderboardChart,
    store: Store,
    dataset: str | None,
    norm: str | None,
    eps: float | None,
    base: str | None,
    tier: str,
    rules: Rules,
) -> tuple[str, list[dict[str, Any]]]:
    """The title and the records of a chart of many runs, on the board with most points."""
    from leaderboard.charts.chart import Scope, on_base
    from leaderboard.charts.files import fullest_part
    from leaderboard.collect import collect

    def wanted(scope: Scope) -> bool:
        named = dataset is None or scope.dataset == dataset or scope.dataset.startswith(f"{dataset} (")
        radius = None in (eps, scope.eps) or eps == scope.eps
        return named and radius and norm in (None, scope.norm) and scope.tier in ("", tier)

    part = fullest_part(chart, on_base(collect(store, rules), base), wanted)
    if part is None:
        raise BadValue(
            f"There are no runs here of which {chart.name} could be drawn. {chart.empty} See: bench list runs"
        )
    scope, records = part
    return f"{chart.title}: {scope.name}", records

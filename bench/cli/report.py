"""`bench report`: the runs of a suite beside the published figures."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import names, one_of
from bench.cli.options import reading_options, write_out
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session

if TYPE_CHECKING:
    from bench.analysis.report import Cell, Report


@click.command()
@click.argument("suite", shell_complete=names("suite"))
@click.option(
    "--format",
    "form",
    metavar="text|markdown|html",
    help="Form of the table.",
    show_default="text, for a terminal",
    shell_complete=one_of("text", "markdown", "html"),
)
@click.option("--out", metavar="FILE", help="File of the table.", show_default="standard output")
@click.option(
    "--table", metavar="SUITE", help="Lay the runs out in the table of another suite.", shell_complete=names("table")
)
@click.option("-n", "n", type=int, metavar="N", help="Only runs of N examples.")
@reading_options
def report(
    suite: str,
    form: str | None,
    out: str | None,
    table: str | None,
    n: int | None,
    as_json: bool,
    db: str | None,
    config: str | None,
) -> int:
    """The table of a suite: ours with its interval, the published figure, the difference, and whether they agree.

    \b
    bench run --suite table1 -n 100 --data-dir DIR
    bench report table1
    """
    if as_json and form is not None:
        raise BadValue(f"--json and --format {form} were both given; drop one.")
    form = form or "text"
    if form not in ("text", "markdown", "html"):
        raise BadValue(f"--format is {form!r}; give text, markdown or html.")
    session = open_session(config)
    from bench.analysis.describe import describe_all
    from bench.analysis.report import lay_out, table_of, to_markdown
    from bench.analysis.summaries import answered

    if suite not in session.config.suite:
        raise UnknownName("suite", suite, session.config.suite, "bench list suites")
    layout = table_of(table or suite, session.config.suite)
    store = session.store(db)
    records = [record for record in store.suite_runs(suite) if n is None or record.spec["n"] == n]
    if not any(record.status == "DONE" for record in records):
        raise BadValue(f"The database has no finished run of the suite {suite!r}{'' if n is None else f' with n {n}'}; "
                       f"see: {shlex.join(['bench', 'run', '--suite', suite])}")  # fmt: skip
    results = [described for _, described in describe_all(store, records)]
    specs = {record.key: record.spec for record in records}
    by_key = {record.key: record for record in records}
    made = lay_out(suite, layout, results, specs, session.config.suite[suite].where,
                   cache(lambda key: answered(store, by_key[key])))  # fmt: skip
    if as_json:
        text = "".join(json.dumps(_as_json(cell)) + "\n" for cell in made.cells)
    elif form == "markdown":
        text = to_markdown(made)
    elif form == "html":
        from leaderboard.report import render

        text = render(made)
    else:
        text = _as_text(made)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_out(out, text.encode())
    return 0


def _as_json(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell), "difference": cell.difference, "verdict": cell.verdict}


def _as_text(made: Report) -> str:
    from bench.analysis.report import agreement, short
    from bench.cli.tables import hanging, table_text

    rows, before = [], ""
    broken: list[str] = []
    for cell in made.cells:
        budget = "" if cell.at_budget is None else f"{cell.at_budget:.1f}"
        paper = "" if cell.paper is None else f"{cell.paper:g}"
        difference = "" if cell.difference is None else f"{cell.difference:+.1f}"
        title = "" if cell.row == before else cell.row
        rows.append([title, cell.column, str(cell.n), short(cell), budget, paper, difference, cell.verdict])
        if cell.breakers:
            broken.append(f"{cell.row}, {cell.column}: broken by {cell.breakers}")
        before = cell.row
    columns = ("", "column", "n", "ours %", "at budget", "paper", "diff", "verdict")
    table = table_text(made.source or made.suite, columns, rows, names=("", "column"))
    return table + "".join(f"{hanging(line, 0)}\n" for line in (*broken, made.about, agreement(made)))

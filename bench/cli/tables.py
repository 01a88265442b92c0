"""Tables that fit a terminal."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Output(Console):
    """A console that leaves a closed pipe to the command line, as `click.echo` does: rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str] = ()) -> None:
    """A table on standard output: see `table_text`."""
    click.echo(table_text(title, columns, rows, names), nl=False)


def table_text(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str] = ()) -> str:
    """A table as wide as the terminal; names from plug-ins and the database are text, never markup.

    names: columns that hold names. If the table is too wide, these are broken after a hyphen or a colon, and the
    others, with numbers, stay whole; without any, cells are broken between words, the longest column first.
    """
    console = Output(soft_wrap=False)
    if names:
        rows = _narrowed(columns, rows, [columns.index(name) for name in names], console.width)
        lines = [_line_breaks(row) for row in (columns, *rows)]
        widths = [max(len(text) for row in lines for text in row[i]) for i in range(len(columns))]
        if sum(widths) + len(widths) - 1 <= console.width:  # rich needs a millisecond a row
            return _laid_out(console, title, lines, widths)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    with console.capture() as captured:
        if title:
            console.print(title, style="italic", markup=False, highlight=False)
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _line_breaks(row: Sequence[str]) -> list[list[str]]:
    return [cell.split("\n") for cell in row]


def _laid_out(console: Console, title: str, lines: list[list[list[str]]], widths: list[int]) -> str:
    """A table whose cells, given by their lines, fit columns of these widths; the first row is its head."""
    text = []
    for row in lines:
        for part in range(max(map(len, row))):
            cells = (cell[part] if part < len(cell) else "" for cell in row)
            text.append(" ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    head = max(map(len, lines[0]))
    with console.capture() as captured:
        if title:
            console.print(title, style="italic", markup=False, highlight=False)
        for line in text[:head]:
            console.print(line, style="bold", markup=False, highlight=False)
    return captured.get() + "".join(f"{line}\n" for line in text[head:])


def _narrowed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], breakable: Sequence[int], width: int
) -> list[list[str]]:
    """The rows with line breaks in the breakable columns, so that all columns and a blank between them fit `width`."""
    cells = [columns, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    least = {i: max(len(part) for row in cells for part in _parts(row[i])) for i in breakable}
    while sum(widths) + len(widths) - 1 > width:
        loose = [i for i in breakable if widths[i] > least[i]]
        if not loose:
            break  # a very narrow terminal: what is left over is folded anywhere
        widths[max(loose, key=lambda i: widths[i])] -= 1
    return [[_broken(cell, widths[i]) if i in least else cell for i, cell in enumerate(row)] for row in rows]


def _parts(name: str) -> list[str]:
    """The pieces of a name between which it may be broken; they end with their hyphen, colon or blank."""
    return re.findall(r"[^-: ]*[-: ]|[^-: ]+", name) or [""]


def _broken(name: str, width: int) -> str:
    """The name in lines of at most `width`, where its pieces are no longer."""
    lines = [""]
    for part in _parts(name):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def hanging(text: str, indent: int) -> str:
    """A line for a terminal, broken between words if it is too long, with `indent` spaces before the further lines.

    In a pipe it stays one line, so that it can be searched, unless COLUMNS gives a width.
    """
    columns = os.environ.get("COLUMNS", "")
    if len(text) <= indent or not (columns.isdigit() or sys.stdout.isatty()):
        return text
    width = max(shutil.get_terminal_size().columns, indent + 20)
    head, rest = text[:indent], text[indent:]  # blanks in the head keep what follows in its column
    lines = textwrap.wrap(
        rest, width, initial_indent=head, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def share(estimate: dict[str, Any] | None) -> str:
    """`97.0 [94.1, 98.5]` of an estimate, in percent."""
    if estimate is None:
        return "-"
    return f"{100 * estimate['value']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def short_share(estimate: dict[str, Any] | None) -> str:
    """`97.0 (94-99)` of an estimate, in percent: the ends rounded outwards, for tables of 80 columns."""
    if estimate is None:
        return "-"
    low, high = math.floor(100 * estimate["low"] + 1e-9), math.ceil(100 * estimate["high"] - 1e-9)
    value = f"{100 * estimate['value']:.1f}".replace("100.0", "100")
    return f"{value} ({low}-{high})"


def milliseconds(seconds: float) -> str:
    """Three digits, without an exponent."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """One row per run (ms: median milliseconds of an answer), and below it why a run was skipped, failed or flagged."""
    columns = ("run", "defense", "attack", "task, eps", "n", "clean %", "robust %", "ms")
    rows = []
    for r in results:
        answer = "-" if r["answer_s"] is None else milliseconds(r["answer_s"])
        robust = short_share(r["robust_accuracy"]) if r["status"] == "DONE" else r["status"]
        name = r["defense"] if r["base"] in ("regular", r["defense"]) else f"{r['defense']} on {r['base']}"
        task = f"{r['dataset']} {r['eps']:.3g}"
        clean = short_share(r["clean_accuracy"])
        rows.append([r["run"][:6], name, r["attack"], task, str(r["n"]), clean, robust, answer])
    print_table("", columns, rows, names=("defense", "attack", "task, eps"))
    console = Output()
    for r in results:
        if r["reason"]:
            console.print(f"{r['run'][:6]} {r['status']}: {escape(r['reason'])}", style="yellow")
        if r.get("false_rejections") is not None:
            attacked = r["detection_rate"]
            text = "" if attacked is None else f", of attacked images {short_share(attacked)} %"
            console.print(f"{r['run'][:6]} refuses {short_share(r['false_rejections'])} % of clean images{text}")
        if (again := r.get("resubmission")) is not None:
            after = ", ".join(f"{100 * value:.1f} after {count}" for count, value in again["after"].items())
            floor = f"clean images {100 * again['clean_worst']:.1f} and {100 * again['clean_average']:.1f}"
            console.print(f"{r['run'][:6]} each image sent {again['times']} times: robust % {after}", end=", ")
            console.print(f"{100 * again['average']:.1f} on average; {floor}")
        if (harm := r.get("harm")) is not None:
            lost, last = harm["lost"], harm["moments"][-1]
            console.print(
                f"{r['run'][:6]} other users lose {100 * lost['value']:.1f} points ({100 * lost['low']:.1f} to "
                f"{100 * lost['high']:.1f}) by {last['sent']} inputs of the attacker"
            )
        for flag in r["flags"]:
            console.print(f"{r['run'][:6]} {escape(flag['id'])}: {escape(flag['message'])}", style="yellow")

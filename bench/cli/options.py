"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.cli.complete import files, folders, one_of
from bench.errors import BadValue

Function = TypeVar("Function", bound=Callable[..., Any])


def db_option(function: Function) -> Function:
    return click.option("--db", metavar="URL", help="Database: a path or an SQLAlchemy URL.", shell_complete=files)(
        function
    )


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")(function)


def config_option(function: Function) -> Function:
    return click.option(
        "--config", metavar="FILE", help="A bench.toml; default: the one in this folder.", shell_complete=files
    )(function)


def data_option(function: Function) -> Function:
    return click.option(
        "--data-dir", metavar="DIR", help="Folder with the datasets; default: $BENCH_DATA.", shell_complete=folders
    )(function)


def unused_data_option(function: Function) -> Function:
    """`--data-dir` for commands that read only the database: taken, so that one set of options fits all commands."""
    option = click.option("--data-dir", metavar="DIR", expose_value=False, help="Taken, and not needed here.")
    return option(function)


def plugin_option(function: Function) -> Function:
    return click.option(
        "--plugin", "plugins", metavar="FILE", multiple=True, help="A Python file with plug-ins.", shell_complete=files
    )(function)


def set_option(function: Function) -> Function:
    return click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="A dotted key: defense.k=512.")(
        function
    )


def device_option(function: Function) -> Function:
    return click.option(
        "--device",
        metavar="auto|cpu|cuda",
        default="auto",
        help="Where tensors live.",
        shell_complete=one_of("auto", "cpu", "cuda"),
    )(function)


def write_text(out: str, text: str) -> None:
    """Write a file that the user named; `BadValue` where that cannot be."""
    try:
        Path(out).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise BadValue(f"{out!r} cannot be written: {error.strerror}; give --out another.") from None


def parse_sets(sets: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE pairs; a later one wins."""
    values = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise BadValue(f"--set {text!r} is no dotted key with a value; write it like defense.k=512.")
        values[key.strip()] = value.strip()
    return values

"""Options that several commands share."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.cli.complete import configuration, files, folders, one_of
from bench.errors import BadValue

Function = TypeVar("Function", bound=Callable[..., Any])


class Configured(click.Option):
    """An option that leaves its value to a key of bench.toml; its help has the value that holds here.

    none: what the values "" and 0 mean there, in words; "" if they mean what they are
    """

    def __init__(self, *args: Any, key: str, none: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.key, self.none = key, none

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        section, _, name = self.key.partition(".")
        table = configuration(ctx).get(section)
        value = table.get(name) if isinstance(table, dict) else None  # what is wrong with it, the command will say
        words = self.none if not value and self.none else str(value)
        self.show_default = (
            self.key if "@" in words else f"{self.key}: {words}"
        )  # the address of a server has a password
        return super().get_help_record(ctx)


config_option = click.option(
    "--config", metavar="FILE", help="A bench.toml.", show_default="the one in this folder", shell_complete=files
)


def named(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The value of an option that names a place; `BadValue` for "", which a shell makes of an unset variable."""
    if value == "":
        what = option.opts[0] if option.opts[0].startswith("-") else option.make_metavar(ctx)
        raise BadValue(f"{what} is ''; give the name of a place{'' if option.required else ', or leave it out'}.")
    return value


db_option = click.option(
    "--db", metavar="URL", help="Database: a path or an SQLAlchemy URL.", cls=Configured, key="store.db",
    shell_complete=files, callback=named,
)  # fmt: skip
store_option = click.option(
    "--store", "shared", metavar="DIR|URL", help="Folder or URL (s3://...) of artefacts that several machines share.",
    cls=Configured, key="store.shared", none="none", shell_complete=folders,
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
plugin_option = click.option(
    "--plugin", "plugins", metavar="FILE", multiple=True, help="A Python file with plug-ins.", shell_complete=files
)
data_option = click.option(
    "--data-dir", metavar="DIR", help="Folder with the datasets.", show_default="$BENCH_DATA", shell_complete=folders
)
unused_data_option = click.option("--data-dir", metavar="DIR", expose_value=False, help="Taken, and not needed here.")
set_option = click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="A dotted key: defense.k=512.")
workers_option = click.option(
    "--workers", metavar="W", type=click.IntRange(min=1), help="Processes of one thread each.",
    cls=Configured, key="runner.workers", none="one per core",
)  # fmt: skip
device_option = click.option(
    "--device",
    metavar="auto|cpu|cuda",
    default="auto",
    help="Where tensors live.",
    shell_complete=one_of("auto", "cpu", "cuda"),
)


def all_of(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """These options as one decorator; they stand in the help in this order."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


#: for commands that play runs: sets, device, as_json, db, data_dir, plugins, config
playing_options = all_of(set_option, device_option, json_option, db_option, data_option, plugin_option, config_option)
#: for commands that use what is installed and stored, and play nothing: as_json, db, data_dir, plugins, config
using_options = all_of(json_option, db_option, data_option, plugin_option, config_option)
#: for commands that only read the database: as_json, db, config. They take --data-dir, so that one set of options fits
#: all commands.
reading_options = all_of(json_option, db_option, unused_data_option, config_option)


def write_out(out: str, data: bytes) -> None:
    """Write a file that the user named, whole or not at all; `BadValue` where that cannot be."""
    from bench.cache import write_atomic

    path = Path(out)
    try:
        if path.exists() and not path.is_file():  # a pipe, a terminal, /dev/null: what is written goes through it
            path.write_bytes(data)
        else:
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, f"the folder {str(path.parent)!r} does not exist")
            write_atomic(path.resolve(), data)  # a link stays one
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

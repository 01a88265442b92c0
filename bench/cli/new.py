"""`bench init` and `bench new`: files to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bench.cli.complete import one_of
from bench.cli.options import config_option, db_option
from bench.errors import BadValue


@click.command()
@click.option("--force", is_flag=True, help="Write over a bench.toml that is there.")
@db_option
def init(force: bool, db: str | None) -> int:
    """Write a bench.toml with all defaults, each with what it means, into this folder.

    It is a place to change them: without one the same defaults hold. With --db the file names this database, and its
    tables are made; where a server lacks something, it is said what to create.
    """
    from bench.config import starter
    from bench.scaffold import NewFile, write_new
    from bench.store import prepare

    path = Path("bench.toml")
    if not force and (path.exists() or path.is_symlink()):
        raise BadValue("bench.toml is here already; edit it, or give --force to write the defaults over it.")
    if db is not None:
        click.echo(prepare(db))
    write_new([NewFile(path, starter(db))])
    click.echo("bench.toml: all defaults, to edit. Try: bench run --defense rmc --attack pgd-skip-delayed")
    return 0


@click.command()
@click.argument("what", metavar="defense|attack", shell_complete=one_of("defense", "attack"))
@click.argument("name")
@click.option(
    "--kind",
    metavar="static|online",
    help="Of a defense: whether its answers depend on earlier points.",
    shell_complete=one_of("static", "online"),
)
@config_option
def new(what: str, name: str, kind: str | None, config: str | None) -> int:
    """Write a working example of a defense or an attack, and its test, into this folder.

    They are found by their place: defenses/ and attacks/ beside the bench.toml in use, or in this folder.

    \b
    bench new defense mine --kind online
    bench check mine
    bench run --defense mine --attack pgd
    """
    from bench import plugins
    from bench.config import find
    from bench.scaffold import new_plugin, write_new

    path = find(config)
    plugins.load_all(path, strict=False)
    folder = plugins.folder_beside(path)
    files = new_plugin(what, name, kind, folder)
    write_new(files)
    for file in files:
        click.echo(str(file.path))
    there = "" if config is None else f" --config {shlex.quote(config)}"
    cell = f"--defense {name} --attack pgd" if what == "defense" else f"--defense regular --attack {name}"
    click.echo("It works as it is. Edit it, then:")
    for command in (
        f"bench check {name}{there}",
        f"bench run {cell}{there}",
        f"pytest {shlex.quote(str(files[1].path))}",
    ):
        click.echo(f"  {command}")
    return 0

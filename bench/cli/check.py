"""`bench check`: the contract, run against one plug-in."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import click

from bench.cli.complete import names
from bench.cli.options import using_options
from bench.execution.session import open_session


@click.command()
@click.argument("name", shell_complete=names("defense", "attack"))
@click.option(
    "--dataset", metavar="NAME", default="digits", help="What to check it on.", shell_complete=names("dataset")
)
@click.option(
    "--base",
    metavar="NAME",
    default="regular",
    help="The network under a defense, or that an attack attacks.",
    shell_complete=names("defense"),
)
@using_options
def check(
    name: str,
    dataset: str,
    base: str,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Run the contract against one defense or attack. Exit code 1 if a check fails."""
    session = open_session(config, plugins, strict=False)
    from bench import registry
    from bench.plugins import broken_files

    for path, reason in broken_files.items():
        if Path(path).stem.replace("_", "-") == name.replace("_", "-"):
            click.echo(f"bench: {path} does not load: {reason}", err=True)
            return 1
    kind = registry.kind_of(name)
    from bench.checks import run_checks
    from bench.data.files import data_dir as data_folder
    from bench.environment import one_thread
    from bench.game.resources import Resources

    one_thread()
    settings = session.settings(session.db(db), data_folder(data_dir), "cpu", 1)
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        if not settings.cache_root.exists():  # a check leaves nothing behind where nothing was
            settings = replace(settings, cache_root=Path(folder))
        results = run_checks(name, kind, session.config, Resources(settings), dataset, base)
    failed = sum(not result.passed for result in results)
    if as_json:
        checks = [asdict(result) for result in results]
        click.echo(json.dumps({"name": name, "kind": kind, "dataset": dataset, "passed": not failed, "checks": checks}))
        return int(failed > 0)
    from bench.cli.tables import hanging

    for result in results:
        click.echo(hanging(f"  {'ok  ' if result.passed else 'FAIL'}  {result.name}: {result.message}", 8))
    click.echo(f"{name}: {len(results) - failed} checks hold" + (f", {failed} do not" if failed else ""))
    return int(failed > 0)

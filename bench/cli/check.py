"""`bench check`: the contract, run against one plug-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from bench import registry
from bench.cli.complete import names
from bench.cli.options import parse_sets, set_option, using_options
from bench.execution.session import open_session


@click.command()
@click.argument("name", shell_complete=names("defense", "attack"))
@click.option(
    "--dataset", metavar="NAME", default="digits", help="What to check it on.", shell_complete=names("dataset")
)
@click.option(
    "--base",
    metavar="NAME",
    default="",
    help="The network under a defense, or the defense that an attack attacks. Default: regular; for an attack that "
    "declines it, one that it takes.",
    shell_complete=names("defense"),
)
@click.option("--in-process", is_flag=True, help="Check in this process, for a debugger; else it has one of its own.")
@set_option
@using_options
def check(
    name: str,
    dataset: str,
    base: str,
    in_process: bool,
    sets: tuple[str, ...],
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Run the contract against one defense or attack. Exit code 1 if a check fails.

    The checks run in a process of their own: if the plug-in ends that process, the contract does not hold.
    """
    if in_process or any(names.registered_here(name) for names in (registry.defenses, registry.attacks)):
        verdict: dict[str, Any] | int = _checked(name, dataset, base, parse_sets(sets), db, data_dir, plugins, config)
    else:
        more = [
            ("--base", base or None),
            ("--db", db),
            ("--data-dir", data_dir),
            ("--config", config),
            *(("--plugin", file) for file in plugins),
            *(("--set", text) for text in sets),
        ]
        options = [part for option, value in more if value is not None for part in (option, value)]
        verdict = _checked_apart(["--dataset", dataset, *options, "--", name])
    if isinstance(verdict, int):
        return verdict
    if as_json:
        click.echo(json.dumps(verdict))
    else:
        _print(verdict)
    return int(not verdict["passed"])


def _checked_apart(arguments: list[str]) -> dict[str, Any] | int:
    """The verdict of a process of its own; its exit code, once its message is printed, where there is no verdict."""
    command = [sys.executable, "-m", "bench", "check", "--in-process", "--json", *arguments]
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it finds what this process finds
    done = subprocess.run(  # noqa: S603  this program itself
        command, capture_output=True, text=True, errors="replace", check=False, env=there
    )
    if done.stderr:
        click.echo(done.stderr.rstrip("\n"), err=True)
    *printed, last = done.stdout.splitlines() or [""]
    try:
        verdict: dict[str, Any] = json.loads(last)
        if verdict["name"] != arguments[-1] or not verdict["checks"]:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        if done.returncode > 0 and done.stderr.startswith("bench: "):
            return done.returncode  # the request was wrong, and said so
        how = f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
        click.echo(f"bench: the plug-in ended the process of the checks with {how}; none of them is known.", err=True)
        return 1
    if printed:  # by the plug-in
        click.echo("\n".join(printed), err=True)
    return verdict


def _checked(
    name: str,
    dataset: str,
    base: str,
    sets: dict[str, str],
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> dict[str, Any] | int:
    """The verdict of the checks, made here; an exit code where the plug-in does not load."""
    session = open_session(config, plugins, strict=False)
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
        results = run_checks(name, kind, session.config, Resources(settings), dataset, base, sets)
    passed = all(result.passed for result in results)
    checks = [asdict(result) for result in results]
    return {"name": name, "kind": kind, "dataset": dataset, "passed": passed, "checks": checks}


def _print(verdict: dict[str, Any]) -> None:
    from bench.cli.tables import hanging

    checks = verdict["checks"]
    for result in checks:
        click.echo(hanging(f"  {'ok  ' if result['passed'] else 'FAIL'}  {result['name']}: {result['message']}", 8))
    failed = sum(not result["passed"] for result in checks)
    click.echo(f"{verdict['name']}: {len(checks) - failed} checks hold" + (f", {failed} do not" if failed else ""))

"""`bench doctor`: whether runs can work here, and what to do if they cannot."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from bench.cli.options import using_options


@click.command()
@click.option("--deep", is_flag=True, help="Compare the contents of all files beside the database.")
@using_options
def doctor(
    deep: bool, as_json: bool, db: str | None, data_dir: str | None, plugins: tuple[str, ...], config: str | None
) -> int:
    """Examine packages, device, data, database, files, configuration and plug-ins, and say what to do.

    It creates and changes nothing. Exit code 0 if a run on digits would work, 1 if it would not.
    """
    from bench.doctor.examine import examine

    findings = examine(config, plugins, db, data_dir, deep)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not problems, "findings": [asdict(finding) for finding in findings]}))
        return int(problems > 0)
    from bench.cli.tables import hanging

    for finding in findings:
        todo = f" -> {finding.todo}" if finding.todo else ""
        click.echo(hanging(f"{finding.level:<7}  {finding.what}: {finding.message}{todo}", 9))
    verdict = f"{problems} {'problem' if problems == 1 else 'problems'}" if problems else "no problem"
    click.echo(f"{verdict}: a run on digits would {'not work' if problems else 'work'}")
    return int(problems > 0)

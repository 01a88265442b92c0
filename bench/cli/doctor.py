"""`bench doctor`: whether runs can work here, and what to do if they cannot."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from bench.cli.options import using_options
from bench.execution.session import open_session


@click.command()
@click.option(
    "--deep", is_flag=True, help="Compare the contents of all files beside the database, and summaries with rows."
)
@click.option("--save", metavar="FILE", help="Write the whole runs of a damaged SQLite database into a new one.")
@using_options
def doctor(
    deep: bool,
    save: str | None,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Examine packages, device, data, database, files, configuration and plug-ins, and say what to do.

    It creates and changes nothing, except with --save. Exit code 0 if a run on digits would work, 1 if it would not.
    With --save: 1 if a run could not be saved.
    """
    if save is not None:
        return _save(open_session(config, plugins, strict=False).db(db), save, as_json)
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


def _save(url: str, to: str, as_json: bool) -> int:
    from bench.store import rescue

    done = rescue(url, to)
    if as_json:
        click.echo(json.dumps({"file": to, **asdict(done)}))
        return int(bool(done.lost))
    click.echo(f"{to}: {len(done.saved)} runs saved")
    for key, reason in done.lost.items():
        click.echo(f"  not saved: {key[:12]}: {reason}; the command that played it plays it again")
    return int(bool(done.lost))

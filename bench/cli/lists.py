"""`bench list`: what exists. Imports nothing heavy, unless `--check` asks for it."""

from __future__ import annotations

import json
from typing import Any

import click

from bench.cli.complete import one_of
from bench.cli.options import plugin_option, reading_options
from bench.errors import BenchError, UnknownName, one_line
from bench.execution.session import Session, open_session

KINDS = ("defenses", "attacks", "datasets", "models", "protocols", "suites", "runs")


@click.command(name="list")
@click.argument("kind", required=False, metavar=f"[{'|'.join(KINDS)}]", shell_complete=one_of(*KINDS))
@click.option("--check", is_flag=True, help="Import every plug-in and say which are broken.")
@plugin_option
@reading_options
def list_things(
    kind: str | None, check: bool, as_json: bool, db: str | None, plugins: tuple[str, ...], config: str | None
) -> int:
    """What exists: defenses, attacks, datasets, models, protocols, suites, runs (default: all but runs)."""
    if kind is not None and kind not in KINDS:
        raise UnknownName("list", kind, KINDS)
    if kind in ("suites", "runs"):
        session = open_session(config, plugins)
        listed = {kind: _suites(session) if kind == "suites" else _runs(session, db)}
    else:
        listed = _names(config, plugins, check, kind)
    if as_json:
        click.echo(json.dumps(listed if kind is None else [row for rows in listed.values() for row in rows]))
    else:
        for name, rows in listed.items():
            _print(name, rows)
    return int(check and any(row.get("broken") for rows in listed.values() for row in rows))


def _names(
    config: str | None, plugins: tuple[str, ...], check: bool, kind: str | None
) -> dict[str, list[dict[str, Any]]]:
    from bench import registry
    from bench.config import find
    from bench.plugins import broken_files, load_all

    load_all(find(config), plugins, strict=False)
    kinds = {
        "defenses": registry.defenses,
        "attacks": registry.attacks,
        "datasets": registry.datasets,
        "models": registry.models,
        "protocols": registry.protocols,
    }
    listed = {name: [_entry(entry, check) for entry in names] for name, names in kinds.items() if kind in (None, name)}
    if "models" in listed:
        listed["models"] += _zoo()
    broken = [{"name": path, "summary": "", "origin": path, "broken": reason} for path, reason in broken_files.items()]
    return {**listed, "files that do not load": broken} if broken else listed  # nobody knows what they would have added


def _entry(entry: Any, check: bool) -> dict[str, Any]:
    row = {"name": entry.name, "summary": entry.summary, "origin": entry.origin, "broken": ""}
    if check:
        try:
            entry.load()
        except BenchError as error:
            row["broken"] = one_line(error)
    return row


def _zoo() -> list[dict[str, Any]]:
    """The networks of the zoo, by the name that base.model takes."""
    from bench.models.zoo import ZOO

    return [
        {
            "name": f"zoo:{name}",
            "summary": f"{entry.summary}; {entry.dataset}, {entry.measured:.4g} % clean; {entry.licence}",
            "origin": "built-in",
            "broken": "",
        }
        for name, entry in ZOO.items()
    ]


def _suites(session: Session) -> list[dict[str, Any]]:
    return [{"name": name, "summary": suite.summary} for name, suite in session.config.suite.items()]


def _runs(session: Session, db: str | None) -> list[dict[str, Any]]:
    from bench.analysis.describe import describe

    store = session.store(db)
    return [describe(store, record) for record in store.runs()]


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    if name == "runs":
        from bench.cli.tables import print_results

        print_results(rows)
        return
    from bench.cli.tables import hanging

    width = min(max((len(row["name"]) for row in rows), default=0), 40)
    click.echo(f"{name}:")
    for row in rows:
        text = f"BROKEN: {row['broken']}" if row.get("broken") else row["summary"]
        origin = row.get("origin", "built-in")
        where = "" if origin in ("built-in", row["name"]) else f"  ({origin})"
        click.echo(hanging(f"  {row['name']:<{width}}  {text}{where}".rstrip(), width + 4))

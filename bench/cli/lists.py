"""`bench list`: what exists. Imports nothing heavy, unless `--check` asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from bench.cli.complete import one_of
from bench.cli.options import plugin_option, reading_options
from bench.errors import BadValue, BenchError, UnknownName, one_line
from bench.execution.session import Session, open_session

KINDS = ("defenses", "attacks", "datasets", "models", "protocols", "suites", "runs")


def _share(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda run: -1.0 if run[name] is None else run[name]["value"]


#: the orders of runs, each by what of a described run
SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "age": lambda run: 0,
    "clean": _share("clean_accuracy"),
    "robust": _share("robust_accuracy"),
    "ms": lambda run: -1.0 if run["answer_s"] is None else run["answer_s"],
    "defense": lambda run: (run["defense"], run["base"], run["attack"]),
    "attack": lambda run: (run["attack"], run["defense"], run["base"]),
}

STATUSES = ("RUNNING", "DONE", "SKIPPED", "FAILED")


@click.command(name="list")
@click.argument("kind", required=False, metavar=f"[{'|'.join(KINDS)}]", shell_complete=one_of(*KINDS))
@click.option("--check", is_flag=True, help="Import every plug-in and say which are broken.")
@click.option("--defense", multiple=True, metavar="NAME", help="Of the runs, those of this defense; may be repeated.")
@click.option("--attack", multiple=True, metavar="NAME", help="Those of this attack; may be repeated.")
@click.option("--dataset", multiple=True, metavar="NAME", help="Those on this dataset; may be repeated.")
@click.option("--status", multiple=True, metavar="|".join(STATUSES), shell_complete=one_of(*STATUSES),
              help="Those that ended so; may be repeated.")  # fmt: skip
@click.option("--sort", metavar="|".join(SORTS), default="age", shell_complete=one_of(*SORTS),
              help="Their order; by age, the last is the newest.")  # fmt: skip
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="The last N of them.")
@plugin_option
@reading_options
def list_things(
    kind: str | None,
    check: bool,
    defense: tuple[str, ...],
    attack: tuple[str, ...],
    dataset: tuple[str, ...],
    status: tuple[str, ...],
    sort: str,
    limit: int | None,
    as_json: bool,
    db: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """What exists: defenses, attacks, datasets, models, protocols, suites, runs (default: all but runs).

    \b
    bench list runs --defense rmc --status DONE --sort robust
    bench list runs --limit 20
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName("list", kind, KINDS)
    among = {"defense": defense, "attack": attack, "dataset": dataset, "status": tuple(s.upper() for s in status)}
    among = {column: values for column, values in among.items() if values}
    if kind != "runs" and (among or limit or sort != "age"):
        raise BadValue(
            "--defense, --attack, --dataset, --status, --sort and --limit choose among runs: bench list runs"
        )
    for value in among.get("status", ()):
        if value not in STATUSES:
            raise UnknownName("status", value, STATUSES)
    if sort not in SORTS:
        raise UnknownName("order of runs", sort, SORTS)
    if kind in ("suites", "runs"):
        session = open_session(config, plugins)
        listed = {kind: _suites(session) if kind == "suites" else _runs(session, db, among, sort, limit)}
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


def _runs(
    session: Session, db: str | None, among: Mapping[str, tuple[str, ...]], sort: str, limit: int | None
) -> list[dict[str, Any]]:
    """The runs with these values, in this order: those without a figure to sort by first."""
    from bench.analysis.describe import describe_all

    store = session.store(db)
    records, last = store.runs(**among), slice(None if limit is None else -limit, None)
    if sort == "age":
        return [described for _, described in describe_all(store, records[last])]
    return sorted((described for _, described in describe_all(store, records)), key=SORTS[sort])[last]


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

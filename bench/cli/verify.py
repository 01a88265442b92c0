"""`bench verify` and `bench compare`: stored runs held against what happens, and against each other."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from bench.cli.options import device_option, reading_options, store_option, using_options
from bench.execution.session import open_session
from bench.source import foreign_code

#: rows that are named in a table before the rest is only counted
SHOWN = 20


@click.command()
@click.argument("run")
@device_option
@store_option
@using_options
def verify(
    run: str,
    device: str,
    shared: str | None,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Stored images, labels and figures against the rows, then the games once more. Exit code 1 if anything differs.

    Of a run that came in a bundle, the attack crafts its images again too; if it holds, the run is verified.
    """
    session = open_session(config, plugins)
    store = session.store(db)
    record = store.resolve(run)
    from bench.data.files import data_dir as data_folder
    from bench.environment import one_thread, pick_device
    from bench.execution.verify import verify as verify_run
    from bench.game.resources import Resources

    one_thread()
    settings = session.settings(session.db(db), data_folder(data_dir), pick_device(device), 1, shared=shared)
    with foreign_code():
        result = verify_run(store, record, Resources(settings))
    if record.origin is not None and result.holds:
        store.note_replayed(record.key, range(result.games))
    if as_json:
        click.echo(json.dumps({**asdict(result), "holds": result.holds}))
        return int(not result.holds)
    name = f"{record.spec['defense']['name']} / {record.spec['attack']['name']} / {record.spec['dataset']['name']}"
    click.echo(
        f"{record.key[:12]} {name}: {result.rows} rows, {result.images} images, {result.games} games played again"
    )
    lines = [f"its summary says {w.figure} {_short(w.stored)}, its rows {_short(w.found)}" for w in result.summary]
    lines += [f"game {bad.game}, position {bad.position}, example {bad.index}: {bad.what}" for bad in result.bad]
    lines += [f"game {game} was not played again: {reason}" for game, reason in result.left_out.items()]
    lines += [
        f"game {d.game}, position {d.position}, example {d.index}: {d.fact} was {d.stored}, now {d.found}"
        for d in result.differences
    ]
    from bench.cli.tables import hanging

    for line in lines[:SHOWN]:
        click.echo(hanging(f"  {line}", 2))
    if len(lines) > SHOWN:
        click.echo(f"  ... and {len(lines) - SHOWN} more; see --json")
    if result.holds:
        click.echo("It holds: zero differences.")
    return int(not result.holds)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@click.command()
@click.argument("a")
@click.argument("b")
@reading_options
def compare(a: str, b: str, as_json: bool, db: str | None, config: str | None) -> int:
    """The difference of two runs over the same inputs, by a paired test."""
    session = open_session(config)
    store = session.store(db)
    from bench.analysis.compare import compare_runs

    comparison = compare_runs(store, store.resolve(a), store.resolve(b))
    if as_json:
        click.echo(json.dumps(asdict(comparison)))
        return 0
    from bench.cli.tables import print_table

    d = comparison.difference
    facts = {
        f"A {comparison.a[:12]}": comparison.a_says,
        f"B {comparison.b[:12]}": comparison.b_says,
        "inputs": f"{comparison.n} examples, the same in both",
        "robust % A": f"{100 * comparison.a_value:.1f}",
        "robust % B": f"{100 * comparison.b_value:.1f}",
        "B - A, points": f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})",
        "right only in A, only in B": f"{d.only_a}, {d.only_b}",
        "p": f"{d.p_value:.3g}",
        "by": d.method,
    }
    print_table("comparison", ("fact", "value"), [[k, v] for k, v in facts.items()])
    return 0

"""`bench run`: plan, look before anything is written, play, report."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import names, one_of
from bench.cli.options import Configured, parse_sets, playing_options, store_option, workers_option
from bench.deadline import NEVER, Deadline, parse_duration
from bench.execution.session import open_session
from bench.norms import NORMS
from bench.source import foreign_code

#: exit code of a command whose time limit passed before it was done: EX_TEMPFAIL of sysexits.h, try again
OUT_OF_TIME = 75


if TYPE_CHECKING:
    from bench.config import Config
    from bench.execution.session import Prepared
    from bench.planning.spec import RunSpec
    from bench.store import RunRecord, Store


@click.command()
@click.option(
    "--defense",
    "defenses",
    metavar="NAME",
    multiple=True,
    help="A defense; may be repeated.",
    shell_complete=names("defense"),
)
@click.option(
    "--attack",
    "attacks",
    metavar="NAME",
    multiple=True,
    help="An attack; may be repeated.",
    shell_complete=names("attack"),
)
@click.option(
    "--base",
    "bases",
    metavar="NAME",
    multiple=True,
    help="The network under a runtime defense.",
    cls=Configured,
    key="run.base",
    shell_complete=names("base"),
)
@click.option(
    "--dataset",
    "datasets",
    metavar="NAME",
    multiple=True,
    help="A dataset; may be repeated.",
    cls=Configured,
    key="run.dataset",
    shell_complete=names("dataset"),
)
@click.option("-n", "n", metavar="N", type=int, help="Attacked examples.", cls=Configured, key="run.n")
@click.option(
    "--seed", "seeds", metavar="S", type=int, multiple=True, help="Seed of examples, backgrounds and noise.",
    cls=Configured, key="run.seed",
)  # fmt: skip
@click.option(
    "--eps", "radii", metavar="EPS", multiple=True, help="Radius in [0, 1] pixels: 0.3 or 8/255.",
    show_default="dataset.NAME.eps",
)  # fmt: skip
@click.option("--force-eps", is_flag=True, help="Take a radius that reaches every image.")
@click.option(
    "--norm", metavar="|".join(NORMS), default="", help="Norm of the radius.", show_default="the attack's own",
    shell_complete=one_of(*NORMS),
)  # fmt: skip
@click.option("--suite", metavar="NAME", help="A named set of runs from bench.toml.", shell_complete=names("suite"))
@click.option(
    "--rerun",
    metavar="missing|failed|all",
    default="missing",
    help="Which known runs to play again; missing: those that are not finished.",
    shell_complete=one_of("missing", "failed", "all"),
)
@workers_option
@click.option(
    "--for",
    "limit",
    metavar="TIME",
    help="Stop after this time (90s, 8m, 1h30m) with exit code 75; the same command goes on.",
)
@click.option(
    "--limit",
    "silence",
    metavar="TIME",
    help="End a run as FAILED that gives no row and no line of progress for so long.",
    cls=Configured,
    key="runner.limit",
    none="no limit",
)
@click.option(
    "--engine", metavar="local|ray", help="Play in processes of this machine, or on workers of a Ray cluster.",
    cls=Configured, key="runner.engine", shell_complete=one_of("local", "ray"),
)  # fmt: skip
@click.option(
    "--address", metavar="ADDRESS", help="Of the Ray cluster: auto or HOST:PORT.", cls=Configured,
    key="runner.address", none="Ray is started here",
)  # fmt: skip
@store_option
@click.option("--in-process", is_flag=True, help="Play in this process, for a debugger; else plug-ins have their own.")
@click.option(
    "--repeats", metavar="R", type=click.IntRange(min=1), help="Games over permuted streams.",
    cls=Configured, key="game.repeats",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@playing_options
def run(
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    bases: tuple[str, ...],
    datasets: tuple[str, ...],
    n: int | None,
    seeds: tuple[int, ...],
    radii: tuple[str, ...],
    force_eps: bool,
    norm: str,
    suite: str | None,
    sets: tuple[str, ...],
    db: str | None,
    device: str,
    rerun: str,
    workers: int | None,
    limit: str | None,
    silence: str | None,
    engine: str | None,
    address: str | None,
    shared: str | None,
    in_process: bool,
    repeats: int | None,
    plugins: tuple[str, ...],
    config: str | None,
    data_dir: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Play attacks against defenses and store the results.

    The runs are the cross product of what is given; runs that the database has are not played again, and a run that
    was interrupted goes on where it stopped. Defaults such as run.n are keys of bench.toml.

    \b
    bench run --defense rmc --attack pgd-skip-delayed
    bench run --defense regular --defense rmc --attack pgd --dataset mnist -n 200 --data-dir data
    """
    deadline = NEVER if limit is None else Deadline.after(parse_duration("--for", limit))
    session = open_session(config, plugins)
    values = parse_sets(sets)
    how = {"limit": silence, "engine": engine, "address": address}
    values |= {f"runner.{name}": value for name, value in how.items() if value is not None}
    from bench.planning.requests import Request

    request = Request(defenses, attacks, bases, datasets, radii, norm, seeds, n, repeats, values, force_eps)
    prepared = session.prepare(
        request,
        suite,
        db=db,
        data_dir=data_dir,
        device=device,
        workers=workers,
        rerun=rerun,
        deadline=deadline,
        in_process=in_process,
        shared=shared,
    )
    if dry_run:
        _print_plan(prepared.planned, prepared.known, as_json)
        return 0
    store = prepared.begin()
    from bench.cli.progress import make_listener

    with foreign_code(), make_listener(sys.stderr, prepared.planned) as listener:
        prepared.play(store, listener)
    given = [("--db", db), ("--config", config), ("--data-dir", data_dir), *(("--plugin", file) for file in plugins)]
    options = [word for option, value in given if value is not None for word in (option, value)]
    return _report(prepared, store, as_json, options, session.config)


def _print_plan(planned: list[Any], store: Any, as_json: bool) -> None:
    rows = [_as_planned(item.spec, None if store is None else store.find(item.spec.key)) for item in planned]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    from bench.cli.tables import print_table

    columns = ("run", "status", "defense", "base", "attack", "dataset", "eps", "n", "protocol")
    print_table(
        f"{len(rows)} runs planned, nothing run",
        columns,
        [[_short(c, row[c]) for c in columns] for row in rows],
        names=("defense", "base", "attack"),
    )


def _as_planned(spec: RunSpec, record: RunRecord | None) -> dict[str, Any]:
    """A run before it is played, for `--json`."""
    return {
        "run": spec.key,
        "status": "new" if record is None else record.status,
        "defense": spec.defense.name,
        "base": spec.base.name,
        "attack": spec.attack.name,
        "dataset": spec.dataset.name,
        "norm": spec.threat.norm,
        "eps": spec.threat.eps,
        "n": spec.n,
        "seed": spec.seed,
        "protocol": spec.game.protocol,
        "spec": spec.to_dict(),
    }


def _short(column: str, value: Any) -> str:
    if column == "run":
        return str(value)[:10]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _report(prepared: Prepared, store: Store, as_json: bool, options: list[str], config: Config) -> int:
    """Print the runs of the request, each once; the exit code: 75 if some are left, 1 if one has failed.

    options: see `bench.cli.hints.after_runs`
    """
    from bench.analysis.describe import describe_all
    from bench.cli.hints import after_runs
    from bench.cli.tables import print_results
    from bench.execution.unfinished import summary, unfinished

    left = unfinished(prepared.planned, store) if prepared.settings.deadline.passed() else []
    open_keys = {run.spec.key for run in left}
    ended = [item.spec.key for item in prepared.planned if item.spec.key not in open_keys]
    results = [described for _, described in describe_all(store, [store.resolve(key) for key in ended])]
    if as_json:
        for result in results:
            click.echo(json.dumps(result))
        for run in left:
            rest = {"rows_left": run.rows, "seconds_left": run.seconds}
            click.echo(json.dumps({**_as_planned(run.spec, run.record), **rest}))
    else:
        print_results(results)
    if left:
        click.echo(f"bench: {summary(left, prepared.settings.workers)}", err=True)
        return OUT_OF_TIME
    if not as_json:
        from bench.planning.facts import facts_of
        from bench.planning.repeat import audit_of

        specs = {item.spec.key: item.spec for item in prepared.planned}
        facts = facts_of(prepared.settings.data_dir)
        told = after_runs(results, store.place, options, lambda run: audit_of(specs[run], config, facts, options))
        click.echo(told, err=True)
    return int(any(result["status"] == "FAILED" for result in results))

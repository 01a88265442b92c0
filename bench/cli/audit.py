"""`bench audit`: the attack battery and the checks, with a verdict."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import names, one_of
from bench.cli.options import Configured, parse_sets, playing_options, workers_option
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session, take_runner
from bench.source import foreign_code

if TYPE_CHECKING:
    from bench.auditing import Audit


@click.command()
@click.argument("defense", shell_complete=names("defense"))
@click.option(
    "--base", metavar="NAME", default="", help="The base under a runtime defense.", cls=Configured, key="run.base",
    shell_complete=names("base"),
)  # fmt: skip
@click.option(
    "--dataset", metavar="NAME", default="", help="What it is audited on.", cls=Configured, key="run.dataset",
    shell_complete=names("dataset"),
)  # fmt: skip
@click.option(
    "--budget",
    metavar="quick|standard|full",
    default="standard",
    help="How many examples and how long.",
    shell_complete=one_of("quick", "standard", "full"),
)
@click.option(
    "--eps", metavar="EPS", help="Radius in linf, in [0, 1] pixels: 0.3 or 8/255.", show_default="dataset.NAME.eps"
)
@click.option("-n", "n", type=int, metavar="N", help="At most N examples.", show_default="as many as the budget has")
@click.option(
    "--seed", type=int, metavar="S", help="Seed of examples, backgrounds and noise.", cls=Configured, key="run.seed"
)
@workers_option
@click.option("--dry-run", is_flag=True, help="Say what would be played, and play nothing.")
@playing_options
def audit(
    defense: str,
    base: str,
    dataset: str,
    budget: str,
    eps: str | None,
    n: int | None,
    seed: int | None,
    workers: int | None,
    dry_run: bool,
    sets: tuple[str, ...],
    device: str,
    as_json: bool,
    db: str | None,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Attack a defense with all that is here, from cheap to expensive, and check the attacks and the defense.

    Its steps are ordinary runs: an interrupted audit goes on where it stopped, and failed steps are tried again.
    Exit code 1 if a step failed: the verdict then lacks the examples that this attack might have broken.

    \b
    bench audit rmc --budget quick
    bench audit pgd-at --dataset mnist --data-dir data
    """
    session = open_session(config, plugins)
    from bench import registry
    from bench.auditing.battery import BUDGETS
    from bench.data.files import data_dir as data_folder
    from bench.environment import one_thread, pick_device
    from bench.threat import parse_number

    if budget not in BUDGETS:
        raise BadValue(f"--budget is {budget!r}; give {', '.join(BUDGETS)}.")
    if defense not in registry.defenses:
        raise UnknownName("defense", defense, [entry.name for entry in registry.defenses], "bench list defenses")
    if n is not None and n < 2:
        raise BadValue(f"-n is {n}; an audit needs at least 2 examples.")
    radius = None if eps is None else parse_number("eps", eps)
    url = session.db(db)
    values = parse_sets(sets)
    how = take_runner(values)
    settings = session.settings(url, data_folder(data_dir), pick_device(device), workers, how)
    from bench.auditing import Player, prepare
    from bench.store import Store

    planned = prepare(defense, base, dataset, budget, session.config, settings, eps=radius, seed=seed, n=n, sets=values)
    if dry_run:
        _print_plan(planned, None)
        return 0
    store = Store.open(url)
    assert store is not None
    from bench.auditing.remaining import Remaining
    from bench.cli.progress import make_listener
    from bench.environment import collect

    one_thread()
    player = Player(planned, store, settings)
    with foreign_code(), make_listener(sys.stderr) as listener:
        reason = player.fit(listener)
    if reason:
        click.echo(f"The audit cannot begin: {reason}", err=True)
        return 1
    _print_plan(planned, player.costs())
    with foreign_code(), make_listener(sys.stderr) as listener:
        player.play(Remaining(listener, player.expected, settings.workers))
        listener.whole("the steps are played; now how the defense behaves, and the verdict")
        result = player.result()
    store.put_audit(planned.key, result, collect(settings.device))
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print_result(result)
    return int(bool(player.failed))


def _print_plan(planned: Audit, costs: dict[str, float] | None) -> None:
    """The steps, and what they will roughly take, on standard error."""
    from bench.cli.tables import table_text

    columns = ("step", "knows", "n", *(("about s",) if costs else ()))
    from bench.threat import tier_of

    rows = []
    for step in planned.steps:
        knows = tier_of(planned.planned[step.name].spec.threat) if step.counts else "(a check)"
        count = f"{step.n}{', what is left' if step.survivors else ''}"
        rows.append([step.name, knows, count, *([f"{costs[step.name]:.0f}"] if costs else [])])
    title = f"{planned.budget} audit of {planned.defense} on {planned.base}, {planned.dataset}: {len(rows)} steps"
    if costs:
        rows.append(["(how it behaves)", "(a check)", "", f"{costs['behaviour']:.0f}"])
        title += f", about {max(sum(costs.values()) / 60, 1):.0f} minutes of one process"
    click.echo(table_text(title, columns, rows), err=True, nl=False)


def _print_result(result: dict[str, Any]) -> None:
    """The verdict first, then all that it rests on."""
    from bench.analysis.worst_case import worst_of
    from bench.cli.tables import hanging, print_table, share
    from bench.cli.verdict import headline, summary, to_do

    click.echo(headline(result))
    for what, text in summary(result):
        click.echo(hanging(f"  {what:<11} {text}", 14))
    if steps := to_do(result):
        click.echo("what to do")
        width = max(len(what) for what, _ in steps)
        for what, text in steps:
            click.echo(hanging(f"  {what:<{width}} {text}", width + 3))
    if result["flags"]:
        click.echo(f"more on a flag: bench show {result['flags'][0]}")
    click.echo()
    rows = []
    for tier, verdict in result["verdict"].items():
        breakers = ", ".join(f"{name} {part:.0%}" for name, part in verdict["breakers"].items()) or "-"
        worst = worst_of(verdict)
        rows.append([tier, share(worst["robust_accuracy"]), str(worst["n"]), breakers])
    print_table("worst case by what the attacker knows", ("tier", "robust %", "n", "broken by"), rows)
    gain = result["gain"]
    if gain is not None:
        from bench.auditing.cost import roughly

        d = gain["difference"]
        click.echo(
            f"gain over the base, worst case against worst case (n {gain['n']}): {100 * d['value']:+.1f} points "
            f"({100 * d['low']:+.1f} to {100 * d['high']:+.1f}; {d['method']})"
            + f" at {roughly(gain['times_the_base'])} times the base's time per answer"
        )
    checks = [[c["id"], "TRIPPED" if c["tripped"] else "ok", c["message"]] for c in result["checks"]]
    print_table("checks", ("id", "", "what was found"), checks)
    for name, reason in result["left_out"].items():
        click.echo(f"not played: {name}: {reason}")

"""`bench data` and `bench train`: what runs need, made or fetched beforehand."""

from __future__ import annotations

import json

import click

from bench.cli.complete import names
from bench.cli.options import (
    Configured,
    config_option,
    data_option,
    json_option,
    parse_sets,
    playing_options,
    plugin_option,
)
from bench.errors import BadValue, BrokenPlugin, DataError, one_line
from bench.execution.session import open_session
from bench.source import foreign_code


@click.command()
@click.argument("name", required=False, shell_complete=names("dataset"))
@json_option
@data_option
@plugin_option
@config_option
def data(name: str | None, as_json: bool, data_dir: str | None, plugins: tuple[str, ...], config: str | None) -> int:
    """Fetch and verify a dataset. Without NAME: list all datasets, and which of their files exist."""
    open_session(config, plugins)
    from bench import registry
    from bench.data.files import data_dir as data_folder

    folder = data_folder(data_dir)
    datasets = []
    for entry in [registry.datasets[name]] if name is not None else list(registry.datasets):
        summary = entry.summary
        try:
            dataset = entry.load()
            summary = summary or getattr(dataset, "summary", "")
            if name is None and folder is None and entry.name != "digits":
                raise DataError(
                    f"not looked for without --data-dir or BENCH_DATA; `bench data {entry.name}` downloads it"
                )
            lines, there = dataset.check(folder), True
        except (DataError, BrokenPlugin) as error:
            if name is not None:
                raise
            lines, there = [one_line(error)], False
        except Exception as error:  # of a plug-in, which may lack any part of a dataset
            if entry.origin == "built-in":
                raise
            reason = f"{entry.name} from {entry.origin} cannot be looked for: {type(error).__name__}: {one_line(error)}"
            if name is not None:
                raise BadValue(reason) from error
            lines, there = [reason], False
        datasets.append({"dataset": entry.name, "summary": summary, "there": there, "lines": lines})
    if as_json:
        click.echo(json.dumps(datasets))
        return 0
    for row in datasets:
        click.echo(f"{row['dataset']}: {row['summary']}{'' if row['there'] else ' - not there'}")
        for line in row["lines"]:
            click.echo(f"  {line}")
    return 0


@click.command()
@click.argument("base", shell_complete=names("base"))
@click.option(
    "--dataset", metavar="NAME", help="What it is trained on.", cls=Configured, key="run.dataset",
    shell_complete=names("dataset"),
)  # fmt: skip
@playing_options
def train(
    base: str,
    dataset: str | None,
    sets: tuple[str, ...],
    db: str | None,
    device: str,
    as_json: bool,
    data_dir: str | None,
    plugins: tuple[str, ...],
    config: str | None,
) -> int:
    """Train a base, or take it from the cache, and print its accuracy on the whole test set."""
    session = open_session(config, plugins)
    import torch

    from bench import registry
    from bench.data.files import data_dir as data_folder
    from bench.environment import one_thread, pick_device
    from bench.game.resources import Resources
    from bench.planning.facts import facts_of
    from bench.planning.plan import plan
    from bench.planning.requests import Request

    if not registry.defenses[base].base:
        bases = ", ".join(entry.name for entry in registry.defenses if entry.base)
        raise BadValue(f"{base!r} is no base; `bench train` takes one of: {bases}.")
    folder = data_folder(data_dir)
    request = Request((base,), ("clean",), datasets=(dataset,) if dataset else (), n=1, sets=parse_sets(sets))
    spec = plan([request], session.config, facts_of(folder))[0].spec
    settings = session.settings(session.db(db), folder, pick_device(device), 1)
    one_thread()
    resources = Resources(settings, lambda line: click.echo(line, err=True))
    with foreign_code():
        fitted = resources.of(spec).base()
        x, y = resources.of(spec).points(list(range(spec.test_size)))
        right = int((fitted.predict(x).argmax(1) == y).sum())
    path = resources.cache.path("bases", resources.artefact(spec.base_key)) / "weights.safetensors"
    result = {
        "base": base,
        "dataset": spec.dataset.name,
        "network": spec.network.name,
        "seed": spec.base_seed,
        "weights": sum(weight.numel() for weight in resources.of(spec).trained().parameters()),
        "accuracy": right / spec.test_size,
        "n": spec.test_size,
        "path": str(path),
        "torch": torch.__version__,
    }
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{base} on {result['dataset']} ({result['network']}, {result['weights']} weights): "
                   f"{100 * right / spec.test_size:.2f} % of {spec.test_size} test points")  # fmt: skip
        click.echo(f"  {path}")
    return 0

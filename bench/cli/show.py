"""`bench show` and `bench export`: stored runs and examples, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.complete import one_of
from bench.cli.options import reading_options, write_out
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session

if TYPE_CHECKING:
    from bench.auditing.glossary import Term
    from bench.store import RunRecord, Store


@click.command()
@click.argument("run")
@click.option("--example", type=int, metavar="I", help="One example, by its index in the dataset.")
@reading_options
def show(run: str, example: int | None, as_json: bool, db: str | None, config: str | None) -> int:
    """One run (its key or a unique prefix), or one example of it; or what a flag or check means (`bench show M3`)."""
    from bench.auditing.glossary import glossary, term

    meant = term(run)
    if meant is not None:
        return _show_term(meant, as_json)
    if re.fullmatch(r"[VMSPvmsp]\d{1,2}", run):  # too short for the key of a run
        raise UnknownName("check", run, [one.id for one in glossary()])
    store = open_session(config).store(db)
    record = store.resolve(run)
    from bench.analysis.describe import describe, examples

    if example is not None:
        rows = examples(store, record)
        chosen = [row for row in rows if row["index"] == example]
        if not chosen:
            some = ", ".join(str(row["index"]) for row in rows[:3])
            there = f"it has {len(rows)}, such as {some}" if rows else "it has none yet"
            raise BadValue(
                f"The run {record.key[:12]} has no example with the index {example} in the dataset; {there}. "
                f"See: bench export {run[:12]}"
            )
        shown: Any = chosen
    else:
        shown = {
            **describe(store, record),
            "spec": record.spec,
            "provenance": record.provenance,
            "origin": record.origin,
            "detail": record.detail,
        }
    if as_json:
        click.echo(json.dumps(shown))
        return 0
    from bench.cli.tables import print_table, share

    if example is not None:
        for row in chosen:
            told = [[_label(name), _text(value)] for name, value in row.items() if name != "neighbours"]
            print_table(f"example {example}", ("fact", "value"), told)
            _print_neighbours(row["neighbours"], row["label"])
        return 0
    facts = {
        "status": shown["status"] + (f": {shown['reason']}" if shown["reason"] else ""),
        **_origin(record),
        "defense": f"{shown['defense']} on {shown['base']}",
        "attack": f"{shown['attack']} on {shown['dataset']}, n {shown['n']}, seed {shown['seed']}",
        "threat": shown["threat_in_words"],
        "clean %": share(shown["clean_accuracy"]),
        "robust %": share(shown["robust_accuracy"]),
        **_uncut(shown),
        **_redraws(shown),
        "interval": (shown["robust_accuracy"] or {}).get("method", "-"),
        "ms an answer": "-" if shown["answer_s"] is None else _delay(shown["answer_s"], shown["answer_p95_s"]),
        "violations": str(shown["violations"]),
        "seconds": ", ".join(f"{k} {v:.2f}" for k, v in shown["seconds"].items()),
        "ledger": ", ".join(f"{k} {v}" for k, v in shown["ledger"].items()),
        "parameters": _text(record.spec["defense"]["params"]),
        "attack parameters": _text(record.spec["attack"]["params"]),
        "made with": _text(record.provenance.get("environment", {})),
        "commit": str(record.provenance.get("commit", "")),
    }
    for flag in shown["flags"]:
        facts[f"flag {flag['id']}"] = flag["message"]
    print_table(f"run {record.key}", ("fact", "value"), [[k, v] for k, v in facts.items()])
    if record.detail:
        click.echo(record.detail)
    return 0


def _origin(record: RunRecord) -> dict[str, str]:
    """Of a run that came in a bundle: which one, and what of it was replayed here."""
    if record.origin is None:
        return {}
    facts = {name: str(record.origin.get(name, "?")) for name in ("file", "bundle", "merged")}
    return {
        "verification": record.verification,
        "bundle": f"{facts['file']}, sha256 {facts['bundle']}, merged {facts['merged']}",
    }


def _uncut(shown: dict[str, Any]) -> dict[str, str]:
    """For attacks of minimal norm: `robust %` is at the radius; this is the figure for images of any distance."""
    if "uncut_accuracy" not in shown:
        return {}
    from bench.cli.tables import share

    far = shown["median_distance"]
    distance = "-" if far is None else f"{far:.4g} ({shown['norm']}), of those answered wrong"
    return {"uncut %": share(shown["uncut_accuracy"]), "median distance": distance}


def _redraws(shown: dict[str, Any]) -> dict[str, str]:
    """Of a run over several games of the same points: how much chance and order move its number."""
    if "redraws" not in shown:
        return {}
    again = shown["redraws"]
    mean, spread, worst = (f"{100 * again[name]:.1f}" for name in ("mean", "spread", "worst"))
    return {f"over {len(again['values'])} draws": f"mean {mean}, spread {spread}, right in every one {worst}"}


def _delay(median: float, p95: float) -> str:
    from bench.cli.tables import milliseconds

    return f"median {milliseconds(median)}, 95th percentile {milliseconds(p95)}"


def _print_neighbours(neighbours: dict[str, list[int]] | None, label: int) -> None:
    """How many neighbours of what was served carry each label, by the set that was searched; * marks the true one."""
    if not neighbours:
        return
    from bench.cli.tables import print_table

    names = list(neighbours)
    most = max(max(counts) for counts in neighbours.values())
    rows = []
    for number in range(len(neighbours[names[0]])):
        counts = [neighbours[name][number] for name in names]
        if any(counts):
            bars = [f"{count:5d} {'#' * -(-20 * count // most)}" for count in counts]
            rows.append([f"{number}{' *' if number == label else ''}", *bars])
    print_table("labels of the neighbours of what was served", ("label", *(f"in {name}" for name in names)), rows)


def _show_term(meant: Term, as_json: bool) -> int:
    """Print what a flag or check means."""
    if as_json:
        click.echo(json.dumps(asdict(meant)))
        return 0
    from bench.cli.tables import hanging

    facts = {
        "of": f"{meant.of}s",
        "measured": meant.measured,
        "trips": meant.trips or "where there are any",
        "means": meant.meaning + (" A run with it is not ranked." if meant.unranked else ""),
    }
    click.echo(meant.id)
    for name, text in facts.items():
        click.echo(hanging(f"  {name:<10}{text}", 12))
    return 0


def _label(name: str) -> str:
    """The name of a fact for people; short, so that a sha256 fits beside it in 80 columns."""
    return "adapting steps" if name == "adaptation_steps" else name.replace("_", " ")


def _text(value: Any) -> str:
    """The value of a fact for people: `-` for a missing value, six digits of a number; --json has all digits."""
    if value in (None, "", {}):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


FORMS = ("csv", "json", "parquet", "every-eval-ever", "mlflow")


@click.command()
@click.argument("runs", nargs=-1)
@click.option(
    "--format",
    "form",
    metavar="|".join(FORMS),
    help="Form of the file.",
    show_default="json, runs with their examples",
    shell_complete=one_of(*FORMS),
)
@click.option(
    "--out",
    metavar="FILE",
    help="File that is written; a folder for every-eval-ever, a URI for mlflow.",
    show_default="standard output",
)
@reading_options
def export(
    runs: tuple[str, ...], form: str | None, out: str | None, as_json: bool, db: str | None, config: str | None
) -> int:
    """Runs (default: all) and their examples as JSON, CSV or Parquet; a row of the last two is an example.

    every-eval-ever writes a file for each finished run in that shared form, mlflow logs the finished runs to MLflow.
    """
    if as_json and form not in (None, "json"):
        raise BadValue(f"--json and --format {form} were both given; drop one.")
    form = form or "json"
    if form not in FORMS:
        raise BadValue(f"--format is {form!r}; give {', '.join(FORMS[:-1])} or {FORMS[-1]}.")
    if form == "parquet" and out is None:
        raise BadValue("Parquet is a binary format; give --out FILE.")
    if form == "every-eval-ever" and out is None:
        raise BadValue("Every Eval Ever has a file for each run; give --out FOLDER.")
    store = open_session(config).store(db)
    from bench.analysis.describe import NESTED, accuracies_of, describe_all, examples_of, flat_rows

    records = [store.resolve(run) for run in runs] if runs else store.runs()
    if form in ("every-eval-ever", "mlflow"):
        _exchange(store, records, form, out)
        return 0
    described = {record.key: run for record, run in describe_all(store, records)}
    whole = [record for record in records if record.key in described]
    if form == "json":
        exported = [{**described[record.key], "examples": found} for record, found in examples_of(store, whole)]
        text = json.dumps(exported, indent=1) + "\n"
    else:
        rows = (
            row
            for record, found in examples_of(store, whole, NESTED)
            for row in flat_rows(record, found, accuracies_of(described[record.key]))
        )
        if form == "parquet":
            _write_parquet(list(rows), str(out))
            return 0
        text = _csv(rows)
    if out is None:
        sys.stdout.write(text)
    else:
        write_out(out, text.encode())
    return 0


def _exchange(store: Store, records: list[RunRecord], form: str, out: str | None) -> None:
    """Write the runs in a form of others."""
    if form == "mlflow":
        from bench.analysis.mlflow import log_runs

        new, known = log_runs(store, records, out)
        click.echo(f"{new} runs logged, {known} were there")
        return
    from bench.analysis.every_eval_ever import every_eval_ever

    written = 0
    for name, made in every_eval_ever(store, records):
        path = Path(str(out), name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadValue(f"{str(path.parent)!r} cannot be made: {error.strerror}; give --out another.") from None
        write_out(str(path), (json.dumps(made, indent=1) + "\n").encode())
        written += 1
    click.echo(f"{out}: {written} files")


def _csv(rows: Iterator[dict[str, Any]]) -> str:
    """The rows as text, read one by one: of many runs they fill gigabytes as objects."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for first in rows:
        writer.writerow(first)
        writer.writerow(first.values())
        break
    writer.writerows(row.values() for row in rows)  # all have the same names in the same order
    return buffer.getvalue()


def _write_parquet(rows: list[dict[str, Any]], out: str) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadValue(
            "Parquet needs pyarrow; install it with: pip install 'adversarial-game-bench[parquet]'"
        ) from None
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    write_out(out, buffer.getvalue())

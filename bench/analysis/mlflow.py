"""Runs as runs of MLflow, each once; the package is imported on use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.analysis.describe import describe_all
from bench.errors import BadValue, one_line
from bench.planning.spec import placeless
from bench.store import RunRecord, Store

#: the experiment of MLflow, and the tag that holds the key of a run
EXPERIMENT, KEY = "adversarial-game-bench", "bench.run"
#: what a tracking server takes: values of one call, characters of a value
TOGETHER, LONGEST = 100, 500


def log_runs(store: Store, records: Sequence[RunRecord], uri: str | None) -> tuple[int, int]:
    """Log the finished runs to a tracking server or database; how many are new there, and how many it had.

    uri: its address; None: as MLFLOW_TRACKING_URI says.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise BadValue(
            "MLflow has no address: give --out URI (http://HOST:5000, sqlite:///FILE), or set MLFLOW_TRACKING_URI."
        )
    try:
        import mlflow
    except ImportError:
        raise BadValue("This needs mlflow; install it with: pip install 'adversarial-game-bench[mlflow]'") from None
    done = [record for record in records if record.status == "DONE"]
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
        new = [record for record in done if not _is_there(client, experiment, record.key)]
        for record, found in describe_all(store, new):
            _log(mlflow.entities, client, experiment, record, found)
    except mlflow.exceptions.MlflowException as error:
        raise BadValue(f"MLflow at {uri} does not take the runs: {one_line(error):.300}") from None
    return len(new), len(done) - len(new)


def _is_there(client: Any, experiment: str, key: str) -> bool:
    return bool(client.search_runs([experiment], filter_string=f"tags.`{KEY}` = '{key}'", max_results=1))


def _log(entities: Any, client: Any, experiment: str, record: RunRecord, found: Mapping[str, Any]) -> None:
    """One run; its mark is set last, so that a run that was cut off is logged again."""
    name = f"{found['defense']} / {found['attack']} / {found['dataset']}"
    start, end = (int(1000 * moment) for moment in (record.created, record.finished or record.created))
    run = client.create_run(experiment, start_time=start, run_name=name).info.run_id
    params = [entities.Param(key, value[:LONGEST]) for key, value in _params(record.spec)]
    metrics = [entities.Metric(key, value, end, 0) for key, value in _metrics(found)]
    for at in range(0, len(params), TOGETHER):
        client.log_batch(run, params=params[at : at + TOGETHER])
    client.log_batch(run, metrics=metrics)
    client.set_tag(run, "bench.threat", found["threat_in_words"])
    client.set_tag(run, "bench.verification", record.verification)
    client.set_tag(run, "bench.flags", ", ".join(flag["id"] for flag in found["flags"]))
    client.set_tag(run, "bench.commit", str(record.provenance.get("commit", "")))
    client.set_tag(run, KEY, record.key)
    client.set_terminated(run, "FINISHED", end_time=end)


def _params(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every parameter under its dotted key."""
    for name, value in spec.items():
        value = placeless(value) if not prefix else value
        if isinstance(value, dict):
            yield from _params(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _metrics(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("robust_accuracy", "clean_accuracy", "uncut_accuracy", "false_rejections", "detection_rate"):
        if found.get(name) is not None:
            yield from ((f"{name}{end}", found[name][part]) for part, end in PARTS.items())
    yield "violations", float(found["violations"])
    yield from ((f"seconds.{name}", value) for name, value in found["seconds"].items())
    yield from ((f"ledger.{name}", float(value)) for name, value in found["ledger"].items())
    if found["answer_s"] is not None:
        yield "answer_s", found["answer_s"]


#: the parts of an estimate, and how they end the name of a metric
PARTS = {"value": "", "low": ".low", "high": ".high"}

"""Runs in the form of Every Eval Ever, a shared form for results of evaluations of any kind (version 0.3.0).

https://github.com/evaleval/every_eval_ever: one JSON file for each run, `data/BENCHMARK/DEVELOPER/MODEL/UUID.json`. The
form is made for language models: what it has no field for (attack, threat model, worth of the rows) stands in its
`additional_details`, whose values are texts. Rows have no form there, since an example is an image.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from bench.analysis.describe import describe_all
from bench.planning.spec import placeless
from bench.store import RunRecord, Store

SCHEMA_VERSION = "0.3.0"
NAME = "adversarial-game-bench"
#: the figures of a run that are results of their own, each with its title
FIGURES = {
    "robust_accuracy": "Robust accuracy",
    "clean_accuracy": "Clean accuracy",
    "uncut_accuracy": "Robust accuracy at any distance",
}


def every_eval_ever(store: Store, records: Sequence[RunRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path and the record of each finished run; the same run has the same ones."""
    for record, found in describe_all(store, [record for record in records if record.status == "DONE"]):
        made = _record(record, found)
        name = uuid.UUID(bytes=bytes.fromhex(record.key)[:16], version=4)
        folders = (_folder(found["dataset"]), _folder(made["model_info"]["developer"]), _folder(found["defense"]))
        yield str(PurePosixPath("data", *folders, f"{name}.json")), made


def _folder(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed"


def _record(record: RunRecord, found: Mapping[str, Any]) -> dict[str, Any]:
    made, spec = record.provenance, record.spec
    environment, versions = made.get("environment", {}), made.get("versions", {})
    model, when = f"{found['defense']} on {found['base']}", str(record.finished or record.created)
    identifier = f"{NAME}/{_folder(found['defense'])}-on-{_folder(found['base'])}"
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{found['dataset']}/{identifier}/{when}",
        "evaluation_timestamp": str(made.get("started", "")),
        "retrieved_timestamp": when,
        "source_metadata": {
            "source_name": NAME,
            "source_type": "evaluation_run",
            "source_organization_name": "not stated",
            "evaluator_relationship": "other",
            "additional_details": {
                "run": record.key,
                "verification": record.verification,
                **_texts(record.origin or {}),
            },
        },
        "eval_library": {
            "name": NAME,
            "version": str(versions.get(NAME, "unknown")),
            "additional_details": {"commit": str(made.get("commit", ""))},
        },
        "model_info": {
            "name": model if found["defense"] != found["base"] else found["defense"],
            "id": identifier,
            "developer": NAME,
            "inference_engine": {"name": "torch", "version": str(environment.get("torch", "unknown"))},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                **_texts({part: placeless(spec[part]) for part in ("defense", "base", "network")}),
            },
        },
        "evaluation_results": [_result(name, record, found) for name in FIGURES if found.get(name) is not None],
    }


def _result(name: str, record: RunRecord, found: Mapping[str, Any]) -> dict[str, Any]:
    share, spec = found[name], record.spec
    when = datetime.fromtimestamp(record.finished or record.created, UTC).isoformat(timespec="seconds")
    attacked = name != "clean_accuracy"
    told = {"attack": spec["attack"], "threat": spec["threat"], "game": spec["game"]["card"]} if attacked else {}
    return {
        "evaluation_result_id": f"{record.key}/{name}",
        "evaluation_name": f"{found['dataset']}, {found['threat_in_short']}, {found['attack']}" if attacked
        else f"{found['dataset']}, no attack",
        "evaluation_timestamp": when,
        "source_data": {
            "dataset_name": found["dataset"],
            "source_type": "other",
            "source_version": spec["dataset"]["source"],
            "additional_details": _texts(spec["dataset"]["params"]),
        },
        "metric_config": {
            "evaluation_description": found["threat_in_words"] if attacked else "Answers to the images as they are.",
            "metric_id": f"{NAME}.{name}",
            "metric_name": FIGURES[name],
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "metric_parameters": {"norm": found["norm"], "eps": found["eps"]} if attacked else {},
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
        },
        "score_details": {
            "score": share["value"],
            "details": _texts({"flags": [flag["id"] for flag in found["flags"]], "violations": found["violations"]}),
            "uncertainty": {
                "confidence_interval": {
                    "lower": share["low"],
                    "upper": share["high"],
                    "confidence_level": 0.95,
                    "method": share["method"],
                },
                "num_samples": found["n"],
            },
        },
        "generation_config": {"additional_details": _texts({**told, "seed": found["seed"], "n": found["n"]})},
    }  # fmt: skip


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts; what is no text is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

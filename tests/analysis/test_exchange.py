"""Runs in the forms of others: Every Eval Ever and MLflow."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import sys
import uuid
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import jsonschema
import pytest

import bench as lib
from bench.threat import Tier
from tests.conftest import ROOT, Bench


@pytest.fixture
def db() -> str:
    """Finished runs of several kinds, without playing any."""
    with sqlite3.connect("runs.db") as connection:
        connection.executescript((ROOT / "tests" / "store" / "database_0003.sql").read_text(encoding="utf-8"))
    return "runs.db"


def an(*required: str, closed: bool = False, **properties: Any) -> dict[str, Any]:
    """The schema of an object."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": not closed}


TEXT, NUMBER = {"type": "string"}, {"type": "number"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
#: what version 0.3.0 of the form asks for, as far as a run uses it
FORM = an(
    "schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library",
    "evaluation_results",
    closed=True,
    schema_version={"const": "0.3.0"},
    evaluation_id=TEXT,
    evaluation_timestamp=TEXT,
    retrieved_timestamp=TEXT,
    source_metadata=an(
        "source_type", "source_organization_name", "evaluator_relationship",
        source_type={"enum": ["documentation", "evaluation_run"]},
        evaluator_relationship={"enum": ["first_party", "third_party", "collaborative", "other"]},
        additional_details=TEXTS,
    ),
    eval_library=an("name", "version", name=TEXT, version=TEXT, additional_details=TEXTS),
    model_info=an(
        "name", "id", "additional_details",
        name=TEXT,
        id=TEXT,
        additional_details={
            **an(
                "deployment_type", "model_availability",
                deployment_type={"enum": ["self_deployed", "externally_managed", "unknown"]},
                model_availability={"enum": ["open_weights", "closed_weights", "unknown"]},
            ),
            "additionalProperties": TEXT,
        },
    ),
    evaluation_results={
        "type": "array",
        "items": an(
            "evaluation_name", "source_data", "metric_config", "score_details",
            source_data=an("dataset_name", "source_type", source_type={"const": "other"}, additional_details=TEXTS),
            metric_config=an(
                "lower_is_better", "min_score", "max_score",
                lower_is_better={"type": "boolean"},
                score_type={"const": "continuous"},
                metric_parameters={"type": "object", "additionalProperties": {"type": ["string", "number"]}},
            ),
            score_details=an(
                "score",
                score=NUMBER,
                details=TEXTS,
                uncertainty=an(
                    confidence_interval=an("lower", "upper", lower=NUMBER, upper=NUMBER, confidence_level=NUMBER),
                    num_samples={"type": "integer"},
                ),
            ),
            generation_config=an(additional_details=TEXTS, closed=True),
        ),
    },
)  # fmt: skip


def test_every_finished_run_is_a_file_of_the_form(bench: Bench, db: str) -> None:
    done = bench("export", "--format", "every-eval-ever", "--out", "eee", "--db", db)
    files = sorted(Path("eee").rglob("*.json"))
    runs = {run["run"]: run for run in json.loads(bench("list", "runs", "--json", "--db", db).out)}
    finished = [run for run in runs.values() if run["status"] == "DONE"]
    assert done.code == 0 and len(files) == len(finished) > 2 and f"eee: {len(files)} files" in done.out
    for path in files:
        made = json.loads(path.read_text())
        jsonschema.validate(made, FORM)
        run = runs[made["source_metadata"]["additional_details"]["run"]]
        assert path.parts[:2] == ("eee", "data") and len(path.parts) == 6 and uuid.UUID(path.stem).version == 4
        scores = {one["metric_config"]["metric_id"]: one["score_details"] for one in made["evaluation_results"]}
        assert scores["adversarial-game-bench.robust_accuracy"]["score"] == run["robust_accuracy"]["value"]
        interval = scores["adversarial-game-bench.clean_accuracy"]["uncertainty"]["confidence_interval"]
        assert interval["upper"] == run["clean_accuracy"]["high"] and interval["lower"] == run["clean_accuracy"]["low"]
        assert made["source_metadata"]["additional_details"]["verification"] == "played here"
    before = {path: path.read_bytes() for path in files}
    assert bench("export", "--format", "every-eval-ever", "--out", "eee", "--db", db).code == 0
    assert {path: path.read_bytes() for path in Path("eee").rglob("*.json")} == before


def test_no_name_of_a_run_leads_out_of_the_folder(bench: Bench, db: str) -> None:
    assert bench("list", "runs", "--db", db).code == 0  # brings the schema up to date
    with sqlite3.connect(db) as connection:
        connection.execute(
            "update runs set spec = json_set(spec, '$.defense.name', '../../../out', '$.dataset.name', '/..')"
        )
    assert bench("export", "--format", "every-eval-ever", "--out", "a/eee", "--db", db).code == 0
    assert {path.name for path in Path().iterdir()} == {"a", "runs.db"} and [p.name for p in Path("a").iterdir()] == [
        "eee"
    ]
    assert {path.parts[3] for path in Path("a").rglob("*.json")} == {"unnamed"}


class Tracking:
    """Stands in for MLflow: keeps what its client is asked to log, with the limits of a server."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = "7"
        return "7"

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[str]:
        found = re.fullmatch(r"tags\.`bench\.run` = '([0-9a-f]{64})'", filter_string)
        assert found and experiments == ["7"] and max_results == 1
        return [name for name, run in self.runs.items() if run["tags"].get("bench.run") == found[1]]

    def create_run(self, experiment: str, start_time: int, run_name: str) -> Any:
        name = f"run-{len(self.runs)}"
        self.runs[name] = {"name": run_name, "start": start_time, "params": {}, "metrics": {}, "tags": {}}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(self, run: str, params: Any = (), metrics: Any = ()) -> None:
        assert len(params) <= 100 and all(isinstance(v, str) and len(v) <= 500 for _, v in params)
        assert all(isinstance(metric[1], float) for metric in metrics)
        self.runs[run]["params"].update(params)
        self.runs[run]["metrics"].update({metric[0]: metric[1] for metric in metrics})

    def set_tag(self, run: str, key: str, value: str) -> None:
        self.runs[run]["tags"][key] = value

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self.runs[run].update(status=status, end=end_time)


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> Tracking:
    module, kept = ModuleType("mlflow"), Tracking()

    class MlflowException(Exception):
        pass

    def client(tracking_uri: str) -> Tracking:
        if not tracking_uri.startswith("sqlite:"):
            raise MlflowException(f"unsupported URI\n{tracking_uri}")
        return kept

    module.MlflowClient = client  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(MlflowException=MlflowException)  # type: ignore[attr-defined]
    module.entities = SimpleNamespace(  # type: ignore[attr-defined]
        Param=lambda key, value: (key, value), Metric=lambda key, value, time, step: (key, value)
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return kept


def test_runs_are_logged_to_mlflow_each_once(bench: Bench, db: str, tracking: Tracking) -> None:
    runs = json.loads(bench("list", "runs", "--json", "--db", db).out)
    done = bench("export", "--format", "mlflow", "--out", "sqlite:///x.db", "--db", db)
    assert done.code == 0 and done.out == f"{len(runs)} runs logged, 0 were there\n" and len(tracking.runs) == len(runs)
    for run in runs:
        (logged,) = [one for one in tracking.runs.values() if one["tags"]["bench.run"] == run["run"]]
        assert (
            logged["metrics"]["robust_accuracy"] == run["robust_accuracy"]["value"] and logged["status"] == "FINISHED"
        )
        assert logged["params"]["threat.eps"] == str(run["eps"]) and logged["params"]["attack.name"] == run["attack"]
        assert logged["tags"]["bench.verification"] == "played here" and logged["start"] <= logged["end"]
    again = bench("export", "--format", "mlflow", "--out", "sqlite:///x.db", "--db", db)
    assert again.out == f"0 runs logged, {len(runs)} were there\n" and len(tracking.runs) == len(runs)


def test_a_tracking_server_that_refuses_is_one_line(
    bench: Bench, db: str, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["export", "--format", "mlflow", "--db", db]
    told = bench(*asked, "--out", "odd://x")
    assert told.code == 2 and "MLflow at odd://x does not take the runs: unsupported URI odd://x" in told.err
    told = bench(*asked)
    assert (
        told.code == 2 and "give --out URI (http://HOST:5000, sqlite:///FILE), or set MLFLOW_TRACKING_URI" in told.err
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///y.db")
    assert bench(*asked).code == 0
    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = bench(*asked)
    assert told.code == 2 and "pip install 'adversarial-game-bench[mlflow]'" in told.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--format", "every-eval-ever"], "give --out FOLDER"),
        (["--format", "every-eval-ever", "--out", "runs.db"], "cannot be made"),
        (["--format", "xml"], "give csv, json, parquet, every-eval-ever or mlflow"),
    ],
)
def test_a_wrong_export_is_one_line(bench: Bench, db: str, args: list[str], said: str) -> None:
    told = bench("export", "--db", db, *args)
    assert told.code == 2 and said in told.err and len(told.err.splitlines()) == 1


def test_a_table_of_examples_holds_accuracies_level_and_answers_to_images_sent_again(bench: Bench, db: str) -> None:
    runs = {run["run"]: run for run in json.loads(bench("list", "runs", "--json", "--db", db).out)}
    with sqlite3.connect(db) as connection:
        ((key, at),) = connection.execute('select run, "index" from examples limit 1').fetchall()
        again = '{"attacked": [3, -1, 8], "clean": [3, 3, 3]}'
        connection.execute('update examples set resent = ? where run = ? and "index" = ?', (again, key, at))
    lines = list(csv.DictReader(io.StringIO(bench("export", "--format", "csv", "--db", db).out)))
    assert len(lines) > 2 and {line["tier"] for line in lines} <= set(get_args(Tier))
    for line in lines:
        known, sent = runs[line["run"]], (line["run"], line["index"]) == (key, str(at))
        assert line["tier"] == known["tier"] and line["dataset"] and float(line["eps"]) == known["eps"]
        assert (line["resent_attacked"], line["resent_clean"]) == (("3 -1 8", "3 3 3") if sent else ("", ""))
        for name in ("clean", "robust"):
            estimate = known[f"{name}_accuracy"]
            for part, column in (("value", "accuracy"), ("low", "low"), ("high", "high")):
                assert line[f"{name}_{column}"] == ("" if estimate is None else str(estimate[part]))
    frame = lib.load(db)
    assert list(frame["resent_attacked"]) == [line["resent_attacked"] for line in lines]

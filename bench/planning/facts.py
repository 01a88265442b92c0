"""The facts of datasets, as planning asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import registry
from bench.data.task import TaskFacts, TaskParams
from bench.values import Params


def facts_of(data_dir: Path | None) -> Callable[[str, TaskParams], TaskFacts]:
    """The function that planning asks for the facts of a dataset; each answer is found once."""
    known: dict[tuple[str, Params], TaskFacts] = {}

    def facts(name: str, params: TaskParams) -> TaskFacts:
        if (name, params) not in known:
            known[name, params] = registry.datasets.load(name).facts(params, data_dir)
        return known[name, params]

    return facts

"""The facts of datasets, as planning asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import registry
from bench.cache import digest
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


def content_of(name: str, facts: TaskFacts) -> str:
    """The hash of a dataset's content, as it enters keys.

    What a program registered may hold arrays that its `facts` do not look at: they are part of the hash.
    """
    return (
        digest([facts.content, registry.datasets[name].source_hash()])
        if registry.datasets.registered_here(name)
        else facts.content
    )

"""The facts of datasets, as planning asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import registry
from bench.cache import digest
from bench.data.arrays import Arrays
from bench.data.task import TaskFacts, TaskParams
from bench.registry import PROGRAM
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

    A class that a program registered may use arrays that its `facts` do not look at: they are part of the hash.
    """
    entry = registry.datasets[name]
    if entry.origin != PROGRAM or isinstance(entry.target, Arrays):  # these hash all that they hold
        return facts.content
    return digest([facts.content, entry.source_hash()])

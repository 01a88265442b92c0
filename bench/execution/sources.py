"""Whether the code and the data that a run names are the ones that this process has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import registry
from bench.models.sources import network_source
from bench.planning.facts import content_of
from bench.planning.plan import FactsOf
from bench.planning.spec import RunSpec


@dataclass(frozen=True)
class Other:
    """A part of a run that is another one here.

    what         `defense`, `dataset`, ...
    asked, here  hashes of its source; here: "" where nothing is registered under the name
    """

    what: str
    name: str
    asked: str
    here: str


def other_dataset(spec: RunSpec, facts: FactsOf) -> Other | None:
    """The dataset, where its content is another one here. facts: gives the facts of a dataset by its parameters."""
    name = spec.dataset.name
    here = content_of(name, facts(name, registry.datasets.load(name).Params(**spec.dataset.params)))
    return None if here == spec.dataset.source else Other("dataset", name, spec.dataset.source, here)


def other_parts(spec: RunSpec, attack: bool = True) -> Iterator[Other]:
    """The plug-ins and the network whose source is another one in this process.

    attack: its source counts; else its images are there already, and it does not play again.
    """
    yield from other_plugins(spec, attack)
    if not spec.brings_network:
        name, _, source = network_source(spec.network.name, str(spec.base.params.get("weights", "")))
        if source != spec.network.source:
            yield Other("network", name, spec.network.source, source)


def other_plugins(spec: RunSpec, attack: bool = True) -> Iterator[Other]:
    """The plug-ins that are not here, or with another source. No file is read that only the run names."""
    parts = [("defense", spec.defense, registry.defenses), ("base", spec.base, registry.defenses)]
    parts += [("attack", spec.attack, registry.attacks)] if attack else []
    named = [(what, part.name, part.source, names) for what, part, names in parts]
    if spec.game.source:
        named.insert(0, ("protocol", spec.game.protocol, spec.game.source, registry.protocols))
    for what, name, asked, names in named:
        here = names[name].source_hash() if name in names else ""
        if here != asked:
            yield Other(what, name, asked, here)

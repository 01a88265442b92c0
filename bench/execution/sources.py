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
    """A part of a run that is another one here. what: `defense`, `dataset`, ...; hashes of its source: asked, here."""

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
    """The parts whose source is another one in this process.

    attack: its source counts; else its images are there already, and it does not play again.
    """
    now = []
    if spec.game.source:
        source = registry.protocols[spec.game.protocol].source_hash()
        now.append(("protocol", spec.game.protocol, spec.game.source, source))
    parts = [("defense", spec.defense, registry.defenses), ("base", spec.base, registry.defenses)]
    parts += [("attack", spec.attack, registry.attacks)] if attack else []
    now += [(what, part.name, part.source, names[part.name].source_hash()) for what, part, names in parts]
    if not spec.brings_network:
        name, _, source = network_source(spec.network.name, str(spec.base.params.get("weights", "")))
        now.append(("network", name, spec.network.source, source))
    return (Other(what, name, asked, here) for what, name, asked, here in now if asked != here)

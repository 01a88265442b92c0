"""What was served, to look at: stored images, their clean points, and the neighbours that a defense found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import registry
from bench.errors import one_line
from bench.game.resources import Resources
from bench.planning.spec import RunSpec
from bench.rows import Row, is_fooled
from bench.store import RunRecord, Store
from bench.store.images import stored_images

#: neighbours of an image that are shown, of each set that is searched
NEIGHBOURS = 3


@dataclass(frozen=True)
class Shown:
    """One example: x and x_adv (C, H, W) in [0, 1]; nearest: images (count, C, H, W) and labels by the set searched."""

    row: Row
    x: Tensor
    x_adv: Tensor
    nearest: dict[str, tuple[Tensor, list[int]]] = field(default_factory=dict)


def gallery(
    store: Store, record: RunRecord, rows: Sequence[Row], resources: Resources, count: int
) -> tuple[list[Shown], str]:
    """Up to `count` examples, violations first, then as many broken as survived; and what could not be shown, or "".

    Neighbours are those of the defense before it has served anything, where what it was fitted to is still there.
    """
    images = stored_images(store, record, resources.cache)
    chosen = choose([row for row in rows if (row.game, row.position) in images], count)
    if not chosen:
        return [], "The images of this run are not here: its files folder was removed, or lies elsewhere."
    spec = RunSpec.from_dict(record.spec)
    try:
        x, _ = resources.of(spec).points([row.index for row in chosen])
    except Exception as error:  # a dataset that has changed since may raise anything; the run is shown all the same
        return [], f"The clean points of this run are not here: {one_line(error)}"
    x_adv = torch.stack([images[row.game, row.position] for row in chosen])
    try:
        nearest, why = _nearest(spec, x_adv, resources)
    except Exception as error:  # a defense of a plug-in may raise anything
        nearest, why = [], f"Neighbours are not shown: {one_line(error)}"
    shown = [Shown(row, x[i].cpu(), x_adv[i], nearest[i] if nearest else {}) for i, row in enumerate(chosen)]
    return shown, why


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """Rows to look at: violations first, then broken and survived in turn, each in the order of the run."""
    violated = [row for row in rows if row.violation]
    broken = [row for row in rows if not row.violation and is_fooled(row)]
    stood = [row for row in rows if not row.violation and not is_fooled(row)]
    turns = [row for pair in zip(broken, stood, strict=False) for row in pair]
    shorter = min(len(broken), len(stood))
    return [*violated, *turns, *broken[shorter:], *stood[shorter:]][:count]


def _nearest(
    spec: RunSpec, x_adv: Tensor, resources: Resources
) -> tuple[list[dict[str, tuple[Tensor, list[int]]]], str]:
    """The neighbours of the served images, if the cache holds the bank: a gallery does not build one."""
    if spec.is_base:
        return [], ""
    if registry.defenses[spec.defense.name].source_hash() != spec.defense.source:
        return [], f"Neighbours are not shown: {spec.defense.name} has changed since this run."
    if not resources.of(spec).has_base() or resources.of(spec).missing_pieces():
        return [], "Neighbours are not shown: the base of this run, or its augmented set, is not here any more."
    return resources.of(spec).fitted().neighbour_images(x_adv.to(resources.device), NEIGHBOURS), ""

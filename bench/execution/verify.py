"""Checks stored rows: images and labels against their hashes, the summary, then each game by playing it again.

A game is intact if all its rows are there, its images have the stored hashes, and its labels are those of the dataset.
Intact games are played again with the stored images, on a fresh defense with the same order, background and noise key
and without any stored state. The new rows must be equal to the stored ones. For rows of a stranger the attack crafts
its images again too: else nobody knows that it was this attack that made them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.analysis.summaries import differences, keep
from bench.cache import Cache
from bench.environment import environment
from bench.errors import BenchError, DiskError, one_line
from bench.execution.sources import other_dataset, other_parts
from bench.game.crafting import Crafted
from bench.game.resources import Resources
from bench.interrupts import from_outside
from bench.planning.rules import rules_of
from bench.planning.spec import RunSpec
from bench.rows import Resume, Row, image_hash
from bench.store import GameRecord, RunRecord, Store
from bench.store.images import stored_images

#: facts that differ on every repetition
CLOCKS = ("attack_s", "defense_s")


@dataclass(frozen=True)
class BadRow:
    """A row that disagrees with the stored images or with the dataset."""

    game: int
    position: int
    index: int
    what: str


@dataclass(frozen=True)
class Difference:
    """A fact that has another value when the game is played again."""

    game: int
    position: int
    index: int
    fact: str
    stored: Any
    found: Any


@dataclass(frozen=True)
class WrongFigure:
    """A figure of the stored summary of a run that its rows do not give."""

    figure: str
    stored: Any
    found: Any


@dataclass
class Verification:
    """The result for one run. games: how many were played again; left_out: why others were not, by game.

    summary: what the stored summary says and the rows do not
    """

    run: str
    rows: int
    images: int = 0
    bad: list[BadRow] = field(default_factory=list)
    games: int = 0
    left_out: dict[int, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    summary: list[WrongFigure] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.bad or self.left_out or self.differences or self.summary)


def verify(
    store: Store,
    record: RunRecord,
    resources: Resources,
    games: Collection[int] | None = None,
    crafts: bool | None = None,
) -> Verification:
    """Check a stored run: see the module. A summary that its rows do not give is told, and made anew.

    games   those that are played again; None: all
    crafts  the attack crafts again too; None: where the run came in a bundle
    """
    crafts = record.origin is not None if crafts is None else crafts
    rows = store.all_rows(record.key)
    result = Verification(record.key, len(rows))
    result.summary = [WrongFigure(name, *values) for name, values in differences(store, record).items()]
    if result.summary:
        keep(store, [record])  # readers believe the rows again
    spec = RunSpec.from_dict(record.spec)
    own_files = store.files == resources.cache.root  # else it is a bundle that is being checked
    images = stored_images(store, record, resources.cache if own_files else Cache(store.files))
    result.images = len(images)
    plays = games is None or bool(games)
    changed = _changed(spec, record, resources, crafts) if plays else other_data(spec, record, resources)
    unknown_points = changed.startswith("the dataset ")  # then no row of it can be held against its points
    result.bad = list(_bad_rows(rows, images, spec, None if unknown_points else resources))
    played = {game.game: game for game in store.games(record.key)}
    for game in range(spec.game.games) if games is None else sorted(games):
        own = [row for row in rows if row.game == game]
        reason = _not_intact(own, played.get(game), [bad for bad in result.bad if bad.game == game])
        if reason or changed:
            result.left_out[game] = reason or changed
            continue
        try:
            result.differences += _replay(spec, game, own, None if crafts else images, resources)
            result.games += 1
        except (BenchError, DiskError):
            raise
        except BaseException as error:  # a plug-in may raise anything, as in a run
            if from_outside(error):
                raise
            result.left_out[game] = f"{type(error).__name__}: {one_line(error)}"
    return result


def _bad_rows(
    rows: Sequence[Row], images: dict[tuple[int, int], Tensor], spec: RunSpec, resources: Resources | None
) -> Iterable[BadRow]:
    """The rows that do not hold; resources: None leaves out what needs the dataset."""
    size = 0 if resources is None else resources.task(spec.dataset).facts.test_size
    for row in rows:
        image = images.get((row.game, row.position))
        if image is None:
            yield BadRow(row.game, row.position, row.index, "its image is not there, or its file cannot be read")
        elif image_hash(image) != row.adv_sha256:
            yield BadRow(row.game, row.position, row.index, "its image has another sha256")
        if resources is None:
            continue
        if not 0 <= row.index < size:
            yield BadRow(row.game, row.position, row.index, f"the dataset has no point {row.index}")
            continue
        x, y = resources.of(spec).points([row.index])
        if int(y[0]) != row.label:
            yield BadRow(row.game, row.position, row.index, f"its label is {row.label}, in the dataset {int(y[0])}")
        if image_hash(x[0]) != row.x_sha256:
            yield BadRow(row.game, row.position, row.index, "its clean point has another sha256 in the dataset")


def _not_intact(own: list[Row], game: GameRecord | None, bad: list[BadRow]) -> str:
    """Why a game with these rows cannot be played again, or ""."""
    if game is None or not game.done:
        return "it was not played to its end"
    if bad:
        return f"{len({row.position for row in bad})} of its rows do not hold"
    if [row.position for row in own] != list(range(game.rows)):
        return "rows of it are missing"
    return ""


def _changed(spec: RunSpec, record: RunRecord, resources: Resources, crafts: bool) -> str:
    """What has changed since the run was played, so that it cannot be played again in the same way; "" for nothing.

    crafts: the attack plays again too.
    """
    if spec.key != record.key:
        return "the run was made by another version of the harness"
    if told := other_data(spec, record, resources):
        return told
    other = next(other_parts(spec, attack=spec.threat.queries_served or crafts), None)
    if other is not None and not other.here:
        return f"the {other.what} {other.name!r} is not registered here; give its file with --plugin"
    if other is not None:
        return _since(other.what, other.name, record)
    here = environment(resources.settings.device)
    made = record.provenance.get("environment", {})
    differing = [
        f"{name} {made[name]}, here {here[name]}" for name in here if name in made and made[name] != here[name]
    ]
    return f"it was made with {'; '.join(differing)}" if differing else ""


def other_data(spec: RunSpec, record: RunRecord, resources: Resources) -> str:
    """That the dataset has another content than it had for the run; "" if it has the same."""
    other = other_dataset(spec, resources.facts)
    return "" if other is None else _since(other.what, other.name, record)


def _since(what: str, name: str, record: RunRecord) -> str:
    commit = str(record.provenance.get("commit", ""))[:12]
    return f"the {what} {name} has changed since{f'; the run was made at commit {commit}' if commit else ''}"


class _Stored:
    """The stored images of a game, with the facts that their rows hold about crafting."""

    def __init__(self, spec: RunSpec, rows: Sequence[Row], images: dict[tuple[int, int], Tensor], resources: Resources):
        self._spec = spec
        self._rows = {row.index: row for row in rows}
        self._images = images
        self._device = resources.device

    def at(self, places: list[int]) -> Crafted:
        rows = [self._rows[self._spec.order[place]] for place in places]

        def column(name: str, dtype: torch.dtype = torch.int64) -> Tensor:
            values = [getattr(row, name) for row in rows]
            return torch.tensor([-1 if value is None else value for value in values], dtype=dtype)

        return Crafted(
            images=torch.stack([self._images[row.game, row.position] for row in rows]).to(self._device),
            forwards=column("forwards"),
            backwards=column("backwards"),
            queries=column("queries"),
            simulated=column("simulated"),
            seconds=column("attack_s", torch.float64),
            believed=column("believed", torch.int8),
            fooled_inside=column("fooled_inside", torch.int8),
        )


def _replay(
    spec: RunSpec, game: int, stored: list[Row], images: dict[tuple[int, int], Tensor] | None, resources: Resources
) -> list[Difference]:
    """Play a game again, and list what differs.

    images: the stored ones; None: the attack crafts again, as it does where its queries change the state.
    """
    given = None if images is None or spec.threat.queries_served else _Stored(spec, stored, images, resources)
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        match = resources.match(spec, game, given, states=Cache(Path(folder)))
        chunks = rules_of(spec.game).play(match, Resume())
        again = [row for chunk in chunks for row in chunk.rows]
    for old, new in zip(stored, again, strict=True):
        facts = _facts(new)
        for fact, before in _facts(old).items():  # an old database lacks norms that came later
            if before != facts[fact] and not (_nan(before) and _nan(facts[fact])):
                differences.append(Difference(game, old.position, old.index, fact, before, facts[fact]))
    return differences


def _facts(row: Row) -> dict[str, Any]:
    """The facts that are the same on every repetition, by name; a distance by its norm."""
    facts = {f.name: getattr(row, f.name) for f in fields(Row) if f.name not in CLOCKS}
    return {**facts.pop("distances"), **facts}


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

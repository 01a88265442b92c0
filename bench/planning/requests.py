"""What a user asks for: a request to cross names and values, and the requests that a suite stands for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.config import Suite, SuiteOver
from bench.errors import BadValue, UnknownName
from bench.threat import ThreatModel, parse_number


@dataclass(frozen=True)
class Request:
    """What to cross. Empty tuples and None mean the configuration's default.

    Radii may be text, such as "8/255"; they are numbers afterwards. `BadValue` for an impossible radius or norm.
    """

    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    bases: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    eps: tuple[float | str, ...] = ()
    norm: str = ""
    seeds: tuple[int, ...] = ()
    n: int | None = None
    repeats: int | None = None
    sets: Mapping[str, Any] = field(default_factory=dict)
    #: radii that reach every image are taken as they are
    force_eps: bool = False

    def __post_init__(self) -> None:
        radii = tuple(parse_number("eps", radius) for radius in self.eps)
        for radius in radii:
            ThreatModel(eps=radius)
        if self.norm:
            ThreatModel(norm=self.norm)
        object.__setattr__(self, "eps", radii)


def suite_requests(name: str, suites: Mapping[str, Suite], over: Request) -> list[Request]:
    """The cells of a suite, with the request `over` laid over each."""
    requests = _cells_of(name, suites, ())
    if not requests:
        raise BadValue(f"The suite {name!r} has no runs, only a table; see: bench report --help")
    return [_laid_over(request, over) for request in requests]


def _cells_of(name: str, suites: Mapping[str, Suite], before: tuple[str, ...]) -> list[Request]:
    """A suite's own cells, then those that it takes from another suite with changes."""
    if name in before:
        raise BadValue(f"The suites {', '.join(before)} name each other in cells_of; give one of them cells.")
    if name not in suites:
        raise UnknownName("suite", name, suites, "bench list suites")
    suite = suites[name]
    _check_cells(name, suite)
    own = [_request_of(cell, crossed) for cell in suite.cells for crossed in _combinations(cell.cross)]
    others = _cells_of(suite.cells_of, suites, (*before, name)) if suite.cells_of else []
    return own + [_laid_over(request, _request_of(suite.over)) for request in others]


def _check_cells(name: str, suite: Suite) -> None:
    """`BadValue` where a list of a cell is empty: crossed with nothing, the cell has no run."""
    for number, cell in enumerate(suite.cells, 1):
        lists = {"defense": cell.defense, "attack": cell.attack}
        lists |= {f"cross.{key!r}": values for key, values in cell.cross.items()}
        if empty := next((key for key, values in lists.items() if not values), None):
            raise BadValue(
                f"Cell {number} of the suite {name!r} has the empty list {empty}, so it has no runs; give at least one "
                f"value, or leave the {'key' if '.' in empty else 'cell'} out."
            )


def _request_of(cell: SuiteOver, crossed: Mapping[str, Any] | None = None) -> Request:
    return Request(
        tuple(cell.defense), tuple(cell.attack), tuple(cell.base), tuple(cell.dataset), tuple(cell.eps), cell.norm,
        tuple(cell.seed), cell.n, cell.repeats, {**cell.set, **(crossed or {})},
    )  # fmt: skip


def _laid_over(request: Request, over: Request) -> Request:
    """The request with the values of `over` in place of its own; the sets of both are merged."""
    return Request(
        defenses=over.defenses or request.defenses,
        attacks=over.attacks or request.attacks,
        bases=over.bases or request.bases,
        datasets=over.datasets or request.datasets,
        eps=over.eps or request.eps,
        norm=over.norm or request.norm,
        seeds=over.seeds or request.seeds,
        n=over.n if over.n is not None else request.n,
        repeats=over.repeats if over.repeats is not None else request.repeats,
        sets={**request.sets, **over.sets},
        force_eps=request.force_eps or over.force_eps,
    )


def _combinations(cross: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of one value for each key, in the order of the lists."""
    return [dict(zip(cross, values, strict=True)) for values in itertools.product(*cross.values())]

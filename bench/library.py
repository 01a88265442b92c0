"""What a program calls: `bench.run`, `bench.run_suite`, `bench.load` and `bench.results`.

A call does what the command line does: the same keys, the same rows, the same database. A wrong request raises the
`BenchError` whose text the command line prints; the options that the text names are arguments here.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from bench import registry
from bench.analysis.frames import frame_of
from bench.analysis.result import Result, Results
from bench.errors import BadValue, UnknownName
from bench.execution.session import open_session, reading_session
from bench.interrupts import interrupts_noted
from bench.planning.requests import Request
from bench.store import RunRecord, Store

if TYPE_CHECKING:
    from pandas import DataFrame

#: what may be given alone or as several, which are crossed
Name = str | type
Names = Name | Iterable[Name] | None
Number = float | str
File = str | PathLike[str]

STATUSES = ("RUNNING", "DONE", "SKIPPED", "FAILED")


class Arguments(TypedDict, total=False):
    """The arguments of `run`, which explains them."""

    defense: Names
    attack: Names
    base: Names
    dataset: str | Iterable[str] | None
    n: int | None
    seed: int | Iterable[int] | None
    eps: Number | Iterable[Number] | None
    norm: str | None
    force_eps: bool
    repeats: int | None
    sets: Mapping[str, Any] | None
    db: File | None
    data_dir: File | None
    device: str
    workers: int | None
    rerun: str
    plugins: File | Iterable[File]
    config: File | None
    progress: bool


def run(
    defense: Names,
    attack: Names,
    *,
    base: Names = None,
    dataset: str | Iterable[str] | None = None,
    n: int | None = None,
    seed: int | Iterable[int] | None = None,
    eps: Number | Iterable[Number] | None = None,
    norm: str | None = None,
    force_eps: bool = False,
    repeats: int | None = None,
    sets: Mapping[str, Any] | None = None,
    db: File | None = None,
    data_dir: File | None = None,
    device: str = "auto",
    workers: int | None = None,
    rerun: str = "missing",
    plugins: File | Iterable[File] = (),
    config: File | None = None,
    progress: bool = False,
) -> Result | Results:
    """Play one run, or find it where it was played before: what `bench run` does, with its defaults.

    >>> import bench
    >>> result = bench.run("regular", "pgd", n=20, sets={"base.epochs": 5, "attack.steps": 5}, workers=1)
    >>> result.status, result.dataset, result.eps
    ('DONE', 'digits', 0.2)
    >>> 0 <= result.robust_accuracy.low <= float(result.robust_accuracy) <= result.robust_accuracy.high <= 1
    True

    Of defense, attack, base, dataset, seed and eps several may be given: they are crossed, and the answer is `Results`
    instead of a `Result`. A failed run raises no exception: its status is FAILED, and it has a reason.

    defense   a name of `bench list defenses`, or a class that is registered under one name
    attack    likewise
    base      the network under a runtime defense; None: that of bench.toml, as for every argument that is None
    dataset   a name of `bench list datasets`
    n         attacked examples, the first of a seeded order; at least 1
    seed      of examples, backgrounds and noise
    eps       radius in units of [0, 1] pixels: a number, or a fraction such as "8/255"
    force_eps  take a radius that reaches every image, which is refused without
    norm      a norm of `bench.norms`: linf, l2, l1 or l0
    repeats   games over permuted streams; at least 1
    sets      values by dotted key, as --set gives them: {"defense.k": 256, "threat.delay": 10}
    db        the database: a path or an SQLAlchemy URL
    data_dir  folder with the datasets; None: $BENCH_DATA
    device    auto, cpu or cuda
    workers   processes of one thread each; 1: in this process, where a debugger works; 0: one per core; None: as
              bench.toml says, which is 0 unless changed. Any number gives the same rows. Workers do not run your
              script again, so it needs no `if __name__ == "__main__"`. What your program registered itself is known in
              this process alone: such runs are played here, and more than one worker is refused
    rerun     which known runs to play again: missing (those not finished), failed or all
    plugins   Python files with plug-ins, beside those of bench.toml; read anew by each call
    config    a bench.toml; None: the one in the working directory
    progress  lines on standard error while runs are played

    Raises a `BenchError` of some kind (see `bench.errors`) if the request is wrong; then nothing has been written. An
    interrupt keeps what was done: the same call goes on from there.
    """
    given = Arguments(
        defense=defense, attack=attack, base=base, dataset=dataset, n=n, seed=seed, eps=eps, norm=norm,
        force_eps=force_eps, repeats=repeats, sets=sets, db=db, data_dir=data_dir, device=device, workers=workers,
        rerun=rerun, plugins=plugins, config=config, progress=progress,
    )  # fmt: skip
    results = _play(None, given)
    crossed = (defense, attack, base, dataset, seed, eps)
    return results if any(_several(value) for value in crossed) else results[0]


def run_suite(suite: str, **given: Unpack[Arguments]) -> Results:
    """Play the runs of a suite of bench.toml, or find them: what `bench run --suite` does.

    The arguments are those of `run`, all by name, and are laid over what the cells of the suite say. The runs are noted
    as the suite's, for `bench report`. Raises as `run` does.
    """
    if unknown := sorted(set(given) - set(Arguments.__annotations__)):
        raise TypeError(f"run_suite() got an unexpected keyword argument {unknown[0]!r}")
    return _play(suite, given)


def load(
    db: File | None = None,
    *,
    defense: str | Iterable[str] | None = None,
    attack: str | Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    status: str | Iterable[str] | None = None,
    config: File | None = None,
) -> DataFrame:
    """All stored examples of a database as one pandas frame: a line per example, of runs in the order they were begun.

    The columns are those of `bench export --format csv`, but for the accuracies of the run at its end, which `results`
    has: the run's names (run, status, defense, base, attack, dataset, norm, eps, tier, n, seed, protocol,
    verification), then the facts (index, trial, position, label, clean_answer, attacked_answer, distance, ...). Whole
    numbers are int64 and texts str; clean_answer is Int64, believed and fooled_inside boolean, and all three are <NA>
    where nothing is known; distance is in the run's norm, NaN where an image had none; resent_attacked and resent_clean
    are the answers to an image that is sent again, as a text. Runs that are not DONE are included with the rows that
    they have: see status.

    defense, attack, dataset, status  only runs with this name, or one of these
    db, config                        as for `run`

    Raises `StoreError` where there is no database, `BadValue` where pandas is not installed.
    """
    store, records = _stored(db, config, defense=defense, attack=attack, dataset=dataset, status=status)
    return frame_of(store, records)


def results(
    db: File | None = None,
    *,
    defense: str | Iterable[str] | None = None,
    attack: str | Iterable[str] | None = None,
    dataset: str | Iterable[str] | None = None,
    status: str | Iterable[str] | None = None,
    config: File | None = None,
) -> Results:
    """The stored runs of a database, in the order in which they were begun; arguments and errors as for `load`.

    Examples of a run are read when they are needed.
    """
    store, records = _stored(db, config, defense=defense, attack=attack, dataset=dataset, status=status)
    return Results(store, [Result(store, record) for record in records])


def _stored(db: File | None, config: File | None, **among: str | Iterable[str] | None) -> tuple[Store, list[RunRecord]]:
    wanted = {column: list(_each(values)) for column, values in among.items() if values is not None}
    for status in wanted.get("status", ()):
        if status not in STATUSES:
            raise UnknownName("status", status, STATUSES)
    store = reading_session(_path(config)).store(_path(db))
    return store, store.runs(**wanted)


@interrupts_noted()
def _play(suite: str | None, given: Arguments) -> Results:
    """Play the runs of a request to their end; each once."""
    from bench.environment import threads_kept  # these import torch, which `load` and `results` do without
    from bench.execution.progress import PlainListener, Warner

    plugins = tuple(str(file) for file in _each(given.get("plugins", ())))
    session = open_session(_path(given.get("config")), plugins)
    prepared = session.prepare(
        _request(given),
        suite,
        db=_path(given.get("db")),
        data_dir=_path(given.get("data_dir")),
        device=given.get("device", "auto"),
        workers=_whole("workers", given.get("workers")),
        rerun=given.get("rerun", "missing"),
    )
    store = prepared.begin()
    with threads_kept():
        prepared.play(store, PlainListener(sys.stderr) if given.get("progress") else Warner())
    results = Results(store, [Result(store, store.resolve(item.spec.key)) for item in prepared.planned])
    results.read()  # now: a later call may play the same run anew
    return results


def _request(given: Arguments) -> Request:
    """The arguments as the planner takes them. A class stands for the name under which it is registered."""
    sets = given.get("sets")
    if sets is not None and not isinstance(sets, Mapping):
        raise BadValue(f"sets is {_short(sets)}; give values by dotted key, such as {{'defense.k': 512}}.")
    if strange := [key for key in sets or {} if not isinstance(key, str)]:
        raise BadValue(f"sets has the key {strange[0]!r}; give dotted keys, such as 'defense.k'.")
    return Request(
        defenses=_names(registry.defenses, given.get("defense")),
        attacks=_names(registry.attacks, given.get("attack")),
        bases=_names(registry.defenses, given.get("base")),
        datasets=_texts(_each(given.get("dataset"))),
        eps=_each(given.get("eps")),
        norm=given.get("norm") or "",
        seeds=tuple(_whole("seed", value) for value in _each(given.get("seed"))),
        n=_whole("n", given.get("n")),
        repeats=_whole("repeats", given.get("repeats")),
        sets=dict(sets or {}),
        force_eps=bool(given.get("force_eps")),
    )


def _several(value: Any) -> bool:
    """Whether an argument is a collection of values; a text, a class and a network are single values."""
    return isinstance(value, Iterable) and not isinstance(value, str | type) and not callable(value)


def _each(value: Any) -> tuple[Any, ...]:
    """The values of an argument that is a value, a collection of values, or None for no value."""
    return () if value is None else tuple(value) if _several(value) else (value,)


def _names(known: registry.Registry, value: Names) -> tuple[str, ...]:
    return _texts(known.name_of(name) if isinstance(name, type) else name for name in _each(value))


def _texts(names: Iterable[Any]) -> tuple[str, ...]:
    texts = tuple(names)
    for name in texts:
        if isinstance(name, str):
            continue
        if callable(name) or hasattr(name, "shape"):  # a network, an array
            raise BadValue(
                f"A {type(name).__name__} is no name; with a network or arrays call bench.evaluate(model, x, y)."
            )
        raise BadValue(f"{_short(name)} is no name; give names as text, such as 'rmc'; see: bench list")
    return texts


def _short(value: object) -> str:
    """A value as an error prints it: never an array."""
    text = repr(value) if isinstance(value, str | int | float | bool | type(None)) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole(name: str, value: Any) -> Any:
    """A whole number, or None as it is; `BadValue` for anything else."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise BadValue(f"{name} is {_short(value)}; give a whole number.")
    return number


def _path(value: File | None) -> str | None:
    return None if value is None else str(value)

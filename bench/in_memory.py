"""What a program calls with its own networks and arrays, and with results: `evaluate`, `audit`, `verify`, `compare`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from bench import registry
from bench.analysis.audited import Audited
from bench.analysis.compare import Comparison, compare_runs
from bench.analysis.result import Result, Results
from bench.auditing import play, prepare
from bench.auditing.battery import BUDGETS
from bench.data.arrays import Arrays, arrays, checked_images
from bench.data.files import data_dir as data_folder
from bench.data.task import to_pixels
from bench.environment import one_thread, pick_device, threads_kept
from bench.errors import BadValue, UnknownName
from bench.execution.progress import PlainListener, Warner
from bench.execution.session import in_this_process, open_session, reading_session, take_runner
from bench.execution.verify import Verification
from bench.execution.verify import verify as verify_run
from bench.game.resources import Resources
from bench.interrupts import interrupts_noted
from bench.library import Arguments, File, Name, Number, _each, _names, _path, _play, _several
from bench.models.given import adapts, given_network, tried
from bench.norms import NORMS
from bench.store import RunRecord, Store
from bench.threat import ThreatModel, parse_number

#: the pair of images and labels
Pair = tuple[Any, Any]


def evaluate(
    model: Any,
    x: Any,
    y: Any,
    *,
    attack: Name | Iterable[Name] = "pgd",
    eps: Number | Iterable[Number] | None = None,
    norm: str | None = None,
    defense: Name | Iterable[Name] | None = None,
    train: Pair | None = None,
    normalize: Pair | None = None,
    outputs: str = "logits",
    classes: Sequence[int] | None = None,
    n: int | None = None,
    seed: int | None = None,
    name: str = "arrays",
    network: str = "network",
    sets: Mapping[str, Any] | None = None,
    force_eps: bool = False,
    db: File | None = None,
    device: str = "auto",
    rerun: str = "missing",
    plugins: File | Iterable[File] = (),
    config: File | None = None,
    progress: bool | None = None,
) -> Result | Results:
    """Attack a network that is in memory on images that are in memory, and store what came out.

    >>> import bench, numpy, torch
    >>> x, y = numpy.random.default_rng(0).random((20, 1, 8, 8), dtype="float32"), numpy.arange(20) % 2
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> with warnings.catch_warnings(action="ignore"):  # it guesses, which a warning says
    ...     result = bench.evaluate(net, x, y, attack="pgd", eps="8/255")
    >>> result.status, result.n, result.robust_accuracy <= result.clean_accuracy
    ('DONE', 20, True)

    model     a torch module; or any function from images (N, C, H, W) in [0, 1] to logits (N, K); or the name of a
              base or of a network, such as "zoo:cifar10-resnet20"
    x, y      images (N, C, H, W), torch or numpy, float in [0, 1] or uint8; labels (N,), whole numbers
    attack    a name of `bench list attacks`, or a class that is registered under one name; of several, each is played
    eps       radius in units of [0, 1] pixels, such as "8/255"; several are crossed. For an attack of minimal norm, the
              budget at which it is judged
    norm      linf, l2, l1 or l0; None: the attack's own
    defense   a runtime defense on top of the network, such as "rmc"; None: the network alone
    train     (images, labels) for a defense that needs a training set
    normalize (mean, std) of what the network wants instead of [0, 1], each a number or one number per channel
    outputs   "probabilities" for a network with a softmax or a sigmoid at its end
    classes   for each label the number of its output, for a network that answers among more classes
    n         how many images, the first of a seeded order; None: all
    name      what the images are called in the database; network: what the network is called there
    progress  lines on standard error; None: in a terminal and in a notebook

    The other arguments are those of `bench.run`. The network is copied, put into evaluation mode, and never changed.
    Its weights and the arrays are part of the run's key: other weights are another run, and the same call finds what it
    has played before. It is played in this process on one thread, so that the same call gives the same rows.

    Raises a `BenchError` where something is wrong with the request, the arrays or the network. What looks strange, such
    as a clean accuracy at chance, is a warning. A failed run raises nothing: its status is FAILED, and it has a reason.
    """
    open_session(_path(config), tuple(str(file) for file in _each(plugins)))
    base, keys, images = _held(
        model, x, y, train=train, normalize=normalize, outputs=outputs, classes=classes, name=name, network=network,
        radii=_radii(eps, norm), adaptive=defense is not None,
    )  # fmt: skip
    given = Arguments(
        defense=base if defense is None else defense, attack=attack, base=None if defense is None else base,
        dataset=name, seed=seed, norm=norm, sets={**keys, **(sets or {})}, force_eps=force_eps, db=db, device=device,
        workers=1, rerun=rerun, plugins=plugins, config=config,
        progress=_shown(progress),
    )  # fmt: skip
    if eps is not None and any(_bounded(one) for one in _each(attack)):
        given["eps"] = eps
    given["n"] = len(images.labels) if n is None else n
    results = _play(None, given)
    return results if any(map(_several, (attack, eps, defense))) else results[0]


@interrupts_noted()
def audit(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    eps: Number | None = None,
    defense: Name | None = None,
    train: Pair | None = None,
    normalize: Pair | None = None,
    outputs: str = "logits",
    classes: Sequence[int] | None = None,
    budget: str = "standard",
    n: int | None = None,
    seed: int | None = None,
    name: str = "arrays",
    network: str = "network",
    base: str = "",
    dataset: str = "",
    sets: Mapping[str, Any] | None = None,
    db: File | None = None,
    data_dir: File | None = None,
    device: str = "auto",
    plugins: File | Iterable[File] = (),
    config: File | None = None,
    progress: bool | None = None,
) -> Audited:
    """Play the whole battery of attacks and checks: what `bench audit` does.

    `bench.audit("rmc", dataset="mnist")` audits a defense by name; `bench.audit(net, x, y, eps="8/255")` a network in
    memory, or with defense="rmc" that defense on top of it. The arguments are those of `evaluate` and of the command.

    eps       radius in linf, in units of [0, 1] pixels; None: the dataset's own
    budget    quick, standard or full
    base      under a runtime defense that is given by name; dataset: likewise

    Raises a `BenchError` where the request is wrong, or where nothing can be played. Steps that fail are named in the
    answer (`failed`). The steps are runs of the database: the same call goes on where an interrupted one stopped.
    """
    session = open_session(_path(config), tuple(str(file) for file in _each(plugins)))
    values, radius = dict(sets or {}), None if eps is None else parse_number("eps", eps)
    if x is not None or y is not None or not isinstance(model, str | type):
        if x is None or y is None:
            raise BadValue(
                "A network in memory is audited on images and labels: give bench.audit(model, x, y, eps=...)."
            )
        base, keys, _ = _held(
            model, x, y, train=train, normalize=normalize, outputs=outputs, classes=classes, name=name, network=network,
            radii=_radii(eps, None), adaptive=defense is not None,
        )  # fmt: skip
        values, dataset = {**keys, **values}, name
        (subject,) = _names(registry.defenses, base if defense is None else defense)
    else:
        for argument, value, default in (
            ("defense", defense, None), ("train", train, None), ("normalize", normalize, None),
            ("classes", classes, None), ("outputs", outputs, "logits"), ("name", name, "arrays"),
            ("network", network, "network"),
        ):  # fmt: skip
            if value is not None if default is None else value != default:
                raise BadValue(
                    f"{argument} is for a network in memory, with its images and labels: bench.audit(model, x, y, ...)."
                )
        (subject,) = _names(registry.defenses, model)
    if budget not in BUDGETS:
        raise BadValue(f"budget is {budget!r}; give {', '.join(BUDGETS)}.")
    if subject not in registry.defenses:
        raise UnknownName("defense", subject, [entry.name for entry in registry.defenses], "bench list defenses")
    how = take_runner(values)
    url = session.db(_path(db))
    how = in_this_process(how, "bench.audit plays in this process alone", "leave runner.engine out of sets")
    settings = session.settings(url, data_folder(_path(data_dir)), pick_device(device), 1, how)
    planned = prepare(subject, base, dataset, budget, session.config, settings, eps=radius, seed=seed, n=n, sets=values)
    store = Store.open(url)
    assert store is not None
    with threads_kept():
        one_thread()
        return Audited(play(planned, store, settings, PlainListener(sys.stderr) if _shown(progress) else Warner()))


@interrupts_noted()
def verify(
    run: Result | str,
    *,
    db: File | None = None,
    data_dir: File | None = None,
    device: str = "auto",
    plugins: File | Iterable[File] = (),
    config: File | None = None,
) -> Verification:
    """Check a stored run: its images and labels against their hashes, then its games by playing them again.

    run  a `Result`, or the key of a run or its first digits. What was played with arrays and networks in memory can be
         verified while they are registered: in the same program, after the call that played it.

    The answer has `holds`, `bad`, `left_out`, `differences` and `summary` (stored figures that the rows do not give).
    """
    session = open_session(_path(config), tuple(str(file) for file in _each(plugins)))
    store, record = _stored(run, session.store, _path(db))
    settings = session.settings(store.url, data_folder(_path(data_dir)), pick_device(device), 1)
    with threads_kept():
        one_thread()
        return verify_run(store, record, Resources(settings))


def compare(a: Result | str, b: Result | str, *, db: File | None = None, config: File | None = None) -> Comparison:
    """The difference of two runs over the same inputs, by a paired test: what `bench compare` prints.

    a, b  `Result`s, or keys of runs or their first digits
    """
    session = reading_session(_path(config))
    store, first = _stored(a, session.store, _path(db))
    return compare_runs(store, first, _stored(b, session.store, _path(db))[1])


def _shown(progress: bool | None) -> bool:
    """Whether lines of progress are written: as asked, else in a terminal and in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress


def _stored(run: Result | str, open_store: Any, db: str | None) -> tuple[Store, RunRecord]:
    if isinstance(run, Result):
        return run.stored()
    if not isinstance(run, str):
        raise BadValue(f"A {type(run).__name__} is no run; give a Result, or the key of a run as text.")
    store: Store = open_store(db)
    return store, store.resolve(run)


# -- what is held ----------------------------------------------------------------------------------------------------


def _held(
    model: Any,
    x: Any,
    y: Any,
    *,
    train: Pair | None,
    normalize: Pair | None,
    outputs: str,
    classes: Sequence[int] | None,
    name: str,
    network: str,
    radii: dict[str, float],
    adaptive: bool,
) -> tuple[str, dict[str, Any], Arrays]:
    """Register the arrays and the network. Returns the base, the keys that say which network it has, and the arrays."""
    if isinstance(model, str):
        if normalize is not None or classes is not None or outputs != "logits":
            raise BadValue(
                "normalize, outputs and classes are for a network in memory; a name says all that by itself."
            )
        held = arrays(name, x, y, train, _classes_of(model), radii)
        registry.hold(registry.datasets, name, held, "images of this program")
        if model in registry.defenses and registry.defenses[model].base:
            return model, {}, held
        return "given", {"base.model": model}, held
    made = given_network(model, normalize, outputs, classes)
    pixels = torch.as_tensor(to_pixels(checked_images("x", x)[:16], 255))
    held = arrays(name, x, y, train, tried(made, pixels), radii)
    if adaptive:
        adapts(made, pixels)
    registry.hold(registry.datasets, name, held, "images of this program")
    registry.hold(registry.models, network, made, "a network of this program")
    return "given", {"base.model": network}, held


def _classes_of(model: str) -> int | None:
    """How many classes a network has that is known by name; None where that follows from the labels."""
    from bench.models.zoo import ZOO

    entry = ZOO.get(model.removeprefix("zoo:"))
    return entry.classes if model.startswith("zoo:") and entry is not None else None


def _radii(eps: Any, norm: str | None) -> dict[str, float]:
    """The default radii of the arrays: the first radius, in the norm that is asked for, or in every norm."""
    radii = [parse_number("eps", radius) for radius in _each(eps)]
    for radius in radii:
        ThreatModel(eps=radius)
    return {one: radii[0] for one in NORMS if norm in (None, one)} if radii else {}


def _bounded(attack: Name) -> bool:
    """Whether an attack stays within a radius that a request may set."""
    (name,) = _names(registry.attacks, attack)
    entry = registry.attacks[name].resolved()
    return entry.load().kind == "budget" and "eps" not in (entry.preset or {})

"""From a request to stored runs, for whoever asks: the command line and the library say the same and get the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BadValue, StoreError

if TYPE_CHECKING:
    from bench.config import Config
    from bench.execution.runner import Listener
    from bench.planning.plan import Planned, Request
    from bench.planning.spec import RunSpec
    from bench.settings import Settings
    from bench.store import Store


@dataclass(frozen=True)
class Prepared:
    """Runs that nothing speaks against, and how they would be played; nothing has been written yet.

    known  the database as it is, None where there is none
    """

    planned: list[Planned]
    settings: Settings
    url: str
    known: Store | None
    suite: str | None
    rerun: str

    def begin(self) -> Store:
        """The database, made if need be, in which the runs are noted under their suite."""
        from bench.store import Store

        store = Store.open(self.url)
        assert store is not None
        if self.suite is not None:
            store.add_to_suite(self.suite, [item.spec.key for item in self.planned])
        return store

    def play(self, store: Store, listener: Listener | None = None) -> None:
        """Bring all runs to an end; one that fails is stored with its reason and stops no other."""
        from bench.execution.runner import run_all

        run_all(self.planned, store, self.settings, self.rerun, listener)


@dataclass(frozen=True)
class Session:
    """A configuration, and the plug-ins that belong to it."""

    config: Config
    path: Path | None
    plugins: tuple[str, ...] = ()

    def db(self, given: str | None) -> str:
        return given or self.config.store.db

    def store(self, given: str | None) -> Store:
        """The store, which must exist already."""
        from bench.store import Store

        url = self.db(given)
        store = Store.open(url, create=False)
        if store is None:
            raise StoreError(
                f"There is no database at {url}; run something first, such as: bench run --defense rmc --attack pgd"
            )
        return store

    def settings(
        self,
        db: str,
        data_dir: Path | None,
        device: str,
        workers: int | None = None,
        runner: dict[str, Any] | None = None,
    ) -> Settings:
        """How runs are executed here."""
        from pydantic import ValidationError

        from bench.config import RunnerSection, validation_error
        from bench.settings import Settings
        from bench.store import files_of

        values = {**self.config.runner.model_dump(), **(runner or {})}
        if workers is not None:
            values["workers"] = workers
        try:
            section = RunnerSection(**values)
        except ValidationError as error:
            raise validation_error(error, RunnerSection, "[runner]") from None
        return Settings(
            cache_root=files_of(db),
            data_dir=data_dir,
            device=device,
            config=self.path,
            plugins=self.plugins,
            chunk=section.chunk,
            checkpoint_s=section.checkpoint_s,
            workers=section.workers or (1 if device == "cuda" else os.cpu_count() or 1),
        )

    def prepare(
        self,
        request: Request,
        suite: str | None = None,
        *,
        db: str | None = None,
        data_dir: str | None = None,
        device: str = "auto",
        workers: int | None = None,
        rerun: str = "missing",
    ) -> Prepared:
        """Plan a request (or the cells of a suite, with the request over them) and look at all that it needs.

        Raises a `BenchError` for anything wrong; nothing is written. `runner.*` keys of the request's sets say how the
        runs are executed.
        """
        from bench.data.files import data_dir as data_folder
        from bench.environment import pick_device
        from bench.planning.facts import facts_of
        from bench.planning.plan import plan, suite_requests
        from bench.store import Store
        from bench.threat import ThreatModel, parse_number

        sets = dict(request.sets)
        how = take_runner(sets)
        request = replace(request, sets=sets)
        if rerun not in ("missing", "failed", "all"):
            raise BadValue(f"--rerun is {rerun!r}; give missing, failed or all.")
        for radius in request.eps:
            ThreatModel(eps=parse_number("--eps", radius))
        if request.norm:
            ThreatModel(norm=request.norm)  # type: ignore[arg-type]
        if suite is None and not (request.defenses and request.attacks):
            raise BadValue("Give --defense and --attack, or --suite; see: bench list")
        requests = [request] if suite is None else suite_requests(suite, self.config.suite, request)
        folder = data_folder(data_dir)
        planned = plan(requests, self.config, facts_of(folder))
        place = pick_device(device)
        url = self.db(db)
        settings = self.settings(url, folder, place, workers, how)
        settings = _where_known(planned, settings, workers is not None or "workers" in how)
        known = Store.open(url, create=False)  # one that cannot be used is found out before anything is written
        return Prepared(planned, settings, url, known, suite, rerun)


def _where_known(planned: list[Planned], settings: Settings, asked: bool) -> Settings:
    """Settings that play in this process what only this process knows; asked: a number of workers was asked for."""
    own = sorted({name for item in planned for name in _registered_here(item.spec)})
    if not own or settings.workers == 1:
        return settings
    if asked:
        raise BadValue(
            f"This program registered {', '.join(own)} itself, so no worker process knows it; give workers=1, or write "
            f"it to a file and give that as a plug-in."
        )
    return replace(settings, workers=1)


def _registered_here(spec: RunSpec) -> Iterator[str]:
    """Names in a run that this program registered itself."""
    from bench import registry

    used = [(registry.defenses, spec.defense.name), (registry.defenses, spec.base.name)]
    used += [(registry.attacks, name) for name in spec.attack.name.split(":")]
    used += [(registry.datasets, spec.dataset.name), (registry.models, spec.network.name)]
    used += [(registry.protocols, spec.game.protocol)]
    used += [] if spec.surrogate is None else [(registry.models, spec.surrogate.name)]
    return (name for names, name in used if names.registered_here(name))


def open_session(config: str | None, plugins: tuple[str, ...] = (), strict: bool = True) -> Session:
    """Find and read the configuration, and load the names of all plug-ins (see `plugins.load_all` for strict)."""
    from bench.config import find, load
    from bench.plugins import load_all

    path = find(config)
    load_all(path, plugins, strict)
    return Session(load(path), path, plugins)


def reading_session(config: str | None) -> Session:
    """A session for who only reads a database: no plug-in is loaded."""
    from bench.config import find, load

    path = find(config)
    return Session(load(path), path)


def take_runner(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of `values` that say how runs are executed (runner.*), taken out of it."""
    return {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith("runner.")}

"""From a request to stored runs. The command line and the library both come through here, so they behave alike."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.deadline import NEVER, Deadline
from bench.errors import BadValue, StoreError

if TYPE_CHECKING:
    from bench.config import Config
    from bench.execution.runner import Listener
    from bench.planning.plan import Planned
    from bench.planning.requests import Request
    from bench.planning.spec import RunSpec
    from bench.settings import Settings
    from bench.store import Store


@dataclass(frozen=True)
class Prepared:
    """Planned runs that passed all checks, and the settings to play them with. Nothing has been written yet.

    known  the database as it is; None where there is none
    suite  the suite under whose name the runs are noted; None for runs outside any suite
    rerun  which known runs are played again: missing, failed or all
    """

    planned: list[Planned]
    settings: Settings
    url: str
    known: Store | None
    suite: str | None
    rerun: str

    def begin(self) -> Store:
        """Open the database, or create it, and note the runs under their suite."""
        from bench.store import Store

        store = Store.open(self.url)
        assert store is not None
        if self.suite is not None:
            store.add_to_suite(self.suite, [item.spec.key for item in self.planned])
        return store

    def play(self, store: Store, listener: Listener | None = None) -> None:
        """Play all runs to their end. A run that fails is stored with its reason; the others go on."""
        from bench.execution.runner import run_all

        run_all(self.planned, store, self.settings, self.rerun, listener)


@dataclass(frozen=True)
class Session:
    """A configuration, where it was read, and the plug-in files that were loaded with it."""

    config: Config
    path: Path | None
    plugins: tuple[str, ...] = ()

    def db(self, given: str | None) -> str:
        return given or self.config.store.db

    def store(self, given: str | None) -> Store:
        """The store of an existing database; `StoreError` where there is none."""
        from bench.store import Store

        url = self.db(given)
        store = Store.open(url, create=False)
        if store is None:
            raise StoreError(
                f"There is no database at {url}; run something first, such as: bench run --defense rmc --attack pgd"
            )
        return store

    def shared(self, given: str | None) -> str:
        """The folder or URL that several machines share; a folder as an absolute path; "" for none."""
        from bench.tiers import shared_store

        url = self.config.store.shared if given is None else given
        url = str(Path(url).absolute()) if url and "://" not in url else url
        shared_store(url)  # an unusable one is reported before anything is written
        return url

    def settings(
        self,
        db: str,
        data_dir: Path | None,
        device: str,
        workers: int | None = None,
        runner: dict[str, Any] | None = None,
        deadline: Deadline = NEVER,
        shared: str | None = None,
    ) -> Settings:
        """How runs are executed: from [runner] of the configuration, with these values over it.

        All paths are absolute, so that nothing moves with the working directory of a plug-in.
        """
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
            cache_root=files_of(db).absolute(),
            data_dir=None if data_dir is None else data_dir.absolute(),
            device=device,
            config=None if self.path is None else self.path.absolute(),
            plugins=tuple(str(Path(plugin).absolute()) for plugin in self.plugins),
            chunk=section.chunk,
            checkpoint_s=section.checkpoint_s,
            workers=section.workers or _workers(section.engine, device),
            deadline=deadline,
            silent_s=section.silent_s,
            apart=math.isfinite(section.silent_s),
            store=self.shared(shared),
            engine=section.engine,
            address=section.address,
            gpus_per_worker=section.gpus_per_worker,
            retries=section.retries if section.retries >= 0 else RETRIES[section.engine],
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
        deadline: Deadline = NEVER,
        in_process: bool = False,
        shared: str | None = None,
    ) -> Prepared:
        """Plan a request, or the cells of a suite with the request laid over them, and check all that it needs.

        Keys `runner.*` among the request's sets say how the runs are executed. in_process: one worker, which is this
        process, also for plug-ins of files, which have a process of their own otherwise. Raises a `BenchError` for
        anything that is wrong; nothing is written.
        """
        from bench.data.files import data_dir as data_folder
        from bench.environment import pick_device
        from bench.planning.facts import facts_of
        from bench.planning.plan import plan
        from bench.planning.requests import suite_requests
        from bench.store import Store

        sets = dict(request.sets)
        how = take_runner(sets)
        request = replace(request, sets=sets)
        if rerun not in ("missing", "failed", "all"):
            raise BadValue(f"--rerun is {rerun!r}; give missing, failed or all.")
        if suite is None and not (request.defenses and request.attacks):
            raise BadValue("Give --defense and --attack, or --suite; see: bench list")
        requests = [request] if suite is None else suite_requests(suite, self.config.suite, request)
        folder = data_folder(data_dir)
        planned = plan(requests, self.config, facts_of(folder))
        why = _stays_here(planned, in_process)
        if why:
            how = in_this_process(how, why, "leave --engine ray out" if in_process else "leave runner.engine out")
        on_ray = how.get("engine", self.config.runner.engine) == "ray"
        place = pick_device(device, here=not on_ray)
        url = self.db(db)
        settings = self.settings(url, folder, place, workers, how, deadline, shared)
        if settings.engine == "ray":
            from bench.execution.ray_engine import check_ray

            check_ray(settings.address)
        settings = _placed(planned, settings, workers is not None or "workers" in how, why)
        known = Store.open(url, create=False)  # an unusable database is reported before anything is written
        return Prepared(planned, settings, url, known, suite, rerun)


#: how often a job begins again whose worker was lost: machines of a cluster come and go more often
RETRIES = {"local": 2, "ray": 3}


def _workers(engine: str, device: str) -> int:
    """How many workers there are where nobody says; 0: as many as the cluster has room for."""
    if engine == "ray":
        return 0
    return 1 if device == "cuda" else os.cpu_count() or 1


def _stays_here(planned: list[Planned], in_process: bool) -> str:
    """Why no other process can play the runs; "" where others can.

    Names that this program registered itself are known in no other process.
    """
    own = sorted({name for item in planned for name in _registered_here(item.spec)})
    if own:
        return (
            f"This program registered {', '.join(own)} itself, so no worker process knows it (one in a file that is "
            f"given as a plug-in is known to all)"
        )
    return "--in-process plays in this process alone" if in_process else ""


def in_this_process(how: dict[str, Any], why: str, todo: str) -> dict[str, Any]:
    """What `runner.*` says, with the engine that plays here, whatever bench.toml says.

    `BadValue` where this request asks for Ray: why not, and what to do.
    """
    if how.get("engine") == "ray":
        raise BadValue(f"{why}; {todo}.")
    return {**how, "engine": "local"}


def _placed(planned: list[Planned], settings: Settings, asked: bool, why_here: str) -> Settings:
    """Which processes play the runs. asked: the user chose the number of workers, so `BadValue` says why not.

    why_here: as `_stays_here` says. Code of a plug-in file is foreign: it gets a process of its own, where it can
    neither end nor block this one.
    """
    if why_here:
        if settings.workers > 1 and asked:
            raise BadValue(f"{why_here}; give workers=1.")
        if math.isfinite(settings.silent_s):
            raise BadValue(f"{why_here}, and this process cannot end itself for being silent; leave runner.limit out.")
        return replace(settings, workers=1, apart=False)
    return replace(settings, apart=settings.apart or any(_from_files(item.spec) for item in planned))


def _from_files(spec: RunSpec) -> bool:
    """Whether a run plays code of a file that is not this package's."""
    from bench import registry

    entries = [names[name] for names, name in names_used(spec) if name in names]
    networks = [spec.network.name, *([] if spec.surrogate is None else [spec.surrogate.name])]
    return any(entry.origin != registry.BUILT_IN for entry in entries) or any(".py:" in name for name in networks)


def _registered_here(spec: RunSpec) -> Iterator[str]:
    """The names in a run that this program registered itself."""
    return (name for names, name in names_used(spec) if names.registered_here(name))


def names_used(spec: RunSpec) -> list[tuple[Any, str]]:
    """The names in a run, each with the registry that it is looked up in."""
    from bench import registry

    used: list[tuple[Any, str]] = [(registry.defenses, spec.defense.name), (registry.defenses, spec.base.name)]
    used += [(registry.attacks, name) for name in spec.attack.name.split(":")]
    used += [(registry.datasets, spec.dataset.name), (registry.models, spec.network.name)]
    used += [(registry.protocols, spec.game.protocol)]
    used += [] if spec.surrogate is None else [(registry.models, spec.surrogate.name)]
    return used


def open_session(config: str | None, plugins: tuple[str, ...] = (), strict: bool = True) -> Session:
    """Find and read the configuration, and load the names of all plug-ins (see `plugins.load_all` for strict)."""
    from bench.config import find, load
    from bench.plugins import load_all

    path = find(config)
    load_all(path, plugins, strict)
    return Session(load(path), path, plugins)


def reading_session(config: str | None) -> Session:
    """A session that only reads a database: it loads no plug-in."""
    from bench.config import find, load

    path = find(config)
    return Session(load(path), path)


def take_runner(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the keys `runner.*` from `values`, and return them without their prefix."""
    return {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith("runner.")}

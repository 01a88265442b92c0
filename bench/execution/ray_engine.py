"""The engine on Ray: workers are actors on the machines of a cluster; this process alone writes the database.

A worker is an actor of one thread that keeps task, base and bank between games, as a process of the pool does. It has a
folder of artefacts on its machine; what is not there comes from the shared store, or from a depot: an actor beside this
process that hands out what lies in the folder of the database, and keeps there what the workers make.

What a worker is given are values: run specs, and the content of plug-in files. No object of a plug-in is ever pickled.
A worker does a job only where its environment and its sources are the run's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bench import plugins
from bench.cache import COMING, Cache, on_disk
from bench.deadline import NEVER, Deadline, in_units
from bench.environment import environment, one_thread
from bench.errors import BadValue, BenchError, EngineError, one_line
from bench.execution.engine import Watch
from bench.execution.jobs import ChunkDone, End, Event, Failed, Job, Lost, perform
from bench.execution.processes import WORKER_ENVIRONMENT
from bench.execution.sources import other_dataset, other_parts
from bench.game.resources import Resources
from bench.planning.spec import RunSpec
from bench.settings import Settings
from bench.source import tree_hash
from bench.store import named_files, user_files
from bench.tiers import Tier, Unreachable, shared_store

#: bytes of a file that travel together
PIECE = 8 << 20
#: pieces of a file that are on their way at a time
AHEAD = 4
#: seconds between two looks at how many workers the cluster has room for
GROW_S = 5.0
#: seconds after which a command says that no worker has come yet
PATIENCE_S = 30.0
#: how often a worker cannot be started, one after the other and none ever, before the command gives up
STARTS = 3
#: the folder of a worker's plug-in files: this, its pid, and letters
HOME = "bench-worker-"
#: seconds that idle workers have to tidy up
LEAVE_S = 2.0


def address_of(given: str) -> str:
    """The address of a cluster: the one that was given, or Ray's own variable; "" for neither."""
    return given or os.environ.get("RAY_ADDRESS", "")


def check_ray(given: str) -> None:
    """`BadValue` where Ray is not installed, or cannot be reached in this way."""
    try:
        known = importlib.util.find_spec("ray") is not None
    except ValueError:  # a stand-in without a specification
        known = False
    if not known:
        raise BadValue("--engine ray needs Ray, which is not installed: pip install 'adversarial-game-bench[ray]'.")
    address = address_of(given)
    if address.startswith("ray://"):
        raise BadValue(
            f"{'--address' if given else 'RAY_ADDRESS'} {address} is of Ray's client, whose program runs outside the "
            f"cluster; give --address auto on a machine of the cluster, such as: ray job submit -- bench run ..."
        )


def import_ray() -> Any:
    """The package. It reports nothing to its makers, and a worker without a GPU keeps what it sees of them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


@dataclass(frozen=True)
class Parcel:
    """What a worker needs to be as this process is.

    files  plug-in files as (path below the worker's folder, content)
    named  those of them that `--plugin` named
    mark   a file in the folder of the database: who sees it there has the same folder
    """

    settings: Settings
    files: tuple[tuple[str, bytes], ...]
    named: tuple[str, ...]
    mark: str


@dataclass(frozen=True)
class Hello:
    """What a worker says of itself when it has started. sources: hashes of this project's packages."""

    host: str
    node: str
    pid: int
    environment: dict[str, str]
    sources: dict[str, str]


@dataclass(frozen=True)
class Refused:
    """A worker does not do a job, since its sources are not the run's."""

    reason: str


def sources() -> dict[str, str]:
    """The hash of each package of this project as it lies here."""
    home = Path(__file__).parents[2]
    return {name: tree_hash(home / name) for name in ("bench", "defenses", "attacks")}


# -- the depot: artefacts and progress ---------------------------------------------------------------------------------


class Depot:
    """Hands out the files of a folder in pieces, keeps what workers make, and passes on what they say."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._said: dict[int, str] = {}
        #: bytes that were handed out, and that came
        self._moved = [0, 0]
        self._heard = threading.Condition()

    def _path(self, name: str) -> Path:
        path = Path(os.path.normpath(self._root / name))
        if not path.is_relative_to(self._root) or len(path.relative_to(self._root).parts) < 2:
            raise ValueError(f"{name!r} is no name of an artefact.")
        return path

    def size(self, name: str) -> int:
        """Bytes of the file; -1 where it is not there."""
        path = self._path(name)
        return path.stat().st_size if path.is_file() else -1

    def piece(self, name: str, start: int) -> bytes:
        """PIECE bytes of the file from here on."""
        with self._path(name).open("rb") as file:
            file.seek(start)
            piece = file.read(PIECE)
        self._moved[0] += len(piece)
        return piece

    def take(self, name: str, token: str, piece: bytes, last: str) -> None:
        """One more piece of a new file. last: the sha256 of the whole one, with its last piece; else ""."""
        path = self._path(name)
        kind, key, *_ = path.relative_to(self._root).parts
        part = self._root / kind / f"{key}.part-{token}"  # not within a folder, whose manifest does not name it
        self._moved[1] += len(piece)
        with on_disk(part):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.write(piece)
        if last:
            with part.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest()
            if whole != last:
                part.unlink()
                raise ValueError(f"{name} arrived with other bytes than were sent.")
            part.replace(path)

    def drop(self, name: str) -> None:
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another worker may be removing it too
        else:
            path.unlink(missing_ok=True)

    def moved(self) -> tuple[int, int]:
        """Bytes that were handed out so far, and that came."""
        return self._moved[0], self._moved[1]

    def say(self, worker: int, line: str) -> None:
        """A line of progress of a worker; a later one replaces it."""
        with self._heard:
            self._said[worker] = line
            self._heard.notify()

    def heard(self, timeout_s: float) -> dict[int, str]:
        """The last line of each worker since the last call; waits for one at most this long."""
        with self._heard:
            if not self._said:
                self._heard.wait(timeout_s)
            said, self._said = self._said, {}
            return said


class DepotTier:
    """The folder of the database as the workers on other machines see it: through the depot."""

    def __init__(self, depot: Any) -> None:
        self._depot = depot
        self._ray = import_ray()

    def turn_to(self, depot: Any) -> None:
        self._depot = depot

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return self._ray.get(getattr(self._depot, method).remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # such as a disk of the command's machine that is full
        except self._ray.exceptions.RayError as error:
            raise Unreachable(f"The command's machine cannot be reached ({one_line(error)})") from None

    def has(self, name: str) -> bool:
        return bool(self._ask("size", name) >= 0)

    def fetch(self, name: str, target: Path) -> bool:
        size = self._ask("size", name)
        if size < 0:
            return False
        starts = deque(range(0, size, PIECE))
        coming: deque[Any] = deque()
        with target.open("wb") as file:
            while starts or coming:
                while starts and len(coming) < AHEAD:
                    coming.append(self._depot.piece.remote(name, starts.popleft()))
                file.write(self._got(coming.popleft()))
        return True

    def _got(self, piece: Any) -> bytes:
        try:
            got: bytes = self._ray.get(piece)
        except self._ray.exceptions.RayError as error:
            raise Unreachable(f"A file did not arrive ({one_line(error)})") from None
        return got

    def put(self, name: str, source: Path) -> None:
        with source.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest()
            token = f"{COMING}{os.urandom(8).hex()}"
            file.seek(0)
            left = source.stat().st_size
            while True:
                piece = file.read(PIECE)
                left -= len(piece)
                self._ask("take", name, token, piece, "" if left > 0 else whole)
                if left <= 0:
                    return

    def drop(self, name: str) -> None:
        self._ask("drop", name)


# -- the worker --------------------------------------------------------------------------------------------------------


class Worker:
    """An actor: does one job at a time, event by event."""

    def __init__(self, number: int, parcel: Parcel, depot: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's; what a plug-in raises is its own
        self._number = number
        self._depot = depot
        self._ray = import_ray()
        self._said = 0.0
        self._depot_tier: DepotTier | None = None
        _sweep()
        self._home = Path(tempfile.mkdtemp(prefix=f"{HOME}{os.getpid()}-"))
        for name, content in parcel.files:
            self.keep(name, content)
        os.chdir(self._home)
        one_thread()
        plugins.load_all(None, parcel.named)
        settings = _settings_here(parcel)
        tier: Tier | None = shared_store(settings.store)
        #: the folder is this machine's own: what only the command's machine needs is not kept here
        self._own = settings.cache_root != parcel.settings.cache_root
        if self._own and tier is None:
            tier = self._depot_tier = DepotTier(depot)
        self._cache = Cache(settings.cache_root, self._report, tier, environment(settings.device))
        self._resources = Resources(settings, self._report, self._cache)
        self._events: Iterator[Event] = iter(())
        self._checked: set[str] = set()

    def keep(self, name: str, content: bytes) -> None:
        """Write a file of a plug-in or of a network, which a job names by this path below the worker's folder."""
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def turn_to(self, depot: Any) -> None:
        """From now on, this depot takes the place of the one before, which was lost."""
        self._depot = depot
        if self._depot_tier is not None:
            self._depot_tier.turn_to(depot)

    def hello(self) -> Hello:
        node = self._ray.get_runtime_context().get_node_id()
        device = self._resources.settings.device
        if device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise BadValue(f"--device cuda was given, but torch finds no CUDA device on {socket.gethostname()}.")
        return Hello(socket.gethostname(), node, os.getpid(), environment(device), sources())

    def begin(self, job: Job, left_s: float | None) -> None:
        """Begin a job. left_s: seconds until the command has to end; None: no limit."""
        deadline = NEVER if left_s is None else Deadline.after(left_s)
        self._resources.settings = replace(self._resources.settings, deadline=deadline)
        self._events = self._job(job)

    def _job(self, job: Job) -> Iterator[Any]:
        if job.spec.key not in self._checked:
            try:
                other = other_dataset(job.spec, self._resources.facts) or next(other_parts(job.spec), None)
            except BenchError as error:  # a name or a dataset that this machine lacks
                yield Refused(one_line(error))
                return
            if other is not None and not other.here:
                yield Refused(f"it has no {other.what} {other.name!r}")
                return
            if other is not None:
                yield Refused(
                    f"its {other.what} {other.name} has source {other.here[:12]}, and the run's {other.asked[:12]}"
                )
                return
            self._checked.add(job.spec.key)
        for event in perform(self._resources, job):
            if isinstance(event, End) and self._own:  # no other job asks for these here
                self._cache.shed("images", "states")
            yield event

    def next(self) -> Any:
        """The job's next event; None after its end."""
        return next(self._events, None)

    def leave(self) -> None:
        """The command has no more work: leave nothing behind but what the next one may need."""
        os.chdir(tempfile.gettempdir())
        shutil.rmtree(self._home, ignore_errors=True)  # what stays, the next worker here sweeps

    def _report(self, line: str) -> None:
        if time.monotonic() - self._said > 0.5:
            self._said = time.monotonic()
            self._depot.say.remote(self._number, line)


def _sweep() -> None:
    """Remove the folders of workers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{HOME}*"):
        pid = folder.name.removeprefix(HOME).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)) and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)  # of another user: it stays


def _settings_here(parcel: Parcel) -> Settings:
    """The settings of a worker: with the folders of its own machine."""
    settings, root = parcel.settings, parcel.settings.cache_root
    own = named_files()
    seen = (root / parcel.mark).is_file() and os.access(root, os.W_OK)
    if own is not None and own != root:
        root = own
    elif not seen:
        root = user_files()
    data_dir = settings.data_dir if settings.data_dir is not None and settings.data_dir.is_dir() else None
    if data_dir is None and os.environ.get("BENCH_DATA"):
        data_dir = Path(os.environ["BENCH_DATA"])
    return replace(settings, cache_root=root, data_dir=data_dir)


# -- the engine --------------------------------------------------------------------------------------------------------


@dataclass
class _Actor:
    """A worker as this process sees it.

    greeting  its hello, until it has come
    calls     results that are on their way, the next one first
    """

    number: int
    handle: Any
    greeting: Any
    hello: Hello | None = None
    job: Job | None = None
    calls: deque[Any] = field(default_factory=deque)
    kept: set[str] = field(default_factory=set)
    heard: float = 0.0
    fit_key: str = ""


class RayEngine:
    """Jobs on the workers of a Ray cluster. An `Engine`."""

    def __init__(self, settings: Settings, watch: Watch, announce: Callable[[str], None] = lambda text: None) -> None:
        self._ray = import_ray()
        self._settings = settings
        self._watch = watch
        self._announce = announce
        #: what was announced last, and when
        self._announced, self._announced_at = "", -GROW_S
        self._own_cluster = not self._ray.is_initialized()
        #: what the program did about SIGTERM before Ray was asked
        self._on_sigterm: Any = None
        #: Ray's background threads print what they hear of the cluster; standard output is the command's
        self._stdout, sys.stdout = sys.stdout, sys.stderr
        try:
            self._begin_on(settings)
        except BaseException:
            self.stop()
            raise

    def _begin_on(self, settings: Settings) -> None:
        self._actors: list[_Actor] = []
        self._mark: Path | None = None
        self._depot: Any = None
        self._connect()
        settings.cache_root.mkdir(parents=True, exist_ok=True)
        self._mark = settings.cache_root / f".depot-{os.getpid()}-{os.urandom(4).hex()}"
        self._mark.touch()
        self._parcel = _parcel(settings, self._mark.name)
        self._cache = Cache(settings.cache_root, tier=shared_store(settings.store))
        self._expected = (environment(settings.device), sources())
        self._depots_lost = 0
        self._start_depot()
        self._backlog: deque[Job] = deque()
        self._number = 0
        self._files: dict[str, Any] = {}
        #: nodes whose workers were refused, and the last reason
        self._refused: list[str] = []
        self._reason = ""
        self._failed_starts = 0
        self._ever = False
        self._grown = -GROW_S
        self._begun, self._told = time.monotonic(), False
        self._grow()

    def _start_depot(self) -> None:
        here = self._ray.get_runtime_context().get_node_id()
        beside = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        self._depot = (
            self._ray.remote(Depot)
            .options(num_cpus=0, max_concurrency=16, scheduling_strategy=beside)
            .remote(str(self._settings.cache_root))
        )
        self._hearing = self._depot.heard.remote(1.0)

    def _connect(self) -> None:
        if not self._own_cluster:  # the program that uses the library has connected
            return
        address = address_of(self._settings.address)
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            if address:
                self._ray.init(address=address, **quiet)
            else:
                count = {"num_cpus": self._settings.workers} if self._settings.workers else {}
                self._ray.init(address="local", include_dashboard=False, **count, **quiet)  # never what runs here
        except Exception as error:  # Ray lets through what its parts raise
            where = f"at {address}" if address else "on this machine"
            raise EngineError(f"Ray {where} cannot be reached or started: {one_line(error)}; see: ray status") from None
        if signal.getsignal(signal.SIGTERM) != self._on_sigterm:  # Ray's leaves as `exit` does, with no word
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    # -- how many workers -------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many workers the cluster has room for, or how many were asked for."""
        if self._settings.workers:
            return self._settings.workers
        held = self._ray.cluster_resources()
        if self._settings.device == "cuda":
            return max(1, int(held.get("GPU", 0) / self._settings.gpus_per_worker))
        return max(1, int(held.get("CPU", 0)))

    def _grow(self) -> None:
        """Start workers where there is room for more; those that wait for a machine count."""
        if time.monotonic() - self._grown < GROW_S:
            return
        self._grown = time.monotonic()
        for _ in range(self._wanted() - len(self._actors)):
            self._start_worker()

    def _start_worker(self) -> None:
        needs: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if self._settings.device == "cuda":
            needs["num_gpus"] = self._settings.gpus_per_worker
        if self._refused:
            del needs["scheduling_strategy"]  # Ray takes one of the two
            needs["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._refused)})"}
        self._number += 1
        actor = self._ray.remote(Worker).options(
            max_restarts=0, max_task_retries=0, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **needs
        )
        handle = actor.remote(self._number, self._parcel, self._depot)
        self._actors.append(_Actor(self._number, handle, handle.hello.remote(), heard=time.monotonic()))

    def _greeted(self, actor: _Actor) -> None:
        """A worker has started, or cannot."""
        try:
            hello: Hello = self._ray.get(actor.greeting)
        except self._ray.exceptions.RayTaskError as error:
            self._not_started(actor, one_line(error.cause))
            return
        except self._ray.exceptions.RayError as error:
            self._not_started(actor, _why(error))
            return
        what = _difference(self._expected, (hello.environment, hello.sources))
        if what:
            self._refuse(actor, hello, what)
            return
        actor.hello, self._ever, self._failed_starts = hello, True, 0
        actor.heard = time.monotonic()

    def _not_started(self, actor: _Actor, reason: str) -> None:
        self._actors.remove(actor)
        self._kill(actor)
        self._failed_starts += 1
        self._reason = reason
        if self._failed_starts >= STARTS and not self._ever:
            raise EngineError(f"No worker can be started on Ray: {reason}")

    def _refuse(self, actor: _Actor, hello: Hello, what: str) -> None:
        """No worker on this machine does anything for this command."""
        self._actors.remove(actor)
        self._kill(actor)
        self._reason = f"{hello.host} is left out: {what}"
        if hello.node not in self._refused:
            self._refused.append(hello.node)
            warnings.warn(self._reason, stacklevel=2)
        fit = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        alive = {node["NodeID"] for node in fit}
        if alive <= set(self._refused):
            raise EngineError(f"No machine of the cluster may play these runs. {self._reason}.")
        self._grown = -GROW_S

    def _kill(self, actor: _Actor) -> None:
        with suppress(Exception):  # it has ended by itself
            self._ray.kill(actor.handle, no_restart=True)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def room(self) -> bool:
        ready = [actor for actor in self._actors if actor.hello is not None]
        return not self._backlog and (not ready or any(actor.job is None for actor in ready))

    def submit(self, job: Job) -> None:
        self._backlog.append(job)
        self._dispatch()

    def busy(self) -> bool:
        return bool(self._backlog) or any(actor.job is not None for actor in self._actors)

    def _dispatch(self) -> None:
        """Give jobs to idle workers: to one that has the fitted defense in memory, where there is one."""
        while self._backlog:
            idle = [actor for actor in self._actors if actor.hello is not None and actor.job is None]
            if not idle:
                return
            job = self._backlog.popleft()
            key = job.spec.fit_key
            self._begin(min(idle, key=lambda actor: actor.fit_key != key), job)

    def _begin(self, actor: _Actor, job: Job) -> None:
        actor.job, actor.fit_key, actor.heard = job, job.spec.fit_key, time.monotonic()
        spec, files = travelling(job.spec)
        for name, path in files.items():
            if name not in actor.kept:
                actor.kept.add(name)
                if name not in self._files:
                    self._files[name] = self._ray.put(path.read_bytes())
                actor.handle.keep.remote(name, self._files[name])
        deadline = self._settings.deadline
        left_s = None if deadline == NEVER else deadline.at - time.time()
        actor.handle.begin.remote(replace(job, spec=spec), left_s)
        actor.calls = deque(actor.handle.next.remote() for _ in range(2))  # one is done while the other is read

    def events(self, timeout_s: float) -> Iterator[tuple[Job, Event]]:
        self._grow()
        self._dispatch()
        waiting = {actor.calls[0]: actor for actor in self._actors if actor.job is not None}
        greetings = {actor.greeting: actor for actor in self._actors if actor.hello is None}
        refs = [*waiting, *greetings, self._hearing]
        ready, rest = self._ray.wait(refs, timeout=timeout_s)
        if rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        if self._hearing in ready:
            self._listen()
        for ref in ready:
            if ref in greetings:
                self._greeted(greetings[ref])
            elif ref in waiting:
                yield from self._heard(waiting[ref], ref)
        yield from self._silent()
        self._dispatch()
        self._say_who_is_there()
        self._say_who_waits()

    def _listen(self) -> None:
        try:
            said: dict[int, str] = self._ray.get(self._hearing)
        except self._ray.exceptions.RayError as error:
            self._replace_depot(_why(error))
            return
        self._depots_lost = 0
        by_number = {actor.number: actor for actor in self._actors}
        for number, line in said.items():
            actor = by_number.get(number)
            if actor is not None and actor.job is not None:
                actor.heard = time.monotonic()
                self._watch(actor.job, line)
        self._hearing = self._depot.heard.remote(1.0)

    def _replace_depot(self, why: str) -> None:
        """The depot was lost: what it keeps is in files, so another goes on. Ray ends it where memory runs out here."""
        self._depots_lost += 1
        if self._depots_lost >= STARTS:
            raise EngineError(
                f"Ray has lost this command's own actor {STARTS} times in succession ({why}); give the command again."
            )
        warnings.warn(f"This command's own actor on Ray was lost ({why}); another takes its place", stacklevel=2)
        self._start_depot()
        for actor in self._actors:
            actor.handle.turn_to.remote(self._depot)

    def _heard(self, actor: _Actor, ref: Any) -> Iterator[tuple[Job, Event]]:
        """What one call of a worker gave."""
        job, hello = actor.job, actor.hello
        assert job is not None and hello is not None
        actor.heard = time.monotonic()
        try:
            event = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            event = Failed(f"{type(error.cause).__name__}: {one_line(error.cause)}", str(error))
        except self._ray.exceptions.RayError as error:
            self._actors.remove(actor)
            self._grown = -GROW_S
            yield job, Lost(f"The worker on {hello.host} was lost ({_why(error)})")
            return
        actor.calls.popleft()
        if isinstance(event, Refused):
            self._backlog.appendleft(job)
            self._refuse(actor, hello, event.reason)
            return
        if event is None:
            event = Failed("The worker has ended its job without a result.", "")
        if isinstance(event, End):
            actor.job = None
        else:
            actor.calls.append(actor.handle.next.remote())
        if isinstance(event, ChunkDone) and not self._cache.pull("images", event.file):
            event = Lost(f"The images of a chunk did not arrive from {hello.host}")
            self._drop(actor)
        yield job, event

    def _drop(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._kill(actor)
        self._grown = -GROW_S

    def _silent(self) -> Iterator[tuple[Job, Event]]:
        for actor in list(self._actors):
            if actor.job is not None and time.monotonic() - actor.heard > self._settings.silent_s:
                job = actor.job
                self._drop(actor)
                limit = in_units(self._settings.silent_s)
                yield job, Failed(f"No row and no line of progress came for {limit} (runner.limit).", "")

    def _say_who_is_there(self) -> None:
        """The number of workers and of their machines, where it has changed."""
        there = [actor.hello.node for actor in self._actors if actor.hello is not None]
        count, machines = len(there), len(set(there))
        text = f"{count} worker{'s' * (count != 1)} on {machines} machine{'s' * (machines != 1)}"
        if self._ever and text != self._announced and time.monotonic() - self._announced_at >= GROW_S:
            self._announced, self._announced_at = text, time.monotonic()
            self._announce(text)

    def _say_who_waits(self) -> None:
        """Once, where no worker has come for a while: the cluster may be full."""
        if self._told or self._ever or time.monotonic() - self._begun < PATIENCE_S or not self._backlog:
            return
        self._told = True
        held = self._ray.cluster_resources()
        has = ", ".join(f"{held[name]:g} {name}" for name in ("CPU", "GPU") if name in held)
        self._watch(self._backlog[0], f"waits for a worker; the cluster has {has}; see: ray status")

    def moved(self) -> tuple[int, int]:
        """Bytes that the depot has handed out so far, and that it was sent."""
        there, back = self._ray.get(self._depot.moved.remote())
        return int(there), int(back)

    def stop(self) -> None:
        idle = [actor.handle.leave.remote() for actor in self._actors if actor.hello is not None and actor.job is None]
        with suppress(Exception):  # the cluster is gone
            self._ray.wait(idle, num_returns=len(idle), timeout=LEAVE_S)
        for actor in self._actors:
            self._kill(actor)
        if self._depot is not None:
            with suppress(Exception):  # it has ended with its machine
                self._ray.kill(self._depot, no_restart=True)
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)
        if self._own_cluster:
            self._ray.shutdown()
        if self._on_sigterm is not None and signal.getsignal(signal.SIGTERM) == signal.default_int_handler:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        sys.stdout = self._stdout


def _why(error: BaseException) -> str:
    """What Ray knows of a worker's end, without the advice around it."""
    text = " ".join(str(error).split())
    if "running low on memory" in text or type(error).__name__ == "OutOfMemoryError":
        return "its machine ran out of memory"
    if "node has died" in text or type(error).__name__ == "NodeDiedError":
        return "its machine has left the cluster"
    detail = re.search(r"Worker exit detail: (.*?\.)(?: |$)", text)
    if detail and "exit code" in text:
        code = re.search(r"exit code (\d+)", text)
        return f"it ended itself with exit code {code.group(1)}" if code else detail.group(1)
    if "connection error" in text:
        return "its process has ended"
    cause = re.search(r"(\w*(?:Error|Exception): [^\n]*)$", str(error).strip())
    return cause.group(1) if cause else detail.group(1) if detail else text[:200]


def _difference(mine: tuple[dict[str, str], dict[str, str]], theirs: tuple[dict[str, str], dict[str, str]]) -> str:
    """The first thing in which a worker differs, in words; "" for nothing."""
    for name, asked in mine[0].items():
        if theirs[0].get(name) != asked:
            return f"it has {name} {theirs[0].get(name)}, and the run {asked}"
    for name, asked in mine[1].items():
        if theirs[1].get(name) != asked:
            return f"its package {name} has source {str(theirs[1].get(name))[:12]}, and the run's {asked[:12]}"
    return ""


def _parcel(settings: Settings, mark: str) -> Parcel:
    """What travels to each worker: the plug-in files by their content."""
    files, named = {}, []
    for path in plugins.files_beside(settings.config):
        files[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for number, name in enumerate(settings.plugins):
        files[f"plugins/{number}/{Path(name).name}"] = Path(name).read_bytes()
        named.append(f"plugins/{number}/{Path(name).name}")
    bare = replace(settings, config=None, plugins=(), deadline=NEVER, workers=1)
    return Parcel(bare, tuple(files.items()), tuple(named), mark)


def travelling(spec: RunSpec) -> tuple[RunSpec, dict[str, Path]]:
    """The run with the files of its networks below a worker's folder, and these files by that name. Its key stays."""
    files: dict[str, Path] = {}

    def moved(text: str) -> str:
        file, colon, function = text.rpartition(":") if ".py:" in text else (text, "", "")
        path = Path(file).expanduser()
        name = f"files/{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}/{path.name}"
        files[name] = path
        return f"{name}{colon}{function}"

    return spec.with_files(moved), files

"""The engine on Ray: a real cluster of nodes with folders of their own, on this machine. Same rows as one process.

Nodes, workers and drivers are killed while games are played; afterwards the rows are the undisturbed ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from bench.errors import BadValue, DiskError
from bench.execution.ray_engine import Depot, DepotTier, RayEngine, check_ray, travelling
from bench.planning.spec import RunSpec
from bench.store.prune import TEMPORARY, artefacts, prune
from bench.tiers import Unreachable
from tests.conftest import ROOT, needed, spec_of
from tests.databases import postgres_server
from tests.execution.test_determinism import PROBE, STREAM, Place

# an extra: it has no wheels for each Python and system that the rest runs on. With `make setup` it is there
ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")

#: bytes of the object store of a node: the least that Ray takes
OBJECTS = 80_000_000


class Nodes:
    """A cluster: a head that computes nothing, and nodes of one CPU, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECTS},
        )
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **environment: str) -> Any:
        own = self.folder / f"node{len(self.nodes)}"
        own.mkdir()
        variables = {"BENCH_CACHE": str(own), **environment}
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=OBJECTS, env_vars=variables))
        return self.nodes[-1]

    @staticmethod
    def _ours(process: psutil.Process) -> bool:
        """Whether it was started by this process of pytest, directly or not."""
        try:
            return "PYTEST_CURRENT_TEST" in process.environ()
        except psutil.Error:
            return False

    def workers(self) -> list[psutil.Process]:
        """The processes of actors of this project."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if line.startswith("ray::") and ("Worker" in line or "Depot" in line) and self._ours(process):
                found.append(process)
        return found


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, cache_root: Path) -> dict[str, Any]:
    """Rows of the commands in one process."""
    place = Place(tmp_path_factory.mktemp("reference") / "place", cache_root)
    for command in (PROBE, STREAM):
        place.run(*command, "--workers", "1")
    return place.rows()


def own_place(folder: Path) -> Place:
    """A place with no artefact in its folder."""
    place = Place(folder / "place", folder)
    for kind in ("bases", "banks"):
        (place.cache / kind).unlink()
    return place


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    return not psutil.wait_procs(processes, timeout=within_s)[1]


def test_three_nodes_that_share_nothing_give_the_rows_of_one_process(
    nodes: Nodes, tmp_path: Path, reference: dict
) -> None:
    for _ in range(3):
        nodes.add()
    place = own_place(tmp_path)
    place.run(*PROBE, "--engine", "ray", "--address", nodes.address)
    rows = place.rows()
    assert rows == {run: reference[run] for run in rows} and len(rows) == 1
    assert gone(nodes.workers(), 60)
    assert not list(Path(tempfile.gettempdir()).glob("bench-worker-*")), "a worker leaves its folder"
    # each artefact was made once, and came back to the folder of the database; the nodes keep bases and banks alone
    for kind in ("bases", "banks"):
        assert [path.name for path in (place.cache / kind).iterdir() if path.is_dir()]
    held = {path.parent.name for path in tmp_path.glob("node*/*/*") if not path.name.endswith(".lock")}
    assert "bases" in held and not {"images", "states"} & held
    assert place.verify(next(iter(place.rows()))) == 0


def test_a_killed_node_a_killed_depot_and_a_killed_driver_change_nothing(
    nodes: Nodes, tmp_path: Path, reference: dict
) -> None:
    first = nodes.add()
    place = own_place(tmp_path)
    store = tmp_path / "store"
    often = ["--engine", "ray", "--address", nodes.address, "--set", "runner.chunk=3", "--store", str(store)]
    process = place.start(*STREAM, *often)
    until_rows(place, process, 10)
    (depot,) = [worker for worker in nodes.workers() if "Depot" in " ".join(worker.cmdline())]
    depot.kill()
    nodes.add()  # it joins while the command plays, and has to play the rest
    nodes.cluster.remove_node(first, allow_graceful=False)
    until_rows(place, process, place.count() + 10)
    process.kill()
    assert "own actor on Ray was lost" in process.communicate()[1]
    assert gone(nodes.workers(), 60), "an actor outlives its driver"
    place.run(*STREAM, *often)
    rows = place.rows()
    assert rows == {run: reference[run] for run in rows} and len(rows) == 2
    assert {"bases", "banks", "images"} <= {path.name for path in store.iterdir()}


def committed(url: str) -> int:
    """Rows on a server; 0 as long as it has no tables."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("select count(*) from examples")).scalar() or 0)
    except ProgrammingError:
        return 0
    finally:
        engine.dispose()


@pytest.mark.slow
def test_two_commands_on_one_server_that_is_started_again_give_the_rows(
    nodes: Nodes, tmp_path: Path, reference: dict
) -> None:
    """Each has workers of its own on the cluster; the database is away for some seconds while both play."""
    for _ in range(2):
        nodes.add()
    with postgres_server(needed("pg_ctl", folders="/usr/lib/postgresql/*/bin", package="postgresql")) as server:
        url = server.url.format("postgres")
        places = [Place(tmp_path / name, tmp_path) for name in ("first", "second")]
        for place in places:
            for kind in ("bases", "banks"):
                (place.cache / kind).unlink()
        how = ["--engine", "ray", "--address", nodes.address, "--workers", "1", "--set", "runner.chunk=3",
               "--db", url, "--store", str(tmp_path / "store")]  # fmt: skip
        started = [place.start(*command, *how) for place, command in zip(places, (PROBE, STREAM), strict=True)]
        until = time.monotonic() + 240
        while committed(url) < 10:
            assert time.monotonic() < until and all(process.poll() is None for process in started)
            time.sleep(0.5)
        server.stop()
        time.sleep(3)
        server.start()
        for process in started:
            err = process.communicate(timeout=300)[1]
            assert process.returncode == 0, err
        assert places[0].rows(url) == reference


def until_rows(place: Place, process: subprocess.Popen[str], count: int) -> None:
    until = time.monotonic() + 180
    while place.count() < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


PLUGIN = """
import os
import json
from bench import Attack, register_attack

class Leaves(Attack):
    block = 1
    def perturb(self, oracle, x, y, draws):
        os._exit(0)

register_attack("leaves", Leaves, preset={"weights": "adapted"})
"""


def test_other_sources_are_refused_and_a_plugin_that_leaves_fails_alone(nodes: Nodes, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    for package in ("bench", "defenses", "attacks"):
        shutil.copytree(ROOT / package, edited / package, ignore=shutil.ignore_patterns("__pycache__"))
    (edited / "defenses" / "regular.py").open("a").write("\n# edited\n")
    nodes.add(PYTHONPATH=str(edited))
    place = own_place(tmp_path)
    (tmp_path / "leaves.py").write_text(PLUGIN)
    command = ["--defense", "regular", "-n", "6", "--set", "base.epochs=1", "--engine", "ray", "--address",
               nodes.address]  # fmt: skip
    refused = place.start(*command, "--attack", "clean")
    _, err = refused.communicate(timeout=180)
    assert refused.returncode == 2 and "Traceback" not in err, err
    assert "No machine of the cluster may play these runs" in err and "its package defenses has source" in err
    nodes.add()
    process = place.start(*command, "--attack", "fgsm", "--attack", "leaves", "--plugin", str(tmp_path / "leaves.py"),
                          "--set", "runner.retries=1")  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert "1 worker on 1 machine" in err
    assert process.returncode == 1 and "is left out: its package defenses has source" in err, err
    runs = {run["attack"]: run for run in map(json.loads, out.splitlines())}
    assert runs["fgsm"]["status"] == "DONE" and runs["leaves"]["status"] == "FAILED"
    reason = runs["leaves"]["reason"]
    assert reason.startswith("The worker on ") and reason.endswith("; so was the one before it."), reason


GREEDY = """
import time
from bench import Attack, register_attack

class Greedy(Attack):
    block = 1
    def perturb(self, oracle, x, y, draws):
        held = []
        for _ in range(48):
            held.append(b"1" * (128 << 20))
            time.sleep(0.05)
        time.sleep(30)  # as long as memory stays full, Ray looks for somebody to end
        raise RuntimeError(f"Ray let it have {len(held)} parts.")

register_attack("greedy", Greedy, preset={"weights": "adapted"})
"""


@pytest.mark.slow
def test_a_plugin_that_fills_the_memory_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's memory monitor ends the worker, and may end the depot beside it; the other run is played to its end."""
    memory = psutil.virtual_memory()
    if memory.available < 8e9:  # it takes 3 GB; with little left the system itself might end what else runs here
        pytest.skip("less than 8 GB of memory are free")
    limit = (memory.total - memory.available + 3e9) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    place = own_place(tmp_path)
    (tmp_path / "greedy.py").write_text(GREEDY)
    process = place.start("--defense", "regular", "--attack", "greedy", "--attack", "fgsm", "-n", "4", "--set",
                          "base.epochs=1", "--engine", "ray", "--workers", "1", "--set", "runner.retries=1",
                          "--plugin", str(tmp_path / "greedy.py"))  # fmt: skip
    out, err = process.communicate(timeout=400)
    runs = {run["attack"]: run for run in map(json.loads, out.splitlines())}
    assert process.returncode == 1 and runs["fgsm"]["status"] == "DONE", err
    assert runs["greedy"]["status"] == "FAILED", err
    assert re.fullmatch(
        r"The worker on \S+ was lost \(its machine ran out of memory\); so was the one before it\.",
        runs["greedy"]["reason"],
    )


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head that computes nothing, with an autoscaler that starts nodes of one CPU on this machine.

    Ray's own `AutoscalingCluster` ends every Ray process of the machine before it starts.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = next(port for port in range(6400, 8200) if is_free(port))  # below those of Ray's workers
    kinds = {"one": {"resources": {"CPU": 1, "object_store_memory": OBJECTS}, "min_workers": 0, "max_workers": 2},
             "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0}}  # fmt: skip
    steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    commands = [f"{step}_commands" for step in steps]
    config = {"cluster_name": "growing", "max_workers": 2, "head_node_type": "ray.head.default", "auth": {},
              "upscaling_speed": 1.0, "idle_timeout_minutes": 5, "file_mounts": {}, "cluster_synced_files": [],
              "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"},
              "available_node_types": {name: {**kind, "node_config": {}} for name, kind in kinds.items()},
              **{name: [] for name in commands}}  # fmt: skip
    (tmp_path / "growing.json").write_text(json.dumps(config))
    command = ["start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
               f"--object-store-memory={OBJECTS}", f"--autoscaling-config={tmp_path / 'growing.json'}"]  # fmt: skip
    ours = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (tmp_path / "head.log").open("w") as log:
        head = psutil.Popen([Path(sys.executable).with_name("ray"), *command], env=ours, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while "block forever" not in (tmp_path / "head.log").read_text():
            assert head.poll() is None and time.monotonic() < until, (tmp_path / "head.log").read_text()
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        started = head.children(recursive=True)
        head.terminate()
        for process in psutil.wait_procs([head, *started], timeout=30)[1]:
            process.kill()


@pytest.mark.slow
def test_workers_that_wait_make_an_autoscaler_add_machines(growing: str, tmp_path: Path, reference: dict) -> None:
    place = own_place(tmp_path)
    process = place.start(*STREAM, "--engine", "ray", "--address", growing, "--workers", "2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.search(r"[12] workers? on [12] machines?", err), err  # there was none when the command began
    rows = place.rows()
    assert rows == {run: reference[run] for run in rows} and len(rows) == 2


# -- the parts, without a cluster --------------------------------------------------------------------------------------


class _Here:
    """Stands for an actor: calls at once, and gives values where Ray gives references."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        class Method:
            @staticmethod
            def remote(*arguments: Any) -> Any:
                return getattr(self._thing, name)(*arguments)

        return Method


@pytest.fixture
def tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DepotTier:
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr("bench.execution.ray_engine.PIECE", 10)
    (tmp_path / "depot").mkdir()
    return DepotTier(_Here(Depot(str(tmp_path / "depot"))))


@pytest.mark.parametrize("size", [0, 1, 10, 11, 95])
def test_a_file_travels_in_pieces(tier: DepotTier, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(bytes(range(size)))
    assert not tier.has("images/ab") and not tier.fetch("images/ab", tmp_path / "target")
    tier.put("images/ab", tmp_path / "source")
    assert tier.has("images/ab") and tier.fetch("images/ab", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == bytes(range(size))
    tier.drop("images/ab")
    assert not tier.has("images/ab") and not list((tmp_path / "depot" / "images").iterdir())


def test_what_has_come_in_part_lies_beside_the_folder_and_can_be_pruned(tier: DepotTier, tmp_path: Path) -> None:
    key, depot = "a" * 64, tmp_path / "depot"
    (tmp_path / "source").write_bytes(b"1" * 15)
    sent: list[bytes] = []

    def some(name: str, token: str, piece: bytes, last: str) -> None:
        if sent:
            raise Unreachable("the worker has ended")
        sent.append(piece)
        Depot(str(depot)).take(name, token, piece, last)

    tier.turn_to(_Here(SimpleNamespace(take=some)))
    with pytest.raises(Unreachable):
        tier.put(f"bases/{key}/weights", tmp_path / "source")
    assert not list((depot / "bases" / key).iterdir())
    (part,) = (one for one in artefacts(depot) if one.kind == TEMPORARY)
    prune(depot, None, "")
    assert not part.path.exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "images/../../x", "", "images"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    depot = Depot(str(tmp_path / "depot"))
    for use in (
        depot.size,
        depot.drop,
        lambda name: depot.piece(name, 0),
        lambda name: depot.take(name, "t", b"", "x"),
    ):
        with pytest.raises(ValueError, match="no name of an artefact"):
            use(name)


def test_a_piece_that_was_changed_on_its_way_is_noticed(tmp_path: Path) -> None:
    depot = Depot(str(tmp_path))
    with pytest.raises(ValueError, match="other bytes"):
        depot.take("images/ab", "t", b"abc", "0" * 64)
    assert not list((tmp_path / "images").iterdir())


def test_a_disk_of_the_command_that_takes_no_more_is_told_to_the_worker_as_what_it_is(
    tier: DepotTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").touch()  # a file where the folder has to be
    with pytest.raises(DiskError) as caught:
        Depot(str(tmp_path)).take("images/ab", "t", b"abc", "")

    def get(value: object) -> None:
        raise ray.exceptions.RayTaskError("take", "traceback", caught.value)

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(DiskError):
        tier.put("images/ab", tmp_path / "images")

    def lost(value: object) -> None:
        raise ray.exceptions.ActorUnavailableError("away", None)

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(Unreachable, match="cannot be reached"):
        tier.has("images/ab")


def test_the_depot_keeps_the_last_line_of_each_worker(tmp_path: Path) -> None:
    depot = Depot(str(tmp_path))
    for worker, line in ((1, "a"), (2, "b"), (1, "c")):
        depot.say(worker, line)
    assert depot.heard(0.0) == {1: "c", 2: "b"} and depot.heard(0.0) == {}


def test_files_of_networks_travel_by_name_and_the_key_stays(tmp_path: Path) -> None:
    spec = spec_of("regular", "clean")
    params = {**spec.base.params, "model": f"{tmp_path}/net.py:make", "weights": f"{tmp_path}/w.safetensors"}
    given = RunSpec.from_dict({
        **spec.to_dict(), "base": {**spec.to_dict()["base"], "params": params},
        "network": {**spec.to_dict()["network"], "name": f"{tmp_path}/net.py:make"},
    })  # fmt: skip
    moved, files = travelling(given)
    assert moved.key == given.key and moved.base_key == given.base_key
    assert set(files.values()) == {tmp_path / "net.py", tmp_path / "w.safetensors"}
    assert moved.network.name.partition(":")[0] in files and moved.base.params["weights"] in files
    assert str(tmp_path) not in str(moved.to_dict())


@pytest.mark.parametrize(
    ("given", "variable", "asked"),
    [
        ("", "", {"address": "local", "num_cpus": 2}),
        ("", "h:1", {"address": "h:1"}),
        ("h:2", "h:1", {"address": "h:2"}),
    ],
)
def test_without_an_address_a_cluster_of_its_own_is_started(
    given: str, variable: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where somebody has started another one on this machine, which Ray would take by itself."""
    monkeypatch.setenv("RAY_ADDRESS", variable)
    engine, seen = RayEngine.__new__(RayEngine), {}
    engine._settings, engine._own_cluster = SimpleNamespace(address=given, workers=2), True  # type: ignore[assignment]
    engine._ray = SimpleNamespace(init=lambda **how: seen.update(how))
    engine._connect()
    assert {name: value for name, value in seen.items() if name in ("address", "num_cpus")} == asked


def test_rays_client_is_refused_wherever_its_address_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    with pytest.raises(BadValue, match="RAY_ADDRESS ray://h:10001 is of Ray's client"):
        check_ray("")
    check_ray("h:6379")


def test_a_signal_to_end_is_an_interruption_though_ray_would_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def init(**given: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    def begin(engine: RayEngine, settings: object) -> None:
        engine._actors, engine._depot, engine._mark = [], None, None
        engine._connect()

    fake = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None, wait=lambda *_, **__: None)
    monkeypatch.setattr("bench.execution.ray_engine.import_ray", lambda: fake)
    monkeypatch.setattr(RayEngine, "_begin_on", begin)
    engine = RayEngine(SimpleNamespace(address="auto"), lambda job, line: None)  # type: ignore[arg-type]
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        engine.stop()
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadValue, match=r"adversarial-game-bench\[ray\]"):
        check_ray("")

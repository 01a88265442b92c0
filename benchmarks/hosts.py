"""Three hosts on one machine: network namespaces with folders of their own play `smoke` on Ray, and one of them dies.

`python -m benchmarks.hosts` as root, on Linux with iproute2; needs the extra `ray`. The hosts are joined by a bridge,
with 20 ms of delay and 1 % of loss where the kernel has netem (it says so where it has not). The rows must be those of
one process, field by field but for the seconds, after at most one repetition of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BRIDGE, NETWORK, PORT = "benchbr", "10.99.0", 6399
HOSTS = 3
#: rows after which the last host is killed
ROWS = 20


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done


@contextmanager
def hosts() -> Iterator[bool]:
    """Three namespaces on one bridge; whether packets are delayed and lost between them."""
    slow = True
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "up")
        for number in range(1, HOSTS + 1):
            name, outside, inside = f"bench{number}", f"bv{number}", f"bi{number}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            run("ip", "link", "set", inside, "netns", name)
            run("ip", "link", "set", outside, "master", BRIDGE, "up")
            for words in (f"addr add {NETWORK}.{number}/24 dev {inside}", f"link set {inside} up", "link set lo up"):
                run("ip", "-n", name, *words.split())
            netem = f"tc -n {name} qdisc add dev {inside} root netem delay 10ms loss 1%"  # 10 ms each way
            slow = run(*netem.split(), check=False).returncode == 0 and slow
        yield slow
    finally:
        for number in range(1, HOSTS + 1):
            held = run("ip", "netns", "pids", f"bench{number}", check=False).stdout.split()
            run("kill", "-9", *held, check=False) if held else None
            run("ip", "netns", "del", f"bench{number}", check=False)
        run("ip", "link", "del", BRIDGE, check=False)


def within(host: int, folder: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """A command on a host, with a folder of artefacts, and of Ray's own files, of the host's own."""
    own = folder / f"host{host}"
    (own / "ray").mkdir(parents=True, exist_ok=True)
    Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray has its sockets, whose paths must be short
    private = f'mount --bind {own / "ray"} /tmp/ray && exec "$@"'  # `ip netns exec` gives a mount namespace
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_AUTH_MODE"] = "disabled"  # nobody else is in this network
    environment |= {"BENCH_CACHE": str(own / "files")}
    return subprocess.Popen(
        ["ip", "netns", "exec", f"bench{host}", "sh", "-c", private, "sh", *words],
        cwd=own,
        env=environment,
        text=True,
        **options,
    )


def bench(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench.cli.main", *words]


def ray(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ray")), "start", *words, "--object-store-memory=100000000", "--block"]


def rows(folder: Path) -> dict[str, Any]:
    """Every exported field of every example but seconds, by run."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = bench("export", "--db", "bench.db")
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    runs = json.loads(found.stdout)
    for made in runs:
        for example in made["examples"]:
            del example["seconds"]
    return {made["run"]: made["examples"] for made in runs}


def committed(folder: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder / 'bench.db'}?mode=ro", uri=True, timeout=30) as connection:
            return int(connection.execute("SELECT count(*) FROM examples").fetchone()[0])
    except sqlite3.OperationalError:  # it is not there yet
        return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", default="smoke")
    suite = ["run", "--suite", parser.parse_args().suite, "--db", "bench.db"]
    with tempfile.TemporaryDirectory(prefix="hosts") as name:
        folder = Path(name)
        alone = folder / "alone"
        alone.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(bench(*suite, "--workers", "1"), cwd=alone, env=environment, check=True, capture_output=True)
        expected = rows(alone)
        print(f"one process: {sum(map(len, expected.values()))} rows of {len(expected)} runs", flush=True)
        with hosts() as slow:
            print(f"three hosts; {'20 ms and 1 % of loss' if slow else 'no netem in this kernel: no delay, no loss'}")
            log = (folder / "ray.log").open("w")
            quiet = {"stdout": log, "stderr": log}
            head = f"{NETWORK}.1"
            begin = ["--head", f"--node-ip-address={head}", f"--port={PORT}", "--num-cpus=0"]
            within(1, folder, *ray(*begin, "--include-dashboard=false"), **quiet)
            time.sleep(10)
            for host in (2, 3):
                join = [f"--address={head}:{PORT}", f"--node-ip-address={NETWORK}.{host}", "--num-cpus=1"]
                within(host, folder, *ray(*join), **quiet)
            command = bench(*suite, "--engine", "ray", "--address", f"{head}:{PORT}")
            command += ["--set", "runner.chunk=10"]
            for attempt in (1, 2):
                process = within(1, folder, *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                while attempt == 1 and process.poll() is None and committed(folder / "host1") < ROWS:
                    time.sleep(0.1)
                if attempt == 1:
                    held = run("ip", "netns", "pids", "bench3").stdout.split()
                    if process.poll() is not None or not held:
                        said = f"{process.communicate()[1][-1000:]}\n{(folder / 'ray.log').read_text()[-1500:]}"
                        raise SystemExit(f"FAIL: it ended before the kill\n{said}")
                    run("kill", "-9", *held)
                    print(f"host 3 was killed after {committed(folder / 'host1')} rows", flush=True)
                err = process.communicate()[1]
                print(f"attempt {attempt}: exit code {process.returncode}", flush=True)
                if process.returncode == 0:
                    break
                print(err[-2000:])
            found = rows(folder / "host1")
    if found != expected:
        raise SystemExit("FAIL: other rows than one process gives")
    print("PASS: the rows of one process")


if __name__ == "__main__":
    main()

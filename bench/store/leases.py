"""Leases: which process may write a run, how it shows that it is alive, and how another takes over a dead one's run.

The lease of a run is in columns of its own: host, pid, process start and heartbeat. A holder on this host is looked
up among the processes; one on another host is dead after `LEASE_S` without a heartbeat. Every write of a run begins
with `hold`, in the same transaction, so a process that has lost the lease writes nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import psutil
from sqlalchemy import Connection, CursorResult, bindparam, update
from sqlalchemy.orm import Session

from bench.errors import RunError, StoreError
from bench.planning.spec import RunSpec
from bench.store.runs import RunRecord
from bench.store.tables import RUNS, RunRow

#: seconds without a heartbeat after which a holder on another host counts as dead
LEASE_S = 60.0
#: the start of a process is computed from the boot time, which moves a little when the clock is set
START_SLACK_S = 5.0

#: columns of a run, which are among the parameters, written by its holder
_HOLD = (
    update(RUNS)
    .where(RUNS.c["key"] == bindparam("of"), RUNS.c.host == bindparam("at"), RUNS.c.pid == bindparam("by"))
    .where(RUNS.c.process_start == bindparam("since"), RUNS.c.status == "RUNNING")
)


class LeaseLost(RunError):
    """Another process has taken the run over; this one must not write it any more."""


class Claim(Enum):
    """The answer to a claim: the run is this process's now, it has ended, or another process holds it."""

    MINE = "mine"
    FINISHED = "finished"
    HELD = "held"


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease. pid 0: no process, the lease was given back."""

    host: str
    pid: int
    process_start: float

    @staticmethod
    def this_process() -> Holder:
        return Holder(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def holds(self, run: RunRecord) -> bool:
        """Whether this very process holds the run."""
        return run.status == "RUNNING" and self == Holder(run.host, run.pid, run.process_start)

    def alive(self, heartbeat: float) -> bool:
        """Whether the process runs: on this host by its pid and start, on another by the time of its heartbeat."""
        if not self.pid:
            return False
        if self.host != socket.gethostname():
            return time.time() - heartbeat < LEASE_S
        try:
            process = psutil.Process(self.pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):  # killed, and its parent has not waited
                return False
            return abs(process.create_time() - self.process_start) < START_SLACK_S
        except psutil.NoSuchProcess:
            return False


def is_held(run: RunRecord | RunRow) -> bool:
    """Whether a live process holds a RUNNING run."""
    return Holder(run.host, run.pid, run.process_start).alive(run.heartbeat)


def refusal(run: RunRecord, rerun: str) -> Claim | None:
    """Why a stored run cannot be claimed: HELD or FINISHED. None if it can (`rerun`: missing, failed or all)."""
    if run.status == "RUNNING":
        return Claim.HELD if is_held(run) else None
    again = rerun == "all" or (rerun == "failed" and run.status == "FAILED")
    return None if again else Claim.FINISHED


def check_environment(run: RunRecord, provenance: dict[str, Any]) -> None:
    """Raise `StoreError` if the rows of an unfinished run were made with other versions or on another device."""
    old, new = run.provenance.get("environment", {}), provenance["environment"]
    changed = [name for name in new if name in old and old[name] != new[name]]  # an older one says less
    if changed:
        differences = ", ".join(f"{name} {old[name]} then, {new[name]} now" for name in changed)
        raise StoreError(
            f"The run {run.key[:12]} was begun in another environment ({differences}); its rows would be mixed. "
            f"Start it again with --rerun all."
        )


def begin(session: Session, holder: Holder, spec: RunSpec, clean_key: str | None, provenance: dict[str, Any]) -> None:
    """Insert a new run with its lease; the commit raises `IntegrityError` if another process was faster."""
    now = time.time()
    session.add(
        RunRow(
            key=spec.key,
            status="RUNNING",
            spec=spec.to_dict(),
            defense=spec.defense.name,
            base=spec.base.name,
            attack=spec.attack.name,
            dataset=spec.dataset.name,
            clean_key=clean_key,
            provenance=provenance,
            heartbeat=now,
            created=now,
            **asdict(holder),
        )
    )


def take_over(session: Session, holder: Holder, run: RunRecord, clean_key: str | None, **values: Any) -> bool:
    """Move the lease of a run to `holder`, with further `values` for its columns.

    False where the lease has changed since `run` was read: another process was faster.
    """
    taken = session.execute(
        update(RunRow)
        .where(RunRow.key == run.key, RunRow.status == run.status, RunRow.pid == run.pid)
        .where(RunRow.host == run.host, RunRow.heartbeat == run.heartbeat)
        .values(status="RUNNING", reason="", detail="", finished=None, clean_key=clean_key)
        .values(**values, **asdict(holder), heartbeat=time.time())
    )
    return _count(taken) > 0


def hold(session: Session | Connection, holder: Holder, key: str, **values: Any) -> None:
    """Write columns of a run as its holder, else raise `LeaseLost`. It locks the run, so it comes first."""
    who = {"of": key, "at": holder.host, "by": holder.pid, "since": holder.process_start}
    written = session.execute(_HOLD, {**who, **values, "heartbeat": time.time()})
    if not _count(written):
        raise LeaseLost(f"The run {key[:12]} was taken over by another process.")


def beat(session: Session, holder: Holder, keys: Iterable[str]) -> None:
    """Write the heartbeat of the runs that `holder` holds among `keys`."""
    session.execute(
        update(RunRow)
        .where(RunRow.key.in_(list(keys)), RunRow.host == holder.host, RunRow.pid == holder.pid)
        .where(RunRow.status == "RUNNING")
        .values(heartbeat=time.time())
    )


def release(session: Session, holder: Holder, key: str) -> None:
    """Give the lease back with the run unfinished, if `holder` has it."""
    session.execute(
        update(RunRow).where(RunRow.key == key, RunRow.pid == holder.pid, RunRow.status == "RUNNING").values(pid=0)
    )


def _count(result: Any) -> int:
    """How many rows an UPDATE has changed."""
    assert isinstance(result, CursorResult)
    return int(result.rowcount)

"""How many victims of a probe are adapted at the same time: what is fastest on the first of them.

On a CPU it is one. On a GPU several recorded steps overlap on streams of their own. What that gives depends on the
card, the network and who else computes there, so it is measured with real victims: nothing is computed twice. Answers
do not depend on it, but for what the sums of a GPU differ by anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.clock import timed

#: what is tried, in this order
TRIED = (1, 2, 4, 8)
#: how often each is used before the fastest is chosen: its steps are recorded in the first use, which does not count,
#: and generated anew in any one of all
USES = 3
#: room on the device that each victim is given, in bytes
LANE_BYTES = 2 << 30


class Lanes:
    """The number of victims to adapt at the same time on a device, of those that there is room for."""

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        """room: victims that there is room for; None: asks the device."""
        self._device = device
        room = _room(device) if room is None else room
        #: by number, seconds for a victim in each of its first uses
        self._taken: dict[int, list[float]] = {count: [] for count in TRIED if count <= room}

    def count(self, points: int) -> int:
        """How many of these points to adapt next: a number that is still to be measured, else the fastest."""
        possible = [count for count in self._taken if count <= points]
        unmeasured = [count for count in possible if len(self._taken[count]) < USES]
        return unmeasured[0] if unmeasured else min(possible, key=lambda count: min(self._taken[count][1:]))

    @contextmanager
    def measured(self, count: int) -> Iterator[None]:
        """The work on `count` victims, which is timed while that is still to be known."""
        if len(self._taken) == 1 or len(self._taken.get(count, (0.0,) * USES)) == USES:
            yield
            return
        with timed(self._device) as taken:
            yield
        self._taken[count].append(taken.seconds / count)


def _room(device: torch.device) -> int:
    """Victims that a device has room for: 1 on a CPU."""
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return max(free // LANE_BYTES, 1)

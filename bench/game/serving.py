"""A defense in use: it serves inputs in order and knows the digest of all that led to its state.

The digest is a chain over (the fitted defense, noise key, every served input). A state stored under it can be used by
all who reach the same point of the same stream: a resumed game, another cell with the same background, or an
attacker's simulated copy.
"""

from __future__ import annotations

import hashlib
import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.cache import Cache
from bench.clock import Taken, timed
from bench.contracts import Defense, checked_logits, labels_of, probe
from bench.deadline import NEVER, Deadline, OutOfTime
from bench.errors import BadAnswer
from bench.rows import Cost, image_hash

#: the largest share of the time that may go into storing states: after one that took 1 s come 50 s of answers ...
STORING_SHARE = 0.02
#: ... but a state that took less than this, in seconds, may be stored again at once
CHEAP_S = 0.1
#: counts that a plug-in reports lie below: what the database holds
MOST_STEPS = 2**31


class Serving:
    """Serves a defense and stores its states.

    identity: key of the fitted defense (`RunSpec.fit_key` and what the device adds to it)
    """

    def __init__(
        self,
        defense: Defense,
        identity: str,
        cache: Cache,
        classes: int,
        checkpoint_s: float = 5.0,
        deadline: Deadline = NEVER,
    ) -> None:
        self.defense = defense
        self.cache = cache
        self.classes = classes
        #: columns of its logits: one more for a refusal
        self.columns = classes + defense.abstains
        self.checkpoint_s = checkpoint_s
        self.deadline = deadline
        self.served = 0
        #: seconds spent by this object on answers and probes
        self.seconds = 0.0
        #: what all answers of the stream took, also those that another process served
        self.cost = Cost()
        self.digest = _link("start", f"{identity}/{defense.noise_key}")
        self._stored_at = time.monotonic()
        self._store_s = 0.0

    @property
    def rest_s(self) -> float:
        """Seconds of answers before a state is worth storing again: they follow from what the last one took."""
        return self._store_s / STORING_SHARE if self._store_s > CHEAP_S else 0.0

    @contextmanager
    def _clock(self, x: Tensor) -> Iterator[Taken]:
        """Adds the seconds of its block, which works on x, to those of this object."""
        with timed(x.device) as taken:
            yield taken
        self.seconds += taken.seconds

    def serve(self, x: Tensor) -> Tensor:
        """Answer x (N, C, H, W) in its order: logits (N, K), checked for shape and finiteness."""
        steps = self.steps
        with self._clock(x) as taken:
            logits = self.defense.predict(x.clone())  # a plug-in may write into what it is given
        seconds = taken.seconds
        delays = (seconds / len(x),) * len(x) if len(x) else ()  # points that are answered together wait together
        self.cost = self.cost.plus(Cost(len(x), self.steps - steps, seconds, delays))
        if self.defense.kind != "static":
            self.digest = self._links(x)[-1]
        self.served += len(x)
        return checked_logits(logits, len(x), self.columns, self._name)

    def probe(self, x: Tensor, company: Tensor | None = None) -> Tensor:
        """Answer each point of x (N, C, H, W) as if it came next; the state stays as it was."""
        with self._clock(x):
            logits = probe(self.defense, x.clone(), company=company)
        return checked_logits(logits, len(x), self.columns, self._name)

    def sent(self, x: Tensor, times: int, company: Tensor | None = None, moves: bool = False) -> list[list[int]]:
        """The labels of each point of x (N, C, H, W), sent this often: its answers in their order.

        A static defense answers by another draw each time. For others every answer moves the state on: that of this
        defense (`moves`; x are the points that are answered together), else that of a copy for each point.
        """
        if self.defense.kind == "static":
            draws = [None, *range(1, times)]
            columns = [labels_of(self._drawn(x, draw), self.classes) for draw in draws]
        elif moves:
            columns = [labels_of(self.serve(x), self.classes) for _ in range(times)]
        else:
            return [self._sent_alone(point, times, company) for point in x.split(1)]
        return [list(row) for row in zip(*columns, strict=True)]

    def _drawn(self, x: Tensor, draw: int | None) -> Tensor:
        with self._clock(x):
            logits = probe(self.defense, x.clone(), draw)
        return checked_logits(logits, len(x), self.columns, self._name)

    def _sent_alone(self, x: Tensor, times: int, company: Tensor | None) -> list[int]:
        """The labels of one point x (1, C, H, W), sent this often to a copy."""
        labels = []
        with self._clock(x):
            copy = self.defense.fork()
            batch = x if company is None else torch.cat([company, x])
            for _ in range(times):
                logits = checked_logits(copy.predict(batch.clone()), len(batch), self.columns, self._name)
                labels += labels_of(logits[-1:], self.classes)
        self.defense.adaptation_steps += copy.adaptation_steps
        return labels

    def neighbour_labels(self, x: Tensor) -> list[dict[str, list[int]] | None]:
        """The label counts of the neighbours of each point of x (N, C, H, W) now; None if the defense has none."""
        with self._clock(x):
            labels = list(self.defense.neighbour_labels(x.clone()))
        if len(labels) != len(x):
            return [None] * len(x)
        return [_checked_neighbours(one, self.classes, self._name) for one in labels]

    @property
    def steps(self) -> int:
        """The optimiser steps that the defense says its answers took so far; `BadAnswer` where that is no count."""
        steps = self.defense.adaptation_steps
        try:
            count = operator.index(steps)
        except TypeError:
            count = -1
        if not 0 <= count < MOST_STEPS:
            raise BadAnswer(f"{self._name}.adaptation_steps is {steps!r:.60}; it counts optimiser steps, from 0 on.")
        return count

    @property
    def _name(self) -> str:
        return type(self.defense).__name__

    def catch_up(self, x: Tensor, report: Callable[[int], None] = lambda done: None) -> None:
        """Serve the background x (N, C, H, W), starting from the longest stored prefix of it."""
        if self.defense.kind == "static":  # its answers do not depend on what it served
            self.served += len(x)
            return
        step, links = self._step, self._links(x)
        known = (i for i in reversed(range(len(links))) if self.cache.has("states", links[i]) and self._adopt(links[i]))
        done = min(step * (next(known, -1) + 1), len(x))
        self.served += done
        passed = ""
        while done < len(x):
            batch = x[done : done + step]
            self.serve(batch)
            done += len(batch)
            report(done)
            waited = time.monotonic() - self._stored_at
            late = self.deadline.passed()
            if done < len(x) and (late or waited >= max(self.checkpoint_s, self.rest_s)):
                passed = self._store_instead(passed)
            if done < len(x) and late:
                raise OutOfTime
        if len(x):
            self._store_instead(passed)

    def _store_instead(self, passed: str) -> str:
        """Store the state; remove the one stored at `passed`, if any. A state that existed before is not removed."""
        fresh = not self.cache.has("states", self.digest)
        self.store()
        if passed:
            self.cache.drop("states", passed)
        return self.digest if fresh else ""

    @property
    def _step(self) -> int:
        """Points that are answered together."""
        return self.defense.batch_size if self.defense.kind == "batch" else 1

    def _links(self, x: Tensor) -> list[str]:
        """The digests after each batch of x (each point of an online defense). They depend on how the stream is cut."""
        links, step = [self.digest], self._step
        for start in range(0, len(x), step):
            images = " ".join(image_hash(image) for image in x[start : start + step])
            links.append(_link(links[-1], images))
        return links[1:]

    def store(self) -> str:
        """Store the state under its digest; returns the digest."""
        if self.defense.kind != "static" and not self.cache.has("states", self.digest):
            start = time.monotonic()
            self.cache.put_state(self.digest, self.defense.snapshot(), self.cost)
            self._store_s = time.monotonic() - start
        self._stored_at = time.monotonic()
        return self.digest

    def resume(self, digest: str, served: int) -> bool:
        """Restore the stored state of a game. False if it is gone, and the game must start again."""
        if self.defense.kind != "static" and not self._adopt(digest):
            return False
        self.digest, self.served = digest, served
        return True

    def _adopt(self, digest: str) -> bool:
        stored = self.cache.get_state(digest)
        if stored is None:
            return False
        state, self.cost = stored
        self.defense.restore(state)
        self.digest = digest
        return True


def _checked_neighbours(given: Any, classes: int, who: str) -> dict[str, list[int]]:
    """The label counts of one point's neighbours by searched set; `BadAnswer` where they are not what they must be."""
    try:
        counts = {name: [operator.index(count) for count in per_label] for name, per_label in given.items()}
    except (TypeError, AttributeError):
        counts = {"": []}
    sound = all(
        isinstance(name, str) and len(each) == classes and all(0 <= count < MOST_STEPS for count in each)
        for name, each in counts.items()
    )
    if not sound:
        raise BadAnswer(
            f"{who}.neighbour_labels gives {given!r:.60}; it gives for each point a dict of searched sets, each with "
            f"how many of the neighbours carry each of the {classes} labels."
        )
    return counts


def _link(digest: str, text: str) -> str:
    return hashlib.sha256(f"{digest} {text}".encode()).hexdigest()


def seen_with(probability: float, count: int, generator: torch.Generator) -> Tensor:
    """(count,) bool: each point is seen independently with this probability."""
    return torch.rand(count, generator=generator) < probability

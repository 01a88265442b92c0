"""Estimates the time of an audit before it starts, from the time of one answer and of one gradient here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import registry
from bench.auditing.battery import Step
from bench.clock import settle, timed
from bench.contracts import BLOCK, Defense, probe
from bench.game.resources import Resources
from bench.planning.rules import rules_of
from bench.planning.spec import RunSpec

#: answers that the checks of behaviour ask for, in points of one stream
STREAMS = 12
#: answers that are timed for the cost of the defense, of each of the two
ROUNDS = 9
#: images in the pass that is timed
MANY = 32


@dataclass(frozen=True)
class Pace:
    """Seconds of one served answer, of one answer by probe, and of one pass forwards and backwards of one image."""

    answer: float
    probe: float
    gradient: float


def pace(resources: Resources, spec: RunSpec) -> Pace:
    """Measure them on points of a run, each after one that warms up; of a static defense in a block, as it answers."""
    defense = resources.of(spec).serving(0).defense
    many, _ = resources.of(spec).points(spec.indices[:MANY])
    gradient = _gradient(defense, many) if defense.differentiable else 0.0
    if defense.kind == "static":
        answer = _seconds(lambda: defense.predict(many), many.device) / len(many)
        return Pace(answer, answer, gradient)
    together = max(spec.game.batch, 1)
    x, _ = resources.of(spec).points((spec.indices * together)[: 2 * together])
    company = x[1:together] if together > 1 else None
    return Pace(
        _seconds(lambda: defense.predict(x[:together]), x.device) / together,
        _seconds(lambda: probe(defense, x[:1], None, company), x.device),
        gradient,
    )


def times_the_base(defense: Defense, network: nn.Module, x: Tensor) -> float:
    """Seconds of a processor for an answer of the defense, in those of the network alone: the ratio of two medians.

    Points x (N, C, H, W) are answered by both in turns, so that the load of the machine meets both: one at a time; a
    whole batch of a `batch` defense; a block of a static one.
    """
    together = {"static": BLOCK, "online": 1, "batch": max(defense.batch_size, 1)}[defense.kind]
    parts = [x.roll(-shift, 0)[:together] for shift in range(ROUNDS)]

    def bare(part: Tensor) -> None:
        with torch.no_grad():
            network(part)

    ours, theirs = list[float](), list[float]()
    defense.fork().predict(parts[0])  # what is made once is not an answer's
    bare(parts[0])
    for part in parts:
        ours.append(_processor_s(defense.predict, part))
        theirs.append(_processor_s(bare, part))
    return statistics.median(ours) / max(statistics.median(theirs), 1e-9)


def roughly(times: float) -> str:
    """A ratio of times with two digits, as far as it repeats from machine to machine: 1200, 7.3."""
    return f"{float(f'{times:.2g}'):g}"


def _processor_s(work: Callable[[Tensor], object], x: Tensor) -> float:
    """Seconds of the processor; on a GPU, by the clock."""
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    settle(x.device)
    start = clock()
    work(x)
    settle(x.device)
    return clock() - start


def _gradient(defense: Defense, x: Tensor) -> float:
    """Seconds of a pass forwards and backwards through the proxy, for one image."""
    proxy, labels = defense.proxy(), torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def work() -> None:
        z = x.clone().requires_grad_(True)
        torch.nn.functional.cross_entropy(proxy(z), labels).backward()

    return _seconds(work, x.device) / len(x)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second time."""
    work()
    with timed(device) as taken:
        work()
    return taken.seconds


def costs(steps: list[Step], specs: Mapping[str, RunSpec], pace: Pace) -> dict[str, float]:
    """Seconds of one process by step. A background that several steps share counts for the first of them."""
    seconds_of, charged = {}, set()
    for step in steps:
        spec = specs[step.name]
        game, threat = spec.game, spec.threat
        others = rules_of(game).others_served(spec)
        seconds = step.n * _of_an_example(step, spec, pace)
        if game.facts.background and not step.on_base:
            if threat.weights == "simulated":
                seconds += (others - threat.delay) * game.games * threat.known * pace.answer
            if (background := (game.protocol, tuple(game.params.items()), threat.delay)) not in charged:
                seconds += others * game.games * pace.answer
                charged.add(background)
        seconds_of[step.name] = seconds
    return seconds_of


def _of_an_example(step: Step, spec: RunSpec, pace: Pace) -> float:
    """Seconds to attack one example and to have it answered."""
    cls = registry.attacks.load(spec.attack.name)
    effort = cls(cls.Params(**spec.attack.params)).effort(spec.threat)
    passes = effort.passes * pace.gradient
    if step.on_base:
        return passes
    answered = pace.probe if spec.game.facts.answers_clean else pace.answer
    return passes + effort.probes * pace.probe + effort.answers * pace.answer + answered

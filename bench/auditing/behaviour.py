"""The M checks: how a defense behaves. They query the defense, and do not rely on what it declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.auditing.findings import Finding, finding
from bench.checks.defense import (
    STATIC_TOLERANCE,
    DefenseSubject,
    check_a_snapshot_survives_the_disk,
    check_restore_undoes_answers_bit_for_bit,
    same_state,
)
from bench.checks.verdict import Violated
from bench.contracts import Defense, probe
from bench.draws import Draws, generator
from bench.game.start import other_network
from bench.norms import on_surface, random_offset

#: draws that are compared, and batch sizes that are tried
DRAWS = 5
SIZES = (1, 2, 10, 100)
#: points of the expensive checks, and of the gradient, which is cheap
POINTS, GRADIENTS = 12, 100
#: how deep in a defense's attributes modules are searched for
DEPTH = 3


def behaviour(subject: DefenseSubject) -> list[Finding]:
    """All M checks of one defense, on the points of the subject."""
    plain = subject.fresh().predict(subject.x)
    return [
        _m1(subject, plain),
        _m2(plain),
        _m3(subject),
        _m4(subject),
        _m5(subject, plain),
        _m6(subject, plain),
        _m7(subject),
        _m8(subject),
        _m9(subject),
    ]


def _m1(subject: DefenseSubject, plain: Tensor) -> Finding:
    """Randomness: other draws from one state give other answers, or hidden randomness does.

    Hidden: the same draw gives other answers, or fresh copies with the same noise key do.
    """
    defense = subject.fresh()
    x, company = subject.x[:POINTS], subject.company
    draws = [probe(defense, x, i, company) for i in range(DRAWS)]
    random_ = torch.stack([_differ(draws[0], other) for other in draws[1:]]).any(0)
    same = [probe(defense, x, None, company) for _ in range(2)]
    hidden = _differ(same[0], same[1]) | _differ(plain, subject.fresh().predict(subject.x))[: len(x)]
    faults = hidden if defense.randomised else hidden | random_
    declared = "declared randomised" if defense.randomised else "not declared randomised"
    text = f"{DRAWS} draws differ on {_percent(random_)} of {len(x)} points, the same draw on {_percent(hidden)}"
    return finding("M1", _share(faults), f"{declared}; {text}")


def _m2(logits: Tensor) -> Finding:
    inside = (logits >= -1e-5).all(1) & (logits <= 1 + 1e-5).all(1)
    are = inside & ((logits.sum(1) - 1).abs() <= 1e-5)
    return finding("M2", _share(are), f"{_percent(are)} of {len(logits)} rows lie in [0, 1] and sum to 1")


def _m3(subject: DefenseSubject) -> Finding:
    defense = subject.fresh()
    changed, size = [], subject.batch
    for start in range(0, min(len(subject.x), POINTS) - size + 1, size):
        before, steps = defense.snapshot(), defense.adaptation_steps
        defense.predict(subject.x[start : start + size])
        changed.append(not same_state(defense.snapshot(), before) or defense.adaptation_steps > steps)
    steps = defense.adaptation_steps // max(len(changed) * size, 1)
    share = sum(changed) / max(len(changed), 1)
    return finding("M3", share, f"{share:.0%} of {len(changed)} answers; {steps} optimiser steps an answer")


def _m4(subject: DefenseSubject) -> Finding:
    defense = subject.fresh()
    if not defense.differentiable:
        return finding("M4", 1.0, "it declares that it has no gradient")
    spec = replace(subject.spec, n=min(GRADIENTS, subject.spec.test_size))
    points, y = subject.resources.of(spec).points(spec.indices)
    x = points.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(defense.proxy()(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    flat = gradient.flatten(1)
    dead = (flat.abs().amax(1) == 0) | ~torch.isfinite(flat).all(1)
    return finding("M4", _share(dead), f"{_percent(dead)} of {len(x)} points, at the clean image, of the proxy")


def _m5(subject: DefenseSubject, whole: Tensor) -> Finding:
    """Calls of several sizes; for a static defense also another order."""
    x = subject.x
    kind = subject.fresh().kind
    if kind == "batch":
        moved = _in_order(subject.fresh(), x)
        return finding(
            "M5", 0.0, f"declared: {_percent(whole.argmax(1) != moved.argmax(1))} of the labels depend on it"
        )
    limit = STATIC_TOLERANCE if kind == "static" else 0.0
    wrong = torch.zeros(len(x), dtype=torch.bool)
    sizes = [size for size in SIZES if size < len(x)]
    for size in sizes:
        defense = subject.fresh()
        parts = torch.cat([defense.predict(part) for part in x.split(size)])
        wrong |= _differ(whole, parts, limit) | (whole.argmax(1) != parts.argmax(1)).cpu()
    if kind == "static":
        wrong |= _differ(whole, _in_order(subject.fresh(), x), limit)
    calls = ", ".join(map(str, [*sizes, len(x)]))
    return finding("M5", _share(wrong), f"{_percent(wrong)} of {len(x)} points, in calls of {calls}")


def _m9(subject: DefenseSubject) -> Finding:
    """Whether it answers, before it has served anything, with the network that attackers of the base attack."""
    run = subject.resources.of(subject.spec)
    if subject.spec.is_base:
        return finding("M9", 0.0, "it is its own base")
    far = other_network(run.trained(), run.fitted(), subject.x)
    if far is None:
        return finding("M9", 0.0, "it has no proxy that could be compared")
    return finding("M9", far, f"{far:.0%} on {len(subject.x)} points" if far else "it holds the weights of its base")


def _in_order(defense: Defense, x: Tensor) -> Tensor:
    """Answers to x (N, C, H, W) that were given in another order, back in that of x."""
    order = torch.randperm(len(x), generator=generator("audit", "order"))
    answers = defense.predict(x[order])
    restored = torch.empty_like(answers)
    restored[order] = answers
    return restored


def _m6(subject: DefenseSubject, plain: Tensor) -> Finding:
    """Whether labels change in a permuted stream, and after the defense has served queries of an attacker."""
    moved = _in_order(subject.fresh(), subject.x)
    flips = (plain.argmax(1) != moved.argmax(1)).cpu()
    defense, asked = subject.fresh(), subject.x[:POINTS]
    before = probe(defense, asked, None, subject.company).argmax(1)
    defense.predict(_queries(subject))
    drift = (before != probe(defense, asked, None, subject.company).argmax(1)).cpu()
    text = f"{_percent(flips)} of {len(flips)} labels differ in a permuted stream"
    served = f"{_percent(drift)} of {len(drift)} after {len(subject.x)} attack queries were served"
    return finding("M6", max(_share(flips), _share(drift)), f"{text}, {served}")


def _queries(subject: DefenseSubject) -> Tensor:
    """Images (N, C, H, W) on the surface of the ball around the points, like the queries of an attack."""
    threat, draws = subject.spec.threat, Draws(subject.spec.seed, "audit", subject.spec.indices)
    offset = random_offset(draws, tuple(subject.x.shape[1:]), threat.eps, threat.norm)
    return (subject.x + on_surface(offset, threat.eps, threat.norm).to(subject.x.device)).clamp(0, 1)


def _m7(subject: DefenseSubject) -> Finding:
    failed = []
    for check in (check_restore_undoes_answers_bit_for_bit, check_a_snapshot_survives_the_disk):
        try:
            check(subject)
        except Violated as error:
            failed.append(str(error))
    return finding("M7", len(failed), "; ".join(failed) or "restored bit for bit, moments and counts included")


def _m8(subject: DefenseSubject) -> Finding:
    defense = subject.fresh()
    defense.predict(subject.x[: max(subject.batch, 2)])
    held = list(_modules(vars(defense), DEPTH))
    if defense.differentiable:
        held.append(defense.proxy())
    training = {type(part).__name__ for module in held for part in module.modules() if part.training}
    return finding("M8", len(training), ", ".join(sorted(training)) or "none")


def _modules(value: Any, depth: int) -> Iterator[nn.Module]:
    """Modules among values, in what they contain, and in their attributes."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, dict):
        for part in value.values():
            yield from _modules(part, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for part in value:
            yield from _modules(part, depth - 1)
    elif depth and hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in ("torch", "numpy"):
        yield from _modules(vars(value), depth - 1)


def _differ(a: Tensor, b: Tensor, limit: float = 0.0) -> Tensor:
    """(N,) bool: two answers (N, K) differ by more than `limit`."""
    return ((a - b).abs().amax(1) > limit).cpu()


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _percent(which: Tensor) -> str:
    return f"{_share(which):.0%}"

"""The contract of a defense: each check takes a `DefenseSubject` and returns what it saw, or raises `Violated`."""

from __future__ import annotations

import copy
import secrets
from dataclasses import replace

import torch
from torch import Tensor

from bench.checks.verdict import Check, demand, under_global_seed
from bench.contracts import Defense, labels_of, probe
from bench.game.resources import Resources
from bench.planning.spec import RunSpec
from bench.rows import REFUSED
from bench.values import State

#: two answers of a static defense differ by no more, however the stream is cut
STATIC_TOLERANCE = 1e-5


class DefenseSubject:
    """A fitted defense and a dozen test points."""

    def __init__(self, resources: Resources, spec: RunSpec) -> None:
        self.resources = resources
        self.spec = spec
        self._x, self.y = resources.of(spec).points(spec.indices)
        self.classes = resources.task(spec.dataset).facts.num_classes
        #: columns of its logits: one more for a refusal
        self.columns = self.classes + spec.abstains

    @property
    def x(self) -> Tensor:
        """The points (N, C, H, W), a copy for each question: a faulty defense writes into what it is given."""
        return self._x.clone()

    def fresh(self) -> Defense:
        """A copy that has not served anything."""
        return self.resources.of(self.spec).fitted().fork(self.spec.noise_key(0))

    def with_other_labels(self) -> Defense:
        """A copy that has not served anything, fitted to the same task but for the labels of its test points."""
        own = self.resources.of(self.spec)
        task = replace(own.task, test_labels=(own.task.test_labels + 1) % self.classes)
        return own.fitted_to(task).fork(self.spec.noise_key(0))

    def shared_prints(self) -> list[str]:
        """Fingerprints of what other runs use too."""
        return self.resources.of(self.spec).shared_prints()

    @property
    def batch(self) -> int:
        return max(self.spec.game.batch, 1)

    @property
    def company(self) -> Tensor | None:
        """The rest of a batch, for a batch defense."""
        return self.x[-(self.batch - 1) :] if self.spec.game.batch > 1 else None


def check_is_fitted(subject: DefenseSubject) -> str:
    """fit ends. The other checks are asked of what it makes."""
    subject.fresh()
    spec = subject.spec
    return "a base is trained" if spec.is_base else f"on {spec.base.name}, {spec.dataset.name}"


def check_declares_its_kind(subject: DefenseSubject) -> str:
    """`kind` is one of three, and a batch defense has a batch size."""
    defense = subject.fresh()
    demand(
        defense.kind in ("static", "online", "batch"), f"kind is {defense.kind!r}; it must be static, online or batch"
    )
    demand(defense.kind != "batch" or defense.batch_size > 1, "a batch defense must say its batch_size, above 1")
    return f"{defense.kind}, {'randomised' if defense.randomised else 'not randomised'}"


def check_answers_finite_logits(subject: DefenseSubject) -> str:
    """predict gives finite logits (N, K); (N, K + 1) of a defense that abstains."""
    logits = subject.fresh().predict(subject.x)
    want = (len(subject.x), subject.columns)
    demand(tuple(logits.shape) == want, f"logits have the shape {tuple(logits.shape)} where {want} is due")
    demand(bool(torch.isfinite(logits).all()), "some logits are not finite")
    return f"{want[0]} x {want[1]}, finite"


def check_some_inputs_are_answered(subject: DefenseSubject) -> str:
    """A defense that abstains does not refuse every clean point: its accuracy would be 0, and no attack could fail."""
    if not subject.spec.abstains:
        return "it never refuses"
    refused = labels_of(subject.fresh().predict(subject.x), subject.classes).count(REFUSED)
    demand(refused < len(subject.x), f"it refuses all of {refused} clean points: raise its threshold")
    return f"{refused} of {len(subject.x)} clean points are refused"


def check_test_labels_shape_no_answer(subject: DefenseSubject) -> str:
    """Fitted to a task with other labels of the test points, a defense answers and refuses alike."""
    if subject.spec.is_base:
        return "does not apply to a base: what it trained is kept"
    first, second = subject.fresh().predict(subject.x), subject.with_other_labels().predict(subject.x)
    demand(
        torch.equal(first, second), "with other labels of the test points it answers otherwise: those are the judge's"
    )
    return "same answers with other test labels"


def check_answers_leave_their_input_alone(subject: DefenseSubject) -> str:
    """What a defense is given holds the same afterwards: images, the base's network, the arrays of the dataset."""
    defense, kept = subject.fresh(), subject.x
    shared = subject.shared_prints()
    asked = {
        "predict": lambda x: defense.predict(x),
        "probe": lambda x: probe(defense, x[:1], None, subject.company),
        "neighbour_labels": lambda x: defense.neighbour_labels(x[:1]),
        "proxy_for": lambda x: defense.proxy_for(x[: subject.batch]),
    }
    for name, ask in asked.items():
        x = subject.x
        ask(x)
        demand(torch.equal(x, kept), f"{name} writes into the images that it is given: work on a copy (x.clone())")
        demand(
            subject.shared_prints() == shared,
            f"{name} changes the base's network or the dataset's arrays, which other runs use too: work on a copy "
            f"(bench.frozen_copy)",
        )
    return ", ".join(asked)


def check_cutting_the_stream_changes_nothing(subject: DefenseSubject) -> str:
    """The same stream in one call and in several gives the same answers."""
    whole = subject.fresh().predict(subject.x)
    twin, parts, start = subject.fresh(), [], 0
    for size in (1, 2, 3, 1, 5, len(subject.x)):
        stop = min(start + size * subject.batch, len(subject.x))
        if stop > start:
            parts.append(twin.predict(subject.x[start:stop]))
        start = stop
    cut = torch.cat(parts)
    gap = float((cut - whole[: len(cut)]).abs().max())
    if twin.kind == "static":
        demand(torch.equal(cut.argmax(1), whole[: len(cut)].argmax(1)), "labels differ between one call and several")
        demand(gap <= STATIC_TOLERANCE, f"logits differ by {gap:.2g} between one call and several")
    else:
        demand(torch.equal(cut, whole[: len(cut)]), f"logits differ by {gap:.2g} between one call and several")
    return f"largest difference {gap:.2g}"


def check_a_static_answer_ignores_the_stream(subject: DefenseSubject) -> str:
    """A static defense answers a point alike first, last, and among others."""
    defense = subject.fresh()
    if defense.kind != "static":
        return f"does not apply to {defense.kind}"
    first = defense.predict(subject.x[:1])
    reversed_order = defense.predict(subject.x.flip(0))[-1:]
    again = defense.predict(subject.x[:1])
    gap = max(float((first - other).abs().max()) for other in (reversed_order, again))
    demand(
        gap <= STATIC_TOLERANCE, f"declared static, but logits of one point differ by {gap:.2g} with what came before"
    )
    return f"largest difference {gap:.2g}"


def check_restore_undoes_answers_bit_for_bit(subject: DefenseSubject) -> str:
    """restore(snapshot()) after k answers: the same state, and the same answers again."""
    defense = subject.fresh()
    half = _half(subject)
    handed_out = defense.predict(subject.x[:half])
    answered = handed_out.clone()
    before = defense.snapshot()
    first = defense.predict(subject.x[half:])
    demand(torch.equal(handed_out, answered), "later answers write into logits that were handed out: return new ones")
    after = defense.snapshot()
    kept = copy.deepcopy(before)
    defense.restore(before)
    demand(same_state(defense.snapshot(), before), "the restored state is not the one that was saved")
    again = defense.predict(subject.x[half:])
    demand(same_state(before, kept), "answers after restore write into the state that was restored: copy its tensors")
    demand(torch.equal(first, again), "the same inputs after restore get other answers: the state is not complete")
    demand(same_state(defense.snapshot(), after), "the same inputs after restore lead to another state")
    return f"{len(before.tensors)} tensors, {len(before.facts)} facts"


def check_a_snapshot_stays_as_it_was(subject: DefenseSubject) -> str:
    """Later answers do not write into an earlier snapshot."""
    defense = subject.fresh()
    snapshot = defense.snapshot()
    kept = copy.deepcopy(snapshot)
    defense.predict(subject.x)
    demand(same_state(snapshot, kept), "an answer changed a snapshot that was taken before it")
    return "unchanged by later answers"


def check_a_snapshot_survives_the_disk(subject: DefenseSubject) -> str:
    """A state written to a file and read back gives the same answers."""
    defense = subject.fresh()
    half = _half(subject)
    defense.predict(subject.x[:half])
    state = defense.snapshot()
    key = secrets.token_hex(32)  # a key of its own, since another check may run at the same time
    subject.resources.cache.put_state(key, state)
    stored = subject.resources.cache.get_state(key)
    subject.resources.cache.drop("states", key)
    assert stored is not None
    read = stored[0]
    demand(same_state(read, state), "the state read back is not the one that was written")
    twin = subject.fresh()
    twin.restore(read)
    expected, answers = defense.predict(subject.x[half:]), twin.predict(subject.x[half:])
    demand(torch.equal(expected, answers), "a fresh copy that restores the written state answers otherwise")
    return "safetensors and JSON"


def check_forks_are_independent(subject: DefenseSubject) -> str:
    """A fork's answers do not change the original, nor the original's the fork; both start in the same state."""
    defense = subject.fresh()
    before = copy.deepcopy(defense.snapshot())
    fork = defense.fork()
    expected = fork.predict(subject.x)
    demand(same_state(defense.snapshot(), before), "a fork's answers changed the original")
    demand(torch.equal(defense.predict(subject.x), expected), "a fork and its original answer differently")
    return "independent, same start"


def check_probe_equals_fork_and_predict(subject: DefenseSubject) -> str:
    """probe answers each point as if it came next; it and other questions leave the state alone."""
    defense = subject.fresh()
    half = _half(subject)
    defense.predict(subject.x[:half])
    before = copy.deepcopy(defense.snapshot())
    points = subject.x[half : half + 2]
    answers = probe(defense, points, None, subject.company)
    demand(same_state(defense.snapshot(), before), "probe changed the state")
    questions = {
        "neighbour_labels": lambda: defense.neighbour_labels(points),
        "proxy": lambda: defense.proxy(),
        "proxy_for": lambda: defense.proxy_for(subject.x[: subject.batch]),
        "snapshot": lambda: defense.snapshot(),
    }
    for name, ask in questions.items():
        ask()
        demand(same_state(defense.snapshot(), before), f"{name} changed the state; only answers may")
    for i in range(len(points)):
        batch = points[i : i + 1] if subject.company is None else torch.cat([subject.company, points[i : i + 1]])
        expected = defense.fork().predict(batch)[-1]
        gap = float((answers[i] - expected).abs().max())
        limit = STATIC_TOLERANCE if defense.kind == "static" else 0.0
        demand(gap <= limit, f"probe and fork-and-predict differ by {gap:.2g}")
    return f"{len(points)} points"


def check_declared_randomness_is_true(subject: DefenseSubject) -> str:
    """Five other draws differ if and only if the defense says that it is randomised."""
    defense = subject.fresh()
    draws = [probe(defense, subject.x[:2], i, subject.company) for i in range(5)]
    differ = any(not torch.equal(draws[0], other) for other in draws[1:])
    demand(differ or not defense.randomised, "declared randomised, but five draws gave the same logits")
    demand(defense.randomised or not differ, "other draws give other logits, but it is not declared randomised")
    return "draws differ" if differ else "draws agree"


def check_no_hidden_randomness(subject: DefenseSubject) -> str:
    """Global generators neither shape an answer nor are moved by one."""
    first, moved = under_global_seed(1, lambda: subject.fresh().predict(subject.x))
    second, _ = under_global_seed(2, lambda: subject.fresh().predict(subject.x))
    demand(torch.equal(first, second), "answers depend on a global random generator: draw from (noise key, purpose, t)")
    demand(not moved, "answers draw from torch's global generator")
    return "same answers under other global seeds"


def check_the_proxy_has_gradients(subject: DefenseSubject) -> str:
    """proxy() is differentiable, finite and frozen."""
    defense = subject.fresh()
    if not defense.differentiable:
        return "declared not differentiable"
    proxy = defense.proxy()
    x = subject.x.clone().requires_grad_(True)
    logits = proxy(x)
    want = (len(subject.x), subject.columns)
    demand(tuple(logits.shape) == want, f"proxy logits have the shape {tuple(logits.shape)} where {want} is due")
    loss = torch.nn.functional.cross_entropy(logits, subject.y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    demand(bool(torch.isfinite(gradient).all()), "some gradients are not finite")
    zero = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    demand(zero < 1, "every gradient is exactly zero; declare `differentiable = False` or relax the answer")
    before = proxy(subject.x).detach()
    defense.predict(subject.x)
    demand(torch.equal(proxy(subject.x).detach(), before), "the proxy changed with later answers: return a frozen copy")
    expected = probe(defense, subject.x[:2], None, subject.company)
    with torch.no_grad():
        for weight in defense.proxy().parameters():
            weight.zero_()
    answers = probe(defense, subject.x[:2], None, subject.company)
    demand(torch.equal(answers, expected), "writing into the proxy changed the defense: return a copy")
    return f"{zero:.0%} of the gradients are exactly zero"


def _half(subject: DefenseSubject) -> int:
    """About half of the points, in whole batches."""
    return max(len(subject.x) // 2 // subject.batch, 1) * subject.batch


def same_state(a: State, b: State) -> bool:
    """Equal bit for bit, names and facts included."""
    return (
        a.facts == b.facts
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(a.tensors[name].cpu(), b.tensors[name].cpu()) for name in a.tensors)
    )


DEFENSE_CHECKS: tuple[Check, ...] = (
    check_is_fitted,
    check_declares_its_kind,
    check_answers_finite_logits,
    check_some_inputs_are_answered,
    check_test_labels_shape_no_answer,
    check_answers_leave_their_input_alone,
    check_cutting_the_stream_changes_nothing,
    check_a_static_answer_ignores_the_stream,
    check_restore_undoes_answers_bit_for_bit,
    check_a_snapshot_stays_as_it_was,
    check_a_snapshot_survives_the_disk,
    check_forks_are_independent,
    check_probe_equals_fork_and_predict,
    check_declared_randomness_is_true,
    check_no_hidden_randomness,
    check_the_proxy_has_gradients,
)

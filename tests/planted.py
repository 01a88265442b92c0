"""Planted plug-ins: sound ones, and ones with one fault each that the harness must find."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import (
    Attack,
    BatchDefense,
    Context,
    Defense,
    Draws,
    OnlineDefense,
    Oracle,
    State,
    StaticDefense,
    generator,
    shallow_fork,
)
from bench.contracts import with_refusal


class Wrapped(StaticDefense):
    """The base network, answered by the runtime's own path: sound."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        self.network = base.network
        self.noise_key = context.noise_key

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(x)

    def proxy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class Counting(OnlineDefense):
    """Shifts the logits by a counter and by noise of its own: sound, online, randomised."""

    randomised: ClassVar[bool] = True

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        self.network = base.network
        self.noise_key = context.noise_key
        self.t = 0

    def noise(self) -> Tensor:
        return torch.rand((1, 10), generator=generator(self.noise_key, "noise", self.t)) * 0.01

    def answer_one(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.network(x) + self.noise() + 0.001 * self.t
        self.t += 1
        return logits

    def snapshot(self) -> State:
        return State({}, {"t": self.t})

    def restore(self, state: State) -> None:
        self.t = state.facts["t"]

    def fork(self, noise_key: int | None = None) -> Defense:
        twin = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def proxy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class Batched(BatchDefense):
    """Subtracts the batch's mean logits; counts batches: sound, batch."""

    batch_size = 4

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        self.network = base.network
        self.noise_key = context.noise_key
        self.batches = 0

    def answer_batch(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.network(x)
        self.batches += 1
        return logits - 0.1 * logits.mean(dim=0, keepdim=True) + 0.001 * self.batches

    def snapshot(self) -> State:
        return State({}, {"batches": self.batches})

    def restore(self, state: State) -> None:
        self.batches = state.facts["batches"]

    def fork(self, noise_key: int | None = None) -> Defense:
        twin = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def proxy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class HiddenRandomness(Wrapped):
    """Draws from torch's global generator."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x) + torch.rand((len(x), 10)) * 0.1


class ForgetsOnRestore(Counting):
    """restore leaves the counter alone."""

    def restore(self, state: State) -> None:
        pass


class LeakyFork(Counting):
    """A fork counts in the same box as its original."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.box = torch.zeros(1, 10)

    def answer_one(self, x: Tensor) -> Tensor:
        self.box += 1
        return super().answer_one(x) + self.box

    def snapshot(self) -> State:
        return State({"box": self.box.clone()}, {"t": self.t})

    def restore(self, state: State) -> None:
        super().restore(state)
        self.box.copy_(state.tensors["box"])


class LivingSnapshot(Counting):
    """A snapshot that later answers write into."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.box = torch.zeros(1, 10)

    def answer_one(self, x: Tensor) -> Tensor:
        self.box += 1
        return super().answer_one(x) + self.box

    def snapshot(self) -> State:
        return State({"box": self.box}, {"t": self.t})

    def restore(self, state: State) -> None:
        super().restore(state)
        self.box = state.tensors["box"].clone()

    def fork(self, noise_key: int | None = None) -> Defense:
        twin = super().fork(noise_key)
        twin.box = self.box.clone()
        return twin


class RestoresAlias(LivingSnapshot):
    """A snapshot is a copy, but answers after restore write into what was restored."""

    def snapshot(self) -> State:
        return State({"box": self.box.clone()}, {"t": self.t})

    def restore(self, state: State) -> None:
        super().restore(state)
        self.box = state.tensors["box"]


class CopiesBox(RestoresAlias):
    """The same box, copied both ways: sound."""

    def restore(self, state: State) -> None:
        super().restore(state)
        self.box = state.tensors["box"].clone()


class CountingNeighbours(Counting):
    """Being asked for neighbours is counted like an answer."""

    def neighbour_labels(self, x: Tensor) -> Any:
        self.t += 1
        return [{"bank": [1] + [0] * 9}] * len(x)


class SoundNeighbours(Counting):
    """The same neighbours, and nothing is counted: sound."""

    def neighbour_labels(self, x: Tensor) -> Any:
        return [{"bank": [1] + [0] * 9}] * len(x)


class SameLogits(Wrapped):
    """Every answer is written into one tensor."""

    def predict(self, x: Tensor) -> Tensor:
        logits = super().predict(x)
        held = self.__dict__.setdefault("held", {})
        return held.setdefault(len(x), torch.empty_like(logits)).copy_(logits)


class AnswersIntoBase(Wrapped):
    """Each answer scales the base's network a little."""

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.mul_(1.01)
        return super().answer(x)


class AnswersIntoCopy(AnswersIntoBase):
    """The same with a network of its own; no static defense, but the base is left alone."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.network = copy.deepcopy(self.network)


class StatefulButStatic(Wrapped):
    """Declared static, but every answer shifts the next ones."""

    shift = 0.0

    def answer(self, x: Tensor) -> Tensor:
        self.shift += 0.01
        return super().answer(x) * (1 + self.shift)


class BatchLeak(Wrapped):
    """Declared static, but the company shapes an answer."""

    def predict(self, x: Tensor) -> Tensor:
        logits = self.answer(x)
        return logits - logits.mean(dim=0, keepdim=True)


class NotRandomAsDeclared(Wrapped):
    """Declared randomised, but is not."""

    randomised: ClassVar[bool] = True


class RandomUndeclared(Counting):
    """Randomised, but does not say so."""

    randomised: ClassVar[bool] = False


class NanDefense(Wrapped):
    """Answers NaN."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x) * torch.nan


class WrongShapeDefense(Wrapped):
    """Answers with one class too few."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x)[:, :9]


class CannotBeFitted(Wrapped):
    """Raises while it is fitted."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        raise ValueError("nothing to\nadapt")


class RaisingDefense(Wrapped):
    """Raises while it answers."""

    def answer(self, x: Tensor) -> Tensor:
        raise ValueError("no answer\ntoday")


class Detector(Wrapped):
    """Refuses points whose mean pixel is above a bound: sound, static, abstains."""

    abstains: ClassVar[bool] = True
    bound: ClassVar[float] = 0.35

    def excess(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1) - self.bound

    def answer(self, x: Tensor) -> Tensor:
        return with_refusal(super().answer(x), self.excess(x))

    def proxy(self) -> nn.Module:
        return Refusing(super().proxy(), self.bound)


class Refusing(nn.Module):
    """Logits (N, K + 1) of a network, and of the refusal of bright images."""

    def __init__(self, network: nn.Module, bound: float) -> None:
        super().__init__()
        self.network, self.bound = network, bound

    def forward(self, x: Tensor) -> Tensor:
        return with_refusal(self.network(x), x.flatten(1).mean(1) - self.bound)


class RefusesEverything(Detector):
    """Accepts nothing."""

    bound: ClassVar[float] = -1.0


class NoColumnForRefusals(Detector):
    """Says that it abstains, and has no column for it."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x)[:, :10]


class RefusesUndeclared(Detector):
    """Has a column for refusals, and does not say that it abstains."""

    abstains: ClassVar[bool] = False


class ProxyNeverRefuses(Detector):
    """Its proxy lacks the column of the refusal."""

    def proxy(self) -> nn.Module:
        return Wrapped.proxy(self)


class RefusesTheBrightestOfTheCall(Detector):
    """The bound is the mean over all points that are answered together."""

    def excess(self, x: Tensor) -> Tensor:
        own = x.flatten(1).mean(1)
        return own - own.mean()

    def predict(self, x: Tensor) -> Tensor:
        return self.answer(x)


class RefusesWhatItWouldGetWrong(Detector):
    """Looks up the labels of the test points."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        count = len(task.test_labels)
        x, y = task.test_points(list(range(count)))
        self.known = dict(zip((point.numpy().tobytes() for point in x), y.tolist(), strict=True))

    def excess(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answers = self.network(x).argmax(1).tolist()
        wrong = [self.known.get(one.numpy().tobytes(), own) != own for one, own in zip(x, answers, strict=True)]
        return torch.tensor([1.0 if one else -1.0 for one in wrong])


class Remembering(Counting):
    """Refuses an image that it was sent before, and remembers every one: sound, online, abstains."""

    abstains: ClassVar[bool] = True
    randomised: ClassVar[bool] = False

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.seen = torch.empty(0, 64)

    def noise(self) -> Tensor:
        return torch.zeros(1, 10)

    def answer_one(self, x: Tensor) -> Tensor:
        known = bool((self.seen == x.flatten(1)).all(1).any())
        self.seen = torch.cat([self.seen, x.flatten(1)])
        return with_refusal(super().answer_one(x), torch.tensor([1.0 if known else -1.0]))

    def snapshot(self) -> State:
        return State({"seen": self.seen.clone()}, {"t": self.t})

    def restore(self, state: State) -> None:
        super().restore(state)
        self.seen = state.tensors["seen"].clone()

    def proxy(self) -> nn.Module:
        return Refusing(super().proxy(), 2.0)


class RemembersProbes(Remembering):
    """What it is only asked about is remembered too, so it refuses what follows."""

    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        answers = super().probe(x, draw)
        self.seen = torch.cat([self.seen, x.flatten(1)])
        return answers


class DeadProxy(Wrapped):
    """A proxy without gradient."""

    def proxy(self) -> nn.Module:
        return Quantiser(self.network)


class Quantiser(nn.Module):
    """Rounds its input before the network: no gradient comes back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.round(x * 8) / 8)


class LeavesTheBall(Attack):
    """Adds twice eps."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return (x + 2 * oracle.threat.eps).clamp(0, 1)


class LeavesTheBox(Attack):
    """Adds eps without a clip."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x + oracle.threat.eps


class NanAttack(Attack):
    """One pixel of every second image is NaN."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        images = x.clone()
        images[::2, 0, 0, 0] = torch.nan
        return images


class WrongShapeAttack(Attack):
    """Returns one image too few."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x[1:]


class RaisingAttack(Attack):
    """Raises."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        raise RuntimeError("this attack\nis broken")


class GlobalRandomAttack(Attack):
    """Draws from torch's global generator."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return (x + (torch.rand_like(x) * 2 - 1) * oracle.threat.eps).clamp(0, 1)


class NoisyAtZero(Attack):
    """Changes x even at eps 0."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return (x - 1e-7).clamp(0, 1)


class Remembers(Attack):
    """Keeps what it saw on itself."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        self.seen = x
        return x


class Declining(Attack):
    """Declines everything."""

    def declines(self, threat: Any, facts: Any, info: Any) -> str | None:
        return "not today"

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x


class Wavering(Declining):
    """Declines only when it is asked for the second time."""

    asked: ClassVar[list[str]] = []

    def declines(self, threat: Any, facts: Any, info: Any) -> str | None:
        self.asked.append(info.name)
        return "not twice" if len(self.asked) > 1 else None


class FailsToDecline(Declining):
    """Raises instead of declining."""

    def declines(self, threat: Any, facts: Any, info: Any) -> str | None:
        raise RuntimeError("no idea")


class LeavesInsteadOfDeclining(Declining):
    """Ends the program instead of declining."""

    def declines(self, threat: Any, facts: Any, info: Any) -> str | None:
        raise SystemExit(0)


class AsksForWeights(Attack):
    """Wants the network whatever the threat model says."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        oracle.model()
        return x


class Replayer(Attack):
    """Crafts the whole sequence by FGSM against a simulated copy that has served it: for the protocol replay."""

    block: ClassVar[int | None] = None

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        copy = oracle.simulate()
        copy.predict(x)
        images = x.clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(copy.proxy()(images), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        return (x + oracle.threat.eps * gradient.sign()).clamp(0, 1)


class Asker(Attack):
    """Queries twice per example and returns the noisier of two random points."""

    needs_gradients: ClassVar[bool] = False

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        shape = tuple(x.shape[1:])
        points = [(x + draws.sub(i).uniform(shape, -1, 1) * oracle.threat.eps).clamp(0, 1) for i in range(2)]
        logits = [oracle.query(point).gather(1, y[:, None])[:, 0] for point in points]
        worse = (logits[1] < logits[0]).view(-1, 1, 1, 1)
        return torch.where(worse, points[1], points[0])


class Greedy(Attack):
    """Queries until it is stopped."""

    needs_gradients: ClassVar[bool] = False

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        while True:
            oracle.query(x)


class LivingProxy(Wrapped):
    """Hands out the network that answers."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.network = copy.deepcopy(self.network)

    def proxy(self) -> nn.Module:
        return self.network


class BigBatches(Batched):
    """A batch defense with large batches: sound."""

    batch_size = 16


class Exiting(Attack):
    """Leaves the program."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        raise SystemExit(3)


class Appends(Attack):
    """Keeps what it saw in a list that was there before."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.seen: list[int] = []

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        self.seen.append(len(x))
        return x


class Forgets(Attack):
    """Loses something that it had."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.once = True

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        if hasattr(self, "once"):
            del self.once
        return x


class KeepsParts(Attack):
    """Sound: holds modules, tensors and a generator of its own that it leaves as they are."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))
        self.masks = [torch.zeros(2), torch.ones(2)]
        self.table = {"a": torch.ones(3), "b": (1, None)}

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x


class Trains(KeepsParts):
    """Changes a weight of a module that it holds."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        assert self.loss.weight is not None
        self.loss.weight += 1
        return x


class Prober(Attack):
    """Says on its class how it is played."""

    preset: ClassVar[dict[str, Any]] = {"weights": "adapted", "bank": True}
    free: ClassVar[tuple[str, ...]] = ("delay",)
    protocol: ClassVar[Any] = "probe"
    norm: ClassVar[Any] = "l2"

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x


class Validating(Wrapped):
    """Raises what it should not while it is planned."""

    @classmethod
    def validate(cls, params: Any, facts: Any) -> None:
        raise KeyError("sides")


class Masked(Wrapped):
    """Rounds its input, and hands out the rounding as its proxy: gradient masking."""

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return Quantiser(self.network)(x)

    def proxy(self) -> nn.Module:
        return Quantiser(copy.deepcopy(self.network))


class MaskedWithProxy(Masked):
    """Rounds its input, and hands out the network behind the rounding: masked, but honest about it."""

    def proxy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class RandomScale(Wrapped):
    """Scales its logits by a random factor: sound, static, randomised."""

    randomised: ClassVar[bool] = True

    def factor(self) -> float:
        return float(torch.rand((), generator=generator(self.noise_key, "factor"))) + 0.5

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(x) * self.factor()

    def proxy(self) -> nn.Module:
        return nn.Sequential(copy.deepcopy(self.network), Scale(self.factor()))


class MaskedRandomScale(RandomScale):
    """The same behind a rounding, whose proxy goes around the rounding: sound, and without a gradient of its own."""

    differentiable: ClassVar[bool] = False

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return Quantiser(self.network)(x) * self.factor()


class Scale(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Softmaxed(Wrapped):
    """Answers with probabilities."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x).softmax(1)

    def proxy(self) -> nn.Module:
        return nn.Sequential(copy.deepcopy(self.network), nn.Softmax(dim=1)).eval()


class OrderDependent(Counting):
    """Answers with the label that the clock shows."""

    randomised: ClassVar[bool] = False

    def answer_one(self, x: Tensor) -> Tensor:
        logits = torch.zeros(1, 10)
        logits[0, self.t % 10] = 1.0
        self.t += 1
        return logits


class Tires(Counting):
    """Answers with the label 0 after its first dozen: in a stream of twelve nothing shows."""

    randomised: ClassVar[bool] = False

    def answer_one(self, x: Tensor) -> Tensor:
        tired = self.t >= 12
        self.t += 1
        with torch.no_grad():
            return torch.eye(10)[:1] if tired else self.network(x)


class LeftTraining(Wrapped):
    """Holds a module that was left in training mode."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        self.network = nn.Sequential(copy.deepcopy(self.network), nn.Identity()).train()
        self.network[0].eval()


class OwnNetwork(Wrapped):
    """Answers with a network of its own, and says that it uses the base."""

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        super().fit(task, base, context)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


class BringsNetwork(OwnNetwork):
    """The same, declared."""

    uses_base: ClassVar[bool] = False

    def fit(self, task: Any, base: Defense | None, context: Context) -> None:
        assert base is None
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        x, y = task.pixels(task.train_images), torch.from_numpy(task.train_labels)
        with torch.no_grad():  # the mean image of each class
            means = torch.stack([x[y == label].mean(0).flatten() for label in range(10)])
            self.network[1].weight.copy_(means)
            self.network[1].bias.copy_(-(means**2).sum(1) / 2)
        for weight in self.network.parameters():
            weight.requires_grad_(False)


class WritesIntoInput(Wrapped):
    """Leaves zeros in the images that it was given."""

    def predict(self, x: Tensor) -> Tensor:
        logits = super().predict(x)
        x.zero_()
        return logits


class ReturnsStart(Attack):
    """Looks at the network and returns x."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        oracle.model()(x)
        return x

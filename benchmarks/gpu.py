"""What a GPU does with the adaptation of weights: parity first, then speed, beside a reference in the same run.

    python -m benchmarks.gpu [--only a,b,c] [--device cuda] [--tiny]      (`make gpu`)

It needs the package on PYTHONPATH and a GPU, no network and no data: images are random, since what costs time does not
depend on pixels. One line a fact; PASS or FAIL for each check. Exit code 1 where a check failed or a part broke.

a  parity: the recorded step, as written and in generated code, against the plain one; precisions after an epoch;
   neighbours on the device against faiss; probes side by side against one by one
b  an epoch of 8 steps in each precision, plain, recorded and generated; an answer of RMC beside a reference that does
   what a straightforward PyTorch implementation does (a loop over distances, a DataLoader, two fits)
c  training, adversarial training, an augmented set, answers of RMC and RMC+, probes, memory, the harness's share

`--tiny` makes everything small enough for two cores of a CPU: then figures mean nothing and checks are the same.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench import plugins, registry
from bench.cache import Cache
from bench.contracts import Context
from bench.data.task import Task, TaskFacts
from bench.environment import one_thread
from bench.models.resnet import resnet18, resnet20
from defenses import recording
from defenses.bank import Bank
from defenses.bank_builder import BankBuilder, BankRecipe
from defenses.device_search import DeviceNeighbours
from defenses.finetune import Learner, Recipe
from defenses.neighbours import Neighbours
from defenses.rmc import RMC, RMCParams
from defenses.rmc_plus import RMCPlus, RMCPlusParams

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128
BUILDS: dict[str, Callable[..., nn.Module]] = {"resnet18": resnet18, "resnet20": resnet20}


@dataclass(frozen=True)
class Scale:
    """How much of everything: the paper's, or tiny."""

    network: str
    bank: int
    k: int
    epochs: int
    train: int
    victims: int
    rounds: int
    queries: int

    @property
    def build(self) -> Callable[..., nn.Module]:
        return BUILDS[self.network]


FULL = Scale("resnet18", bank=100_000, k=1024, epochs=5, train=50_000, victims=40, rounds=5, queries=100)
TINY = Scale("resnet20", bank=600, k=160, epochs=2, train=256, victims=4, rounds=1, queries=5)


class Card:
    """The device, the scale of the measurements, and the checks that failed."""

    def __init__(self, device: torch.device, scale: Scale) -> None:
        self.device = device
        self.scale = scale
        self.failed: list[str] = []
        self.rng = np.random.default_rng(0)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def check(self, holds: bool, text: str) -> None:
        self.say(f"{'PASS' if holds else 'FAIL'} {text}")
        if not holds:
            self.failed.append(text)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that breaks is a failed check; the others go on."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            traceback.print_exc(limit=-3)
            self.check(False, f"{name} broke: {type(error).__name__}: {str(error)[:300]}")
        self.say(f"     {name} took {time.perf_counter() - start:.1f} s")

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int | None = None) -> float:
        """Median seconds of some rounds, after two to warm up."""
        taken = []
        for _ in range((rounds or self.scale.rounds) + 2):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[2:])

    # -- what is measured on ----------------------------------------------------------------------------------------

    def network(self, build: Callable[..., nn.Module] | None = None) -> Any:
        torch.manual_seed(0)
        network = (build or self.scale.build)(CLASSES, SHAPE)
        with torch.no_grad():  # running statistics as of a network that has seen images
            network.train()
            for _ in range(3):
                network(torch.rand(64, *SHAPE))
        return network.eval().requires_grad_(False).to(self.device)

    def points(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        x = torch.rand((count, *SHAPE), generator=draws)
        return x.to(self.device), torch.randint(CLASSES, (count,), generator=draws).to(self.device)

    def task(self, count: int) -> Task:
        images = self.rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        labels = self.rng.integers(0, CLASSES, count)
        facts = TaskFacts("cifar10", CLASSES, SHAPE, count, 64, "random")
        return Task(facts, 255, images, labels, images[:64], labels[:64])

    def rmc(self, cls: type[RMC], params: RMCParams, network: Any) -> Any:
        """RMC over random images and features, with the neighbours and images where `fit` would put them."""
        count = self.scale.bank
        images = self.rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        width = network.features(torch.zeros((1, *SHAPE), device=self.device)).shape[1]
        features = self.rng.random((count, width), dtype=np.float32)
        rmc = cls(params)
        bank = Bank(images, self.rng.integers(0, CLASSES, count), Neighbours(features), count // 2, 255)
        rmc._bank = bank.on_device(self.device)
        rmc._features = network
        recipe = Recipe(
            lr=params.lr, epochs=params.epochs, patience=params.epochs, batch_size=BATCH, precision=params.precision
        )
        rmc._learner = Learner(network, recipe, SHAPE)
        rmc._device, rmc._classes, rmc._t = self.device, CLASSES, 0
        return rmc

    def recipe(self, precision: str, epochs: int = 1) -> Recipe:
        return Recipe(lr=3e-4, epochs=epochs, patience=epochs, batch_size=BATCH, precision=precision)  # type: ignore[arg-type]


WAYS = ("recorded", "generated")


@contextmanager
def steps_are(way: str) -> Iterator[None]:
    """Inside, steps are recorded as they are written, or generated from the first on."""
    before = recording.PATIENCE
    recording.PATIENCE = 0 if way == "generated" else sys.maxsize
    try:
        yield
    finally:
        recording.PATIENCE = before


# -- a: parity ------------------------------------------------------------------------------------------------------


def plain_epoch(network: nn.Module, x: Tensor, y: Tensor, order: Tensor, lr: float = 3e-4) -> nn.Module:
    """An epoch of Adam as anybody would write it: batch norm frozen by evaluation mode."""
    mine = copy.deepcopy(network).requires_grad_(True).eval()
    optimiser = torch.optim.Adam(mine.parameters(), lr=lr)
    for rows in order.split(BATCH):
        optimiser.zero_grad()
        cross_entropy(mine(x[rows]), y[rows]).backward()
        optimiser.step()
    return mine


def moved_apart(a: nn.Module, b: nn.Module, start: nn.Module) -> float:
    """Distance of two fine-tuned networks as a share of how far the second has come from the start."""

    def flat(network: nn.Module) -> Tensor:
        return torch.cat([weight.detach().flatten().double() for weight in network.parameters()])

    return float((flat(a) - flat(b)).norm() / (flat(b) - flat(start)).norm())


def parity(card: Card) -> None:
    """In float64 the two are the same function; in less, as near as another order of summation is, or near enough."""
    count = 7 * BATCH + 45  # a short last batch too
    network, (x, y) = card.network(), card.points(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).to(card.device)
    probe, _ = card.points(256, seed=9)

    def fitted(way: str, precision: str, start: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        learner = Learner(start, card.recipe(precision), SHAPE)
        with steps_are(way):
            learner.fit(images, y, images[:1], y[:1], torch.Generator().manual_seed(1))
        return learner.network, learner.logits(probe.to(images.dtype))

    exact = copy.deepcopy(network).double()
    far = moved_apart(
        fitted("recorded", "float32", exact, x.double())[0], plain_epoch(exact, x.double(), y, order), exact
    )
    card.check(far <= 1e-6, f"float64: recorded against a plain loop, one epoch: apart by {far:.2g} of the way "
                f"(at most 1e-06)")  # fmt: skip
    expected = plain_epoch(network, x, y, order)
    other = plain_epoch(network.to(memory_format=torch.channels_last), x, y, order)
    floor = moved_apart(other, expected, network)
    with torch.no_grad():
        labels = expected(probe).argmax(1)
    card.say(f"     float32: two plain loops in other memory layouts are apart by {floor:.2g} of the way")
    bounds = {"float32": max(2 * floor, 1e-3), "tf32": 0.3, "bfloat16": 0.6}
    for precision, way in [*((precision, "recorded") for precision in bounds), ("bfloat16", "generated")]:
        own, logits = fitted(way, precision, network, x)
        far, same = moved_apart(own, expected, network), float((logits.argmax(1) == labels).float().mean())
        card.check(far <= bounds[precision] and same >= 0.98,
                   f"{precision}: {way} against a plain loop in float32, one epoch: apart by {far:.2g} of the way "
                   f"(at most {bounds[precision]:.2g}), labels agree {same:.1%}")  # fmt: skip


def neighbours_agree(card: Card) -> None:
    scale = card.scale
    features = card.rng.random((scale.bank, 512), dtype=np.float32)
    features[scale.bank // 2 :] = features[: scale.bank - scale.bank // 2]  # every row twice: ties
    flat = Neighbours(features)
    device = DeviceNeighbours(flat, card.device)
    fresh = card.rng.random((scale.queries, 512), dtype=np.float32)
    tied = features[card.rng.integers(0, scale.bank, scale.queries)]
    for name, queries in (("random", fresh), ("tied", tied)):
        same = sum(bool(np.array_equal(flat.search(q, scale.k).ids, device.search(q, scale.k).ids)) for q in queries)
        card.check(same == len(queries), f"neighbours on the device equal faiss's: {same} of {len(queries)} {name} "
                    f"queries over {scale.bank} x 512, K {scale.k}")  # fmt: skip
    here, there = (card.seconds(lambda s=s: s.search(fresh[0], scale.k)) for s in (device, flat))
    card.say(f"     a neighbour query: {1000 * here:.2f} ms on the device, {1000 * there:.1f} ms by faiss on one core")


def probes_agree(card: Card) -> None:
    """Side by side as one by one, up to what one by one differs from itself where sums have no fixed order."""
    params = RMCParams(k=card.scale.k, epochs=1, patience=1, lr=3e-4, precision="float32")
    rmc = card.rmc(RMC, params, card.network())
    x, _ = card.points(6)

    def one_by_one() -> Tensor:
        return torch.cat([rmc.probe(x[i : i + 1]) for i in range(len(x))])

    rmc._lanes = lambda points: rmc._learner.lanes(1)
    alone, again = one_by_one(), one_by_one()
    rmc._lanes = lambda points: rmc._learner.lanes(min(points, 3))
    together = rmc.probe(x)
    spread = float(alone.std())
    floor, far = (float((alone - other).abs().max()) / spread for other in (again, together))
    same = bool((alone.argmax(1) == together.argmax(1)).all())
    bound = max(3 * floor, 2e-3)
    card.check(
        same and far <= bound,
        f"6 victims in 3 lanes against one by one: labels {'equal' if same else 'DIFFER'}, logits differ by {far:.2g} "
        f"of their spread (one by one twice: {floor:.2g}; at most {bound:.2g})",
    )


# -- b: where the time goes -----------------------------------------------------------------------------------------


def epochs(card: Card) -> None:
    x, y = card.points(8 * BATCH)
    for name, build in BUILDS.items() if card.scale is FULL else [("resnet20", resnet20)]:
        network = card.network(build)
        order = torch.arange(len(x), device=card.device)

        def loop(n: nn.Module = network, o: Tensor = order) -> object:
            return plain_epoch(n, x, y, o)

        card.say(f"     {name}: plain loop, float32   {1000 * card.seconds(loop):.1f} ms an epoch of 8 steps")
        generated = ("tf32", "bfloat16") if name == card.scale.network else ()
        ways = [*((precision, "recorded") for precision in ("float32", "tf32", "bfloat16")),
                *((precision, "generated") for precision in generated)]  # fmt: skip
        for precision, way in ways:
            learner = Learner(network, card.recipe(precision), SHAPE)
            generator = torch.Generator().manual_seed(1)

            def epoch(one: Learner = learner, draws: torch.Generator = generator) -> object:
                return one.fit(x, y, x[:1], y[:1], draws)

            with steps_are(way):
                start = time.perf_counter()
                epoch()
                first = time.perf_counter() - start
                taken = 1000 * card.seconds(epoch)
            card.say(
                f"     {name}: {way}, {precision:<9}   {taken:.1f} ms an epoch of 8 steps (the first: {first:.1f} s)"
            )
            target = {"bfloat16": 20.0, "tf32": 45.0}.get(precision)
            if name == "resnet18" and way == "generated" and target and card.device.type == "cuda":
                card.check(taken <= target, f"an epoch in {precision}: {taken:.1f} ms (at most {target:g})")


def reference_answer(card: Card, network: nn.Module, images: Tensor, labels: Tensor, features: Tensor) -> float:
    """Seconds of one answer by straightforward code: a loop over distances, a DataLoader, two fits in TF32."""
    from torch.utils.data import DataLoader, TensorDataset

    scale, mine = card.scale, copy.deepcopy(network).requires_grad_(True)
    optimiser = torch.optim.Adam(mine.parameters(), lr=3e-4)

    def fit(rows: Tensor) -> None:
        loader = DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=BATCH, shuffle=True)
        mine.train()
        for _ in range(scale.epochs):
            for a, b in loader:
                optimiser.zero_grad()
                cross_entropy(mine(a.to(card.device)), b.to(card.device)).backward()
                optimiser.step()
        mine.eval()

    def answer() -> None:
        x, _ = card.points(1, seed=3)
        with torch.no_grad():
            query = network.features(x).cpu()[0]  # type: ignore[operator]
        distances = [float(((row - query) ** 2).sum()) for row in features]
        fit(torch.tensor(distances).argsort()[: scale.k])
        with torch.no_grad():
            mine(x)
        fit(torch.randint(len(images), (scale.k,)))

    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, True
    try:
        answer()
        card.wait()
        start = time.perf_counter()
        answer()
        card.wait()
        return time.perf_counter() - start
    finally:
        cudnn.allow_tf32 = before


def answers(card: Card) -> None:
    scale, network = card.scale, card.network()
    x, _ = card.points(1)
    count = min(scale.bank, 20_000)  # the bank of the public code
    images, labels = card.points(count, seed=2)
    with torch.no_grad():
        width = network.features(images[:1]).shape[1]
    features = torch.from_numpy(card.rng.random((count, width), dtype=np.float32))
    theirs = reference_answer(card, network, images.cpu(), labels.cpu(), features)
    card.say(f"     reference answer, bank {count}, TF32   {1000 * theirs:.0f} ms")
    for precision, way in (("float32", "recorded"), ("tf32", "generated"), *(("bfloat16", way) for way in WAYS)):
        params = RMCParams(k=scale.k, epochs=scale.epochs, patience=scale.epochs, lr=3e-4, precision=precision)
        rmc = card.rmc(RMC, params, network)
        with steps_are(way):
            ours = card.seconds(lambda one=rmc: one.predict(x), rounds=2)
        card.say(f"     RMC answer, bank {scale.bank}, {precision}, {way}   {1000 * ours:.0f} ms, {theirs / ours:.1f} "
                  f"times faster than the reference")  # fmt: skip
        if (precision, way) == ("bfloat16", "generated") and card.device.type == "cuda":
            card.check(ours <= 0.25, f"an RMC answer: {1000 * ours:.0f} ms (at most 250)")
            card.check(theirs / ours >= 4, f"{theirs / ours:.1f} times faster than the reference (at least 4)")


# -- c: the rest ----------------------------------------------------------------------------------------------------


def lanes(card: Card) -> None:
    scale = card.scale
    params = RMCParams(k=scale.k, epochs=scale.epochs, patience=scale.epochs, precision="bfloat16")
    rmc = card.rmc(RMC, params, card.network())
    x, _ = card.points(scale.victims)
    alone = 0.0
    for count in (1, 2, 4, 8):
        rmc._lanes = lambda points, most=count: rmc._learner.lanes(min(points, most))
        with steps_are("generated"):
            rmc.probe(x[: 2 * count])
            card.wait()
            start = time.perf_counter()
            rmc.probe(x)
            card.wait()
            taken = time.perf_counter() - start
        alone = alone or taken
        card.say(f"     {scale.victims} victims by probe in {count} lanes: {taken:.2f} s, {alone / taken:.2f} times "
                  f"one by one")  # fmt: skip


def plus(card: Card) -> None:
    scale = card.scale
    params = RMCPlusParams(
        k=scale.k, epochs=scale.epochs, patience=scale.epochs, precision="bfloat16", eps=8 / 255, delta=1.0
    )
    rmc, (x, _) = card.rmc(RMCPlus, params, card.network()), card.points(1)
    with steps_are("generated"):
        taken = card.seconds(lambda: rmc.predict(x))
    card.say(f"     RMC+ answer, delta 1, 20 steps   {1000 * taken:.0f} ms")
    if card.device.type == "cuda":
        card.check(taken <= 0.4, f"an RMC+ answer: {1000 * taken:.0f} ms (at most 400)")


def training(card: Card) -> None:
    scale = card.scale
    with tempfile.TemporaryDirectory() as folder:
        for name, count, more in (
            ("regular", scale.train, {}),
            ("pgd-at", scale.train // 5, {"eps": 8 / 255}),
        ):
            cls = registry.defenses.load(name)
            model = f"cifar-{scale.network}"
            base = cls(cls.Params(model=model, epochs=2, batch_size=BATCH, augment=True, precision="bfloat16", **more))
            stamps: list[float] = []

            def report(line: str, into: list[float] = stamps) -> None:
                card.wait()
                into.append(time.perf_counter())

            context = Context(0, 0, card.device, Cache(Path(folder)), f"{name}0", report)
            network = card.network().requires_grad_(True)
            base.train(card.task(count), network, context)
            taken = stamps[-1] - stamps[-2]
            card.say(f"     {name}: an epoch of {count} images, bfloat16   {taken:.2f} s")
            if name == "regular" and card.device.type == "cuda":
                card.check(taken <= 2.5, f"an epoch of {count}: {taken:.2f} s (at most 2.5)")


def augmented_set(card: Card) -> None:
    steps = 10
    network = card.network()

    class Given:
        """A base whose network is at hand."""

        def __init__(self) -> None:
            self.network = network

    for precision, way in (("float32", "recorded"), *(("bfloat16", way) for way in WAYS)):
        count = 100 if card.scale is TINY else 2048 if precision == "float32" else 8192  # 8192: a piece of a job
        task = card.task(count)
        with tempfile.TemporaryDirectory() as folder, steps_are(way):
            context = Context(0, 0, card.device, Cache(Path(folder)), "0")
            recipe = BankRecipe((steps,), eps=8 / 255, precision=precision)  # type: ignore[arg-type]
            builder = BankBuilder(recipe, task, Given(), context)  # type: ignore[arg-type]
            builder._copies(np.arange(count), 0)
            card.wait()
            start = time.perf_counter()
            builder._copies(np.arange(count), 0)
            card.wait()
            rate = count * steps / (time.perf_counter() - start)
        card.say(f"     augmented set in {precision}, {way}: {rate:,.0f} image-steps a second")
        if (precision, way) == ("bfloat16", "recorded") and card.device.type == "cuda":
            card.check(rate >= 60_000, f"{rate:,.0f} image-steps a second (at least 60,000)")


def played(card: Card) -> None:
    """A run from command to rows, on the embedded digits: its rows on the device against a CPU's, and its share."""
    import bench as library

    with tempfile.TemporaryDirectory() as folder:
        sets = {"defense.k": 128, "defense.epochs": 1, "base.epochs": 4, "defense.bank_steps": 5}
        labels = {}
        for device in dict.fromkeys(("cpu", card.device.type)):
            result = library.run(
                "rmc", "pgd", n=12, sets=sets, db=f"sqlite:///{folder}/{device}.db", device=device, workers=1
            )
            if result.status != "DONE":
                raise RuntimeError(result.reason)
            labels[device] = [
                (row["index"], row["attacked_answer"]) for row in result.to_pandas().to_dict("records")
            ] if library_has_pandas() else result.robust_accuracy.value  # fmt: skip
            if device == card.device.type:
                spent = result.seconds
                share = 100 * spent["harness"] / spent["total"]
                card.say(f"     a run of RMC on digits: harness {share:.1f} % of {spent['total']:.2f} s played")
        first, *others = labels.values()
        card.check(all(other == first for other in others), "a small run gives the CPU's answers")


def library_has_pandas() -> bool:
    from importlib.util import find_spec

    return find_spec("pandas") is not None


PARTS: dict[str, tuple[Callable[[Card], None], ...]] = {
    "a": (parity, neighbours_agree, probes_agree),
    "b": (epochs, answers),
    "c": (lanes, plus, training, augmented_set, played),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="a,b,c", help="parts, such as a,c")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device here; give --device cpu --tiny to try the checks", file=sys.stderr)
        return 2
    one_thread()
    plugins.load_all()
    card = Card(torch.device(options.device), TINY if options.tiny else FULL)
    name = torch.cuda.get_device_name(0) if options.device == "cuda" else "CPU"
    card.say(f"{name}, torch {torch.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}")
    start = time.perf_counter()
    for letter in options.only.split(","):
        for work in PARTS[letter.strip()]:
            with card.part(f"{letter}: {work.__name__}"):
                work(card)
    if options.device == "cuda":
        card.say(f"     peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    card.say(f"{time.perf_counter() - start:.0f} s; {len(card.failed)} checks failed")
    return int(bool(card.failed))


if __name__ == "__main__":
    sys.exit(main())

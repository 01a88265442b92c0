"""RMC: runtime masking and cleansing.

Wu, Yuan, Wu: Adversarial Robustness via Runtime Masking and Cleansing, ICML 2020; slides, and the authors' public code.
Before each answer the network is fine-tuned on the K nearest neighbours of the input in the augmented set D' (found by
theta_0's features), answers, and is then calibrated on K random points of D'. Weights and Adam's moments carry over.

Readings and deviations, each a parameter:
- `recipe`: `paper` has the paper's constants (CIFAR-10); `fast` (few epochs, larger step) is the default here.
- batch norm while adapting is frozen by default (`batch_norm`); the PyTorch re-implementation lets it train.
- the re-implementation stops only once the training loss is below 0.01 (`stop_train_loss`); off by default.
- calibration draws `calibrate_k` (0: K) points from all of D' (`calibrate_on`); the re-implementation draws from its
  clean part. Both with replacement.
- copies are PGD with step eps / 30 (`bank_step_size`), which reaches the ball's border in 40 steps at any eps; the
  paper's step is 1/255 at eps 8/255.
- the weights of the last epoch are kept, not those of the lowest validation loss (`restore_best`).
- weights are adapted in float32 (`precision`); the copies that the subclasses craft at runtime are made in the same.
- validation sets are held out of training also when no epoch can be stopped early, so that recipes see the same data;
  the loss on them is then not computed.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context, Defense, OnlineDefense, shallow_fork
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.values import Params, State
from defenses.bank import Bank
from defenses.bank_builder import BankBuilder, BankParams, BankRecipe, check_bank
from defenses.finetune import Learner, Recipe, TuningSet, side_by_side
from defenses.precision import Precision, computing


class AdaptationParams(Params):
    """k neighbours; the fine-tuning recipe (lr, epochs, patience, batch_size, ...); see bench.toml."""

    recipe: str = "fast"
    k: int = Field(default=1024, ge=1)
    lr: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    epochs: int = Field(default=2, ge=1)
    patience: int = Field(default=1, ge=1)
    batch_size: int = Field(default=128, ge=1)
    carry: bool = True
    nearest_share: float = Field(default=0.2, gt=0, le=1)
    validation_share: float = Field(default=0.25, ge=0, lt=1)
    calibrate_k: int = Field(default=0, ge=0)
    calibration_validation_share: float = Field(default=0.125, ge=0, lt=1)
    restore_best: bool = False
    stop_train_loss: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    calibrate_on: Literal["all", "clean"] = "all"
    batch_norm: Literal["frozen", "train"] = "frozen"
    precision: Precision = "float32"


class RMCParams(AdaptationParams, BankParams):
    """How the weights are adapted, and how D' is made."""


class RMC(OnlineDefense):
    """Adapts its weights to the neighbours of every input before it answers."""

    Params: ClassVar[type[Params]] = RMCParams
    not_unrolled: ClassVar[str] = "which neighbours it adapts to is a choice, not a function of its input"
    randomised: ClassVar[bool] = True
    recipe_family: ClassVar[str] = "rmc"

    _bank: Bank
    _features: nn.Module
    _learner: Learner
    _device: torch.device
    _classes: int
    _t: int

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        check_bank(params, facts, params.copies)

    def _builder(self, task: Task, base: Defense | None, context: Context) -> BankBuilder:
        assert isinstance(base, Base)
        return BankBuilder(self._bank_recipe(), task, base, context)

    def _bank_recipe(self) -> BankRecipe:
        recipe: BankRecipe = self.params.bank_recipe()
        return recipe

    def pieces(self, task: Task, base: Defense | None, context: Context) -> list[str]:
        return self._builder(task, base, context).missing()

    def prepare(self, task: Task, base: Defense | None, context: Context, piece: str) -> None:
        self._builder(task, base, context).make_piece(piece)

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._bank = self._builder(task, base, context).build(self.params.probes)
        self._features = base.network
        recipe = Recipe(**{field.name: getattr(self.params, field.name) for field in fields(Recipe)})
        self._learner = Learner(base.network, recipe, task.facts.image_shape)
        self._device = context.device
        self._classes = task.facts.num_classes
        self._t = 0
        self.noise_key = context.noise_key

    def answer_one(self, x: Tensor) -> Tensor:
        rows, data = self._neighbourhood(x, self.noise_key)
        self._start(self._learner)
        self._fine_tune([self._learner], [data])
        logits = self._learner.logits(x)
        self._replace(rows)
        self._calibrate()
        self._t += 1
        return logits

    def probe(self, x: Tensor, draw: int | None = None, company: Tensor | None = None) -> Tensor:
        """As the contract says, without calibration and replacement, which only later points feel.

        All points start from one state, so several are adapted at the same time if the device gains by it.
        """
        noise_key = self.noise_of(draw)
        answers: list[Tensor] = []
        while len(answers) < len(x):
            learners = self._lanes(len(x) - len(answers))
            points = x[len(answers) : len(answers) + len(learners)].split(1)
            with self._learner.pace.measured(len(learners)):
                sets = [self._neighbourhood(point, noise_key)[1] for point in points]
                for learner in learners:
                    learner.become(self._learner)
                    self._start(learner)
                self._fine_tune(learners, sets)
                answers += [learner.logits(point) for learner, point in zip(learners, points, strict=True)]
        return torch.cat(answers)

    def _lanes(self, points: int) -> list[Learner]:
        """Learners to adapt the next of this many points with: one on a CPU, several on a GPU that gains by it."""
        return self._learner.lanes(self._learner.pace.count(points))

    def _start(self, learner: Learner) -> None:
        if not self.params.carry:
            learner.reset()

    def _neighbourhood(self, x: Tensor, noise_key: int) -> tuple[NDArray[np.int64], TuningSet]:
        """The neighbours of x (1, C, H, W): their rows, nearest first, and what is fine-tuned on."""
        params = self.params
        rows = self._bank.search(features_of_one(self._features, x), params.k).ids
        draws = generator(noise_key, "adapt", self._t)
        nearest = max(int(params.nearest_share * len(rows)), 1)  # an approximate index may find fewer than k
        aside = int(params.validation_share * nearest)
        shuffled = torch.randperm(nearest, generator=draws).numpy()
        training = np.concatenate([rows[shuffled[aside:]], rows[nearest:]])
        return rows, self._split(self._bank, training, rows[shuffled[:aside]], draws)

    def _calibrate(self) -> None:
        """The same loop on K random points of D', an eighth of them for validation."""
        params = self.params
        if not params.carry:
            return  # the next answer starts from theta_0 anyway
        draws = generator(self.noise_key, "calibrate", self._t)
        bank = self._bank.frozen() if params.calibrate_on == "clean" else self._bank
        count = params.calibrate_k or params.k
        most = bank.clean if params.calibrate_on == "clean" else len(bank)
        rows = torch.randint(most, (count,), generator=draws).numpy()
        aside = int(params.calibration_validation_share * count)
        self._fine_tune([self._learner], [self._split(bank, rows[aside:], rows[:aside], draws)])

    def _split(
        self, bank: Bank, training: NDArray[np.int64], held_out: NDArray[np.int64], draws: torch.Generator
    ) -> TuningSet:
        """Rows of the bank to train on and to validate on, as images."""
        x, y = self._training_points(bank, training, draws)
        watching = self._learner.recipe.watches and len(held_out)
        x_val, y_val = self._points(bank, held_out) if watching else (x[:1], y[:1])
        return TuningSet(x, y, x_val, y_val, draws)

    def _fine_tune(self, learners: list[Learner], sets: list[TuningSet]) -> None:
        self.adaptation_steps += sum(side_by_side(list(zip(learners, sets, strict=True))))

    def _training_points(self, bank: Bank, rows: NDArray[np.int64], draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images and labels to fine-tune on, from rows of the bank: the rows themselves."""
        return self._points(bank, rows)

    def _points(self, bank: Bank, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        images = bank.pixels(rows, self._device)
        return images, torch.from_numpy(bank.labels[rows]).to(self._device)

    def _replace(self, rows: NDArray[np.int64]) -> None:
        """Called between an answer and its calibration. RMC+ replaces rows here; RMC does nothing."""

    def neighbour_labels(self, x: Tensor) -> list[dict[str, list[int]]]:
        points = (features_of_one(self._features, point) for point in x.split(1))
        return [self._bank.histograms(feature, self.params.k, self._classes) for feature in points]

    def neighbour_images(self, x: Tensor, count: int) -> list[dict[str, tuple[Tensor, list[int]]]]:
        return [self._bank.shown(features_of_one(self._features, point), count) for point in x.split(1)]

    def snapshot(self) -> State:
        return State(self._learner.tensors(), {"t": self._t})

    def restore(self, state: State) -> None:
        self._learner.load(state.tensors)
        self._t = int(state.facts["t"])

    def fork(self, noise_key: int | None = None) -> RMC:
        twin: RMC = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        twin._learner = self._learner.fork()
        return twin

    def proxy(self) -> nn.Module:
        """theta_t: the network after the last calibration (theta_0 if the weights do not carry over)."""
        if not self.params.carry:
            return frozen_copy(self._features)
        return self._learner.frozen()

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        """Adapted to the last point of x (B, C, H, W), which alone is answered by it; before the calibration."""
        _, data = self._neighbourhood(x[-1:], self.noise_of(draw))
        twin = self._learner.fork()
        self._start(twin)
        self._fine_tune([twin], [data])
        return twin.frozen()


def features_of_one(network: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """Features (D,) of one image x (1, C, H, W); unpadded: an online defense serves one point at a time."""
    with torch.no_grad(), computing("float32"):
        features: NDArray[np.float32] = network.features(x).cpu().numpy()[0]  # type: ignore[operator]
    return features

"""A refusal is no wrong answer, and saves nothing that is not answered right clean: criterion, metrics, attacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import bench as library
from bench.analysis.metrics import Sharing, answered_right, clean_accuracy, detection_rate, false_rejections
from bench.contracts import DefenseInfo, labels_of, with_refusal
from bench.contracts.oracle import SURE, Reply, folded, margins
from bench.errors import AccessDenied
from bench.game.oracle import UNANSWERED, GameOracle
from bench.rows import REFUSED, Row, is_fooled, is_right
from bench.threat import ThreatModel
from tests.conftest import Bench, sets
from tests.planted import Wrapped

ALONE = Sharing("", False)


def row(answer: int, clean: int | None, index: int = 0) -> Row:
    return Row(0, index, index, 3, answer, clean, {"linf": 0.1}, "", "x", "adv", 0, 0, 0, 0, 0, None, None, 0.0, 0.0)


def test_an_attack_succeeds_where_the_answer_is_wrong_and_not_refused() -> None:
    assert is_right(row(3, 3), None, None) is True and is_right(row(4, 3), None, None) is False
    assert is_right(row(REFUSED, 3), None, None) is True, "refused under attack, answered right without"
    assert is_right(row(REFUSED, REFUSED), None, None) is False, "who refuses the clean image has saved nothing"
    assert is_right(row(REFUSED, 4), None, None) is False
    assert is_right(row(REFUSED, None), None, None) is None and is_right(row(REFUSED, None), None, 3) is True
    assert [is_fooled(row(answer, 3)) for answer in (3, 4, REFUSED)] == [False, True, False]
    far = replace(row(4, REFUSED), distances={"linf": 0.5})
    assert is_right(far, ("linf", 0.3), None) is False, "beyond the budget the clean image is served, and refused"


def test_rejections_and_detections_are_metrics_of_their_own() -> None:
    rows = [row(REFUSED, 3, 0), row(REFUSED, REFUSED, 1), row(3, 3, 2), row(4, 3, 3)]
    rows.append(replace(row(REFUSED, REFUSED, 4), adv_sha256="x"))  # its image is the clean one
    assert answered_right(rows) == {(0, 0): True, (0, 1): False, (0, 2): True, (0, 3): False, (0, 4): False}
    refused, detected, clean = (
        false_rejections(rows, ALONE, {}),
        detection_rate(rows, ALONE),
        clean_accuracy(rows, ALONE, {}),
    )
    assert refused is not None and detected is not None and clean is not None
    assert (refused.value, detected.value, clean.value) == (2 / 5, 2 / 4, 3 / 5)


def test_logits_say_what_is_refused_and_attackers_see_it_as_no_success() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0]])
    answers = with_refusal(logits, torch.tensor([-1.0, 0.5]))
    assert labels_of(answers, 3) == [0, REFUSED] and labels_of(logits, 3) == [0, 1]
    assert labels_of(with_refusal(logits, torch.zeros(2)), 3) == [0, 1], "at the threshold it answers"
    y = torch.tensor([1, 0])
    assert torch.equal(folded(logits, y, 3), logits)
    assert torch.allclose(margins(folded(answers, y, 3), y), torch.tensor([-1.0, 0.5])), "fooled alone where accepted"
    reply = Reply.of(answers, y, 3)
    assert reply.refused.tolist() == [False, True] and torch.equal(reply.logits[0], logits[0])
    assert reply.logits[1].tolist() == [SURE, 0.0, 0.0], "nothing of the scores of a refused image is told"


class RefusesNearCopies(nn.Module):
    """Stands for an online defense: it answers 0 or 1 by the first pixel, and refuses what it was sent before."""

    kind = "online"
    account = 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bytes]] = []

    def predict(self, x: Tensor) -> Tensor:
        key = x.numpy().tobytes()
        known = key in [image for _, image in self.seen]
        self.seen.append((self.account, key))
        first = x[:, 0, 0, 0]
        return with_refusal(torch.stack([1 - first, first], 1), torch.tensor([1.0 if known else -1.0]))


def asked(**threat: object) -> tuple[GameOracle, RefusesNearCopies]:
    deployed = RefusesNearCopies()
    model = ThreatModel(eps=0.3, queries=5, queries_served=True, **threat)  # type: ignore[arg-type]
    oracle = GameOracle(
        model, DefenseInfo("d", "online", True, False, True), classes=2, trained=nn.Flatten(),
        deployed=deployed, fresh=lambda key: deployed, serve=deployed.predict,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    oracle.begin(torch.zeros(2, 1, 2, 2), torch.tensor([0, 0]), [7, 8])
    return oracle, deployed


def test_accounts_differ_by_example_and_are_closed_by_a_refusal_where_the_threat_says_so() -> None:
    oracle, deployed = asked(accounts=2, bans=True)
    image = torch.full((1, 1, 2, 2), 0.9)
    assert not oracle.ask(image, [0]).refused[0] and oracle.ask(image, [0]).refused[0]
    assert oracle.queries_left(0) == 3, "the second account is open"
    assert oracle.ask(image, [0]).refused[0] and oracle.queries_left(0) == 0 and oracle.queries_left(1) == 5
    with pytest.raises(AccessDenied, match="All 2 accounts of the attacker are closed"):
        oracle.ask(image, [0])
    oracle.ask(image, [1])
    accounts = [account for account, _ in deployed.seen]
    assert accounts[0] == accounts[1] != accounts[2] and len(set(accounts)) == 3 and 0 not in accounts
    assert deployed.account == 0, "what is served besides queries is of no attacker's account"


def test_the_account_is_given_back_where_an_answer_raises() -> None:
    oracle, deployed = asked()

    def fails(x: Tensor) -> Tensor:
        raise ValueError("broken")

    oracle._serve = fails
    with pytest.raises(ValueError, match="broken"):
        oracle.ask(torch.zeros(1, 1, 2, 2), [0])
    assert deployed.account == 0


def test_an_attacker_may_change_the_account_while_there_is_another() -> None:
    oracle, deployed = asked(accounts=2)
    oracle.ask(torch.zeros(1, 1, 2, 2), [0])
    assert oracle.change_account(0) and not oracle.change_account(0)
    oracle.ask(torch.ones(1, 1, 2, 2), [0])
    assert len({account for account, _ in deployed.seen}) == 2 and oracle.queries_left(0) == 3


def test_an_answer_to_a_served_query_is_the_answer_to_that_image() -> None:
    oracle, _ = asked()
    image = torch.full((1, 1, 2, 2), 0.9)
    oracle.ask(image, [0])
    labels = oracle.answered(torch.cat([image, image]))
    assert labels is not None and labels.tolist() == [1, UNANSWERED]


class RefusesAll(Wrapped):
    """A detector that accepts nothing."""

    abstains: ClassVar[bool] = True

    def answer(self, x: Tensor) -> Tensor:
        return with_refusal(super().answer(x), torch.ones(len(x)))

    def proxy(self) -> nn.Module:
        return _WithRefusal(super().proxy(), 1.0)


class RefusesNothing(RefusesAll):
    """A detector that detects nothing."""

    def answer(self, x: Tensor) -> Tensor:
        return with_refusal(Wrapped.answer(self, x), -torch.ones(len(x)))

    def proxy(self) -> nn.Module:
        return _WithRefusal(Wrapped.proxy(self), -1.0)


class _WithRefusal(nn.Module):
    def __init__(self, network: nn.Module, excess: float) -> None:
        super().__init__()
        self.network, self.excess = network, excess

    def forward(self, x: Tensor) -> Tensor:
        return with_refusal(self.network(x), torch.full((len(x),), self.excess))


def test_who_refuses_everything_is_robust_nowhere_and_who_refuses_nothing_is_its_base(bench: Bench) -> None:
    library.register_defense("refuses-all", RefusesAll)
    library.register_defense("refuses-nothing", RefusesNothing)
    done = bench(
        "run", "--defense", "refuses-all", "--defense", "refuses-nothing", "--defense", "regular", "--attack", "pgd",
        "--attack", "pgd-skip", "-n", "20", "--set", "base.epochs=5", "--workers", "1", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    runs = {(run["defense"], run["attack"]): run for run in done.runs}
    for attack in ("pgd", "pgd-skip"):
        everything = runs["refuses-all", attack]
        assert everything["robust_accuracy"]["value"] == everything["clean_accuracy"]["value"] == 0.0
        assert everything["false_rejections"]["value"] == everything["detection_rate"]["value"] == 1.0
        nothing, base = runs["refuses-nothing", attack], runs["regular", attack]
        assert nothing["robust_accuracy"]["value"] == base["robust_accuracy"]["value"]
        assert nothing["false_rejections"]["value"] == nothing["detection_rate"]["value"] == 0.0
        assert "false_rejections" not in base


def test_refusals_reach_table_export_verify_and_page(bench: Bench) -> None:
    run = (
        "run",
        "--defense",
        "squeeze-detect",
        "--attack",
        "pgd",
        "-n",
        "20",
        *sets(base__epochs=5, defense__false_rejections=0.5),
    )
    done = bench(*run, "--workers", "1")
    assert done.code == 0, done.err
    assert " % of clean images, of attacked images " in done.out
    (ours,) = bench(*run, "--workers", "1", "--json").runs
    (exported,) = json.loads(bench("export", ours["run"], "--format", "json").out)
    examples = exported["examples"]
    refused = [one["attacked_answer"] == REFUSED for one in examples]
    assert ours["detection_rate"]["value"] == sum(refused) / 20 and any(refused)
    verified = bench("verify", ours["run"])
    assert verified.code == 0, verified.out
    assert bench("leaderboard", "--out", "page").code == 0
    assert "Refuses %" in Path("page/index.html").read_text()

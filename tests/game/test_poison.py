"""Inputs of the attacker among those of other users: where they are served, who is judged, and what the others lose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks.greedy_poison import GreedyPoison
from attacks.poison import DIA, RTTDP, _Surrogate
from bench import plugins
from bench.analysis.harm import harm
from bench.analysis.metrics import Sharing
from bench.contracts import DefenseInfo
from bench.contracts.oracle import Oracle
from bench.draws import Draws
from bench.errors import AccessDenied, BadValue
from bench.game.oracle import Around, GameOracle
from bench.game.protocols.poison import Poison
from bench.game.resources import Resources
from bench.planning.spec import RunSpec
from bench.rows import Row
from bench.threat import ThreatModel
from tests.conftest import Bench, sets, spec_of
from tests.game.test_game import apart, facts, rows_of, stopped_after

PLUGIN = """
import torch
from bench import Attack, OnlineDefense, State, frozen_copy, register_attack, register_defense, shallow_fork

class Learner(OnlineDefense):
    '''Answers 0 to everything, once it has served three white images.'''
    learns = True
    def fit(self, task, base, context):
        self.net, self.noise_key, self.white = base.network, context.noise_key, 0
    def answer_one(self, x):
        with torch.no_grad():
            logits = self.net(x)
        self.white += int(self.learns and bool((x > 0.99).all()))
        return torch.eye(logits.shape[1])[:1] * 9 if self.white >= 3 else logits
    def snapshot(self):
        return State({}, {"white": self.white})
    def restore(self, state):
        self.white = state.facts["white"]
    def fork(self, noise_key=None):
        twin = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin
    def proxy(self):
        return frozen_copy(self.net)

class Deaf(Learner):
    '''The sound twin: nothing that it serves changes it.'''
    learns = False

class White(Attack):
    '''Sends white images.'''
    needs_gradients = False
    def perturb(self, oracle, x, y, draws):
        return torch.ones_like(x)

class Chain(Attack):
    '''Sends what it sent last, a little brighter: what it remembers must survive an interruption.'''
    needs_gradients = False
    heeds_replies = True
    def perturb(self, oracle, x, y, draws):
        sent, logits = oracle.received
        return (sent + 0.01 + 0.001 * logits.sigmoid().mean()).clamp(0, 1) if len(sent) else x

sends = {"weights": "none", "eps": 1.0, "share": 0.3, "place": "before"}
register_defense("learner", Learner)
register_defense("deaf", Deaf)
register_attack("white", White, preset=sends, free=("share", "place", "eps"), protocol="poison")
register_attack("chain", Chain, preset=sends, free=("share", "place"), protocol="poison")
"""


@pytest.fixture()
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "poisoned.py"
    path.write_text(PLUGIN)
    return str(path)


def spec_at(place: str, share: float, n: int = 10, batch: int = 0, size: int = 100) -> RunSpec:
    planned = spec_of("dent", "repeat", n=n, **{"threat.share": share, "threat.place": place})
    return replace(planned, test_size=size, game=replace(planned.game, batch=batch))


@pytest.mark.parametrize(
    ("place", "share", "batch", "turns"),
    [
        ("before", 0.5, 0, [(1, 0)] * 10 + [(0, 1)] * 10),
        ("before", 0.3, 0, [(1, 0)] * 5 + [(0, 1)] * 10),  # 4.3 inputs, rounded up
        ("before", 0.1, 4, [(4, 0), (0, 4), (0, 4), (0, 2)]),
        ("within", 0.25, 8, [(2, 6), (2, 4)]),
        ("within", 0.01, 4, [(1, 3), (1, 3), (1, 3), (1, 1)]),
        ("interleaved", 0.5, 0, [(1, 0), (0, 1)] * 10),
        ("interleaved", 0.25, 5, [(5, 0), (0, 5), (0, 5)]),
        ("interleaved", 0.2, 0, ([(1, 0)] + [(0, 1)] * 4) * 2 + [(1, 0), (0, 1), (0, 1)]),
    ],
)
def test_the_attackers_inputs_stand_where_the_threat_model_says(
    place: str, share: float, batch: int, turns: list[tuple[int, int]]
) -> None:
    given = spec_at(place, share, batch=batch)
    found = Poison().turns(given, 0)
    assert [(len(turn.attackers), len(turn.judged)) for turn in found] == turns
    judged = [place for turn in found for place in turn.judged]
    own = [place for turn in found for place in turn.attackers]
    assert judged == list(range(10)) and own == list(range(99, 99 - len(own), -1))
    assert Poison().places(given, 0) == [place for turn in found for place in (*turn.attackers, *turn.judged)]
    for turn in found:
        assert not turn.attackers or turn.others, "the attacker knows whom it harms"


def test_a_smaller_run_has_the_same_inputs_of_the_attacker() -> None:
    own = [[p for t in Poison().turns(spec_at("before", 0.5, n=n), 0) for p in t.attackers] for n in (5, 10)]
    assert own[1][:5] == own[0]


def test_what_cannot_be_played_is_refused_in_one_line(bench: Bench, plugin: str) -> None:
    def said(*args: str) -> str:
        done = bench("run", "--plugin", plugin, "--workers", "1", "-n", "8", *args)
        assert done.code != 0 or "SKIPPED" in done.out
        return done.err + done.out

    assert "threat.share is 0.3, and the protocol stream serves no attacker's inputs among" in said(
        "--defense", "learner", "--attack", "white", *sets(game__protocol="stream")
    )
    assert "threat.share is 0, and the protocol poison serves an attacker's inputs" in said(
        "--defense", "learner", "--attack", "pgd", *sets(game__protocol="poison")
    )
    assert "threat.share is 1.0; it is the attacker's share" in said(
        "--defense", "learner", "--attack", "white", *sets(threat__share=1.0)
    )
    assert "threat.place is 'behind'; it must be one of before, within, interleaved" in said(
        "--defense", "learner", "--attack", "white", *sets(threat__place="behind")
    )
    small = sets(base__epochs=3)
    assert "answers inputs one at a time" in said(
        "--defense", "learner", "--attack", "white", *small, *sets(threat__place="within")
    )
    assert "regular is static: no answer depends on what" in said("--defense", "regular", "--attack", "white", *small)
    assert "lower n or threat.share" in said(
        "--defense", "learner", "--attack", "white", *small, *sets(threat__share=0.99)
    )
    assert "rmc answers no batches" in said(
        "--defense", "rmc", "--attack", "dia", *small, *sets(defense__k=16, defense__epochs=1, defense__bank_steps=1)
    )
    assert "leaves no place for others" in said(
        "--defense", "dent", "--attack", "dia", *small, *sets(threat__share=0.97)
    )


def test_a_defense_that_learns_from_others_loses_and_its_deaf_twin_does_not(bench: Bench, plugin: str) -> None:
    found = {}
    for defense in ("learner", "deaf"):
        done = bench(
            "run", "--plugin", plugin, "--defense", defense, "--attack", "white", "-n", "40", "--json",
            "--workers", "1", *sets(base__epochs=8),
        )  # fmt: skip
        assert done.code == 0, done.err
        (found[defense],) = [run for run in done.runs if run["attack"] == "white"]
        assert bench("verify", "--plugin", plugin, found[defense]["run"]).code == 0
    lost = found["learner"]["harm"]["lost"]
    assert lost["value"] > 0.5 and lost["low"] > 0
    assert lost["value"] == pytest.approx(
        found["learner"]["clean_accuracy"]["value"] - found["learner"]["robust_accuracy"]["value"]
    )
    none = found["deaf"]["harm"]["lost"]
    assert none["value"] == 0 and none["low"] <= 0 <= none["high"]
    for run in found.values():
        assert run["n"] == 40 and run["violations"] == 0 and [flag["id"] for flag in run["flags"]] == ["poison"]
        assert run["harm"]["moments"][-1]["sent"] == 18 and "18 among them, before" in run["flags"][0]["message"]
    examples = json.loads(bench("export", found["learner"]["run"], "--format", "json").out)[0]["examples"]
    assert len(examples) == 40 and {one["distance"] for one in examples} == {0.0}
    shown = bench("run", "--plugin", plugin, "--defense", "learner", "--attack", "white", "-n", "40", "--workers", "1",
                  *sets(base__epochs=8)).out  # fmt: skip
    assert "other users lose" in " ".join(shown.split()) and "by 18 inputs" in " ".join(shown.split())


def test_images_beyond_the_radius_are_violations_of_the_attackers_inputs(bench: Bench, plugin: str) -> None:
    done = bench(
        "run", "--plugin", plugin, "--defense", "learner", "--attack", "white", "-n", "10", "--json", "--eps", "0.1",
        "--workers", "1", *sets(base__epochs=8),
    )  # fmt: skip
    assert done.code == 0, done.err
    (run,) = [run for run in done.runs if run["attack"] == "white"]
    assert run["violations"] == 5 and {flag["id"] for flag in run["flags"]} == {"V1", "poison"}
    assert run["harm"]["lost"]["value"] == 0, "the clean images were served instead"


@pytest.mark.parametrize(("attack", "place"), [("white", "interleaved"), ("chain", "interleaved"), ("chain", "before")])
def test_an_interrupted_game_goes_on_with_the_same_rows(
    resources: Resources, tmp_path: Path, plugin: str, attack: str, place: str
) -> None:
    plugins.load_all(files=(plugin,))
    spec = spec_of("learner", attack, n=12, threat__share=0.4, threat__place=place)
    whole = rows_of(resources, spec)
    assert len(whole) == 20 and sum(row.poison for row in whole) == 8
    own = apart(resources, tmp_path, chunk=1)
    for cut in (1, 3, 11):
        head, resume = stopped_after(own, spec, cut)
        tail = rows_of(Resources(own.settings), spec, 0, resume)
        assert facts(head + tail) == facts(whole)


def row(position: int, answer: int, label: int = 1, poison: bool = False) -> Row:
    made = Row(0, position, position, label, answer, None, {}, "", "x", "x", 0, 0, 0, 0, 0, None, None, 0.0, 0.0)
    return replace(made, poison=poison)


def test_harm_is_paired_with_the_clean_run_and_told_over_time() -> None:
    rows = [row(0, 0, poison=True), row(1, 1), row(2, 0, poison=True), row(3, 0), row(4, 2), row(5, 1)]
    clean = {(0, 1): 1, (0, 3): 1, (0, 4): 1, (0, 5): 0}
    found = harm(rows, clean, Sharing("stream", False))
    assert found is not None
    assert (found.lost.value, found.lost.only_b, found.lost.only_a) == (1 / 4, 2, 1)
    assert [(m.served, m.sent, m.instant, m.cumulative) for m in found.moments] == [
        (2, 1, 0, 0), (4, 2, 1, 1 / 2), (5, 2, 1, 2 / 3), (6, 2, -1, 1 / 4),
    ]  # fmt: skip
    assert harm(rows, {}, Sharing("stream", False)) is None
    assert harm([row(0, 1)], {(0, 0): 1}, Sharing("stream", False)) is None


def oracle(threat: ThreatModel, around: Around | None) -> GameOracle:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    made = GameOracle(
        threat, DefenseInfo("d", "batch", True, False), classes=3, trained=net, deployed=None,
        fresh=lambda key: None, around=around,
    )  # fmt: skip
    made.begin(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), [0, 1])
    return made


def test_the_oracle_shows_others_only_where_granted_and_only_among_others() -> None:
    around = Around.nothing(torch.rand(1, 1, 2, 2), torch.tensor([0]), 4)
    around.x, around.y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    blind = oracle(ThreatModel(share=0.5), around)
    with pytest.raises(AccessDenied, match=r"threat\.others is false"):
        _ = blind.others
    seeing: Oracle = oracle(ThreatModel(share=0.5, others=True), around)
    assert torch.equal(seeing.others[0], around.x) and torch.equal(seeing.others[1], around.y)
    assert [part.shape for part in seeing.received] == [(0, 1, 2, 2), (0, 3)]
    around.sent, around.labels = torch.rand(2, 1, 2, 2), torch.tensor([1, 2])
    around.logits = torch.tensor([[1.0, 2, 3, 0], [0, 0, 0, 5.0]])
    assert torch.equal(seeing.received[1], torch.tensor([[1.0, 2, 3], [0, 0, 100.0]])), "a refusal tells nothing else"
    with pytest.raises(AccessDenied, match="alone"):
        _ = oracle(ThreatModel(others=True), None).others


class _Meets(nn.Module):
    """Logits (B, 2) of a batch: how far each image is from the mean of the batch, so that company counts."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([flat.mean(1) - flat.mean(), torch.zeros(len(x))], 1)


class _Copy:
    def of_batches(self, through: int) -> nn.Module:
        return _Meets()


class _Given:
    """An oracle that grants a network of batches, and four others of class 0."""

    threat = ThreatModel(share=0.5, others=True, weights="adapted", bank=True, eps=1.0)
    others = (torch.full((4, 1, 2, 2), 0.8), torch.zeros(4, dtype=torch.int64))
    info = DefenseInfo("meets", "batch", True, False)

    def deployed(self) -> _Copy:
        return _Copy()


@pytest.mark.parametrize("goal", ["all", "one", "margins"])
def test_dia_moves_what_the_others_are_answered(goal: str) -> None:
    attack = DIA(DIA.Params(steps=200, goal=goal))
    x = torch.zeros(2, 1, 2, 2)
    sent = attack.perturb(_Given(), x, torch.zeros(2, dtype=torch.int64), Draws(0, "attack", [0, 1]))  # type: ignore[arg-type]
    assert bool((sent == 1).all()), "white images move the mean past the others"
    first = DIA(DIA.Params(steps=1, step_size=0.1)).perturb(
        _Given(),
        x,
        torch.zeros(2, dtype=torch.int64),
        Draws(0, "attack", [0, 1]),  # type: ignore[arg-type]
    )
    assert torch.allclose(first, torch.full_like(first, 0.6)), "it starts from grey where nothing bounds it"


class _Refuses(_Given):
    """Its network has a column for refusals, which dark images raise; the second class is raised by white ones."""

    info = DefenseInfo("meets", "batch", True, False, abstains=True)

    def deployed(self) -> _Copy:
        class Copy(_Copy):
            def of_batches(self, through: int) -> nn.Module:
                return _Columns()

        return Copy()


class _Columns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) * 0 + x.mean()
        return torch.stack([torch.zeros_like(bright), bright, -bright], 1)


@pytest.mark.parametrize("index", range(4))
def test_dia_moves_another_user_to_a_class_and_not_to_a_refusal(index: int) -> None:
    x = torch.zeros(2, 1, 2, 2)
    attack = DIA(DIA.Params(steps=200, goal="one"))
    draws = Draws(0, "attack", [index, index + 1])
    sent = attack.perturb(_Refuses(), x, torch.zeros(2, dtype=torch.int64), draws)  # type: ignore[arg-type]
    assert bool((sent == 1).all()), "there is one other class"


class _Remembers:
    """A copy that answers right until it has served an image of mean 0.7 three times, and is counted."""

    kind, batch_size, served = "online", 1, 0

    def __init__(self, seen: int = 0) -> None:
        self.seen = seen

    def fork(self) -> _Remembers:
        return _Remembers(self.seen)

    def predict(self, x: Tensor) -> Tensor:
        self.seen += int(abs(float(x.mean()) - 0.7) < 1e-3)
        return self.answers(x)

    def answers(self, x: Tensor) -> Tensor:
        return torch.tensor([[3.0, 0.0] if self.seen < 3 else [0.0, 3.0]]).expand(len(x), 2)


class _Shows:
    """An oracle that grants others of class 0: one image of mean 0.7, one of 0.9 and one of 0.5."""

    others = (torch.tensor([0.7, 0.9, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))

    def __init__(self, eps: float = 1.0, last: float | None = None) -> None:
        self.threat = ThreatModel(share=0.5, others=True, weights="adapted", bank=True, eps=eps, place="before")
        self.received = (torch.full((int(last is not None), 1, 2, 2), last or 0.0), torch.zeros(0, 2))

    def deployed(self) -> _Remembers:
        return _Remembers()


def test_greedy_poison_sends_what_it_saw_harm_others_on_a_copy() -> None:
    x, y = torch.full((1, 1, 2, 2), 0.1), torch.tensor([1])

    def sent(oracle: _Shows, **params: int) -> float:
        attack = GreedyPoison(GreedyPoison.Params(**params))
        return float(attack.perturb(oracle, x, y, Draws(0, "attack", [3])).mean())  # type: ignore[arg-type]

    assert sent(_Shows(), candidates=20) == pytest.approx(0.7), "an image of others, or the blend of the two"
    assert sent(_Shows(), candidates=20, ahead=2) == pytest.approx(0.1), "nothing harms so soon: its own image"
    assert sent(_Shows(last=0.3), candidates=20, ahead=2) == pytest.approx(0.3), "and then it goes on as it did"
    assert sent(_Shows(last=0.7), candidates=1) == pytest.approx(0.7)
    assert sent(_Shows(eps=0.2), candidates=20) == pytest.approx(0.1), "out of reach"


def test_greedy_poison_finds_what_repetition_does_not(bench: Bench, tmp_path: Path) -> None:
    """The learner is spoilt by images with ink at most places: no digit has so much, but blends of two have."""
    path = tmp_path / "blends.py"
    path.write_text(PLUGIN.replace("bool((x > 0.99).all())", "float((x > 0.02).float().mean()) > 0.61"))
    done = bench(
        "run", "--plugin", str(path), "--defense", "learner", "--attack", "repeat", "--attack", "greedy-poison", "-n",
        "20", "--json", "--workers", "1", *sets(base__epochs=8, threat__share=0.2, attack__victims=2),
    )  # fmt: skip
    assert done.code == 0, done.err
    lost = {run["attack"]: run["harm"]["lost"] for run in done.runs if run["attack"] != "clean"}
    assert lost["repeat"]["value"] == 0 and lost["greedy-poison"]["low"] > 0.3, lost
    (ours,) = [run for run in done.runs if run["attack"] == "greedy-poison"]
    assert ours["violations"] == 0 and bench("verify", "--plugin", str(path), ours["run"]).code == 0


@pytest.mark.parametrize(
    ("place", "abstains", "said"),
    [
        ("within", False, "give threat.place=before or"), ("before", True, "d refuses inputs, and a copy tells"),
        ("before", False, ""),
    ],
)  # fmt: skip
def test_greedy_poison_says_what_it_cannot_do(place: str, abstains: bool, said: str) -> None:
    threat = ThreatModel(share=0.5, others=True, weights="adapted", bank=True, eps=1.0, place=place)  # type: ignore[arg-type]
    reason = GreedyPoison().declines(threat, None, DefenseInfo("d", "batch", True, False, abstains))  # type: ignore[arg-type]
    assert said in str(reason) if said else reason is None


def test_rttdps_surrogate_follows_the_probabilities_that_came_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(16, 1, 8, 8)
    target = torch.tensor([[0.8, 0.1, 0.1]]).expand(16, 3)
    surrogate = _Surrogate(net, batched=True)
    gap = [float((target * (target / surrogate(x).softmax(1)).log()).sum())]
    surrogate.fit(x, target, 10, 1e-2)
    gap.append(float((target * (target / surrogate(x).softmax(1)).log()).sum()))
    assert gap[1] < gap[0]
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)
    assert torch.equal(_Surrogate(net, batched=True)(x), _Surrogate(net, batched=True)(x))


def test_rttdp_aims_at_the_next_class_or_away_from_its_own() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval().requires_grad_(False)
    x, y = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])

    class Grants:
        threat = ThreatModel(share=0.5, weights="trained", eps=0.3)
        received = (x[:0], torch.empty(0, 3))

        def model(self) -> nn.Module:
            return net

    for goal in ("balanced", "notch"):
        sent = RTTDP(RTTDP.Params(goal=goal)).perturb(Grants(), x, y, Draws(0, "attack", range(6)))  # type: ignore[arg-type]
        assert float((sent - x).abs().max()) <= 0.3 + 1e-6
        shares = [net(z).softmax(1) for z in (x, sent)]
        rows = torch.arange(6)
        if goal == "balanced":
            assert bool((shares[1][rows, (y + 1) % 3] > shares[0][rows, (y + 1) % 3]).all())
        else:
            assert float(shares[1][rows, y].mean()) < float(shares[0][rows, y].mean())


def test_a_threat_model_among_others_says_so_and_old_keys_hold() -> None:
    assert not {"share", "place", "others"} & set(ThreatModel().to_dict())
    threat = ThreatModel(share=0.05, others=True)
    assert threat.to_dict()["share"] == 0.05 and "place" not in threat.to_dict()
    assert "0.05 of all are the attacker's, sent within their batches; the attacker knows the others' inputs" in (
        threat.card()
    )
    with pytest.raises(BadValue, match=r"threat\.share is -0\.1"):
        ThreatModel(share=-0.1)

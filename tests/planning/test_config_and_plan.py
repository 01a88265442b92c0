from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import config, registry
from bench.config import tomllib
from bench.errors import BadValue, BenchError, UnknownName
from bench.planning.facts import facts_of
from bench.planning.plan import plan
from bench.planning.requests import Request, suite_requests
from tests.conftest import ROOT


def planned(*defenses: str, attacks: tuple[str, ...] = ("pgd",), toml: str = "", **request: Any) -> list[Any]:
    path = None
    if toml:
        path = Path("bench.toml")
        path.write_text(toml)
    found = plan([Request(defenses, attacks, **request)], config.load(path), facts_of(None))
    return [item.spec for item in found]


def test_the_shipped_bench_toml_holds_the_defaults() -> None:
    """One meaning, one place: the file that a user edits says what holds without it."""
    shipped = (ROOT / "bench.toml").read_text()
    assert shipped == config.starter() and tomllib.loads(shipped) == tomllib.loads(config.DEFAULTS.read_text())


def test_the_written_defaults_are_those_of_the_classes() -> None:
    defaults = tomllib.loads(config.DEFAULTS.read_text())
    for section, names in (("base", registry.defenses), ("defense", registry.defenses), ("attack", registry.attacks)):
        for name, values in defaults[section].items():
            fields = {
                key: names.load(name).Params.model_fields[key] for key in names[name].section_params().model_fields
            }
            by_recipe = set(defaults["recipe"].get("rmc", {}).get("fast", {})) if "recipe" in fields else set()
            assert set(values) | by_recipe >= set(fields), f"{section}.{name} leaves out {set(fields) - set(values)}"
            for key, value in values.items():
                assert fields[key].default == value, f"{section}.{name}.{key}"
    for name, entry in ((e.name, e) for e in registry.defenses):
        section = "base" if entry.base else "defense"
        assert name in defaults[section]


def test_a_wrapper_is_configured_by_its_own_section_and_by_that_of_the_attack_inside() -> None:
    toml = "[attack.eot]\nsamples = 3\n[attack.pgd-skip]\nsteps = 7\n"
    params = planned("rmc", attacks=("eot", "eot:bpda:pgd-skip"), toml=toml)
    assert [(spec.attack.params["samples"], spec.attack.params["steps"]) for spec in params] == [(3, 7), (3, 7)]
    with pytest.raises(UnknownName, match=r"key of \[attack.eot\]"):
        planned("rmc", attacks=("eot",), toml="[attack.eot]\nsteps = 7\n")


def test_a_recipe_that_is_asked_for_stands_above_the_tables_of_datasets() -> None:
    plain, paper, own = (
        planned("hedge", sets=sets)[0]
        for sets in ({}, {"defense.recipe": "paper"}, {"defense.recipe": "paper", "defense.steps": 3})
    )
    assert plain.defense.params["radius"] == 0.2  # the digits' own
    assert (paper.defense.params["radius"], paper.defense.params["steps"]) == (8 / 255, 20)
    assert (own.defense.params["radius"], own.defense.params["steps"]) == (8 / 255, 3)
    same = planned("hedge", sets={"defense.radius": 8 / 255, "defense.step_size": 0.007})[0]
    assert same.key == paper.key  # what is played counts, not how it was asked for
    with pytest.raises(UnknownName, match="recipe of hedge"):
        planned("hedge", sets={"defense.recipe": "fast"})
    with pytest.raises(UnknownName, match=r"defense\.recipe"):
        planned("regular", sets={"defense.recipe": "paper"})


#: constants of papers that are no defaults here: what they cost is out of proportion, or a model of ours stands in
OWN_DEFAULTS = {"squeeze-detect": {"search"}, "purify": {"noise", "samples"}}


def test_the_defaults_of_a_defense_are_its_papers_constants() -> None:
    recipes = tomllib.loads(config.DEFAULTS.read_text())["recipe"]
    papers = {name: recipes[name]["paper"] for name in recipes if name != "rmc"}
    named = {"tent", "hedge", "ttc", "blacklight", "squeeze-detect", "input-transform", "random-transform", "purify"}
    assert named <= set(papers)
    for name, constants in papers.items():
        params = registry.defenses.load(name).Params().model_dump()
        differs = {key for key, value in constants.items() if not isinstance(value, dict) and params[key] != value}
        assert differs == OWN_DEFAULTS.get(name, set()), name


def test_layers_go_from_recipe_to_file_to_dataset_to_command_line() -> None:
    k = lambda **kw: planned("rmc", **kw)[0].defense.params["k"]  # noqa: E731
    assert k() == 512
    assert k(toml="[recipe.rmc.fast.digits]\nk = 100\n") == 100
    assert k(toml="[defense.rmc]\nk = 200\n") == 200
    assert k(toml="[defense.rmc]\nk = 200\n[dataset.digits.defense.rmc]\nk = 300\n") == 300
    assert k(toml="[defense.rmc]\nk = 200\n", sets={"defense.k": "400"}) == 400
    paper = planned("rmc", sets={"defense.recipe": "paper"})[0].defense.params
    assert (paper["lr"], paper["epochs"], paper["patience"], paper["k"]) == (2.5e-5, 100, 5, 512)
    assert paper["copies"] == 4
    own = planned("rmc", sets={"defense.recipe": "mine"}, toml="[recipe.rmc.mine]\nlr = 0.5\ncopies = 3\n")[0]
    assert (own.defense.params["lr"], own.defense.params["copies"]) == (0.5, 3)
    with pytest.raises(UnknownName, match="recipe of rmc"):
        planned("rmc", sets={"defense.recipe": "fats"})


def test_a_defense_has_a_radius_of_its_own_apart_from_the_threat() -> None:
    specs = planned("rmc", eps=("0.1", "2/10"))
    assert [spec.threat.eps for spec in specs] == [0.1, 0.2]
    assert {spec.defense.params["eps"] for spec in specs} == {0.2}
    assert planned("rmc", sets={"defense.eps": "8/255"})[0].defense.params["eps"] == 8 / 255


def test_the_cross_product_drops_what_is_the_same() -> None:
    specs = planned("regular", "rmc", attacks=("clean", "pgd"), bases=("regular",), eps=(0.1, 0.2), seeds=(0, 1))
    # clean has no radius: 2 defenses x (1 clean + 2 pgd) x 2 seeds
    assert len(specs) == 12 and len({spec.key for spec in specs}) == 12


def test_a_smaller_n_is_a_prefix_of_a_larger_and_seeds_choose_others() -> None:
    few, many = planned("regular", n=50)[0], planned("regular", n=200)[0]
    assert many.indices[:50] == few.indices and len(set(many.indices)) == 200
    assert planned("regular", n=50, seeds=(1,))[0].indices != few.indices


def test_a_key_applies_where_it_is_declared_and_leaves_other_cells_alone() -> None:
    plain = {spec.attack.name: spec.key for spec in planned("rmc", attacks=("pgd", "pgd-skip-delayed"))}
    moved = planned("rmc", attacks=("pgd", "pgd-skip-delayed"), sets={"threat.delay": "7", "game.p": "9"})
    keys = {spec.attack.name: spec.key for spec in moved}
    assert keys["pgd"] == plain["pgd"] and keys["pgd-skip-delayed"] != plain["pgd-skip-delayed"]
    delayed = next(spec for spec in moved if spec.attack.name == "pgd-skip-delayed")
    assert (delayed.threat.delay, delayed.game.params["p"]) == (7, 9)


def test_execution_does_not_enter_a_key_and_every_parameter_does() -> None:
    base = planned("rmc", attacks=("pgd-skip-delayed",))[0].key
    assert planned("rmc", attacks=("pgd-skip-delayed",), toml="[runner]\nchunk = 3\nworkers = 2\n")[0].key == base
    changes: list[dict[str, Any]] = [
        {"sets": {"defense.lr": "0.1"}}, {"sets": {"base.epochs": "3"}}, {"sets": {"base.seed": "3"}},
        {"sets": {"attack.steps": "3"}}, {"sets": {"game.p": "3"}}, {"sets": {"threat.delay": "3"}}, {"n": 99},
        {"sets": {"dataset.train_size": "1000"}}, {"seeds": (5,)}, {"eps": (0.11,)}, {"norm": "l2"},
    ]  # fmt: skip
    keys = {planned("rmc", attacks=("pgd-skip-delayed",), **change)[0].key for change in changes}
    assert len(keys | {base}) == len(changes) + 1


def test_runs_that_differ_by_seed_share_the_base_and_not_the_bank() -> None:
    a, b = planned("rmc", seeds=(0, 1))
    assert a.base_key == b.base_key and a.fit_key != b.fit_key
    assert planned("rmc")[0].craft_key == planned("deepnn")[0].craft_key  # crafted once for all runtime defenses


def test_the_order_of_a_static_defense_is_not_repeated() -> None:
    regular, rmc = planned("regular", "rmc", repeats=3)
    assert (regular.game.games, rmc.game.games) == (1, 3)
    assert regular.key == planned("regular")[0].key


def test_streams_are_paired_with_their_clean_run() -> None:
    request = [Request(("rmc",), ("pgd", "clean", "pgd-skip"))]
    items = {item.spec.attack.name: item for item in plan(request, config.load(None), facts_of(None))}
    assert items["pgd"].clean is not None and items["pgd"].clean.key == items["clean"].spec.key
    assert items["clean"].clean is None and items["pgd-skip"].clean is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"n": 0}, "n is 0; digits has 500 test points"),
        ({"n": 501}, "n is 501"),
        (
            {"sets": {"game.p": "450"}, "attacks": ("pgd-skip-delayed",)},
            r"p 450 \+ delay 40 \+ 20 victims a trial = 510",
        ),
        ({"sets": {"defense.kk": "3"}}, "Did you mean 'defense.k'"),
        ({"sets": {"treat.delay": "3"}, "attacks": ("pgd-skip-delayed",)}, "Did you mean 'threat.delay'"),
        ({"sets": {"threat.delay": "3"}}, "threat.delay is fixed by pgd"),
        ({"sets": {"threat.delay": "3"}, "attacks": ("pgd-skip",)}, "threat.delay is fixed by pgd-skip"),
        ({"sets": {"game.p": "3"}}, "game.p is fixed by the protocol stream"),
        ({"sets": {"game.protocol": "strem"}}, "Did you mean 'stream'"),
        ({"sets": {"game.protocol": "stream"}, "attacks": ("pgd-skip-delayed",)}, "no meaning in the protocol stream"),
        ({"sets": {"game.protocol": "replay"}, "attacks": ("pgd-skip",)}, "in the protocol replay there is none"),
        ({"sets": {"defense.k": "many"}}, "k in .defense.rmc. is 'many'"),
        ({"sets": {"defense.k": "0"}}, "k in .defense.rmc. is '0'"),
        ({"sets": {"defense.lr": "nan"}}, "lr is 'nan'"),
        ({"sets": {"threat.known": "1.5"}, "attacks": ("pgd-skip-partial",)}, "known is 1.5"),
        ({"sets": {"game.trials": "0"}, "attacks": ("pgd-skip",)}, "game.trials is '0'"),
        ({"sets": {"base.model": "resnet"}}, "No model is called 'resnet'"),
        ({"sets": {"dataset.train_size": "100000"}}, "1297 training points"),
        ({"bases": ("rmc",)}, "'rmc' is no base"),
        ({"norm": "l0", "attacks": ("pgd",), "eps": ("-3",)}, "eps is -3"),
        ({"norm": "l3"}, "threat.norm is 'l3'; it must be one of linf, l2, l1, l0"),
        ({"repeats": 2, "attacks": ("pgd-skip",)}, "set game.trials instead"),
        (
            {"sets": {"game.protocol": "stream", "threat.known": "1"}, "attacks": ("pgd-skip-partial",)},
            "a stream has none",
        ),
        ({"sets": {"game.protocol": "replay"}, "attacks": ("pgd-skip-partial",)}, "no meaning in the protocol replay"),
        ({"sets": {"threat.eps": "0.1"}}, "threat.eps is fixed by --eps"),
        ({"datasets": ("mnits",)}, "Did you mean 'mnist'"),
        ({"bases": ("regulr",)}, "Did you mean 'regular'"),
    ],
)
def test_a_wrong_request_is_one_line_that_says_what_to_do(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message) as error:
        planned("rmc", **{"attacks": ("pgd",), **request_})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[rnu]\nn = 3\n", "Did you mean 'run'"),
        ("[run]\nnn = 3\n", "Did you mean 'run.n'"),
        ("[runner]\nchunk = 0\n", "runner.chunk in bench.toml is 0"),
        ("[defense.rmcc]\nk = 3\n", "Did you mean 'defense.rmc'"),
        ("[defense.rmc]\nkk = 3\n", "Did you mean 'k'"),
        ("[suite.s]\ncells = [{defense = ['rmc'], atack = ['pgd']}]\n", "suite.s.cells.0.at"),
        ("not toml", "no TOML file"),
        ("[game]\npp = 3\n", "Did you mean 'p'"),
        ("[dataset.digts]\ntrain_size = 3\n", "Did you mean 'dataset.digits'"),
        ("[dataset.digits.game]\ntrails = 3\n", "Did you mean 'trials'"),
        ("[dataset.digits.threat]\ndelya = 3\n", "Did you mean 'delay'"),
        ("[dataset.digits.eps]\nlnf = 3\n", "Did you mean 'linf'"),
        ("[dataset.digits.base.regulr]\nlr = 3\n", "Did you mean 'dataset.digits.base.regular'"),
        ("[dataset.digits.base]\nregular = 3\n", "it is a section"),
        ("[recipe.rcm.fast]\nk = 3\n", "Did you mean 'recipe.rmc'"),
        ("[recipe.rmc.mine]\nkk = 3\n", "called 'kk'"),
        ("[recipe.rmc.mine.digts]\nk = 3\n", "Did you mean 'recipe.rmc.mine.digits'"),
        ("[attack.pgd-skip]\nstepz = 3\n", "Did you mean 'steps'"),
        ("[run]\nn = 'many'\n", "run.n in bench.toml is 'many'"),
    ],
)
def test_the_configuration_refuses_what_it_does_not_know(toml: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        planned("rmc", toml=toml)


def test_a_suite_is_its_cells_with_the_command_line_over_them() -> None:
    suites = config.load(None).suite
    requests = suite_requests("smoke", suites, Request((), (), n=7, sets={"game.p": "5"}))
    assert [request.n for request in requests] == [7, 7] and requests[1].sets["game.p"] == "5"
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        suite_requests("smok", suites, Request((), ()))
    with pytest.raises(BadValue, match=r"threat\.norm is 'l7'"):
        plan([Request(("regular",), ("pgd",), norm="l7")], config.load(None), facts_of(None))


def test_a_norm_without_a_default_radius_needs_one_on_the_command_line() -> None:
    own = config.load(None)
    radii = {norm: eps for norm, eps in own.dataset["digits"]["eps"].items() if norm != "l1"}
    bare = own.model_copy(update={"dataset": {**own.dataset, "digits": {**own.dataset["digits"], "eps": radii}}})
    with pytest.raises(BadValue, match=r"digits has no default radius for l1: set dataset\.digits\.eps\.l1"):
        plan([Request(("regular",), ("pgd",), norm="l1")], bare, facts_of(None))
    (given,) = plan([Request(("regular",), ("pgd",), norm="l1", eps=("4",))], bare, facts_of(None))
    assert given.spec.threat.eps == 4.0

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from bench import plugins, registry, source
from bench.errors import BadValue, BrokenPlugin, UnknownName
from tests import planted

SOUND = """
from bench import register_defense, register_attack
from tests.planted import Counting, Asker
register_defense("mine", Counting, version=3, summary="counts")
register_attack("asker", Asker, preset={"weights": "none", "queries": 2}, free=("queries",))
"""


def beside(tmp_path: Path, group: str, name: str, text: str) -> Path:
    (tmp_path / group).mkdir(exist_ok=True)
    (tmp_path / group / name).write_text(text)
    (tmp_path / "bench.toml").touch()
    return tmp_path / "bench.toml"


def test_built_ins_are_listed_by_name_and_known_without_an_import() -> None:
    assert {entry.name for entry in registry.defenses} >= {"regular", "deepnn", "rmc", "rmc-plus"}
    assert {entry.name for entry in registry.attacks} >= {"clean", "pgd", "pgd-skip", "pgd-skip-partial"}
    assert isinstance(registry.defenses["rmc"].target, str)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match=r"No attack is called 'pgd-skip-delay'. Did you mean 'pgd-skip-delayed'\?"):
        registry.attacks["pgd-skip-delay"]


def test_files_beside_the_configuration_are_plug_ins(tmp_path: Path) -> None:
    path = beside(tmp_path, "defenses", "mine.py", SOUND)
    beside(tmp_path, "defenses", "shared_code.py", "raise RuntimeError('is not a plug-in, must not be imported')")
    plugins.load_all(path)
    assert registry.defenses["mine"].version == 3 and registry.attacks["asker"].resolved().preset == {
        "weights": "none",
        "queries": 2,
    }
    assert plugins.broken_files == {}
    assert registry.defenses["mine"].origin.endswith("mine.py")


def test_without_a_configuration_the_files_of_the_working_directory_are_plug_ins(tmp_path: Path) -> None:
    beside(tmp_path, "defenses", "mine.py", SOUND).unlink()
    (tmp_path / "defenses" / "folder.py").mkdir()
    plugins.load_all()
    assert "mine" in registry.defenses and "asker" in registry.attacks and plugins.broken_files == {}
    plugins.load_installed()
    assert "mine" not in registry.defenses and "rmc" in registry.defenses
    (tmp_path / "elsewhere").mkdir()
    plugins.load_all(beside(tmp_path / "elsewhere", "attacks", "none.py", ""))
    assert "mine" not in registry.defenses  # a bench.toml elsewhere has folders of its own


def test_a_file_that_two_doors_lead_to_is_loaded_once(tmp_path: Path) -> None:
    toml = beside(tmp_path, "defenses", "mine.py", SOUND)
    plugins.load_all(toml, ("defenses/mine.py", str(tmp_path / "defenses" / "mine.py")))
    assert "mine" in registry.defenses and plugins.broken_files == {}


@pytest.mark.parametrize("name", ["", "a b", "eot:mine", "../mine", "-mine", "x" * 101, 3, None])
def test_a_name_that_no_command_line_could_hold_is_refused(name: object) -> None:
    with pytest.raises(BrokenPlugin, match="begins with a letter or a digit"):
        registry.register_defense(name, "tests.planted:Counting")  # type: ignore[arg-type]


def test_kinds_go_by_name() -> None:
    assert registry.kind_of("rmc") == "defense" and registry.kind_of("eot:pgd-skip") == "attack"
    with pytest.raises(UnknownName, match=r"No defense or attack is called 'rmcc'. Did you mean 'rmc'\?"):
        registry.kind_of("rmcc")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("register_defense(\n", "SyntaxError"),
        ("import nowhere\nregister_defense('x', 1)", "No module named 'nowhere'"),
        ("from bench import register_defense\nregister_defense('rmc', object)", "registered twice"),
        ("raise SystemError('two\\nlines')  # register_defense(", "SystemError: two lines"),
    ],
)
def test_a_broken_file_is_told_with_its_reason_and_breaks_nothing_else(tmp_path: Path, text: str, reason: str) -> None:
    beside(tmp_path, "defenses", "bad.py", text)
    plugins.load_all(beside(tmp_path, "defenses", "good.py", SOUND))
    ((path, told),) = plugins.broken_files.items()
    assert path.endswith("bad.py") and reason in told and "\n" not in told
    assert "mine" in registry.defenses and "rmc" in registry.defenses


def test_a_file_that_breaks_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    plugins.load_all(beside(tmp_path, "attacks", "half.py", SOUND + "1 / 0\n"))
    assert "mine" not in registry.defenses and "asker" not in registry.attacks
    assert "ZeroDivisionError" in next(iter(plugins.broken_files.values()))


def test_a_plug_in_that_is_asked_for_must_load(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("1 / 0")
    with pytest.raises(BrokenPlugin, match="ZeroDivisionError"):
        plugins.load_all(None, (str(bad),))
    with pytest.raises(BrokenPlugin, match="does not exist"):
        plugins.load_all(None, (str(tmp_path / "no.py"),))
    good = tmp_path / "good.py"
    good.write_text(SOUND)
    plugins.load_all(None, (str(good),))
    assert "mine" in registry.defenses


def test_an_edited_file_is_read_again_in_the_same_process(tmp_path: Path) -> None:
    """Also within a second, and of the same length: bytecode that lies beside it would not tell."""
    path = tmp_path / "level.py"
    seen = []
    for level in (1, 2):
        path.write_text(f"{SOUND}LEVEL = {level}\nclass Mine(Counting):\n    level = LEVEL\n"
                        "register_defense('level', Mine)\n")  # fmt: skip
        plugins.load_all(None, (str(path),))
        seen.append((registry.defenses.load("level").level, registry.defenses["level"].source_hash()))
    assert [level for level, _ in seen] == [1, 2] and seen[0][1] != seen[1][1]


def test_what_a_program_registers_stays_and_may_be_defined_anew() -> None:
    registry.register_defense("mine", planted.Counting, summary="first")
    plugins.load_all()
    assert registry.defenses.load("mine") is planted.Counting and registry.defenses.registered_here("mine")
    registry.register_defense("mine", planted.Counting, summary="again")  # its cell of a notebook, run again
    plugins.load_all()
    assert registry.defenses["mine"].summary == "again" and not registry.defenses.registered_here("rmc")
    with pytest.raises(BrokenPlugin, match="registered twice: by this program and by this program"):
        registry.register_defense("mine", planted.Batched)


def test_a_name_of_a_program_that_is_taken_is_said_once_and_costs_no_other() -> None:
    for names in registry.ALL:
        names.clear()  # a program registers before anything is loaded
    registry.register_defense("rmc", planted.Counting)
    registry.register_defense("mine", planted.Counting)
    with pytest.raises(BrokenPlugin, match="'rmc' is registered twice: by built-in and by this program"):
        plugins.load_all()
    plugins.load_all()
    assert isinstance(registry.defenses["rmc"].target, str) and "mine" in registry.defenses


def test_a_class_of_a_program_has_the_hash_that_its_file_has_as_a_plug_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own_defense.py"
    path.write_text("from tests.planted import Counting\nimport attacks.pgd, defenses.rmc\n"
                    "class Mine(Counting):\n    pass\n")  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.register_defense("mine", importlib.import_module("own_defense").Mine)
    own = registry.defenses["mine"].source_hash()
    path.write_text(path.read_text() + "# edited, and not registered again: the class is the one from before\n")
    plugins.load_all()
    assert registry.defenses["mine"].source_hash() == own
    for names in registry.ALL:
        names.clear()
    text = path.read_text().replace(path.read_text().splitlines(keepends=True)[-1], "")
    path.write_text(text + "from bench import register_defense\nregister_defense('mine', Mine)\n")
    plugins.load_all(None, (str(path),))
    as_plugin = registry.defenses["mine"].source_hash()
    registry.defenses.clear()
    monkeypatch.delitem(sys.modules, "own_defense")
    importlib.import_module("own_defense")
    assert registry.defenses["mine"].origin == registry.PROGRAM
    assert registry.defenses["mine"].source_hash() == as_plugin != own


def test_a_class_without_a_file_has_the_hash_of_its_code_and_of_what_it_captured() -> None:
    def made(step: float) -> type:
        namespace: dict[str, object] = {"__name__": "no_such_module", "Counting": planted.Counting}
        exec(f"STEP = {step}\nclass Mine(Counting):\n    def step(self):\n        return STEP\n", namespace)
        return namespace["Mine"]  # type: ignore[return-value]

    hashes = []
    for step in (0.1, 0.1, 0.2):
        registry.defenses.clear()
        registry.register_defense("mine", made(step))
        hashes.append(registry.defenses["mine"].source_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_class_is_found_by_the_one_name_that_it_has() -> None:
    from attacks.pgd import PGD
    from defenses.rmc import RMC

    assert registry.defenses.name_of(RMC) == "rmc"
    with pytest.raises(BadValue, match=r"PGD is registered as .*pgd, .*; give one of these names"):
        registry.attacks.name_of(PGD)
    with pytest.raises(BadValue, match=r"Counting is not registered; call bench.register_defense\(NAME, Counting\)"):
        registry.defenses.name_of(planted.Counting)


def test_entry_points_of_packages_are_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "bench.defenses": [
            EntryPoint("rmc", "tests.planted:Counting", "bench.defenses"),
            EntryPoint("packaged", "tests.planted:Counting", "bench.defenses"),
            EntryPoint("gone", "tests.nowhere:Gone", "bench.defenses"),
        ],
        "bench.attacks": [
            EntryPoint("asker", "tests.planted:Asker", "bench.attacks"),
            EntryPoint("lost", "tests.nowhere:Lost", "bench.attacks"),
        ],
    }
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints(points[group]))
    plugins.load_all()
    assert registry.defenses.load("packaged").__name__ == "Counting"
    assert registry.attacks.load("asker").__name__ == "Asker"
    assert any("registered twice" in reason for reason in plugins.broken_files.values())  # and breaks nothing else
    for names, name in ((registry.defenses, "gone"), (registry.attacks, "lost")):
        with pytest.raises(BrokenPlugin, match=r"No module named 'tests\.nowhere'"):
            names.load(name)


def test_the_source_hash_follows_imports_within_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hashed"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from hashed import b\nfrom . import c\nimport json\n")
    (package / "b.py").write_text("x = 1\n")
    (package / "c.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = set()
    for change in ("", "b.py", "c.py", "a.py"):
        if change:
            (package / change).write_text((package / change).read_text() + "# changed\n")
        source.module_hash.cache_clear()
        seen.add(source.module_hash("hashed.a"))
    assert len(seen) == 4
    source.module_hash.cache_clear()
    assert source.module_hash("defenses.rmc") != source.module_hash("defenses.deepnn")


def test_the_source_hash_follows_modules_of_the_harness_that_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that loses its mark by a move or a rename would leave every key without a word."""
    for name, marked in [
        ("bench.pgd", True), ("bench.norms", True), ("bench.models.resnet", True), ("bench.models.frozen", True),
        ("bench.draws", False), ("bench.pgd.pgd", True), ("bench.nowhere", False), ("torch", False),
    ]:  # fmt: skip
        assert source._shapes_rows(name) is marked, name
    read = source.Path.read_bytes
    followed = set()

    def noted(path: Path) -> bytes:
        followed.add(path.name)
        return read(path)

    source.module_hash.cache_clear()
    monkeypatch.setattr(source.Path, "read_bytes", noted)
    source.module_hash("attacks.pgd")
    source.module_hash("defenses.rmc")
    assert {"pgd.py", "norms.py", "bank.py", "frozen.py"} <= followed and "draws.py" not in followed
    source.module_hash.cache_clear()


@pytest.mark.parametrize("shaping", ["bench.pgd", "bench.norms"])
def test_the_source_hash_of_an_attack_holds_what_shapes_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shaping: str
) -> None:
    changed, found = tmp_path / "changed.py", source._source_path
    changed.write_text(found(shaping).read_text() + "# changed\n")
    before = source.module_hash("attacks.pgd")
    monkeypatch.setattr(source, "_source_path", lambda name: changed if name == shaping else found(name))
    source.module_hash.cache_clear()
    assert source.module_hash("attacks.pgd") != before
    source.module_hash.cache_clear()

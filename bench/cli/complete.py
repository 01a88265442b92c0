"""Shell completion of names.

It is fast because it imports no plug-in file: it reads the names that a file registers from its source. So a broken
file, or one that imports much, does not matter. Names that the file computes are not found.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.errors import BadValue, BenchError, UnknownName

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bench.registry import Registry

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

SHELLS = ("bash", "zsh", "fish")


def one_of(*values: str) -> Completer:
    """Completes to one of a few fixed values."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _items(dict.fromkeys(values, ""), incomplete)

    return complete


def names(*kinds: str) -> Completer:
    """Completes to names of these kinds: defense, base, attack, dataset, suite (one with runs), table (any suite)."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known: dict[str, str] = {}
        for kind in kinds:
            known.update(_suites(ctx, kind) if kind in ("suite", "table") else _registered(ctx, kind, incomplete))
        return _items(known, incomplete)

    return complete


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell to complete the path of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell to complete the path of a folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


@click.command()
@click.argument("shell", metavar="bash|zsh|fish", shell_complete=one_of(*SHELLS))
def completion(shell: str) -> int:
    """Print the script that completes commands, options and names in a shell.

    \b
    bash  bench completion bash > ~/.local/share/bash-completion/completions/bench
    zsh   bench completion zsh > a folder of $fpath/_bench
    fish  bench completion fish > ~/.config/fish/completions/bench.fish
    """
    from click.shell_completion import get_completion_class

    from bench.cli.main import COMPLETES, cli

    if shell not in SHELLS:
        raise UnknownName("shell", shell, SHELLS)
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(cli, {}, "bench", COMPLETES).source(), nl=False)
    return 0


def _items(known: dict[str, str], incomplete: str) -> list[CompletionItem]:
    """The names that begin with the typed text, without those that hold commas or blanks, where scripts split."""
    from click.shell_completion import CompletionItem

    plain = {name: text for name, text in known.items() if not any(c.isspace() or c == "," for c in name)}
    return [CompletionItem(name, help=plain[name] or None) for name in sorted(plain) if name.startswith(incomplete)]


def _registered(ctx: click.Context, kind: str, incomplete: str) -> dict[str, str]:
    """Names of a kind, with their summaries: of what is installed, and of the user's own files."""
    from bench import plugins, registry

    plugins.load_installed()
    summaries = {}
    known: dict[str, Registry] = {
        "defense": registry.defenses,
        "base": registry.defenses,
        "attack": registry.attacks,
        "dataset": registry.datasets,
    }
    for entry in known[kind]:
        if kind != "base" or entry.base:
            summaries[entry.name] = entry.summary
    for path in _files(ctx):
        summaries.update(_registered_in(path, kind))
    wrapper, colon, _ = incomplete.partition(":")
    if kind == "attack" and colon and wrapper in registry.attacks and registry.attacks[wrapper].wraps:
        return {f"{wrapper}:{name}": text for name, text in summaries.items()}
    return summaries


def _config_file(ctx: click.Context) -> Path | None:
    from bench.config import find

    try:
        return find(ctx.params.get("config"))
    except BadValue:  # the command itself will report that the file of --config does not exist
        return None


def _files(ctx: click.Context) -> list[Path]:
    """The plug-in files that the command would load."""
    from bench.plugins import files_beside

    return [*files_beside(_config_file(ctx)), *(Path(name) for name in ctx.params.get("plugins") or ())]


def _registered_in(path: Path, kind: str) -> dict[str, str]:
    """Names of a kind that the source of a file registers, with their summaries; {} if the file is no Python."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    summaries = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == f"register_{'defense' if kind == 'base' else kind}":
            given: dict[str, Any] = dict(zip(("name", "target"), node.args, strict=False))
            given.update({word.arg: word.value for word in node.keywords if word.arg})
            said = {name: value.value for name, value in given.items() if isinstance(value, ast.Constant)}
            name = said.get("name")
            if isinstance(name, str) and (kind != "base" or said.get("base") is True):
                summaries[name] = str(said.get("summary", ""))
    return summaries


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def configuration(ctx: click.Context) -> dict[str, Any]:
    """The configuration in use, as tables that nobody has checked; the defaults alone if its file cannot be read."""
    from bench.config import DEFAULTS, merge, read_toml

    values = read_toml(DEFAULTS)
    file = _config_file(ctx)
    if file is not None:
        with suppress(BenchError, OSError):  # the command will say what is wrong with it
            merge(values, read_toml(file))
    return values


def _suites(ctx: click.Context, kind: str) -> dict[str, str]:
    """The suites of the configuration in use, with their summaries."""
    values = configuration(ctx)
    suites = values["suite"] if isinstance(values["suite"], dict) else {}
    tables = {name: suite for name, suite in suites.items() if isinstance(suite, dict)}
    return {name: str(t.get("summary", "")) for name, t in tables.items() if kind == "table" or t.get("cells")}

"""Entry point: commands are imported when they are used, and every error of the user is one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bench.errors import BenchError, DiskError, one_line
from bench.interrupts import from_outside, interrupts_noted

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: characters of a message that are shown
LONGEST = 1000

#: the commands by what they are for: each with where it is and with its line of `bench --help`
GROUPS = {
    "Run": {
        "run": ("bench.cli.run:run", "Play attacks against defenses and store the results."),
        "audit": ("bench.cli.audit:audit", "Many attacks and checks: can the figure of a defense be believed?"),
        "train": ("bench.cli.data:train", "Train a base and print its accuracy."),
    },
    "Look": {
        "list": (
            "bench.cli.lists:list_things",
            "What exists: defenses, attacks, datasets, protocols, suites, runs.",
        ),
        "show": ("bench.cli.show:show", "One run, one example of it, or what a flag or check means."),
        "leaderboard": ("bench.cli.leaderboard:leaderboard", "Render the leaderboard as a site of HTML pages."),
        "plot": ("bench.cli.leaderboard:plot", "Draw a picture of the leaderboard into a file."),
        "report": ("bench.cli.report:report", "A suite's table beside the published figures."),
        "board": ("bench.cli.bundle:board", "A folder of bundles as a leaderboard."),
        "export": ("bench.cli.show:export", "Runs and examples as JSON, CSV or Parquet, and for other tools."),
    },
    "Check": {
        "verify": (
            "bench.cli.verify:verify",
            "Check stored images and labels, then play the games again and compare.",
        ),
        "merge": ("bench.cli.bundle:merge", "Check the runs of a bundle, and add them to the database."),
        "compare": ("bench.cli.verify:compare", "Two runs over the same inputs, by a paired test."),
        "check": ("bench.cli.check:check", "The contract, run against one plug-in."),
        "doctor": ("bench.cli.doctor:doctor", "Whether runs can work here, and what to do if they cannot."),
        "data": ("bench.cli.data:data", "Datasets: which files exist; fetch and verify them."),
        "cache": (
            "bench.cli.cache:cache",
            "The files beside the database: their size, and removing what is not needed.",
        ),
    },
    "Make": {
        "init": ("bench.cli.new:init", "Write a bench.toml with all defaults into this folder."),
        "bundle": ("bench.cli.bundle:bundle", "Finished runs as one file, for others to check and add."),
        "new": ("bench.cli.new:new", "Write a working example of a defense or an attack, with its test."),
        "completion": ("bench.cli.complete:completion", "The script that completes names in bash, zsh or fish."),
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from bench.errors import UnknownName

            raise UnknownName("command", args[0], COMMANDS, "bench --help")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone away: `bench list | head`; click would exit with 1
            _let_go_of_output()
            return 0

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and their texts, without importing any."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{longest}}", text) for name, (_, text) in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="adversarial-game-bench", prog_name="bench")
def cli() -> None:
    """Attack-defense evaluation for defenses that change while they serve.

    \b
    bench run --defense rmc --attack pgd-skip-delayed    a first run, on the embedded digits
    bench COMMAND --help                                 the options of a command, with examples
    """


#: a shell that completes names sets this variable
COMPLETES = "_BENCH_COMPLETE"


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a run failed, 2 the request was wrong, 75 the time
    limit passed and the same command goes on, 130 interrupted."""
    code = call(args)
    try:
        sys.stdout.flush()
    except OSError as error:
        _let_go_of_output()
        click.echo(f"bench: standard output: {error.strerror}", err=True)
        code = code or 1
    sys.exit(code)


def call(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with warnings.catch_warnings(), interrupts_noted():
        warnings.showwarning = _say_warning
        return _called(args)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """What our own code warns of, as one line; what others warn of, as Python has it."""
    own = Path(filename).is_relative_to(Path(__file__).parents[2]) and "site-packages" not in Path(filename).parts
    if own and issubclass(category, UserWarning | RuntimeWarning):
        click.echo(f"bench: {' '.join(str(message).split())}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno, line), err=True, nl=False)


def _called(args: Sequence[str] | None) -> int:
    try:
        code = cli.main(args=None if args is None else list(args), prog_name="bench", standalone_mode=False)
        return int(code or 0)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _wrong(" ".join(error.format_message().split()))
    except BenchError as error:
        return _wrong(one_line(error))
    except (KeyboardInterrupt, click.Abort) as error:  # click makes an Abort of an interrupt
        cause = error.__cause__ or error
        if not from_outside(cause):
            return _ended_by_a_plugin(cause)
        click.echo("bench: interrupted; what was done is kept, the same command goes on from there", err=True)
        return 130
    except OSError as error:  # of a disk that is full, or a folder that cannot be written
        goes_on = isinstance(error, DiskError)
        if not goes_on:  # of standard output, it may be
            _let_go_of_output()
        where = f"{error.filename}: " if error.filename else ""
        more = ", and the same command goes on once that is mended" if goes_on else ""
        click.echo(f"bench: {where}{error.strerror or one_line(error)}; what was done is kept{more}", err=True)
        return 1
    except Exception:  # a fault of this program, which its traceback shows
        raise
    except BaseException as error:  # nothing of this program raises one, but click does at the end of a completion
        if isinstance(error, SystemExit) and COMPLETES in os.environ:
            return int(error.code or 0)
        return _ended_by_a_plugin(error)


def _ended_by_a_plugin(error: BaseException) -> int:
    said = f"raised {type(error).__name__}: {one_line(error)}"
    if isinstance(error, SystemExit):
        said = f"asked Python to exit (code {error.code!r})"
    click.echo(f"bench: a plug-in {said}; the command did not finish", err=True)
    return 1


def _let_go_of_output() -> None:
    """Write no more to standard output, where what is left in its buffer would fail again at the end."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def _wrong(message: str) -> int:
    if len(message) > LONGEST:  # somebody gave a value of thousands of characters: what is wrong stands around it
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    click.echo(f"bench: {message}", err=True)
    return 2


if __name__ == "__main__":
    main()

"""What a command says at its end: where the rows are, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any


def after_runs(results: Sequence[dict[str, Any]], place: str, options: Sequence[str], usual: dict[str, str]) -> str:
    """The lines after `bench run`.

    results  the runs of the request, as `--json` prints them; place: where their rows are, in words
    options  those that the other commands need too, such as --db and its value
    usual    the names by which a defense is audited without an option: `base` and `dataset`
    """
    steps: list[tuple[list[str], str]] = []
    failed = [run for run in results if run["status"] == "FAILED"]
    done = [run for run in results if run["status"] == "DONE"]
    if failed:
        steps.append((["show", failed[0]["run"][:8]], "why it failed, with the traceback"))
    if done:
        steps.append((["show", done[0]["run"][:8]], "what the attacker knew, and its flags"))
    attacked = [run for run in done if run["attack"] != "clean"]
    if attacked:
        run = attacked[0]
        own = ["--base", run["base"]] if run["base"] not in (run["defense"], usual["base"]) else []
        own += ["--dataset", run["dataset"]] if run["dataset"] != usual["dataset"] else []
        steps.append((["audit", run["defense"], *own], "more attacks, and checks: can it be believed?"))
    if done:
        steps.append((["leaderboard"], "all runs as a site"))
    commands = [shlex.join(["bench", *words, *options]) for words, _ in steps]
    width = max(map(len, commands), default=0)
    lines = [f"  {command:<{width}}  # {why}" for command, (_, why) in zip(commands, steps, strict=True)]
    return "\n".join([f"The rows are in {place}.{' Next:' if steps else ''}", *lines])

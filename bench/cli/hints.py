"""What a command says at its end: where the rows are, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

#: a longer command does not move the words beside the others
ALIGNED = 72


def after_runs(
    results: Sequence[dict[str, Any]], place: str, options: Sequence[str], audit: Callable[[str], str]
) -> str:
    """The lines after `bench run`.

    results  the runs of the request, as `--json` prints them; place: where their rows are, in words
    options  those that the other commands need too, such as --db and its value
    audit    the command that audits what a run attacked, by the run's key; "" for none
    """
    steps: list[tuple[str, str]] = []

    def bench(*words: str) -> str:
        return shlex.join(["bench", *words, *options])

    failed = [run for run in results if run["status"] == "FAILED"]
    done = [run for run in results if run["status"] == "DONE"]
    if failed:
        steps.append((bench("show", failed[0]["run"][:8]), "why it failed, with the traceback"))
    if done:
        steps.append((bench("show", done[0]["run"][:8]), "what the attacker knew, and its flags"))
    attacked = [run for run in done if run["attack"] != "clean"]
    if attacked and (command := audit(attacked[0]["run"])):
        steps.append((command, "more attacks, and checks: can it be believed?"))
    if done:
        steps.append((bench("leaderboard"), "all runs as a site"))
    width = max((len(command) for command, _ in steps if len(command) <= ALIGNED), default=0)
    lines = [f"  {command:<{width}}  # {why}" for command, why in steps]
    return "\n".join([f"The rows are in {place}.{' Next:' if steps else ''}", *lines])

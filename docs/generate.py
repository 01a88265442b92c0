"""Pages that are made from the code: one for every defense and attack, and the reference."""

import ast
import inspect
import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent.parent))

import bench
from bench import plugins, registry
from bench.auditing.glossary import glossary
from bench.config import load
from docs.prose import markdown

PUBLIC = (
    "bench.in_memory", "bench.library", "bench.analysis.result", "bench.analysis.audited", "bench.analysis.compare",
    "bench.execution.verify", "bench.models.zoo", "bench.models.wrapped",
    "bench.contracts.defense", "bench.contracts.attack", "bench.contracts.base", "bench.threat", "bench.values",
    "bench.draws", "bench.norms", "bench.registry", "bench.rows", "bench.game.oracle", "bench.game.judge",
    "bench.analysis.metrics", "bench.data.task", "bench.pgd", "bench.errors",
)  # fmt: skip


def module_text(cls: type) -> str:
    """The head of the module that a class comes from."""
    source = inspect.getsource(sys.modules[cls.__module__])
    return ast.get_docstring(ast.parse(source)) or ""


def page(entry: registry.Entry, section: str) -> str:
    """What a name is, its paper, its parameters with their defaults, and what its module says."""
    cls = entry.load()
    lines = [f"# {entry.name}", "", entry.summary[:1].upper() + entry.summary[1:] + ".", ""]
    if entry.paper:
        lines += [f"Paper: <{entry.paper}>", ""]
    if section == "attack":
        found = entry.resolved()
        known = ", ".join(f"{name} = {value}" for name, value in (found.preset or {}).items())
        lines += [f"Threat model: {known or 'as asked for'}. Protocol: `{found.protocol}`.", ""]
    else:
        lines += [f"Kind: {cls.kind}{', randomised' if cls.randomised else ''}.", ""]
    fields = cls.Params.model_fields
    if fields:
        prefix = "base" if entry.base else section
        lines += ["| parameter | default |", "|---|---|"]
        lines += [f"| `{prefix}.{name}` | `{field.default}` |" for name, field in fields.items()]
        lines += ["", "Defaults of the class; `bench.toml` and the recipe may set others.", ""]
        lines += [markdown(inspect.cleandoc(cls.Params.__doc__ or "")), ""]
    return "\n".join([*lines, "## How it works", "", markdown(module_text(cls)), ""])


def called() -> list[str]:
    """The names of `from bench import ...`, each with the first sentence of its docstring and its place below."""
    rows = ["| name | what |", "|---|---|"]
    for name in sorted(bench.__all__, key=str.lower):
        thing = getattr(bench, name)
        first = inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        place = f"{thing.__module__}.{name}"
        link = f"[`{name}`][{place}]" if thing.__module__ in PUBLIC else f"`{name}`"
        rows.append(f"| {link} | {markdown(first)} |")
    return rows


plugins.load_all()
load(None)
for section, names in (("defense", registry.defenses), ("attack", registry.attacks)):
    index = [f"# {section.capitalize()}s", "", "| name | what |", "|---|---|"]
    for entry in names:
        with mkdocs_gen_files.open(f"{section}s/{entry.name}.md", "w") as file:
            file.write(page(entry, section))
        index.append(f"| [{entry.name}]({section}s/{entry.name}.md) | {entry.summary} |")
    with mkdocs_gen_files.open(f"{section}s.md", "w") as file:
        file.write("\n".join(index) + "\n")

with mkdocs_gen_files.open("reference/command-line.md", "w") as file:
    file.write(
        "# Command line\n\n::: mkdocs-click\n    :module: bench.cli.main\n    :command: cli\n"
        "    :prog_name: bench\n    :depth: 1\n"
    )
with mkdocs_gen_files.open("reference/python.md", "w") as file:
    head = [
        "# From Python",
        "",
        "What `bench` has for a program or a notebook; [how to use it](../howto/python.md).",
        "",
    ]
    file.write("\n".join([*head, *called(), "", *(f"::: {name}\n" for name in PUBLIC)]))

with mkdocs_gen_files.open("datasets.md", "w") as file:
    file.write(
        "# Datasets\n\nAny other is [a class of its own](howto/dataset.md).\n\n| name | what | radii |\n|---|---|---|\n"
    )
    radii = {name: section.get("eps", {}) for name, section in load(None).dataset.items()}
    for entry in registry.datasets:
        known = ", ".join(f"{norm} {eps}" for norm, eps in radii.get(entry.name, {}).items())
        file.write(f"| {entry.name} | {entry.summary} | {known} |\n")

rows = ["# Flags and checks", "", "What `bench show M3` says, for all of them.", ""]
rows += ["| id | of | what is measured | trips | what it means |", "|---|---|---|---|---|"]
rows += [
    f"| {one.id} | {one.of} | {one.measured} | {one.trips or 'where there are any'} | {one.meaning} |"
    for one in glossary()
]
with mkdocs_gen_files.open("reference/flags.md", "w") as file:
    file.write("\n".join(rows) + "\n")

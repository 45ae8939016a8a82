"""Pages that are made from the code: commands from their help, lists of names from docstrings.

python docs/made_pages.py        # writes them; a test says when that is due
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import typer

from idem_md.cli import app

DOCS = Path(__file__).parent
COMMANDS = DOCS / "guides" / "command-line.md"
# What is made stands below this line, up to the next heading of a page by hand, of which there is none.
MADE = "<!-- made by docs/made_pages.py -->"


def commands() -> str:
    """All commands with their arguments and options, as ``--help`` shows them."""
    return "\n\n".join(_command("idem-md", typer.main.get_command(app)))


def _command(name: str, command) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if name != "idem-md":
        yield f"## `{name}`"
        help_text = inspect.cleandoc(command.help or "")
        yield re.sub(r"^(.*?): (idem-md .*)$", r"\1:\n\n    \2", help_text, count=1, flags=re.M)
        shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        types = {} if inner else get_type_hints(inspect.unwrap(command.callback))
        if shown:
            yield "\n".join(_parameter(p, types.get(p.name)) for p in shown)
    for word, one in inner.items():
        if not one.hidden:
            yield from _command(f"{name} {word}", one)


def _parameter(p, kind) -> str:
    if p.param_type_name == "argument":
        return f"- `{p.name.upper()}`: {p.help}"
    kind = next((one for one in get_args(kind) if one is not type(None)), kind)
    value = "" if kind is bool else f" {p.metavar or getattr(kind, '__name__', 'TEXT').upper()}"
    default = "" if kind is bool or p.default in (None, "") else f" By default {p.default}."
    if p.secondary_opts:  # a switch with two positions
        default = f" By default {'on' if p.default else 'off'}."
    return f"- `{', '.join((*p.opts, *p.secondary_opts))}{value}`: {p.help}{default}"


def names(page: str) -> str:
    """The public names of the packages that a page shows, each with the first sentence of its docstring."""
    rows = []
    for package, options in re.findall(r"^::: (\S+)\n?((?: +\S.*\n?)*)", page, flags=re.M):
        chosen = re.search(r"members: \[(.*?)\]", options)
        where, _, name = package.rpartition(".")
        try:
            module = importlib.import_module(package)
            members = re.split(r",\s*", chosen[1]) if chosen else module.__all__
        except ModuleNotFoundError:  # a single class
            module, members = importlib.import_module(where), [name]
        rows += [f"| `{name}` | {said} |" for name in members if (said := _first(getattr(module, name)))]
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def _first(thing) -> str:
    documented = inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)
    text = inspect.getdoc(thing) if documented else None
    if not text:
        return ""
    return re.split(r"(?<!Ann\.)(?<!Stat\.)(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0].replace("|", "\\|")


def made(page: str, text: str) -> str:
    """A page with what is made of it anew; ``page`` begins with what is written by hand."""
    if MADE not in page:
        return page
    by_hand, _, rest = page.partition(MADE)
    directives = "\n".join(re.findall(r"^::: .*(?:\n +\S.*)*\n?", rest, flags=re.M)).strip()
    return f"{by_hand}{MADE}\n\n{text}\n" + (f"\n{directives}\n" if directives else "")


def pages() -> dict[Path, str]:
    """Every page that is made, as it should be."""
    found = {COMMANDS: made(COMMANDS.read_text(encoding="utf-8"), commands())}
    for path in sorted((DOCS / "api").glob("*.md")):
        page = path.read_text(encoding="utf-8")
        found[path] = made(page, names(page))
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

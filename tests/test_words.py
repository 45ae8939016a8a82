"""Words: plain English in docstrings, messages and pages, pages that are made from the code, and messages that the page
of troubleshooting quotes."""

import ast
import importlib.util
import re
import tokenize
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from idem_md.cli import app
from idem_md.cli.groups import GROUP_OF, GROUPS

ROOT = Path(__file__).parent.parent
# Old names are the subject of the first, the second is a diary.
EXEMPT = ("coming-from-0.1.md", "lab-notes.md")
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in EXEMPT)]
STUMP = re.compile(r"(Of|As|By|That)\b")
# Coined in earlier versions, each with the standard word for it.
COINED = {
    r"dear (potential|energ|plan)\w*": "expensive",
    r"(?<!harmonic )springs": "elastic network",
    r"stretch(es)?": "flow covariance",
    r"jumps?": "flow map",
    r"leaps?": "extrapolate",
    r"spared": "skipped",
    r"(seams?|house)": "extension point, package",
    r"peers": "ranks",
    r"(victims?|mortal)": "what it does",
    r"knows? it again": "recognises",
}


def texts(path):
    """Docstrings and strings of messages, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


@pytest.mark.parametrize("folder", ["idem_md", "examples", "benchmarks", "tests"])
def test_no_docstring_or_comment_begins_with_a_stump(folder):
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if STUMP.match(ast.get_docstring(node) or ""):
                    found.append(f"{path.name}:{getattr(node, 'lineno', 1)}")
        before = -1
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT:
                    begins = before != token.start[0] - 1  # not the second line of a comment
                    if begins and STUMP.match(token.string.lstrip("#: ")):
                        found.append(f"{path.name}:{token.start[0]}")
                    before = token.start[0]
    assert not found, found


def test_the_standard_words_are_used():
    """On pages, in help and in messages; keys of older files are none of these."""
    found = []
    for page in PAGES:
        for word, better in COINED.items():
            for match in re.finditer(rf"\b{word}\b", page.read_text(encoding="utf-8"), flags=re.I):
                found.append(f"{page.name}: {match[0]!r}, rather {better}")
    for path in (ROOT / "idem_md").rglob("*.py"):
        for line, text in texts(path):
            if " " not in text or text.startswith("--"):  # a name, not a sentence
                continue
            for word, better in COINED.items():
                if match := re.search(rf"\b{word}\b", text, flags=re.I):
                    found.append(f"{path.name}:{line}: {match[0]!r}, rather {better}")
    assert not found, found


def test_pages_that_are_made_are_up_to_date():
    """`python docs/made_pages.py` writes them."""
    spec = importlib.util.spec_from_file_location("made_pages", ROOT / "docs" / "made_pages.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    old = [path.name for path, text in made.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not old, f"{old}: run python docs/made_pages.py"


def test_quoted_messages_exist():
    """What the page of troubleshooting quotes is said by the code, but for the numbers."""

    def words(text):
        return re.sub(r"\s+", " ", re.sub(r"\d+(?:\.\d+)?|\{\}", "#", text))

    said = []
    for path in (ROOT / "idem_md").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    said = "\n".join(map(words, said))
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        text for line in page.splitlines() if line.startswith("**") for text in re.findall(r"\*\*(.+?)\*\*", line)
    ]
    assert len(quoted) > 20
    assert not [text for text in quoted if words(text) not in said]


def test_help_of_options_fits_a_line():
    """In a terminal of 80 columns, beside the names of options."""
    long = []
    groups = [("", typer.main.get_command(app))]
    for name, command in groups:
        groups += [(f"{name} {word}", one) for word, one in getattr(command, "commands", {}).items() if not one.hidden]
        for p in command.params:
            if p.param_type_name == "option" and not p.hidden and not (p.help and len(p.help) <= 45):
                long.append(f"{name} {p.opts[0]}: {p.help}")
    assert not [text for text in long if "--install-completion" not in text and "--show-completion" not in text]


def test_help_has_options_in_groups():
    commands = typer.main.get_command(app).commands
    shown = {p.name for command in commands.values() for p in command.params}
    assert {name for name in GROUP_OF if name not in shown} <= {"samples", "batch", "repeats", "help"}  # of bench
    text = CliRunner().invoke(app, ["train", "--help"]).output
    places = [text.index(f"\n{title}:\n") for title in ("Arguments", *GROUPS)]
    assert places == sorted(places) and "\nOptions:" not in text
    assert places[1] < text.index("\n  --xml") < places[2] < text.index("\n  --max-energy-calls") < places[3]

"""For mkdocs: the page of commands is made from the commands."""

import typer
from typer.cli import get_docs_for_click

from idem_md.cli import app

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_) -> str:
    """Puts what ``--help`` says in the place of the comment."""
    if PLACE not in markdown:
        return markdown
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="idem-md")
    # One level lower, below the title of the page.
    return markdown.replace(PLACE, text.replace("\n#", "\n##"))

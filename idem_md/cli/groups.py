"""Options of a command in groups, in its help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["GroupedCommand"]

HOW, HELP = "How", "Help"
# Names of parameters mean the same in every command; those that are not here say how.
GROUPS = {
    "What to sample": "system temperature temperatures calculator xml labels trap twin twin_calculator sampler "
    "reference observable profile free_energy_map",
    "How much": "n ess nfe minutes max_energy_calls energy_calls steps candidates pilot minima repeats batch samples",
    HOW: "",
    "Where to": "out overwrite resume plot as_json",
    HELP: "help",
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split()}


class GroupedCommand(TyperCommand):
    """A command whose help lists arguments, and then what to sample, how much of it, how, and where to."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        arguments = list[tuple[str, str]]()
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:  # else it is hidden
                option = parameter.param_type_name == "option"
                (groups[GROUP_OF.get(parameter.name or "", HOW)] if option else arguments).append(record)
        for title, records in {"Arguments": arguments, **groups}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

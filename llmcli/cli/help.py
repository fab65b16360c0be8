"""Help as plain text under headings; Typer's own drawing of it would import rich, for 100 ms."""

from typing import Any

import typer.core


class GroupedCommand(typer.core.TyperCommand):
    """A command whose options stand under the headings they name (`rich_help_panel`)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options as a section, in the order they first appear."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                heading = getattr(parameter, "rich_help_panel", None) or _heading(parameter)
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _heading(parameter: Any) -> str:
    return "Arguments" if parameter.param_type_name == "argument" else "Options"

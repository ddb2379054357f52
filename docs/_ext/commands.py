"""The directive ``commands``: every command of the command line, from its parser."""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from smcsock._cli import parser


class Commands(SphinxDirective):
    """A section for each command: usage, options, the texts of --help, actions."""

    def run(self) -> list[nodes.Node]:
        """The sections; what names a section is what one types."""
        lines: list[str] = []
        for name, command in _commands(parser()):
            lines += [f".. _command-{name}:", "", f"smcsock {name}", "-" * 40, ""]
            lines += _describe(command)
            for action, inner in _commands(command):
                lines += [f"smcsock {name} {action}", "~" * 40, ""]
                lines += _describe(inner)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _commands(of: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _describe(command: argparse.ArgumentParser) -> Iterator[str]:
    yield from [f".. program:: {command.prog}", ""]
    yield from _literal(command.format_usage())
    yield from [_escape(command.description or ""), ""]
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        yield from [f".. option:: {_names(action)}", ""]
        help = _escape((action.help or "") % {"default": action.default, "prog": command.prog})
        yield from [f"   {help}", ""]
    if command.epilog:
        yield from _literal(command.epilog)


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    if not action.option_strings:
        return str(value)
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    shown = f"[{value}]" if action.nargs == "?" else f"{value}"
    return ", ".join(f"{option} {shown}" for option in action.option_strings)


def _literal(text: str) -> Iterator[str]:
    yield from [".. code-block:: text", ""]
    yield from (f"   {line}" for line in text.rstrip().splitlines())
    yield ""


def _escape(text: str) -> str:
    """The text with nothing in it that reStructuredText takes for markup."""
    return re.sub(r"([*`_|\\<>])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}

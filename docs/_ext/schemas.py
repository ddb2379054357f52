"""The directive ``schema`` shows a JSON schema of types_of_json.

All are files of the site, too: schemas/COMMAND.json.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from types_of_json import OF_COMMAND, schema


class Schema(SphinxDirective):
    """Shows the schema of a command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The schema as a block of JSON."""
        text = json.dumps(schema(self.arguments[0]), indent=1)
        return [nodes.literal_block(text, text, language="json", classes=["schema"])]


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        directory = Path(app.outdir) / "schemas"
        directory.mkdir(exist_ok=True)
        for command in OF_COMMAND:
            text = json.dumps(schema(command), indent=1)
            (directory / f"{command}.json").write_text(f"{text}\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_directive("schema", Schema)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}

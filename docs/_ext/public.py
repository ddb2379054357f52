"""Sees that the reference has every public name: each in an __all__ needs an entry."""

from importlib import import_module
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

MODULES = ("smcsock", "smcsock.aio", "smcsock.diag", "smcsock.doctor")

_logger = logging.getLogger(__name__)


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of names that have no entry."""
    described = {entry[0] for entry in env.domains.python_domain.get_objects()}
    for module in MODULES:
        for name in import_module(module).__all__:
            if f"{module}.{name}" not in described:
                _logger.warning("%s.%s is public and not in the reference", module, name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}

"""What 'smcsock run' was asked for, as the Python processes of the program are told."""

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .._socket import Fallback

__all__ = ["PATH", "VARIABLE", "Run"]

VARIABLE = "SMCSOCK_RUN"
PATH = "PYTHONPATH"


class Run(NamedTuple):
    """The options of 'smcsock run', and ``pid``, the process of the program.

    ``pid`` is 0 if something starts the program that is no Python: the first one to begin
    is the program. ``start`` is when it was started, for the system.
    ``spool`` is the name of the Spool, None for no report; ``report_to`` a file for the
    report, "" for standard error. With ``native`` it is for smcsock._native to write it.
    """

    pid: int
    start: int = 0
    require_smc: bool = False
    fallback: "Fallback | None" = None
    only: list[str] | None = None
    children: bool = False
    spool: list[int] | None = None
    report_to: str = ""
    json: bool = False
    sndbuf: int | None = None
    rcvbuf: int | None = None
    native: bool = False

    def put(self, environment: dict[str, str], hook: str) -> None:
        """Tells the Python processes with this environment; ``hook`` is _site."""
        import json  # a program that is not Python is not told

        environment[VARIABLE] = json.dumps(self._asdict())
        entries = [entry for entry in environment.get(PATH, "").split(os.pathsep) if entry != hook]
        environment[PATH] = os.pathsep.join([hook, *entries]) if entries != [""] else hook

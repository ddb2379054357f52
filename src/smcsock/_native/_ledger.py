"""The report of 'smcsock run', as the side process adds to it and writes it."""

from typing import NamedTuple

from .._dropin._report import Outcome
from .._dropin._run import Run
from .._dropin._session import publish
from .._dropin._spool import Spool
from ._census import Census

__all__ = ["RunLedger"]


class RunLedger(NamedTuple):
    """What the program's sockets come to, in one sum with what its Python code has counted."""

    run: Run
    spool: Spool

    def fileno(self) -> int:
        """The spool's descriptor."""
        return self.spool.fileno()

    def census(self, program: int) -> Census:
        """What counts for it."""
        return Census(self, program)

    def keep(self, counts: dict[Outcome, int]) -> None:
        """Puts down what there was so far."""
        self.spool.put(counts, is_open=False, pid=self.run.pid)

    def publish(self, missed: int) -> None:
        """Writes the report, in which so many sockets are missing."""
        publish(self.run, self.spool, unseen=missed)

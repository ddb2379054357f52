"""The report of 'smcsock run', as the side process adds to it and writes it."""

from dataclasses import dataclass

from .._dropin._report import Outcome
from .._dropin._session import Run, publish
from .._dropin._spool import Spool

__all__ = ["RunLedger"]


@dataclass(frozen=True)
class RunLedger:
    """What the program's sockets come to, in one sum with what its Python code has counted."""

    run: Run
    spool: Spool

    def fileno(self) -> int:
        """The spool's descriptor."""
        return self.spool.fileno()

    def keep(self, counts: dict[Outcome, int]) -> None:
        """Puts down what there was so far."""
        self.spool.put(counts, is_open=False, pid=self.run.pid)

    def publish(self, missed: int) -> None:
        """Writes the report, in which so many sockets are missing."""
        publish(self.run, self.spool, unseen=missed)

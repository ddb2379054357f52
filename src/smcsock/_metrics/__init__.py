"""SMC's state and counters as metrics, by prometheus_client.

Names follow its conventions: base units, ``_total``. No label has as many values as
there are peers, connections or processes.
"""

from ._collector import Collector
from ._wrapping import FallbackReasons, last_reasons

__all__ = ["Collector", "FallbackReasons", "last_reasons"]

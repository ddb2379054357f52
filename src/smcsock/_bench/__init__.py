"""Measures TCP and SMC between the same two ends, in turn."""

from ._measure import Plan, measure
from ._result import Results, Run
from ._server import Server
from ._wire import BUFFER, MAX_SECONDS, MAX_SIZE, TIMEOUT, Variant

__all__ = [
    "BUFFER",
    "MAX_SECONDS",
    "MAX_SIZE",
    "TIMEOUT",
    "Plan",
    "Results",
    "Run",
    "Server",
    "Variant",
    "measure",
]

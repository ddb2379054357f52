"""The one exception of the harness that is meant to be read by people."""


class HarnessError(Exception):
    """The command could not be run; the text says why and what to do."""

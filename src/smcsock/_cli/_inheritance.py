"""What a program is to inherit from who started it, whatever Python has changed meanwhile."""

import os
import signal

__all__ = ["restore_environment", "restore_signals"]


def restore_environment(environment: dict[str, str]) -> None:
    """Takes out the locale that Python chose for itself (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as environ:
            initial = environ.read().split(b"\0")
    except OSError:
        return
    if not any(entry.startswith(b"LC_CTYPE=") for entry in initial):
        environment.pop("LC_CTYPE", None)


def restore_signals() -> None:
    """Gives the signals that Python ignores from its start on back what they do.

    As subprocess does. What was there before is not known, but that systemd has SIGPIPE ignored
    in what it starts, unless a unit says IgnoreSIGPIPE=no.
    """
    if os.environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

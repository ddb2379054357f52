"""The command line as a process of its own, ``smcsock ARGUMENTS``.

An emulated guest takes a second to start Python: there the process is a fork of this one.
A test of how Python itself starts and ends has to execute COMMAND.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from smcsock.__main__ import main

COMMAND = (sys.executable, "-m", "smcsock")

# From 3.12 on Python warns of a fork where there are threads.
FORKS = "SMCSOCK_VM" in os.environ and sys.version_info < (3, 12)


def invocation(
    *arguments: str | bytes,
    env: dict[str, str],
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """What starts it as keywords of subprocess.run() and Popen(); ``prepare`` runs in it first."""
    words = [os.fsdecode(argument) for argument in arguments]

    def become_command() -> NoReturn:
        if prepare is not None:
            prepare()
        _become_command(words, env)

    return {
        "args": [*COMMAND, *arguments],
        "env": env,
        "preexec_fn": become_command if FORKS else prepare,
    }


def _become_command(arguments: list[str], env: dict[str, str]) -> NoReturn:
    """In the child, instead of executing a new Python: what that would do."""
    status = 1
    try:
        os.closerange(3, 2**31 - 1)
        os.environ.clear()
        os.environ.update(env)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        sys.argv = ["smcsock", *arguments]
        encoding = env.get("PYTHONIOENCODING", "utf-8")
        sys.stdin = os.fdopen(0, encoding=encoding)
        sys.stdout = os.fdopen(1, "w", encoding=encoding)
        sys.stderr = os.fdopen(2, "w", 1, encoding, "backslashreplace")
        try:
            status = main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)

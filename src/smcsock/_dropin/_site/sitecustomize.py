"""In the way of the real sitecustomize, for 'smcsock run': installs smcsock, then runs that.

The directory is at the head of PYTHONPATH of the programs that are to use SMC. Any
Python may find this file there: it is read by 2.7, too.
"""

import os
import sys


def _options():
    # type: () -> str | None
    """The options of the run; None in a process that is not to follow."""
    options = os.environ.get("SMCSOCK_RUN")
    if options or not _is_sub_interpreter():
        return options
    # The process may have forgotten them, so that its children do not follow.
    with open("/proc/self/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(b"SMCSOCK_RUN="):
                return os.fsdecode(entry.partition(b"=")[2])
    return None


def _is_sub_interpreter():
    # type: () -> bool
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13 on, and before
        try:
            interpreters = __import__(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False


def _begin(here, options):
    # type: (str, str) -> None
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    before = set(sys.modules)
    try:
        if sys.version_info < (3, 11):  # noqa: UP036
            raise ImportError("it needs Python 3.11")
        try:
            import smcsock._dropin._session
        except Exception:
            # Another Python, or another environment. The extension may do for it, too.
            sys.path.append(root)
            try:
                import smcsock._dropin._session
            finally:
                sys.path.remove(root)
        smcsock._dropin._session.begin(here, options, before)
    except Exception as error:  # of begin(): it may be another version of smcsock
        _give_up(error, options)


def _give_up(error, options):
    # type: (Exception, str) -> None
    import json

    must = json.loads(options)["require_smc"]
    text = "SMC was required" if must else "its connections are plain TCP"
    words = sys.executable, error, text
    message = "smcsock: %s cannot use smcsock (%s): %s\n" % words  # noqa: UP031
    try:
        if sys.stderr is not None:
            sys.stderr.write(message)
            sys.stderr.flush()
    finally:
        if must:
            os._exit(3)


def _chain():
    # type: () -> None
    """Runs the sitecustomize that would have been found."""
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)


def _main():
    # type: () -> None
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    options = _options()
    if options:
        _begin(here, options)
    _chain()


_main()

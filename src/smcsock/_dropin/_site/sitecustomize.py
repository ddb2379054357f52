"""In the way of the real sitecustomize, for 'smcsock run': installs smcsock, then runs that.

The directory is at the head of PYTHONPATH of the programs that are to use SMC. Any
Python may find this file there: it is read by 2.7, too.
"""

import os
import sys


def _begin(here):
    # type: (str) -> None
    options = os.environ["SMCSOCK_RUN"]
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    try:
        try:
            import smcsock._dropin._session
        except Exception:
            # Another Python, or another environment. The extension may do for it, too.
            sys.path.append(root)
            try:
                import smcsock._dropin._session
            finally:
                sys.path.remove(root)
        smcsock._dropin._session.begin(here)
    except Exception as error:  # of begin(): it may be another version of smcsock
        _give_up(error, options)


def _give_up(error, options):
    # type: (Exception, str) -> None
    import json

    must = json.loads(options)["require_smc"]
    text = "SMC was required" if must else "its connections are plain TCP"
    names = sys.executable, error, text
    message = "smcsock: %s cannot use smcsock (%s): %s" % names  # noqa: UP031
    try:
        if sys.stderr is not None:
            sys.stderr.write(message + "\n")
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
    if os.environ.get("SMCSOCK_RUN"):
        _begin(here)
    _chain()


_main()

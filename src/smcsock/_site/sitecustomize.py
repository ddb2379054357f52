"""In the way of the real sitecustomize, for 'smcsock run': installs smcsock, then runs that.

The directory is at the head of PYTHONPATH of the programs that are to use SMC.
"""

import os
import sys


def _begin(here: str) -> None:
    options = os.environ["SMCSOCK_RUN"]
    root = os.path.dirname(os.path.dirname(here))
    try:
        try:
            import smcsock._session
        except Exception:
            # Another Python, or another environment. The extension may do for it, too.
            sys.path.append(root)
            try:
                import smcsock._session
            finally:
                sys.path.remove(root)
        smcsock._session.begin(here)
    except Exception as error:  # of begin(): it may be another version of smcsock
        _give_up(error, options)


def _give_up(error: Exception, options: str) -> None:
    import json

    must = json.loads(options)["require_smc"]
    text = "SMC was required" if must else "its connections are plain TCP"
    message = f"smcsock: {sys.executable} cannot use smcsock ({error}): {text}"
    try:
        if sys.stderr is not None:
            print(message, file=sys.stderr, flush=True)
    finally:
        if must:
            os._exit(3)


def _chain() -> None:
    """Runs the sitecustomize that would have been found."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    if os.environ.get("SMCSOCK_RUN"):
        _begin(here)
    _chain()


_main()

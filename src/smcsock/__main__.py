"""The command line: ``python -m smcsock``, and the script ``smcsock``."""

import sys

from ._cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

"""Makes the manual pages and the shell completions, from the parsers: share/.

python docs/pages.py   (needs argparse-manpage and shtab, of the extra "dev")
"""

import argparse
import os
import re
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from smcsock import _cli

SHARE = Path(__file__).resolve().parent.parent / "share"
COMPLETIONS = {
    "bash": "bash-completion/completions/smcsock",
    "zsh": "zsh/site-functions/_smcsock",
}


def main() -> None:
    """Writes all of them."""
    os.environ |= {"COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    os.environ.pop("SMCSOCK_FALLBACK", None)
    parser = _cli.parser()
    write("man/man1/smcsock.1", page(parser, overview=True))
    for name, command in commands(parser).items():
        write(f"man/man1/smcsock-{name}.1", page(command))
    for shell, path in COMPLETIONS.items():
        write(path, shtab.complete(parser, shell=shell))


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by their names."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def page(parser: argparse.ArgumentParser, *, overview: bool = False) -> str:
    """A manual page; an overview names the commands, whose options have their own pages."""
    name = parser.prog.replace(" ", "-")
    summary = _cli.SUMMARIES.get(name.partition("-")[2], "Sockets for Linux SMC")
    parser.man_short_description = summary  # type: ignore[attr-defined]
    manpage = Manpage(parser, format="pretty" if not overview else "single-commands-section")
    manpage.prog = name
    manpage.date = ""
    manpage.manual = "smcsock"
    # The tables of the epilog stay as they are.
    return re.sub(
        r"^\.SH COMMENTS\n(.*?)(?=^\.SH|\Z)",
        lambda match: f".SH NOTES\n.nf\n{match[1].rstrip()}\n.fi\n",
        str(manpage),
        flags=re.MULTILINE | re.DOTALL,
    )


def write(path: str, text: str) -> None:
    """A file of share/, with an end to its last line."""
    file = SHARE / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text if text.endswith("\n") else f"{text}\n")


if __name__ == "__main__":
    main()

"""Draws the README's picture of a real run: the lines of a command in a guest, as SVG.

python docs/picture.py docs/echo.svg   (needs rich, and what tests/vm needs)
"""

import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ECHO = ["python", "-m", "smcsock", "echo"]
SHOWN = "python tests/vm run -- python -m smcsock echo"
VM = Path(__file__).resolve().parent.parent / "tests/vm"


def main() -> None:
    """Runs the command in a guest and writes the picture to the file that is named."""
    done = subprocess.run(
        [sys.executable, str(VM), "run", "--", sys.executable, *ECHO[1:]],
        check=True,
        capture_output=True,
        text=True,
    )
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=96, file=nowhere)
        console.print(Text("$ ", style="bold green") + Text(SHOWN, style="bold"))
        for line in done.stdout.splitlines():
            text = Text(line)
            text.highlight_words(["SMC-D", "SMC-R"], style="bold cyan")
            console.print(text)
        console.save_svg(sys.argv[1], title=shlex.join(ECHO))


if __name__ == "__main__":
    main()

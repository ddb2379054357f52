"""Draws the pictures of the commands as they look at a terminal: real runs in a guest, as SVG.

    python docs/picture.py [NAME ...]

writes docs/_static/NAME.svg, or into another directory (--into), of all that are in SCENES
unless some are named. It needs the extra ``docs`` and what tests/vm needs; one guest with
SMC-D does for all.
"""

import argparse
import contextlib
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import smcsock
from smcsock._cli import parser

STATIC = Path(__file__).parent / "_static"
VM = Path(__file__).resolve().parent.parent / "tests/vm"
WIDTH, HEIGHT = 110, 50


@dataclass(frozen=True)
class Scene:
    """A command of smcsock.

    It is ended by Ctrl-C, if it would go on, so many ``seconds`` after it first printed something;
    ``alone`` says that nothing else may use the machine meanwhile.
    """

    arguments: str
    seconds: float | None = None
    prefix: str = ""
    alone: bool = False


SCENES = {
    "echo": Scene("echo", prefix="python tests/vm run -- "),
    "doctor": Scene("doctor"),
    "ss": Scene("ss -a"),
    "watch": Scene("stats --watch", seconds=8.5),
    "bench": Scene("bench", alone=True),
}


def main() -> None:
    """Runs the commands in a guest and draws what they printed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENES))
    options.add_argument("--into", type=Path, default=STATIC, metavar="DIRECTORY")
    options.add_argument("--record", type=Path, help=argparse.SUPPRESS)  # in the guest
    parsed = options.parse_args()
    names = [name for name in parsed.names or SCENES if exists(SCENES[name])]
    if parsed.record:
        record(names, parsed.record)
        return
    with tempfile.TemporaryDirectory() as directory:
        here = [sys.executable, __file__, "--record", directory, *names]
        vm = [sys.executable, str(VM), "run", "--rwdir", directory, "--", *here]
        subprocess.run(vm, check=True)
        for name in names:
            printed = Path(directory, name).read_bytes().decode()
            draw(SCENES[name], printed, parsed.into / f"{name}.svg")


def exists(scene: Scene) -> bool:
    """Whether this smcsock has the command."""
    return scene.arguments.split()[0] in parser(()).format_help().split()


def record(names: list[str], directory: Path) -> None:
    """Writes what each command prints on a terminal to a file of its name."""
    for name in names:
        with contextlib.nullcontext() if SCENES[name].alone else traffic():
            (directory / name).write_bytes(at_terminal(SCENES[name]))


def at_terminal(scene: Scene) -> bytes:
    """What a command prints when its standard output is a terminal."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "smcsock", *shlex.split(scene.arguments)]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    environment |= {"LINES": str(HEIGHT)}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        output = b""
        with contextlib.suppress(OSError):  # EIO: the last of the other end's is closed
            while data := os.read(ours, 65536):
                if scene.seconds and not output:
                    threading.Timer(scene.seconds, process.send_signal, [signal.SIGINT]).start()
                output += data
    os.close(ours)
    return output


@contextlib.contextmanager
def traffic() -> Iterator[None]:
    """Connections to look at: one of SMC-D that data goes over, and one that fell back."""
    stopped = threading.Event()

    def send() -> None:
        while not stopped.wait(0.01):
            client.sendall(bytes(16384))
            server.recv(65536)

    with (
        smcsock.create_server(("127.0.0.1", 7000)) as listener,
        smcsock.create_connection(("127.0.0.1", 7000)) as client,
        listener.accept()[0] as server,
        socket.create_server(("127.0.0.1", 5432)) as plain,
        smcsock.create_connection(("127.0.0.1", 5432)),
        plain.accept()[0],
    ):
        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def draw(scene: Scene, printed: str, file: Path) -> None:
    """The picture of a command and what it printed."""
    from rich.console import Console  # not in the guest, which takes seconds to load it
    from rich.text import Text

    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        shown = f"{scene.prefix}smcsock {scene.arguments}"
        console.print(Text("$ ", style="bold green") + Text(shown, style="bold"))
        for line in printed.replace("^C", "").split("\n")[:-1]:
            # What overwrites itself, as progress does, looks as it did in the end.
            text = Text.from_ansi(line.rstrip("\r").rpartition("\r")[2])
            text.highlight_words(["SMC-D", "SMC-R", "SMCD"], style="bold cyan")
            text.highlight_regex(r"^ok\b", style="green")
            text.highlight_regex(r"^(PROBLEM|warning)\b", style="bold red")
            console.print(text)
        console.save_svg(str(file), title=f"smcsock {scene.arguments}", unique_id=file.stem)


if __name__ == "__main__":
    main()

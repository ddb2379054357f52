"""What 'smcsock run PROGRAM' means: the file, and what runs it.

A file runs in this Python, as with 'python FILE', whatever its first line says. A command
on PATH runs in its own: in the Python that its first line names, which the environment
leads to smcsock, or through the script of a version manager that starts it.
"""

import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, NoReturn

from ._common import CommandError, ExitCode, explain

__all__ = ["NEEDS_ENVIRONMENT", "Kind", "Program", "find_program", "this_python"]

NEEDS_ENVIRONMENT = "'run' works through PYTHONPATH and site: not with -I, -E or -S"

_PYTHON = re.compile(
    r"(platform-)?python(\d+(\.\d+)*)?(t|d|td|w)?(-dbg|-debug|-intel64|-freethreading)?"
)
_OTHER_PYTHON = re.compile(r"(pypy|graalpy|jython|ironpython|micropython|rustpython)[\d.]*(-c)?")
_SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"}

# Programs that look for a Python and start it, in this environment.
_LAUNCHERS = {"asdf", "conda", "hatch", "mamba", "mise", "pdm", "pipx", "pixi", "poetry", "pyenv"}
_LAUNCHERS |= {"rtx", "rye", "uv", "uvx"}
_STARTS_PYTHON = re.compile(rb"\b(python[\d.]*|" + "|".join(_LAUNCHERS).encode() + rb")\b")

_SPLIT = re.compile(r"(?:-[iv0]*S|--split-string=)(.+)")
"""The option of env by which it splits a first line, with the first word."""

_SUFFIXES = (".py", ".pyw", ".pyc", ".pyz", ".pex")

_ELF = b"\x7fELF"
_MAX_SIZE = 1 << 24
"""A file larger than this is no program's source."""


class Kind(Enum):
    """What a program is."""

    PYTHON = "python"
    """Python, this one or another CPython, is started with it."""

    LAUNCHER = "launcher"
    """Something that starts Python in the same environment: a shim of pyenv, uv."""

    OTHER_PYTHON = "other Python"
    """A Python that is not CPython, or a command for one."""

    FOREIGN = "foreign"
    """A binary, or a script of something else."""


class Program(NamedTuple):
    """``command`` runs it; ``what`` says what it is if Python cannot be made to use SMC in it.

    ``called`` is what it is to find as its own name, if that is not its path.
    """

    kind: Kind
    command: list[str]
    what: str = ""
    called: str | None = None

    @property
    def is_python(self) -> bool:
        """Whether it is, or starts, a Python that the environment leads to smcsock."""
        return self.kind in (Kind.PYTHON, Kind.LAUNCHER)


def find_program(words: Sequence[str], python: Callable[[], list[str]]) -> Program:
    """What the words of a command line run; ``python`` tells how to start this Python.

    CommandError, 127 or 126 as of a shell, for what is not there or cannot be run.
    """
    name, *arguments = words
    if name == "-":
        return Program(Kind.PYTHON, [*python(), *words])
    path, is_command = _locate(name)
    if not os.path.isdir(path) and _is_python(path):
        return _interpreter(path, arguments)
    find = _command if is_command else _file
    program = find(path, arguments, python)
    return program._replace(called=name) if program.command[0] == path else program


def this_python() -> list[str]:
    """The Python of this process, with the options that it was started with."""
    if sys.flags.isolated or sys.flags.ignore_environment or sys.flags.no_site:
        raise CommandError(NEEDS_ENVIRONMENT)
    import subprocess

    flags: Callable[[], list[str]] = subprocess._args_from_interpreter_flags  # type: ignore[attr-defined]
    unbuffered = ["-u"] if "-u" in sys.orig_argv[1 : -len(sys.argv)] else []
    return [sys.executable, *flags(), *unbuffered]


# ---- Where it is


def _locate(name: str) -> tuple[str, bool]:
    """The path of a program, and whether it was found as a command on PATH."""
    if os.path.isfile(name):
        return name, False
    if os.sep not in name and (path := _on_path(name)):
        return path, True
    if os.path.isdir(name):
        if not os.path.exists(os.path.join(name, "__main__.py")):
            _fail(f"cannot run {name}: it is a directory without a __main__.py")
    elif os.sep not in name or not os.path.exists(name):  # else a pipe, as of '<(...)'
        _fail(f"there is no program {name!r}", ExitCode.NOT_FOUND)
    return name, False


def _on_path(name: str) -> str | None:
    """The command of that name as a shell finds it, an empty entry of PATH being '.'."""
    denied = None
    for directory in os.get_exec_path():
        path = os.path.join(directory or os.curdir, name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            denied = denied or path
    if denied and not os.path.isdir(name):
        _fail(f"cannot run {denied}: {os.strerror(errno.EACCES)}")
    return None


def _fail(message: str, status: ExitCode = ExitCode.CANNOT_RUN) -> NoReturn:
    raise CommandError(message, status)


# ---- What it is


def _is_python(path: str) -> bool:
    """Whether it is a Python by its name, or that of what the link leads to."""
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return any(map(_PYTHON.fullmatch, names))


def _interpreter(path: str, arguments: list[str]) -> Program:
    """A Python as the command, 'python3 FILE'."""
    if not _reads_environment(arguments):
        raise CommandError(NEEDS_ENVIRONMENT)
    return _python([path, *arguments], path)


def _file(path: str, arguments: list[str], python: Callable[[], list[str]]) -> Program:
    """A file that was given by its path."""
    if not path.endswith(_SUFFIXES) and os.path.isfile(path):
        source = _read(path)
        words = _first_line(source)
        if _is_binary(source) or (words and not _is_for_python(words) and not _compiles(source)):
            if not os.access(path, os.X_OK):
                return _foreign([path, *arguments], words)
            absolute = path if os.sep in path else os.path.join(os.curdir, path)
            return _command(absolute, arguments, python)
    return Program(Kind.PYTHON, [*python(), path, *arguments])


def _command(path: str, arguments: list[str], python: Callable[[], list[str]]) -> Program:
    """A command that runs on its own."""
    source = _read(path)
    itself = [path, *arguments]
    words = _first_line(source)
    if _OTHER_PYTHON.fullmatch(os.path.basename(path)):
        return _python(itself, path)
    if not words:
        if _is_binary(source):
            is_launcher = os.path.basename(os.path.realpath(path)) in _LAUNCHERS
            return Program(Kind.LAUNCHER, itself) if is_launcher else _foreign(itself, words)
        if path.endswith(_SUFFIXES) or _is_archive(source) or _compiles(source):
            return Program(Kind.PYTHON, [*python(), *itself])
        # A shell takes it for one of its own.
        return _script(["/bin/sh"], ["/bin/sh", *itself], source)
    interpreter = (_embedded(words, source) or _without_env(words))[0]
    if _is_python(interpreter) or _OTHER_PYTHON.fullmatch(os.path.basename(interpreter)):
        # Without the options of the first line: with -E and the like it would not follow.
        found = _resolve(interpreter, path)
        return _python([*_assignments(words), found, *itself], found)
    return _script(words, itself, source)


def _python(command: list[str], interpreter: str) -> Program:
    """A command for a Python, if that is CPython."""
    name = os.path.basename(os.path.realpath(interpreter))
    if not any(map(_OTHER_PYTHON.fullmatch, (name, os.path.basename(interpreter)))):
        return Program(Kind.PYTHON, command)
    return Program(Kind.OTHER_PYTHON, command, f"for {os.path.basename(interpreter)}")


def _script(words: list[str], command: list[str], source: bytes) -> Program:
    """A script of something else than Python, which may start Python."""
    interpreter = os.path.basename(_without_env(words)[0])
    if interpreter in _LAUNCHERS or (interpreter in _SHELLS and _STARTS_PYTHON.search(source)):
        return Program(Kind.LAUNCHER, command)
    return _foreign(command, words)


def _foreign(command: list[str], words: list[str]) -> Program:
    what = f"a script of '{' '.join(words)}'" if words else "a binary"
    return Program(Kind.FOREIGN, command, what)


# ---- How it begins


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(len(_ELF))
            return head if head == _ELF else head + file.read(_MAX_SIZE)
    except OSError as error:
        _fail(f"cannot run {path}: {explain(error)}")


def _is_archive(source: bytes) -> bool:
    return source.startswith(b"PK\3\4")


def _is_binary(source: bytes) -> bool:
    """Whether it is what the kernel loads; no zipapp, nor Python's own bytecode."""
    return source.startswith(_ELF)


def _first_line(source: bytes) -> list[str]:
    """The words of a line '#!...'; none if there is no such line."""
    if not source.startswith(b"#!"):
        return []
    line = os.fsdecode(source[2:].partition(b"\n")[0])
    words = line.split()
    return _split_by_env(line) if words and os.path.basename(words[0]) == "env" else words


def _split_by_env(line: str) -> list[str]:
    """The words of a line '#!/usr/bin/env ...', which has quotes where env splits it (-S)."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    split = _SPLIT.fullmatch(words[1]) if len(words) > 1 else None
    return [words[0], "-S", split[1], *words[2:]] if split else words


def _without_env(words: list[str]) -> list[str]:
    """The words from the program on that 'env' starts; the same if it is not env."""
    if os.path.basename(words[0]) != "env":
        return words
    rest = iter(words[1:])
    for word in rest:
        if word in ("-u", "--unset", "-C", "--chdir"):
            next(rest, None)
        elif not word.startswith("-") and "=" not in word:
            return [word, *rest]
    return words


def _assignments(words: list[str]) -> list[str]:
    """The beginning of a command that sets the variables that 'env' is to set."""
    if os.path.basename(words[0]) != "env":
        return []
    before = words[1 : len(words) - len(_without_env(words))]
    variables = [word for word in before if "=" in word and not word.startswith("-")]
    return ["env", *variables] if variables else []


def _embedded(words: list[str], source: bytes) -> list[str]:
    """How pip and uv name a Python whose path is too long for a first line, or has a space."""
    line = source.partition(b"\n")[2].partition(b"\n")[0]
    if os.path.basename(words[0]) != "sh" or not line.startswith(b"'''exec' "):
        return []
    command = shlex.split(os.fsdecode(line))[1:]
    return command if command and "$" not in command[0] else []


def _resolve(interpreter: str, path: str) -> str:
    """The interpreter of a script, as the kernel or 'env' finds it."""
    found = interpreter if os.sep in interpreter else _on_path(interpreter)
    if found is None or not os.access(found, os.X_OK):
        _fail(f"cannot run {path}: there is no {interpreter}, which is to run it")
    return found


def _is_for_python(words: list[str]) -> bool:
    """Whether a first line leads to some Python, directly or through a launcher."""
    name = os.path.basename(_without_env(words)[0])
    return bool(_PYTHON.fullmatch(name) or _OTHER_PYTHON.fullmatch(name)) or name in _LAUNCHERS


def _compiles(source: bytes) -> bool:
    """Whether it is Python, not just words that are so in any language.

    A script of a shell that is Python as well begins with a string, which hides the
    rest from one of them.
    """
    words = _first_line(source)
    if words and os.path.basename(_without_env(words)[0]) in _SHELLS:
        lines = (line.strip() for line in source.splitlines())
        code = next((line for line in lines if line and not line.startswith(b"#")), b"")
        if not code.startswith((b"'", b'"')):
            return False
    import ast

    try:
        compile(source, "", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _reads_environment(arguments: list[str]) -> bool:
    """Whether a Python with these arguments has no option -I, -E or -S."""
    words = iter(arguments)
    for word in words:
        if word == "--check-hash-based-pycs":
            next(words, None)
            continue
        if word[:1] != "-" or word[:2] == "--" or word == "-":
            return True
        for index, letter in enumerate(word[1:], 2):
            if letter in "IES":
                return False
            if letter in "cm":
                return True
            if letter in "WX":
                if index == len(word):
                    next(words, None)
                break
    return True

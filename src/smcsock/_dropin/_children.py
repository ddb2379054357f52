"""With require_smc and 'run --children': no Python is started that would not follow.

What a Python is told by its environment it reads in sitecustomize. One that is started so
that it does not is refused, where the program starts it through Python's own means.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from .._errors import FallbackError

__all__ = ["OTHER_PYTHON", "PYTHON", "reads_environment", "watch"]

PYTHON = re.compile(
    r"(platform-)?python(\d+(\.\d+)*)?(t|d|td|w)?(-dbg|-debug|-intel64|-freethreading)?"
)
OTHER_PYTHON = re.compile(r"(pypy|graalpy|jython|ironpython|micropython|rustpython)[\d.]*(-c)?")

_SHELLS = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
_PREFIXES = frozenset(
    {"chrt", "env", "exec", "ionice", "nice", "nohup", "setsid", "stdbuf", "taskset", "timeout"}
)
"""Commands that start the command that follows them."""

_SEPARATORS = re.compile(r"[;&|()\n]+")

_OPTION = "Python's options -I, -E and -S keep smcsock out"
_ENVIRONMENT = "its environment keeps smcsock out"

_environ, _open = os.environ, open


def watch(variable: str, hook: str) -> None:
    """``variable`` is to be in the environment of all that starts, and ``hook`` in PYTHONPATH."""

    def look(event: str, args: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            env = args[-1]
            _check([args[0], *args[1][1:]], _environ if env is None else env, variable, hook)
        elif event == "os.system":
            _check(["sh", "-c", args[0]], _environ, variable, hook)

    sys.addaudithook(look)


def _check(words: Sequence[Any], env: Any, variable: str, hook: str) -> None:
    try:
        command = [os.fsdecode(word) for word in words]
        pythons = list(_pythons(command))
        present = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    except (AttributeError, TypeError, ValueError):
        return  # for who starts it to refuse
    if not pythons:
        return
    reason = ""
    if any(not reads_environment(arguments) for arguments in pythons):
        reason = _OPTION
    elif variable not in present or not _leads(present, env, hook):
        reason = _ENVIRONMENT
    if reason:
        raise FallbackError(f"SMC was required: {shlex.join(command)} was not started, as {reason}")


def _pythons(command: list[str]) -> Iterator[list[str]]:
    """The arguments of each Python that a command starts, as far as can be seen."""
    name = os.path.basename(command[0])
    if _is_python(name):
        yield command[1:]
    elif name in _PREFIXES:
        clears = name == "env" and {"-", "-i", "--ignore-environment"} & set(command)
        for at, word in enumerate(command):
            if at and _is_python(os.path.basename(word)):
                yield ["-E"] if clears else command[at + 1 :]
                return
    elif name in _SHELLS and "-c" in command[1:-1]:
        for part in _SEPARATORS.split(command[command.index("-c") + 1]):
            words = shlex.split(part)
            while words and "=" in words[0]:
                del words[0]
            if words:
                yield from _pythons(words)
    else:
        words = _first_line(command[0])
        if words:
            yield from _pythons(words)


def _is_python(name: str) -> bool:
    return bool(PYTHON.fullmatch(name) or OTHER_PYTHON.fullmatch(name))


def _first_line(name: str) -> list[str]:
    """The interpreter of a script and its options."""
    path = shutil.which(name)
    if path is None:
        return []
    try:
        with _open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return []
    if not line.startswith(b"#!"):
        return []
    words = os.fsdecode(line[2:]).split()
    if words and os.path.basename(words[0]) == "env" and words[1:2] == ["-S"]:
        del words[1]
    return words


def reads_environment(arguments: list[str]) -> bool:
    """Whether a Python with these arguments has no option -I, -E or -S."""
    words = iter(arguments)
    for word in words:
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


def _leads(present: dict[str, str], env: Any, hook: str) -> bool:
    """Whether smcsock's sitecustomize is the first; a wrapper that came before comes after it."""
    path = present.get("PYTHONPATH", "").split(os.pathsep)
    if hook not in path:
        return False
    if path[0] != hook and any(
        os.path.exists(os.path.join(entry, "sitecustomize.py"))
        for entry in path[: path.index(hook)]
    ):
        if not isinstance(env, MutableMapping):
            return False
        path.remove(hook)
        new = os.pathsep.join([hook, *path])
        name: Any = "PYTHONPATH" if "PYTHONPATH" in env else b"PYTHONPATH"
        env[name] = new if isinstance(env[name], str) else os.fsencode(new)
    return True

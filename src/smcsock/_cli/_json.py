"""Results for programs: JSON."""

from __future__ import annotations

import argparse
from enum import IntEnum, IntFlag
from itertools import chain, islice

from ._common import put, writing
from ._text import format_gid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

__all__ = ["add_json", "plain", "say_items", "say_json", "say_lists"]

# Numbers that may have more digits than a program that reads JSON can keep.
_HEXADECIMAL = {"cookie", "gid", "net_cookie", "peer_gid", "peer_token", "token"}


def add_json(parser: argparse.ArgumentParser, *, default: Any = False) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", default=default, help="for programs")


def say_json(value: Any, indent: int | None = 2) -> None:
    """A result as JSON."""
    import json

    put(json.dumps(plain(value), indent=indent))


def plain(value: Any, name: str = "") -> Any:
    """What JSON has of a value: dataclasses become objects, members of enums their names."""
    # What most values are comes first.
    if value is None or type(value) is str:
        return value
    if type(value) is int:
        if name in _HEXADECIMAL:
            return format_gid(value) if value >> 64 else f"{value:#x}"
        return value
    if (names := getattr(value, "__dataclass_fields__", None)) is not None:
        return {name: plain(getattr(value, name), name) for name in names}
    if isinstance(value, dict):
        return {key: plain(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, IntFlag):
        return [flag.name for flag in value]
    if isinstance(value, IntEnum):
        return value.name
    return value


def say_items(items: Iterable[Any]) -> None:
    """A list as JSON, as its items come: one a line."""
    with writing() as write:
        _write_items(items, write)
        write("\n")


def say_lists(lists: Mapping[str, Iterable[Any]]) -> None:
    """An object of lists as JSON, as their items come: one a line."""
    import json

    with writing() as write:
        for n, (name, items) in enumerate(lists.items()):
            items = _begun(items)
            write(f"{',' if n else '{'}\n{json.dumps(name)}: ")
            _write_items(items, write)
        write("\n}\n")


def _begun(items: Iterable[Any]) -> Iterator[Any]:
    """The same, with the first one there: an error in its place comes before any output."""
    items = iter(items)
    return chain(list(islice(items, 1)), items)


def _write_items(items: Iterable[Any], write: Callable[[str], object]) -> None:
    import json

    separator = "["
    for item in items:
        write(f"{separator}\n{json.dumps(plain(item))}")
        separator = ","
    write("[]" if separator == "[" else "\n]")

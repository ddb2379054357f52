"""Filters of sockets in the words of ss.

Source: ss(8), FILTER; misc/ss.c of iproute2.
"""

import ipaddress
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .._kernel._state import MODES, Mode, State
from .._smcsock import Record

__all__ = ["Filter", "parse_filter"]

Filter: TypeAlias = Callable[[Record], bool]

_UNCONNECTED = (State.LISTEN, State.INIT)

_STATES: dict[str, Callable[[int], bool]] = {
    "all": lambda state: True,
    "connected": lambda state: state not in _UNCONNECTED,
    "established": lambda state: state == State.ACTIVE,
    "listening": lambda state: state == State.LISTEN,
}

_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    **dict.fromkeys(("=", "==", "eq"), operator.eq),
    **dict.fromkeys(("!=", "ne", "neq"), operator.ne),
    **dict.fromkeys(("<", "lt"), operator.lt),
    **dict.fromkeys(("<=", "le", "leq"), operator.le),
    **dict.fromkeys((">", "gt"), operator.gt),
    **dict.fromkeys((">=", "ge", "geq"), operator.ge),
}

_AND, _OR, _NOT = ("and", "&", "&&"), ("or", "|", "||"), ("not", "!")
_TOKEN = re.compile(r"[()]|[<>!=]=|[<>=!]|&&?|\|\|?|[^\s()<>=!&|]+")
_ADDRESS = re.compile(
    r"(?:\[(?P<inet6>[^\]]*)\](?P<length6>/\d+)?|(?P<host>[^:]*))(?::(?P<port>.*))?"
)


def parse_filter(words: Sequence[str]) -> tuple[Filter, bool]:
    """The filter that the words make, and whether it says which states are wanted.

    Raises ValueError for what is no filter.
    """
    parser = _Parser(_TOKEN.findall(" ".join(words)))
    return parser.parse(), parser.has_state


class _Parser:
    """By recursive descent: a method for each level of precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self.has_state = False

    def parse(self) -> Filter:
        if not self._tokens:
            return lambda record: True
        result = self._either()
        if self._tokens:
            raise ValueError(f"not expected here: {self._tokens[0]!r}")
        return result

    def _next(self) -> str:
        return self._tokens[0].lower() if self._tokens else ""

    def _take(self, what: str) -> str:
        if not self._tokens:
            raise ValueError(f"the filter ends where {what} is expected")
        return self._tokens.pop(0)

    def _either(self) -> Filter:
        parts = [self._all()]
        while self._next() in _OR:
            self._tokens.pop(0)
            parts.append(self._all())
        return lambda record: any(part(record) for part in parts)

    def _all(self) -> Filter:
        parts = [self._one()]
        while self._next() not in ("", ")", *_OR):
            if self._next() in _AND:
                self._tokens.pop(0)
            parts.append(self._one())
        return lambda record: all(part(record) for part in parts)

    def _one(self) -> Filter:
        word = self._take("a condition").lower()
        if word in _NOT:
            negated = self._one()
            return lambda record: not negated(record)
        if word == "(":
            inner = self._either()
            if self._take("')'") != ")":
                raise ValueError("a ')' is missing")
            return inner
        if word in ("state", "exclude"):
            self.has_state = True
            return _state(self._take("a state"), excluded=word == "exclude")
        if word == "mode":
            return _mode(self._take("a mode"))
        if word in ("src", "dst", "sport", "dport"):
            return self._end(word)
        raise ValueError(f"not a word of a filter: {word!r}")

    def _end(self, word: str) -> Filter:
        """A condition of one end: ``src``, ``dst``, ``sport`` or ``dport``."""
        end = operator.attrgetter("local" if word in ("src", "sport") else "peer")
        compare: Callable[[int, int], bool] = operator.eq
        if self._next() in _OPERATORS:
            compare = _OPERATORS[self._take("an operator").lower()]
        if word in ("sport", "dport"):
            number = _port(self._take("a port").removeprefix(":"))
            return lambda record: (
                (address := end(record)) is not None and compare(address[1], number)
            )
        if compare not in (operator.eq, operator.ne):
            raise ValueError("addresses are equal or not: = or !=")
        is_wanted = _address(self._take("an address"))
        return lambda record: compare(
            (address := end(record)) is not None and is_wanted(address), True
        )


def _state(name: str, *, excluded: bool) -> Filter:
    is_wanted = _STATES.get(name.lower())
    if is_wanted is None:
        states = {state.name.lower(): state for state in State}
        wanted = states.get(name.lower())
        if wanted is None:
            raise ValueError(f"not a state: {name!r} ({', '.join([*_STATES, *states])})")
        is_wanted = wanted.__eq__
    return lambda record: bool(is_wanted(record.state)) is not excluded


def _mode(name: str) -> Filter:
    modes = {mode.lower().replace("-", ""): mode for mode in Mode}
    wanted = modes.get(name.lower().replace("-", ""))
    if wanted is None:
        raise ValueError(f"not a mode: {name!r} ({', '.join(modes)})")
    return lambda record: MODES.get(record.mode) is wanted


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ValueError(f"not a port number (0 to 65535): {text!r}")
    return int(text)


def _address(text: str) -> Callable[[Any], bool]:
    """Whether a socket address is one of these."""
    match = None if _is_bare_inet6(text) else _ADDRESS.fullmatch(text)
    host, port = text, None
    if match:
        inet6 = match["inet6"]
        host = match["host"] if inet6 is None else f"{inet6}{match['length6'] or ''}"
        port = None if match["port"] in (None, "*") else _port(match["port"])
    if host in ("", "*"):
        return lambda address: port in (None, address[1])
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        raise ValueError(f"not an IP address or network: {text!r}") from None
    return lambda address: port in (None, address[1]) and _ip(address[0]) in network


def _is_bare_inet6(text: str) -> bool:
    return not text.startswith("[") and text.count(":") > 1


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; one of IPv4 that is written as IPv6, as of a socket for both, is IPv4."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped) or ip

"""JSON schemas of what the commands write with --json, from the types that they write."""

import dataclasses
import enum
import types
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

from smcsock import Mode, Reason, SmcInfo
from smcsock._cli import _info, _json
from smcsock._dropin._report import Side
from smcsock._kernel._rnics import PciFunction
from smcsock.diag import (
    Link,
    PnetId,
    SmcdDevice,
    SmcdLinkGroup,
    SmcrDevice,
    SmcrLinkGroup,
    Stats,
    System,
    SystemEid,
)
from smcsock.doctor import Finding

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Dibs(TypedDict):
    """A DIBS device."""

    name: str
    pci_id: str | None
    gid: str
    fabric_id: str


class Devices(TypedDict):
    """Of 'smcsock devices'."""

    smcd: NotRequired[list[SmcdDevice]]
    ism_v2: NotRequired[bool]
    dibs: NotRequired[list[Dibs]]
    smcr: NotRequired[list[SmcrDevice]]


class LinkGroups(TypedDict):
    """Of 'smcsock linkgroups'."""

    smcd: NotRequired[list[SmcdLinkGroup]]
    smcr: NotRequired[list[SmcrLinkGroup]]
    links: NotRequired[list[Link]]


class Limitation(TypedDict):
    """Of 'smcsock hs-limit'."""

    enabled: bool


class End(TypedDict):
    """One end of a connection that doctor made."""

    mode: Mode | None
    reason: Reason | None
    peer_reason: Reason | None


class Connection(TypedDict):
    """A connection that doctor made."""

    target: str
    is_local: bool
    is_smc: bool | None
    mode: Mode | None
    error: str | None
    client: End | None
    server: End | None


class Doctor(TypedDict):
    """Of 'smcsock doctor'."""

    works: bool | None
    summary: str
    findings: list[Finding]
    connections: list[Connection]
    run: list[list[str]]


class RoundTrips(TypedDict):
    """Of 'smcsock bench', in seconds."""

    median: float | None
    p99: float | None


class Variant(TypedDict):
    """What 'smcsock bench' has measured with TCP or SMC; the keys of dicts are sizes."""

    modes: list[str]
    connections_per_second: float | None
    round_trip_seconds: RoundTrips
    throughput_bytes_per_second: dict[str, float | None]
    client_cpu_nanoseconds_per_byte: dict[str, float | None]
    server_cpu_nanoseconds_per_byte: dict[str, float | None]


class Bench(TypedDict):
    """Of 'smcsock bench'."""

    mode: str
    conclusion: str
    runs: dict[str, Variant]


class Connections(TypedDict):
    """Connections of one kind, in the report of 'smcsock run'."""

    side: Side
    mode: Mode | None
    reason: int | None
    peer_reason: int | None
    note: str
    refused: bool
    count: int


class Run(TypedDict):
    """Of 'smcsock run --report --json'."""

    processes: int
    connections: list[Connections]
    missing: dict[str, int]


Info = TypedDict("Info", {"usable": bool, **get_type_hints(_info.Report)})  # type: ignore[misc]

OF_COMMAND: dict[str, Any] = {
    "info": Info,
    "doctor": Doctor,
    "bench": Bench,
    "run": Run,
    "ss": list[SmcInfo],
    "linkgroups": LinkGroups,
    "devices": Devices,
    "stats": Stats,
    "system": System,
    "ueid": list[str],
    "seid": SystemEid,
    "pnet": list[PnetId],
    "hs-limit": Limitation,
    "rnics": list[PciFunction],
}
"""What a command writes with --json."""

_SIMPLE = {str: "string", bool: "boolean", float: "number", int: "integer", types.NoneType: "null"}


def schema(command: str) -> dict[str, Any]:
    """The JSON schema of what a command writes with --json."""
    definitions: dict[str, Any] = {}
    body = _of(OF_COMMAND[command], definitions)
    return {"$schema": DRAFT, "title": f"smcsock {command} --json", **body, "$defs": definitions}


def _of(kind: Any, definitions: dict[str, Any], name: str = "") -> dict[str, Any]:
    """The schema of a type, that of an attribute of this name."""
    if kind is int and name in _json._HEXADECIMAL:
        return {"type": "string"}
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each, definitions, name) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple):
        return _array(origin, arguments, definitions)
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if issubclass(kind, enum.StrEnum):
        return {"enum": [member.value for member in kind]}
    if issubclass(kind, enum.IntFlag):
        return {"type": "array", "items": {"enum": [member.name for member in kind]}}
    if issubclass(kind, enum.IntEnum):
        return {"enum": [member.name for member in kind]}
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # should it contain itself
        definitions[kind.__name__] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _array(origin: Any, arguments: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    if origin is tuple and Ellipsis not in arguments:
        items = [_of(each, definitions) for each in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items)}
    return {"type": "array", "items": _of(arguments[0], definitions)}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        required = names
    else:
        names, required = list(hints), sorted(kind.__required_keys__, key=list(hints).index)
    properties = {name: _of(hints[name], definitions, name) for name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }

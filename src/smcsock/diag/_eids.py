"""Enterprise IDs, by which hosts find that SMC version 2 may join them.

Source: net/smc/smc_clc.c in the Linux kernel.
"""

import errno
import re
from dataclasses import dataclass

from ._commands import SmcCommand
from ._errors import DiagError
from ._generic import change, dump, entries

__all__ = [
    "SystemEid",
    "add_ueid",
    "check_eid",
    "clear_ueids",
    "disable_seid",
    "enable_seid",
    "remove_ueid",
    "seid",
    "ueids",
]

_LENGTH = 32
_NO_SEID = "only IBM Z has a system EID"
_EID = re.compile(r"[A-Z0-9][A-Z0-9.-]*")


@dataclass(frozen=True, slots=True)
class SystemEid:
    """The system EID; ``name`` is None where the machine has none (off IBM Z)."""

    name: str | None
    enabled: bool


def ueids() -> list[str]:
    """The user-defined EIDs of this host. Raises DiagError and ExtraMissingError."""
    return list(entries(SmcCommand.DUMP_UEID, "SMC_NLA_EID_TABLE_ENTRY"))


def add_ueid(name: str) -> None:
    """Adds a user-defined EID, for all network namespaces; 4 are possible.

    It has up to 32 of the characters A-Z, 0-9, "." and "-", the first one a letter or
    digit, and no two dots in a row. Takes CAP_NET_ADMIN. Raises ValueError for other
    names, DiagError (EEXIST if it is there, ERANGE if 4 are) and ExtraMissingError.
    """
    change(
        SmcCommand.ADD_UEID,
        _entry(name),
        {
            errno.EEXIST: f"the UEID {name} is defined already",
            errno.ERANGE: "there are 4 UEIDs already, and no more are possible: remove one first",
        },
    )


def remove_ueid(name: str) -> None:
    """Removes a user-defined EID. On IBM Z the last one to go enables the system EID.

    Takes CAP_NET_ADMIN. Raises ValueError for what cannot be one, DiagError (ENOENT
    if it is not defined) and ExtraMissingError.
    """
    try:
        change(
            SmcCommand.REMOVE_UEID,
            _entry(name),
            {errno.ENOENT: f"the UEID {name} is not defined"},
        )
    except DiagError as error:
        if error.errno != errno.EAGAIN:  # removed, and the system EID enabled
            raise


def clear_ueids() -> None:
    """Removes all user-defined EIDs. Takes CAP_NET_ADMIN; raises as remove_ueid() does."""
    change(SmcCommand.FLUSH_UEID)


def seid() -> SystemEid:
    """The system EID, and whether it is used. Raises DiagError and ExtraMissingError."""
    name, enabled = None, False
    for message in dump(SmcCommand.DUMP_SEID):
        name = message.get("SMC_NLA_SEID_ENTRY") or name
        enabled = bool(message.get("SMC_NLA_SEID_ENABLED", enabled))
    return SystemEid(name, enabled)


def enable_seid() -> None:
    """Has the system EID used.

    Takes CAP_NET_ADMIN. Raises DiagError (EOPNOTSUPP off IBM Z) and ExtraMissingError.
    """
    change(SmcCommand.ENABLE_SEID, errors={errno.EOPNOTSUPP: _NO_SEID})


def disable_seid() -> None:
    """Has the system EID not used, which takes a user-defined EID.

    Takes CAP_NET_ADMIN. Raises DiagError (ENOENT without a user-defined EID,
    EOPNOTSUPP off IBM Z) and ExtraMissingError.
    """
    change(
        SmcCommand.DISABLE_SEID,
        errors={
            errno.EOPNOTSUPP: _NO_SEID,
            errno.ENOENT: "the system EID is needed as there is no user-defined one: add one first",
        },
    )


def check_eid(name: str) -> None:
    """ValueError for what cannot be a user-defined EID."""
    if len(name) > _LENGTH or not _EID.fullmatch(name) or ".." in name:
        raise ValueError(
            f"not an EID: {name!r} (up to {_LENGTH} of the characters A-Z, 0-9, '.' and '-', "
            "the first one no '.' or '-', and no '..')"
        )


def _entry(name: str) -> dict[str, str]:
    """The attribute of a user-defined EID; ValueError if it cannot be one."""
    check_eid(name)
    return {"SMC_NLA_EID_TABLE_ENTRY": name.ljust(_LENGTH)}

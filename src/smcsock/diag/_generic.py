"""Requests to the kernel's two SMC families of generic netlink.

Reading needs no privilege; changing takes CAP_NET_ADMIN (GENL_ADMIN_PERM).
"""

import errno
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeAlias

from .._kernel._netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, ask
from .._socket import has_smc
from ._commands import Command, PnetCommand
from ._errors import NOT_PERMITTED, DiagError, ExtraMissingError, diag_error, no_smc

__all__ = ["Attributes", "change", "dump", "entries"]

Attributes: TypeAlias = dict[str, Any]

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_VERSION = 1  # of every message here

_TOO_OLD = "this kernel's SMC is too old for that"


def dump(command: Command) -> Iterator[Attributes]:
    """The attributes of each message that the kernel answers to a command, as they come.

    The iterator raises DiagError and ExtraMissingError.
    """
    return _request(command, NLM_F_DUMP, {}, {})


def entries(command: Command, name: str) -> Iterator[Any]:
    """What the messages have under one name, as they come; not every one need have it.

    The iterator raises DiagError and ExtraMissingError.
    """
    return (message[name] for message in dump(command) if name in message)


def change(
    command: Command,
    attributes: Mapping[str, Any] | None = None,
    errors: Mapping[int, str] | None = None,
) -> None:
    """Has the kernel change something; ``errors`` has the texts of its errnos.

    Raises DiagError and ExtraMissingError.
    """
    for _ in _request(command, NLM_F_ACK, attributes or {}, errors or {}):
        pass


def _request(
    command: Command, flags: int, attributes: Mapping[str, Any], errors: Mapping[int, str]
) -> Iterator[Attributes]:
    messages = _messages()
    message_class = messages.message_class(command)
    family = _family_of("SMC_PNETID" if isinstance(command, PnetCommand) else "SMC_GEN_NETLINK")
    request = _encode(message_class, family, command, flags, attributes)
    try:
        for answer in ask(_NETLINK_GENERIC, request):
            yield messages.attributes(_decode(message_class, answer))
    except OSError as error:
        texts = {errno.EPERM: NOT_PERMITTED, errno.EOPNOTSUPP: _TOO_OLD, **errors}
        raise diag_error(error, texts) from None


def _messages() -> ModuleType:
    try:
        from . import _messages
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyroute2":
            raise
        raise ExtraMissingError("pyroute2") from None
    return _messages


def _family_of(name: str) -> int:
    """The number of a family, for which the kernel may load a module."""
    try:
        return _look_up(name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EPROTONOSUPPORT):
            raise diag_error(error, {}) from None
    if not has_smc():
        raise no_smc()
    try:  # To ask for a socket may have loaded the module.
        return _look_up(name)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise diag_error(error, {}) from None
        text = f"{_TOO_OLD}: it has no generic netlink family {name}"
        raise DiagError(errno.EOPNOTSUPP, text) from None


def _look_up(name: str) -> int:
    control = _messages().ControlMessage
    request = _encode(
        control, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, NLM_F_ACK, {"CTRL_ATTR_FAMILY_NAME": name}
    )
    (answer,) = ask(_NETLINK_GENERIC, request)
    return int(_decode(control, answer).get_attr("CTRL_ATTR_FAMILY_ID"))


def _encode(
    message_class: Any, family: int, command: int, flags: int, attributes: Mapping[str, Any]
) -> bytes:
    message = message_class()
    message["cmd"] = command
    message["version"] = _VERSION
    message["attrs"] = list(map(list, attributes.items()))
    message["header"]["type"] = family
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["header"]["sequence_number"] = 1
    message.encode()
    return bytes(message.data)


def _decode(message_class: Any, data: bytes) -> Any:
    message = message_class(data=data)
    message.decode()
    return message

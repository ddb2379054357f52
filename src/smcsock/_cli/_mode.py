"""The mode of a connection, in words."""

from dataclasses import dataclass, field

from .. import FallbackError, SmcInfo, socket
from ._common import explain

__all__ = ["ModeText", "mode_of", "refusal"]


@dataclass(frozen=True)
class ModeText:
    """``text`` is the mode, with the reason of a fallback; ``advice`` what to do about it."""

    text: str
    advice: list[str] = field(default_factory=list)


def mode_of(sock: socket) -> ModeText:
    """The mode of a connected socket. Never raises OSError: that becomes the text."""
    try:
        return _describe(sock.smc_info())
    except OSError as error:
        try:
            known = "TCP, for a reason unknown" if sock.fell_back() else "SMC-D or SMC-R"
        except OSError:
            known = "unknown mode"
        return ModeText(f"{known} ({explain(error)})")


def refusal(error: FallbackError) -> str:
    """The message of a FallbackError, with what to do about it."""
    advice = _advice(error.info) if error.info else []
    return "; ".join([explain(error), *(f"advice: {text}" for text in advice)])


def _describe(info: SmcInfo) -> ModeText:
    if info.mode is not None and info.state is None:
        return ModeText(f"{info.mode} (this kernel has no SMC)")
    return ModeText(str(info), _advice(info))


def _advice(info: SmcInfo) -> list[str]:
    advice = []
    # Of a peer that declined, its own diagnosis says more.
    if info.reason and not (info.peer_reason and info.reason.name == "PEERDECL"):
        advice.append(info.reason.advice)
    if info.peer_reason:
        advice.append(f"at the peer: {info.peer_reason.advice}")
    return advice

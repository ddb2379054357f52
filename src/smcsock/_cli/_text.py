"""Text: of GIDs, and from those that nobody has to trust: peers, devices, other programs."""

__all__ = ["format_gid", "printable"]


def printable(text: str) -> str:
    r"""The text in one line, with what could do something to a terminal written as \x1b.

    That is every character that Unicode does not count as printable: control characters,
    line ends among them, C1 controls, what turns the direction of text or cannot be seen,
    surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def format_gid(gid: int) -> str:
    """The GID of an SMC-D device: if it is one of 128 bits, as /sys/class/dibs writes it."""
    if gid >> 64 == 0:
        return f"{gid:016x}"
    digits = f"{gid:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

"""Text for people from those that nobody has to trust: peers, devices, other programs."""

__all__ = ["printable"]


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

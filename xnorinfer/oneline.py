"""Text from files, as it may stand on a screen, in a comment or a certificate: one line, nothing that a terminal obeys."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text with everything that is not printable escaped as in Python's strings: line breaks, terminal controls, marks that
    turn the direction of writing, halves of characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def lines(text: str) -> str:
    """The same for a text of our own that may have several lines, which stay."""
    return "\n".join(map(one_line, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()

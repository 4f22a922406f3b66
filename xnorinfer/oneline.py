"""Text from files, as it may stand on a screen, in a comment or a certificate: one line, nothing that a terminal obeys."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text with everything that is not printable escaped as in Python's strings: line breaks, terminal controls, marks that
    turn the direction of writing, halves of characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


#: Characters of a line of an error: names and what libraries quote may have any length.
LONGEST = 4000


def shortened(text: str) -> str:
    """The same, with the middle left out of what is longer than any message of ours."""
    text = one_line(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 400]} ... {text[-380:]}"


def lines(text: str) -> str:
    """The same for a text of our own that may have several lines, which stay."""
    return "\n".join(map(one_line, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()

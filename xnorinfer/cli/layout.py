"""Text for terminals of any width: lines break between words, never within one; examples stay commands that can be copied."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

import click

#: Of a list of definitions: the share of the width that the terms may take to stand beside their texts, not above them.
BESIDE = 0.4
#: What stands between a command and what is said of it, in the text of examples.
_GAP = re.compile(r"\s{3,}")
#: What does not break within a command: texts in quotes, and an option with its value.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_VALUE = re.compile(r"( --?[\w-]+) (?=[^-|])")


def wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    """Text in lines of at most `width`, broken at spaces; a longer word stays whole.  first, later: what lines begin with."""
    return textwrap.wrap(
        text, max(width, 1), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


class Formatter(click.HelpFormatter):
    """Help with terms above their texts where they do not fit beside them, and examples that fit the width."""

    def write_text(self, text: str) -> None:
        r"""Paragraphs; one that begins with \b has lines: those that are indented are examples, and others end a paragraph."""
        for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
            if number:
                self.write("\n")
            kept, _, lines = paragraph.rpartition("\b\n")
            if kept or paragraph.startswith("\b"):
                self._write_block(lines.split("\n"))
            else:
                self._write_lines(paragraph)

    def _write_lines(self, text: str, more: int = 0) -> None:
        indent = " " * (self.current_indent + more)
        self.write("".join(line + "\n" for line in wrapped(" ".join(text.split()), self.width, indent, indent)))

    def _write_block(self, lines: Sequence[str]) -> None:
        prose: list[str] = []
        examples: list[str] = []
        for line in [*lines, ""]:
            if examples and not line.startswith(" "):
                self.write("".join(one + "\n" for one in fitted(examples, self.width - self.current_indent - 2, self._inset)))
                examples = []
            if line.startswith(" "):
                if prose:
                    self._write_lines(" ".join(prose))
                    prose = []
                examples.append(line.strip())
            elif line:
                prose.append(line)
        if prose:
            self._write_lines(" ".join(prose))

    @property
    def _inset(self) -> str:
        return " " * (self.current_indent + 2)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Terms and their texts."""
        rows = list(rows)
        first = min(max((len(term) for term, _ in rows), default=0), col_max) + col_spacing
        beside = first + self.current_indent <= BESIDE * self.width
        indent = " " * (self.current_indent + (first if beside else 4))
        for term, text in rows:
            head = " " * self.current_indent + term
            if beside and len(term) <= first - col_spacing:
                lines = wrapped(text, self.width, head.ljust(len(indent)), indent) or [head]
            else:
                lines = [head, *wrapped(text, self.width, indent, indent)]
            self.write("".join(line + "\n" for line in lines))


def fitted(examples: Iterable[str], width: int, indent: str = "") -> list[str]:
    """Lines like 'command   what it is for' in columns; where they are too long, what is said stands above as a comment, and
    commands go on in a line of their own as a shell takes it."""
    pairs: list[tuple[str, str]] = []
    for line in examples:
        command, _, said = _GAP.sub("\0", line, count=1).partition("\0")
        pairs.append((command, said))
    column = max((len(command) for command, said in pairs if said), default=0) + 3
    if all(column + len(said) <= width if said else len(command) <= width for command, said in pairs):
        return [indent + (command.ljust(column) + said if said else command) for command, said in pairs]
    found: list[str] = []
    for command, said in pairs:
        found += wrapped(said, width + len(indent), f"{indent}# ", f"{indent}# ")
        parts = [indent + command]
        if len(command) > width:
            kept = _QUOTED.sub(lambda found: found[0].replace(" ", "\0"), command)
            kept = _VALUE.sub("\\1\0", kept)
            parts = [line.replace("\0", " ") for line in wrapped(kept, width - 2 + len(indent), indent, indent + "    ")]
        found += [f"{part} \\" for part in parts[:-1]] + parts[-1:]
    return found

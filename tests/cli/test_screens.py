"""Screens at 50 to 140 columns: no line is too long, no word, number or heading broken, every example a command that can be
copied."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from command_line import CHECKPOINT, DIGITS, fine

from xnorinfer.cli import COMMANDS, main, screen
from xnorinfer.cli.layout import fitted, wrapped

WIDTHS = (50, 60, 80, 140)
#: A word longer than any screen here stands in a line of its own.
LONG = re.compile(r"^\W*\S{45,}\W*$|^ +(\S+( \S+)?  +)?\S{40,}$")


class Terminal(io.StringIO):
    """What a terminal gets."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: object) -> str:
    """What a command writes to a terminal of a width."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", terminal)
        main.main([str(one) for one in arguments], prog_name="xnorinfer", standalone_mode=False)
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


def too_long(text: str, width: int) -> list[str]:
    return [line for line in text.splitlines() if len(line.rstrip()) > width and not LONG.match(line)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*command.split(), "--help"]
    text = on_terminal(monkeypatch, width, *words)
    assert not too_long(text, width)
    wide = on_terminal(monkeypatch, 1000, *words)
    assert set(re.findall(r"\S+", wide)) <= set(re.findall(r"\S+", text)) | {"[OPTIONS]"}
    assert "..." not in [word for line in text.splitlines() for word in line.split()[-1:] if command == ""]
    # The examples say the same, in whatever lines.
    assert commands(text) == commands(wide)
    assert commands(text)


def commands(text: str) -> list[list[str]]:
    """The command lines among examples, as a shell splits them."""
    lines = re.sub(r" \\\n +", " ", text).splitlines()
    return [shlex.split(re.split(r" {3,}", line.strip())[0]) for line in lines if re.match(r" {4}xnorinfer ", line)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ["convert", "info", "verify", "models", "card", "run", "bench", "stats", "peers"])
def test_results(command: str, width: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a screen are those of a pipe, wherever its lines end."""
    arguments = {
        "convert": ["convert", CHECKPOINT, "--dry-run"],
        "info": ["info", model],
        "verify": ["verify", model, CHECKPOINT, "--rows", 9, "--sensitivity"],
        "models": ["models"],
        "card": ["models", "mnist-conv"],
        "run": ["run", model, f"{DIGITS}:x", "--scores"],
        "bench": ["bench", model, "--batch", "1,1024", "--threads", "1", "--seconds", "0.01"],
        "stats": ["info", model, "--stats", f"{DIGITS}:x"],
        "peers": ["bench", model, "--batch", "8", "--threads", "1", "--seconds", "0.01", "--profile"],
    }[command]
    text = on_terminal(monkeypatch, width, *arguments)
    assert not too_long(text, width)
    assert ("warning: " in text) == (command in ("convert", "info", "stats"))
    if command in ("convert", "info", "verify", "models"):
        assert words(fine(*arguments)) - words(text) <= {"what", "value"}
    if width == 140 or (width == 80 and command not in ("models",)):
        assert "─────" in text or command in ("card", "run")


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\s─]+", text))


def test_a_table_that_does_not_fit_is_shown_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [("layer", False), ("as float32", True), ("becomes", False)]
    rows = [["first", "10.2 KiB", "a text of several words"], ["x", "1 MiB", "short"]]

    def shown(width: int) -> list[str]:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm")
            screen.table(columns, rows)
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()]

    assert shown(40) == [
        "layer  as float32  becomes",
        "─" * 40,
        "first    10.2 KiB  a text of several",
        "                   words",
        "x           1 MiB  short",
    ]
    # Headings break between words, numbers never do.
    assert shown(26)[:4] == ["              as", "layer    float32  becomes", "─" * 26, "first   10.2 KiB  a text"]
    assert shown(22) == [
        "layer first",
        "  as float32  10.2 KiB",
        "  becomes     a text",
        "              of",
        "              several",
        "              words",
        "layer x",
        "  as float32  1 MiB",
        "  becomes     short",
    ]


def test_examples_stand_in_columns_or_below_what_is_said_of_them() -> None:
    lines = ["xnorinfer a    first", "xnorinfer bb --data FILE -o OUT     second thing"]
    assert fitted(lines, 60) == [
        "xnorinfer a                       first",
        "xnorinfer bb --data FILE -o OUT   second thing",
    ]
    assert fitted(lines, 24) == [
        "# first",
        "xnorinfer a",
        "# second thing",
        "xnorinfer bb \\",
        "    --data FILE -o OUT",
    ]
    # What is in quotes is one word.
    assert fitted(["xnorinfer run 'a b c' --data 'd e f'"], 24) == ["xnorinfer run 'a b c' \\", "    --data 'd e f'"]


def test_words_stay_whole() -> None:
    path = "/a-very-long/path-of/some-file.npz"
    assert wrapped(f"wrote {path}, leaky-relu", 12) == ["wrote", f"{path},", "leaky-relu"]
    assert wrapped("warning: one two three", 14, later="  ") == ["warning: one", "  two three"]
    assert wrapped("", 10) == []

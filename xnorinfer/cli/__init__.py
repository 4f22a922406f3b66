"""The command `xnorinfer`: one file per subcommand, imported when it is asked for.

Exit codes: 0 fine, 1 a check does not hold, 2 wrong use or bad input, 70 a defect of xnorinfer, 130 interrupted (143
terminated).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from xnorinfer.cli.layout import Formatter, wrapped
from xnorinfer.cli.stopping import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopping, leave, stopping
from xnorinfer.errors import DoesNotHoldError, XnorinferError
from xnorinfer.oneline import lines

#: Subcommand -> the module here that holds it, in the order of the help.
COMMANDS = ("demo", "convert", "info", "run", "verify", "extract", "bench", "score", "models", "serve", "warmup")

EXIT_DOES_NOT_HOLD = 1
EXIT_WRONG_USE = 2
EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h
#: Words of a message that are longer are names which somebody made to be long.
LONGEST_WORD = 400
#: What a file takes no more bytes for; all but stdout is written by `xnorinfer.files`, which names the file.
DISK_FULL = {getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT", "EIO") if hasattr(errno, name)}
EXIT_BROKEN_PIPE = 128 + 13  # SIGPIPE, which Windows does not name

EPILOG = """\b
A first session:
  xnorinfer demo                                 see everything work, on data that comes with the package
  xnorinfer convert net.npz -o net.safetensors   pack a trained checkpoint into bits
  xnorinfer run net.safetensors images.npy       classify images
  xnorinfer verify net.safetensors net.npz       check that both compute the same, bit for bit

Every command has its own help with examples: xnorinfer run --help
"""


class _ReaderLeft(Exception):
    """Whoever read stdout has closed it."""


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        root = ctx.find_root().command
        if value and isinstance(root, CommandLine):
            root.debug = True

    text = "Show the whole traceback of an internal error."
    return click.Option(["--debug"], is_flag=True, expose_value=False, is_eager=True, callback=remember, help=text)


class _Context(click.Context):
    formatter_class = Formatter


class CommandLine(click.Group):
    """The group of all commands; turns errors into one clear line and an exit code.

    debug: whether --debug was given, to the group or a command.
    """

    context_class = _Context
    debug = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but with the whole first sentence of each command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=1000)) for name, one in commands if one is not None])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"xnorinfer.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        if not any("--debug" in one.opts for one in command.params):
            command.params.append(_debug_option())
            command.context_class = _Context
        return command

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the process's only job: after Ctrl-C nothing is cleaned up that ends with the process anyway (LLVM takes long)."""
        try:
            return self.main(*args, **kwargs)
        except SystemExit as end:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: a late Ctrl-C must not look like an early one
            if end.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
                leave(int(end.code))
            raise

    def main(  # type: ignore[override]  # click declares overloads
        self, args: Sequence[str] | None = None, prog_name: str | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run a command line; with `standalone_mode` (the default) end the process with the exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        self.debug = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names in files may hold what the terminal's encoding lacks
                stream.reconfigure(errors="backslashreplace")
        state = Stopping()
        try:
            with stopping(state):
                try:
                    code = self._guarded(args, prog_name, **extra)
                except Exception as error:
                    # After Ctrl-C: what click or a library made of it.
                    interrupted = state.interrupted or isinstance(error, click.Abort)
                    code = _interrupted(state) if interrupted else self._defect(error)
        except KeyboardInterrupt:
            code = _interrupted(state)
        sys.exit(code)

    def _guarded(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
        except DoesNotHoldError as error:
            _complain(str(error))
            return EXIT_DOES_NOT_HOLD
        except XnorinferError as error:
            _complain(str(error))
            return EXIT_WRONG_USE
        except click.UsageError as error:
            if error.ctx is not None:
                click.echo(error.ctx.get_usage(), err=True)
                click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
            _complain(error.format_message())
            return EXIT_WRONG_USE
        except click.ClickException as error:
            _complain(error.format_message())
            return EXIT_WRONG_USE
        except (_ReaderLeft, BrokenPipeError):
            _forget_stdout()  # the reader (head, less) has seen enough
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.filename is not None or error.errno not in DISK_FULL:
                raise
            _forget_stdout()
            _complain(f"standard output cannot be written: {error.strerror}")
            return EXIT_WRONG_USE
        return code if isinstance(code, int) else 0

    def _defect(self, error: Exception) -> int:
        """The last resort: no user's mistake, as far as anybody thought of it."""
        if isinstance(error, MemoryError):
            _complain(f"there is not enough memory ({error or 'no more is known'})")
            return EXIT_WRONG_USE
        if self.debug:
            traceback.print_exception(error)
        said = next(iter(str(error).splitlines()), "")
        _complain(
            f"internal error, a defect of xnorinfer: {type(error).__name__}{f': {said}' if said else ''}"
            + ("" if self.debug else "; please report it with what --debug shows")
        )
        return EXIT_DEFECT

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort() from None  # click would print an empty line first
        except BrokenPipeError:
            raise _ReaderLeft from None  # click would exit with 1


def _forget_stdout() -> None:
    """Let what is still buffered vanish; Python would complain when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted(state: Stopping) -> int:
    state.say_once(lambda words: click.echo(words, nl=False, err=True))
    return EXIT_INTERRUPTED


def _complain(message: str) -> None:
    shortened = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", message)
    text = f"error: {lines(shortened)}"
    with contextlib.suppress(OSError, ValueError):  # stderr is no terminal: a line stays one
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        text = "\n".join("\n".join(wrapped(line, width, later="  ")) for line in text.split("\n"))
    click.echo(text, err=True)


@click.group(
    cls=CommandLine,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="xnorinfer", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run binarized neural networks on ordinary CPUs, with bits instead of floats.

    xnorinfer packs a trained network into bits and integer thresholds once ('convert'), and then runs it with XOR and
    popcount: the same answers as the trained network, many times faster, in a fraction of the memory.

    Exit codes: 0 fine, 1 a check does not hold, 2 wrong use or bad input, 70 a defect of xnorinfer, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())

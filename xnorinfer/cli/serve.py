"""`xnorinfer serve`: models behind HTTP."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from xnorinfer.cli import screen
from xnorinfer.cli.options import Size
from xnorinfer.cli.stopping import own_signals
from xnorinfer.errors import OptionError

EPILOG = """\b
Examples:
  xnorinfer serve mnist-784-1024x3                       http://127.0.0.1:8000 has a page to draw digits on
  xnorinfer serve digits=mine.safetensors mnist-784-1024x3
  xnorinfer serve mine.safetensors --host 0.0.0.0 --token-file tokens.txt
  xnorinfer serve mine.safetensors --workers 4 --threads 1
"""


@click.command("serve", epilog=EPILOG)
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for any that is free.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer only requests with one of the tokens in this file, one a line (Authorization: Bearer TOKEN).",
)
@click.option("--workers", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N", help="Processes.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of the engine in each process.  [default: XNORINFER_NUM_THREADS or the cores, shared by the processes]",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=256, show_default=True, metavar="ROWS", help="Samples computed at once."
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Requests that may wait, of each model; others are answered with 503.",
)
@click.option(
    "--max-body", type=Size(), default="8M", show_default=True, help="Bytes of a request at most; others are answered with 413."
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="ROWS",
    help="Samples of a request at most.",
)
@click.option(
    "--max-pending", type=Size(), default="256M", show_default=True, help="Bytes of all requests in each process at most."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for a request, from its head to its answer.",
)
@click.option(
    "--reload",
    "reload_seconds",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for model files that changed; 0 for never.",
)
@click.option("--quiet", is_flag=True, help="No log lines for requests that went well.")
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    workers: int,
    threads: int | None,
    batch: int,
    queue: int,
    max_body: int,
    max_rows: int,
    max_pending: int,
    timeout: float,
    reload_seconds: float,
    quiet: bool,
) -> None:
    """Serve models over HTTP: the Open Inference Protocol v2, Prometheus' numbers at /metrics, and a page at /.

    Each MODEL is a model file, or the name of a model that ships; NAME is what requests call it, else its file's name.  A file
    that is replaced is loaded while the old model serves on, which stays if the new file is broken.  Log lines are JSON, on
    stderr.  SIGTERM or Ctrl-C ends the server once all that it accepted is answered.

    Needs the extra serve: pip install 'xnorinfer[serve]'
    """
    from xnorinfer.engine.plan import default_threads
    from xnorinfer.serve import require_packages
    from xnorinfer.serve.limits import Limits
    from xnorinfer.serve.workers import Workers, shared_folder

    require_packages()
    if timeout == float("inf"):
        raise OptionError("--timeout takes a finite number of seconds")
    limits = Limits(max_body, max(max_pending, max_body), queue, max_rows, batch, timeout)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(shared_folder()) if workers > 1 else None
        from xnorinfer.serve import repository, running
        from xnorinfer.serve.application import Application
        from xnorinfer.serve.telemetry import Log

        log = Log(sys.stderr, requests=not quiet)
        tokens = () if token_file is None else repository.read_tokens(token_file)
        if token_file is not None and repository.readable_by_others(token_file):
            log("other users can read the file of the tokens", file=str(token_file))
        named = repository.named_models(models)
        opened = stack.enter_context(running.listen(host, port))
        with screen.waiting("preparing kernels (the first use compiles them)"):
            ready = repository.Repository(
                named,
                threads=max(1, default_threads() // workers) if threads is None else threads,
                snapshots=None if folder is None else folder / "models",
            )

        def serve() -> None:
            application = Application(ready, limits=limits, log=log, tokens=tokens, reload_seconds=reload_seconds)
            running.run(application, opened)

        versions = {name: served.version for name, served in ready.served.items()}
        screen.say(f"serving {', '.join(versions)} at {running.url_of(opened)}; Ctrl-C ends it")
        sys.stdout.flush()
        log("serving", url=running.url_of(opened), models=versions, workers=workers)
        stack.enter_context(own_signals())
        if workers == 1:
            serve()
        else:
            Workers(workers, serve, log).run()
        log("ended")

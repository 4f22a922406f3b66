"""`xnorinfer warmup`: compile the kernels before they are needed."""

from __future__ import annotations

import time

import click

from xnorinfer.cli import screen

EPILOG = """\b
Examples:
  xnorinfer warmup
  xnorinfer warmup --all
  XNORINFER_CACHE_DIR=/opt/kernels xnorinfer warmup     keep them in a folder of your choice
"""


@click.command("warmup", epilog=EPILOG)
@click.option("--all", "every", is_flag=True, help="Every kernel that this CPU runs, not only the one it would choose.")
def command(every: bool) -> None:
    """Compile the kernels for this CPU ahead of their first use.

    Kernels are compiled on first use, which takes some seconds, and kept on disk for later processes. Run this once
    after installing, for example while building a container image, on the kind of CPU that will run it.
    """
    from xnorinfer import kernels
    from xnorinfer.kernels import store, trusted

    rows = []
    for name in [kernel.name for kernel in kernels.usable()] if every else [kernels.choose().name]:
        begin = time.perf_counter()
        with screen.waiting(f"compiling kernel {name}"):
            compiled = kernels.warmup(name)
        what = f"{len(compiled)} functions compiled" if compiled else "was ready"
        rows.append([name, what, screen.time_text(time.perf_counter() - begin)])
    screen.table([("kernel", False), ("result", False), ("time", True)], rows)
    reasons = {folder: trusted.reason_against(folder) for folder in store.folders()}
    usable = [str(folder) for folder, reason in reasons.items() if reason is None]
    screen.say(f"kept in the first of these folders that can be written: {', '.join(usable)}" if usable else "kept nowhere")
    for reason in filter(None, reasons.values()):
        screen.warn(f"not kept there: {reason}")

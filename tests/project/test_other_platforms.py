"""Windows and macOS, as far as Linux can show: everything works without what only some platforms have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs in a process of its own: other packages are imported before, as theirs is what they do.
CODE = """
import concurrent.futures, multiprocessing, shutil, subprocess, tempfile
import click, numba, numpy as np, rich.console, rich.progress, rich.table, safetensors.numpy

import os, signal, sys

LACKS = {
    os: (
        "chown fchmod fchown fork forkpty getegid geteuid getgid getloadavg getuid killpg memfd_create mkfifo posix_fallocate "
        "pread pwrite register_at_fork sched_getaffinity sched_setaffinity sendfile setsid statvfs sysconf uname wait4 "
        "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK"
    ),
    signal: (
        "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGTSTP SIGUSR1 SIGUSR2 alarm pthread_kill pthread_sigmask setitimer "
        "siginterrupt sigwait"
    ),
}
for module, names in LACKS.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None

import xnorinfer
from xnorinfer.cli import main


def run(*words):
    try:
        code = main(list(words))
    except SystemExit as stopped:
        code = stopped.code
    assert not code, (words, code)


source, data = "digits/digits-64-256-256-10.npz", "digits/digits-test.npz:x"
run("demo", "--keep", "digits")
run("convert", source, "-o", "m.safetensors")
run("verify", "m.safetensors", source)
run("run", "m.safetensors", data, "-o", "classes.npy")
run("extract", "m.safetensors", "-o", "m.h")
x = np.load("digits/digits-test.npz")["x"]
model = xnorinfer.convert(source, threads=2)
model.save("n.safetensors")
assert (xnorinfer.load("n.safetensors", mapped=True).predict(x) == np.load("classes.npy")).all()
print("all done")
"""


@pytest.mark.long
def test_nothing_needs_what_only_some_platforms_have(tmp_path: Path) -> None:
    """Neither forks, signals, owners, affinity nor flags of POSIX; nor do kernels that are compiled and kept."""
    environment = {**os.environ, "XNORINFER_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all done\n")
    assert any((tmp_path / "cache").iterdir())

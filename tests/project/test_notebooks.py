"""The notebooks in examples/ run from the first cell to the last, each in a folder of its own, and are kept without outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from waiting import HANGS

#: Notebook -> what it needs: modules, and programs.
NEEDS = {
    "pytorch.ipynb": ("torch",),
    "scikit-learn.ipynb": ("sklearn", "torch"),
    "microcontroller.ipynb": ("cc",),
}
#: In a process of its own: the warnings of Jupyter's packages are not ours.
RUN = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(book)
seconds = int(sys.argv[2])
nbclient.NotebookClient(book, timeout=seconds, startup_timeout=seconds, kernel_name="python3").execute()
"""


def test_every_notebook_is_known_and_stripped() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.ipynb")} == set(NEEDS)
    for name in NEEDS:
        cells = json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert code
        assert not any(cell["outputs"] or cell["execution_count"] or cell["metadata"] for cell in code), name


@pytest.mark.long
@pytest.mark.parametrize("name", NEEDS)
def test_notebooks_run(name: str, tmp_path: Path) -> None:
    needed = ("nbclient", "ipykernel", *NEEDS[name])
    missing = [one for one in needed if importlib.util.find_spec(one) is None and shutil.which(one) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    folders = {variable: str(tmp_path / variable) for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    command = [sys.executable, "-c", RUN, str(ROOT / "examples" / name), str(HANGS)]
    environment = {**os.environ, **folders, "PATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

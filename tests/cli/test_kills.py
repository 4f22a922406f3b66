"""`kill -9` during convert and save: the old file or a complete new one.  At length: `tests/tools/kills.py`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import kills
import pytest


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_writers_leave_the_old_file_or_a_complete_new_one(tmp_path: Path) -> None:
    scene = kills.Scene(tmp_path, 256)
    rng = random.Random(1)
    for _ in range(3):
        scene.kill_convert(rng)
        scene.kill_save(rng)
    scene.require_swept()

from __future__ import annotations

from pathlib import Path

import pytest

import xnorinfer
from xnorinfer.conversion import digest_of
from xnorinfer.errors import OptionError


def test_the_digest_of_a_checkpoint_covers_all_of_its_files(tmp_path: Path) -> None:
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt-2.index"):
        (tmp_path / name).write_text(name)
    whole = digest_of(tmp_path / "model.ckpt")
    assert digest_of(tmp_path / "model.ckpt.index") == whole
    (tmp_path / "model.ckpt-2.index").write_text("another checkpoint")
    assert digest_of(tmp_path / "model.ckpt") == whole
    (tmp_path / "model.ckpt.data-00000-of-00001").write_text("other data")
    assert digest_of(tmp_path / "model.ckpt.index") != whole
    folder = digest_of(tmp_path)
    (tmp_path / "model.ckpt-2.index").write_text("again")
    assert digest_of(tmp_path) != folder


def test_a_single_file_has_the_ordinary_digest(tmp_path: Path) -> None:
    (tmp_path / "net.npz").write_bytes(b"abc")
    (tmp_path / "net.npz.history.json").write_bytes(b"not part of it")
    assert digest_of(tmp_path / "net.npz") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_string_is_no_list_of_layers() -> None:
    with pytest.raises(OptionError, match="must be a sequence of layer names"):
        xnorinfer.convert("net.npz", float_layers="fc4")

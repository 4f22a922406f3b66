from __future__ import annotations

import hashlib
import shutil
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


def test_the_digest_of_a_tensorflow_checkpoint_is_the_same_by_every_name(tmp_path: Path) -> None:
    folder = tmp_path / "tf1"
    shutil.copytree(Path(__file__).parent / "data" / "tf1", folder)
    names = ("net", "net.index", "net.meta", "net.data-00000-of-00001", "checkpoint")
    whole = {name: digest_of(folder / name) for name in names}
    assert len({whole[name] for name in names[:-1]}) == 1
    (folder / "net.meta").write_bytes(b"")
    assert all(digest_of(folder / name) != whole[name] for name in names)
    old = digest_of(folder / "old")  # one file, until a graph lies beside it
    assert old == hashlib.sha256((folder / "old").read_bytes()).hexdigest()
    (folder / "old.meta").write_bytes(b"graph")
    assert digest_of(folder / "old") != old


def test_the_digest_of_a_saved_model_covers_its_variables(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"a")
    (tmp_path / "variables" / "variables.index").write_bytes(b"b")
    before = digest_of(tmp_path)
    (tmp_path / "variables" / "variables.index").write_bytes(b"c")
    assert digest_of(tmp_path) != before


def test_the_digest_covers_the_config_beside_weights(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name, attributes in (("alone.weights.h5", {}), ("whole.h5", {"model_config": "{}"})):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs.update(attributes)
        before = digest_of(tmp_path / name)
        beside = tmp_path / f"{name.split('.')[0]}.json"
        beside.write_text("{}")
        # A file that holds its own config does not look beside it.
        assert (digest_of(tmp_path / name) == before) == (name == "whole.h5")
        beside.write_text("{ }")
        assert (digest_of(tmp_path / name) == before) == (name == "whole.h5")


def test_a_single_file_has_the_ordinary_digest(tmp_path: Path) -> None:
    (tmp_path / "net.npz").write_bytes(b"abc")
    (tmp_path / "net.npz.history.json").write_bytes(b"not part of it")
    assert digest_of(tmp_path / "net.npz") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_string_is_no_list_of_layers() -> None:
    with pytest.raises(OptionError, match="must be a sequence of layer names"):
        xnorinfer.convert("net.npz", float_layers="fc4")

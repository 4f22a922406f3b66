"""Where a TensorFlow checkpoint is: a path may be its folder, its prefix, or any of its files."""

from __future__ import annotations

import re
from pathlib import Path

from xnorinfer.converters.containers.arrays import Entry, natural_key
from xnorinfer.converters.containers.tfbundle import is_v1, read_v1, read_v2
from xnorinfer.errors import SourceError

SAVED_MODEL = "saved_model.pb"
#: The files of a V2 checkpoint, by its prefix.
_FAMILY = r"{}\.(?:index|meta|data-\d{{5}}-of-\d{{5}})"


def read_variables(prefix: Path) -> dict[str, Entry]:
    """The variables of the checkpoint that `find_checkpoint` found.  Raises SourceError."""
    return read_v1(prefix) if prefix.is_file() and is_v1(prefix) else read_v2(prefix)


def find_checkpoint(path: Path) -> Path | None:
    """The prefix of a V2 checkpoint, or the file of a V1 checkpoint; None if there is none.

    Raises SourceError where a folder holds several and does not say which.
    """
    if path.name == SAVED_MODEL and path.is_file():
        path = path.parent
    if path.is_dir():
        return _in_folder(path)
    if path.name == "checkpoint" and path.is_file() and _named_in(path) is not None:
        return _in_folder(path.parent)
    stem = re.fullmatch(_FAMILY.format("(.+)"), path.name)
    for prefix in (path, path.with_name(stem[1])) if stem else (path,):
        if prefix.with_name(prefix.name + ".index").is_file():
            return prefix
    return path if path.is_file() and not stem and is_v1(path) else None


def checkpoint_files(prefix: Path) -> list[Path]:
    """All files of the checkpoint that `find_checkpoint` found."""
    family = re.compile(re.escape(prefix.name) + r"(\.meta)?" if prefix.is_file() else _FAMILY.format(re.escape(prefix.name)))
    return [file for file in prefix.parent.iterdir() if family.fullmatch(file.name)]


def _in_folder(folder: Path) -> Path | None:
    named = _named_in(folder / "checkpoint")
    if named is not None:
        # Only inside the folder: the path that was valid where the training ran says nothing here.
        prefix = folder / re.split(r"[/\\]", named)[-1]
        if prefix.with_name(prefix.name + ".index").is_file() or (prefix.is_file() and is_v1(prefix)):
            return prefix
        raise SourceError(f"{folder / 'checkpoint'} names {prefix.name}, but there is no {prefix.name}.index beside it")
    if (folder / SAVED_MODEL).is_file() and (folder / "variables" / "variables.index").is_file():
        return folder / "variables" / "variables"
    found = sorted(folder.glob("*.index"), key=lambda file: natural_key(file.name))
    if len(found) > 1:
        raise SourceError(
            f"{folder} holds {len(found)} checkpoints ({', '.join(file.stem for file in found[:4])}, ...) and no file "
            "`checkpoint` that names one; give the path of one"
        )
    return found[0].with_suffix("") if found else None


def _named_in(file: Path) -> str | None:
    """The newest checkpoint, as the text file `checkpoint` names it."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        start = stream.read(1 << 16).decode("utf-8", "replace")
    match = re.search(r'^model_checkpoint_path:\s*"(.+)"', start, re.MULTILINE)
    return match[1] if match else None

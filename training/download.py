"""Downloads MNIST's IDX files with pooch, each under its name only when its SHA-256 is the known one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from xnorinfer.errors import InputError, MissingExtraError, OutputError

#: A mirror that PyTorch keeps; the original site refuses most downloads.
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
#: SHA-256 of the files as MNIST's authors compressed them.
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def download_mnist(folder: Path, names: Iterable[str], tell: Callable[[str], None] = lambda url: None) -> None:
    """Fetch IDX files (names without .gz) into `folder`, which is made if it is missing; `tell` gets each URL before.

    Raises MissingExtraError without pooch, OutputError if the folder cannot be made or written, InputError if a file cannot
    be had or is not MNIST's; what was complete before stays, a part of a file never does.
    """
    try:
        import pooch
        import requests
    except ImportError:
        raise MissingExtraError("downloading MNIST", "pooch", "train") from None
    pooch.get_logger().setLevel("WARNING")
    for name in names:
        file = f"{name}.gz"
        tell(MIRROR + file)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(MIRROR + file, f"sha256:{SHA256[file]}", file, folder)
        except requests.RequestException as error:
            raise InputError(
                f"{MIRROR}{file}: cannot be downloaded ({error}); get the file in another way and put it into {folder}"
            ) from None
        except ValueError:
            raise InputError(
                f"{MIRROR}{file}: is not MNIST's file, its SHA-256 is not {SHA256[file]}; nothing was kept"
            ) from None
        except OSError as error:
            raise OutputError(f"{folder / file}: cannot be written: {error.strerror or error}") from None

"""Every error a user can cause, by name.  All derive from `XnorinferError`; the command line prints them as one line.

A message names the file, tensor or option, what was found and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xnorinfer.oneline import shortened

#: Items of one message: more than anyone mends at once.
MOST_ITEMS = 100


class ConversionWarning(UserWarning):
    """A conversion assumed something that can change results, or found something that does not fit."""


class XnorinferError(Exception):
    """Base of all errors raised on purpose.  Anything else that escapes is a defect of xnorinfer.

    A message is one line, and one more for each of `items`: what it quotes from a file cannot look like lines of its own,
    nor fill the screen.  Of more than `MOST_ITEMS` items the first are listed.
    """

    def __init__(self, message: str = "", items: Sequence[str] = ()) -> None:
        listed = [f"  - {shortened(item)}" for item in items[:MOST_ITEMS]]
        more = [f"  and {len(items) - MOST_ITEMS} more"] if len(items) > MOST_ITEMS else []
        super().__init__("\n".join([shortened(message), *listed, *more]))

    def reword(self, words: Callable[[str], str]) -> None:
        """Say the same in other words, in the message and in every list of texts."""
        self.args = tuple(words(one) if isinstance(one, str) else one for one in self.args)
        for name in ("problems", "warnings"):
            if texts := getattr(self, name, ()):
                setattr(self, name, tuple(map(words, texts)))


class SourceError(XnorinferError):
    """A checkpoint cannot be read: missing, truncated, of an unknown kind, or unsafe to open."""


class NetworkError(XnorinferError):
    """A network is inconsistent or not convertible.  `problems` lists every reason found, not only the first.

    understood: the `Reading` of a source that got so far, for a draft of a net.toml.
    """

    def __init__(self, problems: Sequence[str], about: str = "the network", understood: object = None) -> None:
        self.problems = tuple(problems)
        self.understood = understood
        count = len(self.problems)
        head = f"{about} cannot be converted" + (f" ({count} problems)" if count > 1 else "")
        if count == 1:
            super().__init__(f"{head}: {self.problems[0]}")
        else:
            super().__init__(f"{head}:", self.problems)


def unhandled(who: str, part: object, name: str | None = None) -> NetworkError:
    """For the last branch of everything that walks over nodes, mappings or steps: what it does not know is never passed by.

    who: the function that met it.  name: of the node, where the part has none itself.
    """
    name = name or getattr(part, "name", None) or (repr(part) if isinstance(part, str) else "the network")
    return NetworkError([f"{name}: {who} does not know the class {type(part).__name__}"], about="this")


class OptionError(XnorinferError):
    """An option has a value that cannot be used."""


class EstimatorError(OptionError, ValueError):
    """An estimator has a parameter, or is given data, that it cannot use; a ValueError, as scikit-learn has it."""


class InputError(XnorinferError):
    """Data given to a model has the wrong shape, type or range, or its file cannot be read."""


class UnusableInputError(InputError):
    """Data of a file cannot be inputs of the network under the input mapping that it was read with."""


class ArrayError(InputError, ValueError):
    """An array is none that compiled code can take: no array at all, of another dtype or shape, not contiguous."""


class OutputError(XnorinferError):
    """A result cannot be written where it was asked for."""


class ModelFileError(XnorinferError):
    """A packed model file cannot be used."""


class NotAModelError(ModelFileError):
    """The file is no xnorinfer model at all, or it is truncated."""


class NewerFormatError(ModelFileError):
    """The file was written by a newer format version than this package reads."""


class DigestError(ModelFileError):
    """The content does not match the digest stored with it: the file was changed or damaged."""


class MalformedModelError(ModelFileError):
    """The file is a model file, but a layer, shape, type or value in it is not allowed."""


class DoesNotHoldError(XnorinferError):
    """Something that was asked to hold does not; nothing is written.  The command line exits with 1."""


class StrictError(DoesNotHoldError):
    """A conversion has warnings, and `strict` makes errors of them.  `warnings` holds all of them."""

    def __init__(self, warnings: Sequence[str], about: str) -> None:
        self.warnings = tuple(warnings)
        count = len(self.warnings)
        head = f"{about} converts with {count} warning{'' if count == 1 else 's'}, which are errors here (strict):"
        super().__init__(head, self.warnings)


class ExpectationError(DoesNotHoldError):
    """A converted network does not give the answers that the user expects of it."""


class KernelError(XnorinferError):
    """A kernel was asked for by name that does not exist or that this CPU cannot run."""


class MissingExtraError(XnorinferError):
    """An optional package is needed; the message holds the `pip install` that brings it: an extra, or the package itself."""

    def __init__(self, purpose: str, package: str, extra: str | None = None) -> None:
        wanted = package if extra is None else f"'xnorinfer[{extra}]'"
        super().__init__(f"{purpose} needs the package {package}: pip install {wanted}")

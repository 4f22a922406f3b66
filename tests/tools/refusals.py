"""Every refusal says what would resolve it: an option, a line of a net.toml, or that nothing would."""

from __future__ import annotations

import re

from xnorinfer.errors import NetworkError

_OPTION = re.compile(r"--[a-z]")
_LINE = re.compile(r"net\.toml.*`[^`]+`|`[^`]+`.*net\.toml")
#: What no option and no description of the same numbers can change.
_HOPELESS = (
    "only dense networks can be converted",
    "layers of binary weights that read real values are not supported",
    "such layers can only be the last ones",
    "only binary networks can be converted",
    "gives 0 and 1, not -1 and +1",
    "makes 0 and 1 of the inputs, which is not supported",
    "binarizes 0 and 1, which is not supported",
    "a float layer that reads 0 and 1 is not supported",
    "makes every weight 0",
    "mixes in unquantized values",
    "networks in float32 can be converted",
    "reorders channels_first images",
    "NaN or infinite",
    "cannot be negative",
    "is ternary",
    "activations are not binarized",
    "a network of float layers cannot be converted",
    "more than two values",
    "scales by a mean over the batch",
    "is not supported in a binary network",
    "is not supported behind a sign",
    "is not supported before the first dense layer",
    "which is no number: not supported",
    "which only the end of a model can have",
    "stands between a sign and the layer that reads it",
    "without a sign behind it",
    "a Flatten must come before it",
    "needed is the last one",
    "flattened values are no multiple of",
    "which integers cannot sum",
    "uses a value that nothing computes",
    "is malformed",
    "has a constant of shape",
    "computes constants in a way that is not supported",
    "cannot be divided",
    "which the file of parameters does not hold",
    "and reads a map of",
    "reads a map that is padded with",
    "one bit is needed",
    "at most 4 are read",
    "maps every pixel to one value",
    "save it as one tensor first",
)


def assert_resolvable(error: NetworkError) -> None:
    """Fail where a problem says neither what would resolve it nor that nothing can."""
    for problem in error.problems:
        known = _OPTION.search(problem) or _LINE.search(problem) or any(reason in problem for reason in _HOPELESS)
        assert known, f"no way out of: {problem}"

"""Lambda layers that hand values on unchanged, `lambda x: x`, as networks use them to name a value.

A config has the function as bytecode, which is neither run nor unmarshalled: it is compared with that of the identity.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Any

#: LOAD_FAST 0, RETURN_VALUE, until Python 3.10; the same behind RESUME, in 3.11 and 3.12; and as this Python has it.
_IDENTITY = (b"|\0S\0", b"\x97\0|\0S\0", (lambda x: x).__code__.co_code)
#: The numbers before the bytecode of a marshalled function: arguments, of which positional only, keyword only, (locals until
#: 3.10,) stack, flags.
_COUNTS = (5, 6)
_CODE, _BYTES, _SHARED = ord("c"), ord("s"), 0x80


def is_identity(config: Mapping[str, Any]) -> bool:
    """Whether the config of a Lambda layer has a function of one argument that returns that."""
    return any(_returns_its_argument(code) for code in _codes(config.get("function")))


def _codes(function: Any) -> Iterator[bytes]:
    """The bytecode of a function without defaults and closure: Keras 2 lists the three, Keras 3 names them."""
    if isinstance(function, dict) and isinstance(function.get("config"), dict):
        inner = function["config"]
        function = [inner.get("code"), inner.get("defaults"), inner.get("closure")]
    if not isinstance(function, list | tuple) or len(function) != 3:
        return
    code, defaults, closure = function
    if isinstance(code, str) and defaults is None and closure is None:
        try:
            yield base64.b64decode(code.strip())
        except (binascii.Error, ValueError):
            return


def _returns_its_argument(code: bytes) -> bool:
    """Of a marshalled function."""
    if not code or code[0] & ~_SHARED != _CODE:
        return False
    for count in _COUNTS:
        at = 1 + 4 * count
        if len(code) < at + 5 or code[at] & ~_SHARED != _BYTES:
            continue
        numbers, (size,) = struct.unpack_from(f"<{count}i", code, 1), struct.unpack_from("<i", code, at + 1)
        if numbers[:3] == (1, 0, 0) and code[at + 5 : at + 5 + size] in _IDENTITY and 0 < size <= len(code) - at - 5:
            return True
    return False

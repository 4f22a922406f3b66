"""Where things of the tests lie."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
TOOLS = TESTS / "tools"
#: Scripts that train networks or measure at length.
EVIDENCE = TESTS / "evidence"
DATA = TESTS / "data"
#: What comes with the package.
PACKAGE_DATA = ROOT / "xnorinfer" / "data"
#: Large data beside a checkout: MNIST and real checkpoints, where there are any.
SHARED = ROOT.parent / "shared" / "data"

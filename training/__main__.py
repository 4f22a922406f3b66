"""`python -m xnorinfer.training`: trains the networks of the recipe and writes checkpoints."""

from __future__ import annotations

import sys

from xnorinfer.errors import MissingExtraError, XnorinferError


def main() -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    try:
        try:
            from xnorinfer.training.commands import commands
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingExtraError("training", "torch", "train") from None
        commands(prog_name="python -m xnorinfer.training")
    except XnorinferError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

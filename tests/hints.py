"""Every hint that the sources can give, found by their syntax: options and net.toml lines in texts of refusals and warnings.

A hint is called by where it stands and what it proposes: `npz: --bn-epsilon`, "npz._named_norm: `mean = 0`".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "xnorinfer"
CONVERTERS = Path(__file__).parent.parent / "converters"
#: What proposes an option: `--name` that is not the beginning of a text, where it names the option that is wrong itself.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
#: Functions that end a text with net.toml lines: which of their arguments is the first line.
PROPOSE = {"net_line": 0, "default_warning": 1, "_refuse": 1}
#: Options that are commands to run or what the user gave, and no way to read a checkpoint.
NO_HINT = {"--help"}


def hints() -> Iterator[str]:
    """All of them, by file; the modules of the command line (`cli`, `programs`) describe options, they propose none."""
    for folder in (CONVERTERS, PACKAGE):
        for path in sorted(folder.glob("*.py")):
            yield from dict.fromkeys(_of_module(path.stem, ast.parse(path.read_text(encoding="utf-8"))))


def _of_module(module: str, tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        name = getattr(statement, "name", None)
        if isinstance(statement, ast.ClassDef):
            for inner in statement.body:
                yield from _of(f"{module}.{getattr(inner, 'name', name)}", inner)
        else:
            yield from _of(f"{module}.{name}" if name else module, statement)


def _of(where: str, tree: ast.AST) -> Iterator[str]:
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return  # a docstring
    if isinstance(tree, ast.Call) and getattr(tree.func, "id", getattr(tree.func, "attr", None)) in PROPOSE:
        first = PROPOSE[getattr(tree.func, "id", getattr(tree.func, "attr", None))]
        for line in tree.args[first:]:
            yield f"{where}: `{_text(line)}`"
        for before in tree.args[:first]:
            yield from _of(where, before)
        return
    if isinstance(tree, (ast.Constant, ast.JoinedStr)):
        text = _text(tree)
        for option in OPTION.findall(text):
            if not text.startswith(option + ":") and option not in NO_HINT:
                yield f"{where}: {option}"
        return
    for child in ast.iter_child_nodes(tree):
        yield from _of(where, child)


def _text(expression: ast.expr) -> str:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return expression.value
    if isinstance(expression, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{}" for part in expression.values)
    return ast.unparse(expression)

"""Digests of what a run is made from: files by their code, and what these import from here.

A Python file counts as what it does: without comments and strings that stand alone (docs), and
with every file of this repository that it imports anywhere in it. So a row stays until something
changes that it ran.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from deploy.chip import ROOT

Sources = dict[str, str]
"""Digests by file."""
DIGITS = 16
_OTHER = (".h", ".s", "")


def sources(names: Iterable[str]) -> Sources:
    """Of files and folders, named from the root, and of all that they import."""
    found: set[Path] = set()
    left = [f for name in names for f in (ROOT / name, *sorted((ROOT / name).rglob("*")))]
    while left:
        file = left.pop()
        if file in found or not file.is_file() or "__pycache__" in file.parts:
            continue
        if file.suffix == ".py":
            left += _imports(file)
        elif file.suffix not in _OTHER:
            continue
        found.add(file)
    return {str(file.relative_to(ROOT)): _digest(file) for file in sorted(found)}


def digest(names: Iterable[str]) -> str:
    """One of them all."""
    return hashlib.sha256(json.dumps(sources(names)).encode()).hexdigest()[:DIGITS]


class _WithoutStrings(ast.NodeTransformer):
    """Leaves out statements that are a string and nothing else."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        value = node.value
        return None if isinstance(value, ast.Constant) and isinstance(value.value, str) else node


@cache
def _tree(file: Path) -> ast.Module:
    return _WithoutStrings().visit(ast.parse(file.read_text()))


@cache
def _digest(file: Path) -> str:
    content = ast.dump(_tree(file)).encode() if file.suffix == ".py" else file.read_bytes()
    return hashlib.sha256(content).hexdigest()[:DIGITS]


@cache
def _imports(file: Path) -> list[Path]:
    """Files of this repository: modules, and the packages that they are in."""
    names: set[str] = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found: list[Path] = []
    for name in names:
        parts = name.split(".")
        found.append(ROOT.joinpath(*parts).with_suffix(".py"))
        found += (ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1))
    return [path for path in found if path.is_file()]

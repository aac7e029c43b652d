"""The page of traps names, for each of the twenty, tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \|(.+)\|$", re.M)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def functions(name: str) -> set[str]:
    tree = ast.parse((TESTS / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_trap_is_tried() -> None:
    rows = {int(number): NAMED.findall(told) for number, told in ROW.findall(page())}
    assert sorted(rows) == list(range(1, 21))
    assert all(rows.values())
    lost = [one for named in rows.values() for one in named if one[1] not in functions(one[0])]
    assert not lost


def page() -> str:
    return (TESTS / "README.md").read_text()

"""The house keeps its shape: who may import whom, how large a room may grow, each room alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bifrost"
FILES = sorted(ROOT.rglob("*.py"))
LEAVES = {"_fast", "errors", "call", "config", "money", "patterns", "proxies", "s3", "sigv4"}
LEAVES |= {"meters", "database", "pace"}
ROOMS = {"routing", "governance", "translate", "providers", "upstream", "metering", "audit"}
# Between the rooms and the doors: each knows the rooms, none knows Starlette.
ORDER = {"identify", "passage", "lanes", "governor", "line", "watch", "witness", "pipeline"}
ORDER |= {"route", "failover", "counting", "facts", "hedge", "chain"}
WINGS = {
    *("usage", "steward", "mock", "logs", "listener", "farewell", "succession", "binding", "child"),
    *("stewardship", "standin", "tally", "recorder"),
    *("recovery", "reconciliation", "admin", "pricing", "alerts", "webhooks"),
    "exports",
}
TOP = {"core", "metrics", "app", "offer", "doors", "embedding", "supervisor", "cli"}
TOP |= {"__init__", "__main__"}
MAY = {
    **{leaf: {"errors"} for leaf in LEAVES},
    "call": {"_fast"},
    "meters": {"_fast"},
    "config": {"errors", "patterns", "proxies"},
    "s3": {"errors", "sigv4"},
    **{room: LEAVES for room in ROOMS},
    "chain": LEAVES | {"providers"},
    "audit": LEAVES | {"chain"},  # for its archive's bucket
    "identify": LEAVES | {"governance"},
    "passage": LEAVES | ROOMS,
    "lanes": LEAVES | ROOMS | {"identify", "passage"},
    "route": LEAVES | {"lanes", "routing"},
    "facts": LEAVES | {"governance", "identify"},
    "governor": LEAVES | ROOMS | {"facts", "identify", "lanes", "route"},
    "failover": LEAVES | {"governor", "hedge", "line", "route", "routing", "witness"},
    "hedge": LEAVES | {"governor", "route", "routing", "witness"},
    "counting": LEAVES | {"governor", "lanes", "passage", "route", "routing", "translate"},
    "line": LEAVES | {"governor"},
    "watch": LEAVES,
    "witness": LEAVES | {"audit", "governance", "identify"},
    "pipeline": LEAVES | ROOMS | ORDER,
    "doors": LEAVES | {"pipeline", "translate"},
    "usage": LEAVES | {"audit", "governance", "metering"},
    "pricing": LEAVES | {"audit", "governance", "metering"},
    "stewardship": set(),
    "recorder": LEAVES | {"audit", "stewardship"},
    "steward": LEAVES | {"audit", "usage", "governance", "stewardship"},
    "standin": LEAVES | {"audit", "usage", "governance", "steward", "stewardship"},
    "recovery": LEAVES | {"audit", "governance", "identify", "stewardship"},
    "admin": LEAVES | ROOMS | {"identify", "lanes", "usage", "pricing", "recorder", "exports"},
    "reconciliation": LEAVES | {"audit", "governance", "identify", "recovery"},
    "tally": LEAVES | {"audit"},
    "alerts": LEAVES | {"audit", "governance"},
    "webhooks": LEAVES | {"audit", "alerts"},
    "exports": LEAVES | {"audit", "chain", "webhooks"},
    "mock": {"errors"},
    "logs": set(),
    "listener": set(),
    "farewell": set(),
    "binding": {"errors", "config"},
    "child": {"errors"},
    "succession": {"errors"},
}


def room(path: Path) -> str:
    """The room a file belongs to: its folder or, at the top, its own name."""
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    """The rooms of bifrost a file imports from, its own left out."""
    used = {name.split(".")[1] for name in imports(path) if name.startswith("bifrost.")}
    known = {room(file) for file in FILES}
    return (used & known) - {room(path)}


def test_every_room_has_its_place() -> None:
    known = LEAVES | ROOMS | ORDER | WINGS | TOP
    assert {room(path) for path in FILES} <= known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    allowed = MAY.get(room(path))
    if allowed is not None:
        assert rooms_used(path) <= allowed
    roots = {name.partition(".")[0] for name in imports(path)}
    if room(path) not in {"doors", "app", "admin"}:
        assert "starlette" not in roots
    if room(path) not in {"upstream", "webhooks", "exports"}:
        assert "aiohttp" not in roots
    if room(path) not in {"governance"}:
        assert "lmdb" not in roots


def test_compiled_leaves_import_nothing_of_ours() -> None:
    for path in (ROOT / "_fast").glob("*.pyx"):
        lines = path.read_text().splitlines()
        ours = [line for line in lines if line.startswith(("import bifrost", "from bifrost"))]
        assert ours == [], path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 420
    assert path.stem not in {"utils", "helpers", "common", "manager", "misc"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parent.name != "cli":
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"


def test_every_module_can_be_imported_alone() -> None:
    names = [
        ".".join(("bifrost", *path.relative_to(ROOT).with_suffix("").parts))
        for path in FILES
        if path.name not in ("__init__.py", "__main__.py")
    ]
    program = (
        "import importlib, os, sys\n"
        # others' packages once, not in every child
        "import asyncio, aiohttp, click, lmdb, msgspec, uvicorn, uvloop, yaml\n"
        "import starlette.applications, starlette.responses, starlette.routing\n"
        "for name in sys.argv[1:]:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "        except BaseException as error:\n"
        "            print(name, repr(error), flush=True)\n"
        "            os._exit(1)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1]:\n"
        "        sys.exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *names],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

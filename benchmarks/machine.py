"""Facts about the machine and the programs, written beside every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.peers import roster
from benchmarks.processes import ROOT, TICKS, Cores

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "lmdb", "msgspec", "orjson", "blake3")


def facts(cores: Cores, wrk: str | None, folder: Path) -> dict[str, object]:
    """What a reader needs to judge or repeat a result."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "proxy_core": cores.proxy,
        "load_core": cores.load,
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "wrk": _said([wrk, "-v"], r"wrk (\S+)") if wrk else None,
        "peers": roster.versions(),
        "commit": commit(),
        "store": _filesystem(folder),
    }


def load_average() -> float:
    """Runnable processes, mean of the last minute."""
    return os.getloadavg()[0]


def stolen_seconds() -> float:
    """CPU time that the host of a virtual machine gave to others, since its start."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / TICKS


def commit() -> str | None:
    """The checked-out commit, with ``-dirty`` if tracked files differ; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return _said(command, r"^([0-9a-f]+(?:-dirty)?)$")


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def _said(command: list[str], pattern: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else None


def _filesystem(folder: Path) -> str | None:
    """The type of the file system that holds the gateways' stores."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(m[1]), m[2]) for m in mounts if folder.resolve().is_relative_to(m[1])]
    return max(inside)[1] if inside else None

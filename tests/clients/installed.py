"""Programs of others that tests run: downloaded once, into a folder that outlives the tests.

The folder is BIFROST_TEST_CACHE, by default ``bifrost-tests`` in the user's cache. A machine that
cannot download them skips the tests that need them, and says so.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

CLAUDE_VERSION = "2.1.330"
CLAUDE_PACKAGE = "@anthropic-ai/claude-code-linux"
CONSTRAINTS = Path(__file__).parents[2] / ".ci" / "constraints.txt"
PATIENCE_S = 500
UNREACHABLE = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED"
    r"|ERR_SOCKET|network (?:request|connectivity)|CERT|E40[137]|E5\d\d|NewConnectionError"
    r"|ConnectTimeout|ReadTimeout|SSLError|ProxyError|from versions: none|No module named pip"
)


def cache() -> Path:
    """The folder for downloads, made if it is not there."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.environ.get("BIFROST_TEST_CACHE") or f"{home}/bifrost-tests"
    folder = Path(chosen).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def skip(what: str, why: str) -> None:
    """Skips the test so that nobody takes it for a pass."""
    pytest.skip(f"NOT TESTED, {what} IS NOT INSTALLED: {why}")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    with (cache() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _once(name: str, install: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; complete, or not there at all."""
    folder = cache() / name
    with _locked(name):
        if not folder.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
            try:
                install(fresh)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _run(what: str, command: Sequence[str]) -> None:
    """Runs an installer: skips when it cannot reach its registry, fails when it fails otherwise."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        skip(what, f"{command[0]} did not end within {PATIENCE_S} s")
        return
    told = (done.stderr or done.stdout).strip()[-800:]
    if done.returncode and UNREACHABLE.search(done.stderr + done.stdout):
        skip(what, f"the package registry cannot be reached: {told}")
    assert done.returncode == 0, f"{what} could not be installed:\n{told}"


def anthropic_sdk(version: str) -> Path:
    """A folder for PYTHONPATH with that version of the official Anthropic SDK for Python."""

    def install(folder: Path) -> None:
        pins = folder / "constraints.txt"
        lines = CONSTRAINTS.read_text().splitlines() if CONSTRAINTS.exists() else []
        pins.write_text("\n".join(line for line in lines if not line.startswith("anthropic==")))
        _run(
            f"anthropic {version} for Python",
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--retries", "2", "--target", str(folder), "--constraint", str(pins),
                f"anthropic=={version}",
            ],
        )  # fmt: skip

    return _once(f"anthropic-{version}-{sys.implementation.cache_tag}", install)


def claude_code() -> Path:
    """The executable of Claude Code for this machine, in the version these tests were made with."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    kind = machine.get(platform.machine().lower())
    if platform.system() != "Linux" or kind is None:
        skip("CLAUDE CODE", f"no package for {platform.system()} on {platform.machine()}")
    if platform.libc_ver()[0] != "glibc":
        kind = f"{kind}-musl"
    npm = shutil.which("npm")
    package = f"{CLAUDE_PACKAGE}-{kind}"

    def install(folder: Path) -> None:
        if npm is None:
            skip("CLAUDE CODE", "there is no npm here")
            return
        # The package holds the whole client; it needs no script after its installation.
        _run(
            "CLAUDE CODE",
            [
                npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1",
                "--loglevel=error", "--prefix", str(folder), f"{package}@{CLAUDE_VERSION}",
            ],
        )  # fmt: skip

    folder = _once(f"claude-code-{CLAUDE_VERSION}-{kind}", install)
    return folder / "node_modules" / package / "claude"

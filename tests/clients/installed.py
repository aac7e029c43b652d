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
CODEX_VERSION = "0.169.0"
GEMINI_VERSION = "0.61.0"
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


def _machine(what: str) -> str:
    """This machine's kind in the names of npm packages; skips where there are none for it."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    kind = machine.get(platform.machine().lower())
    if platform.system() != "Linux" or kind is None:
        skip(what, f"no package for {platform.system()} on {platform.machine()}")
    return str(kind)


def _from_npm(what: str, name: str, package: str) -> Path:
    """The folder of node_modules with a package; none of its scripts was run."""
    npm = shutil.which("npm")

    def install(folder: Path) -> None:
        if npm is None:
            skip(what, "there is no npm here")
            return
        _run(
            what,
            [
                npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1",
                "--loglevel=error", "--prefix", str(folder), package,
            ],
        )  # fmt: skip

    return _once(name, install) / "node_modules"


def claude_code() -> Path:
    """The executable of Claude Code for this machine, in the version these tests were made with."""
    kind = _machine("CLAUDE CODE")
    if platform.libc_ver()[0] != "glibc":
        kind = f"{kind}-musl"
    package = f"{CLAUDE_PACKAGE}-{kind}"
    name = f"claude-code-{CLAUDE_VERSION}-{kind}"
    modules = _from_npm("CLAUDE CODE", name, f"{package}@{CLAUDE_VERSION}")
    return modules / package / "claude"


def codex() -> Path:
    """The executable of Codex CLI for this machine, in the version these tests were made with."""
    kind = _machine("CODEX CLI")
    name = f"codex-{CODEX_VERSION}-{kind}"
    modules = _from_npm("CODEX CLI", name, f"@openai/codex@{CODEX_VERSION}")
    [program] = modules.glob(f"@openai/codex-linux-{kind}/vendor/*/bin/codex")
    return program


def gemini_cli() -> list[str]:
    """The command of Gemini CLI, in the version these tests were made with."""
    node = shutil.which("node")
    if node is None:
        skip("GEMINI CLI", "there is no node here")
    package = "@google/gemini-cli"
    name = f"gemini-cli-{GEMINI_VERSION}"
    modules = _from_npm("GEMINI CLI", name, f"{package}@{GEMINI_VERSION}")
    return [str(node), str(modules / package / "bundle" / "gemini.js")]

"""The real opencode through the gateway: in all three dialects, on hosts of every one."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.clients.installed import opencode
from tests.clients.test_codex import CLAUDE, CLAUDE_PRICES, FINAL, PRICES, Run
from tests.commands import bifrost
from tests.running import KEY, RunningGateway, RunningMock
from tests.test_passages import CHAT, GEMINI, RESPONSES, Kind, mapped

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 60 MB
MODEL = "agent-model"
# The client's own package for each dialect, and where the gateway speaks it.
PACKAGES = {
    "messages": ("@ai-sdk/anthropic", "/anthropic/v1"),
    "chat": ("@ai-sdk/openai-compatible", "/openai/v1"),
    "responses": ("@ai-sdk/openai", "/openai/v1"),
}
# What keeps the client from calling its vendor.
QUIET = {
    f"OPENCODE_DISABLE_{what}": "1"
    for what in ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
}


def run(folder: Path, url: str, dialect: str) -> Run:
    """Asks for something; the script makes it read a file whose content nobody can guess."""
    own = Path(tempfile.mkdtemp(dir=folder))
    home, work = own / "home", own / "work"
    home.mkdir()
    work.mkdir()
    package, path = PACKAGES[dialect]
    options = {"baseURL": url + path, "apiKey": KEY}
    provider = {"npm": package, "options": options, "models": {MODEL: {}}}
    settings = own / "opencode.json"
    settings.write_text(json.dumps({"provider": {"bifrost": provider}, "autoupdate": False}))
    if dialect == "messages":  # as `bifrost connect` sets it up
        settings.write_text(json.dumps({"autoupdate": False}))
        to = ("--key", KEY, "--url", url, "--model", MODEL, "--settings", settings)
        assert bifrost("connect", "opencode", "--write", *to).code == 0
    nonce = f"nonce-{secrets.token_hex(8)}"
    (work / "bifrost_mock.txt").write_text(nonce)
    variables = {
        "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8",
        "TERM": "dumb", "OPENCODE_CONFIG": str(settings), **QUIET,
    }  # fmt: skip
    done = subprocess.run(
        [opencode(), "run", "--auto", "--model", f"bifrost/{MODEL}", "Read the file."],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        env=variables, cwd=work, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, f"{done.stdout}\n{done.stderr}", nonce)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path, "--script", "tool")
    yield running
    running.stop()


def served(upstream: str, kind: Kind, **key: Any) -> dict[str, Any]:
    """The model that the client asks for, on a host of that kind."""
    config = mapped(upstream, kind, **key)
    config["models"] = {MODEL: config["models"].popitem()[1]}
    return config


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        ("messages", CLAUDE),
        ("messages", RESPONSES),
        ("chat", CHAT),
        ("chat", CLAUDE),
        ("chat", GEMINI),
        ("responses", RESPONSES),
        ("responses", CLAUDE),
    ],
    ids=lambda one: getattr(one, "api", one),
)
def test_a_conversation_with_a_tool(
    mock: RunningMock, tmp_path: Path, dialect: str, kind: Kind
) -> None:
    """The tool is called and its result told; every level pays what the host served."""
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, kind))
    try:
        done = run(tmp_path, gateway.url, dialect)
        assert done.code == 0, done.whole
        assert FINAL in done.said and done.nonce in done.said, done.whole
        [row] = mock.account()["models"]
        # two for the task and one for the session's title
        assert (row["model"], row["requests"], row["completed"]) == (kind.model, 3, 3)
        prices = CLAUDE_PRICES if kind is CLAUDE else PRICES
        due = sum(Decimal(row["served"][name] * price) for name, price in prices.items()) / 10**12
        assert gateway.settled() == due > 0
    finally:
        gateway.stop()


def test_an_exhausted_budget_is_told_in_our_words(mock: RunningMock, tmp_path: Path) -> None:
    """In Anthropic's dialect, in which the client does not ask again."""
    poor = [{"max_limit": "0.0001", "reset_duration": "1M"}]
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, CLAUDE, budgets=poor))
    try:
        done = run(tmp_path, gateway.url, "messages")
        assert "budget of virtual key 'alice-dev'" in done.whole, done.whole
        assert mock.requests(100) == []
    finally:
        gateway.stop()

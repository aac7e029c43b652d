"""The real Codex CLI through the gateway, on hosts of every dialect."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.installed import codex
from tests.commands import bifrost
from tests.messages_rules import checked as messages_rules
from tests.running import KEY, RunningGateway, RunningMock
from tests.test_passages import CHAT, GEMINI, RESPONSES, Kind, mapped
from tests.test_translate_chat import checked as chat_rules
from tests.test_translate_gemini import checked as gemini_rules

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 100 MB
FINAL = "MOCK_FINAL_OK"
CLAUDE = Kind(
    "anthropic", "messages", "claude-sonnet-4-5", "", "/v1/messages", "/v1/messages",
    ("x-api-key", "sk-host-secret"),
)  # fmt: skip
# Picodollars a token.
PRICES = {"input_tokens": 1_250_000, "cache_read_tokens": 125_000, "output_tokens": 10_000_000}
CLAUDE_PRICES = {
    "input_tokens": 3_000_000, "cache_read_tokens": 300_000, "output_tokens": 15_000_000,
    "cache_5m_tokens": 3_750_000,
}  # fmt: skip
# What keeps the client from calling its vendor.
QUIET = """check_for_update_on_startup = false
[analytics]
enabled = false
[features]
plugins = false
apps = false
"""
# A model that the client knows gets its tools inside the input, any other in a list of their own.
CLASSIC, LITE = ("--model", "gpt-5.1-codex"), ()


class Run(NamedTuple):
    """What one headless run of the client said."""

    code: int
    said: str
    whole: str
    nonce: str


def run(folder: Path, url: str, *, model: tuple[str, ...] = CLASSIC) -> Run:
    """Asks for something; the script makes it read a file whose content nobody can guess."""
    own = Path(tempfile.mkdtemp(dir=folder))
    home, work = own / "home", own / "work"
    (home / ".codex").mkdir(parents=True)
    work.mkdir()
    settings = home / ".codex" / "config.toml"
    settings.write_text(QUIET)
    to = ("--key", KEY, "--url", url, "--settings", settings)
    assert bifrost("connect", "codex", "--write", *to, *model).code == 0
    nonce = f"nonce-{secrets.token_hex(8)}"
    (work / "bifrost_mock.txt").write_text(nonce)
    variables = {
        "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8",
        "TERM": "dumb",
    }  # fmt: skip
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    done = subprocess.run(
        [codex(), "exec", *options, "Read the file."],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
        env=variables, cwd=work, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, f"{done.stdout}\n{done.stderr}", nonce)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path, "--script", "tool", "--record-bodies")
    yield running
    running.stop()


def served(upstream: str, kind: Kind, **key: Any) -> dict[str, Any]:
    """OpenAI's models on a host of that kind."""
    config = mapped(upstream, kind, **key)
    config["models"] = {"gpt-*": config["models"].popitem()[1]}
    return config


@pytest.mark.parametrize("model", [CLASSIC, LITE], ids=["classic", "lite"])
@pytest.mark.parametrize("kind", [RESPONSES, CLAUDE, CHAT, GEMINI], ids=lambda one: one.api)
def test_a_conversation_with_a_tool(
    mock: RunningMock, tmp_path: Path, kind: Kind, model: tuple[str, ...]
) -> None:
    """The tool is called and its result told; every level pays what the host served."""
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, kind))
    try:
        done = run(tmp_path, gateway.url, model=model)
        assert done.code == 0, done.whole
        assert FINAL in done.said and done.nonce in done.said, done.whole
        asked = mock.requests(100)
        assert len(asked) == 2
        rules = {CLAUDE: messages_rules, CHAT: chat_rules, GEMINI: gemini_rules}.get(kind)
        for one in asked if rules else ():
            assert rules is not None
            rules(json.loads(base64.b64decode(one["body"])))
        [row] = mock.account()["models"]
        assert (row["model"], row["requests"], row["completed"]) == (kind.model, 2, 2)
        prices = CLAUDE_PRICES if kind is CLAUDE else PRICES
        due = sum(Decimal(row["served"][name] * price) for name, price in prices.items()) / 10**12
        assert gateway.settled() == due > 0
    finally:
        gateway.stop()


def test_an_exhausted_budget_is_told_once(mock: RunningMock, tmp_path: Path) -> None:
    """In the words that the client has for it, and without a second try."""
    poor = [{"max_limit": "0.0001", "reset_duration": "1M"}]
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, RESPONSES, budgets=poor))
    try:
        done = run(tmp_path, gateway.url)
        assert done.code != 0
        assert "hit your usage limit" in done.whole, done.whole
        assert mock.requests(100) == []
    finally:
        gateway.stop()


def test_a_model_that_is_not_allowed_is_told_in_our_words(
    mock: RunningMock, tmp_path: Path
) -> None:
    narrow = [{"allowed_models": ["gpt-4o"]}]
    config = served(mock.url, RESPONSES, provider_configs=narrow)
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        done = run(tmp_path, gateway.url)
        assert done.code != 0
        assert "may not use" in done.whole, done.whole
        assert mock.requests(100) == []
    finally:
        gateway.stop()

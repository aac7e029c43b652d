"""The real Gemini CLI through the gateway, on hosts of every dialect."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.installed import gemini_cli
from tests.clients.test_codex import CLAUDE, CLAUDE_PRICES, PRICES
from tests.commands import bifrost
from tests.running import KEY, RunningGateway, RunningMock
from tests.test_passages import CHAT, GEMINI, RESPONSES, Kind, mapped
from tests.test_translate_chat import checked as chat_rules
from tests.test_translate_from_gemini import checked as messages_rules

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 100 MB
FINAL = "MOCK_FINAL_OK"
# What keeps the client from calling its vendor.
QUIET = {
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
}
# With a model of one's own choice the client does not ask another one which to take.
CHOSEN, ROUTED = ("--model", "gemini-2.5-pro"), ()
RULES: dict[Kind, Callable[[Any], None]] = {CLAUDE: messages_rules, CHAT: chat_rules}


class Run(NamedTuple):
    """What one headless run of the client said."""

    code: int
    said: str
    whole: str
    nonce: str


def run(folder: Path, url: str, *, model: tuple[str, ...] = CHOSEN, vertex: bool = False) -> Run:
    """Asks for something; the script makes it read a file whose content nobody can guess.

    ``vertex``: in its mode for Vertex AI, which `bifrost connect` does not set up."""
    own = Path(tempfile.mkdtemp(dir=folder))
    home, work, temporary = own / "home", own / "work", own / "tmp"
    for made in (home / ".gemini", work, temporary):
        made.mkdir(parents=True)
    settings = home / ".gemini" / "settings.json"
    settings.write_text(json.dumps(QUIET))
    to = ("--key", KEY, "--url", url, "--settings", settings)
    at_vertex = {}
    if vertex:
        settings.write_text(
            json.dumps(QUIET | {"security": {"auth": {"selectedType": "vertex-ai"}}})
        )
        at_vertex = {
            "GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_API_KEY": KEY,
            "GOOGLE_VERTEX_BASE_URL": f"{url}/vertex",
        }  # fmt: skip
    else:
        assert bifrost("connect", "gemini", "--write", *to).code == 0
    nonce = f"nonce-{secrets.token_hex(8)}"
    (work / "bifrost_mock.txt").write_text(nonce)
    program = gemini_cli()
    variables = {
        "HOME": str(home), "TMPDIR": str(temporary), "LANG": "C.UTF-8", "TERM": "dumb",
        "PATH": f"{Path(program[0]).parent}:/usr/local/bin:/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(
        [*program, "--yolo", "--skip-trust", *model, "--prompt", "Read the file."],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
        env=variables | at_vertex, cwd=work, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, f"{done.stdout}\n{done.stderr}", nonce)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path, "--script", "tool", "--record-bodies")
    yield running
    running.stop()


def served(upstream: str, kind: Kind, **key: Any) -> dict[str, Any]:
    """Google's models on a host of that kind."""
    config = mapped(upstream, kind, **key)
    config["models"] = {"gemini-*": config["models"].popitem()[1]}
    return config


@pytest.mark.parametrize(
    ("kind", "model", "requests"),
    [
        (GEMINI, ROUTED, 3), (GEMINI, CHOSEN, 2), (CLAUDE, ROUTED, 3), (CLAUDE, CHOSEN, 2),
        (CHAT, CHOSEN, 2), (RESPONSES, CHOSEN, 2),
    ],
    ids=lambda one: one.api if isinstance(one, Kind) else None,
)  # fmt: skip
def test_a_conversation_with_a_tool(
    mock: RunningMock, tmp_path: Path, kind: Kind, model: tuple[str, ...], requests: int
) -> None:
    """The tool is called and its result told; every level pays what the host served."""
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, kind))
    try:
        done = run(tmp_path, gateway.url, model=model)
        assert done.code == 0, done.whole
        assert FINAL in done.said and done.nonce in done.said, done.whole
        asked = mock.requests(100)
        assert len(asked) == requests
        for one in asked if kind in RULES else ():
            RULES[kind](json.loads(base64.b64decode(one["body"])))
        [row] = mock.account()["models"]
        assert (row["model"], row["completed"]) == (kind.model, requests)
        prices = CLAUDE_PRICES if kind is CLAUDE else PRICES
        due = sum(Decimal(row["served"][name] * price) for name, price in prices.items()) / 10**12
        assert gateway.settled() == due > 0
    finally:
        gateway.stop()


@pytest.mark.parametrize("kind", [GEMINI, CLAUDE], ids=lambda one: one.api)
def test_in_its_mode_for_vertex(mock: RunningMock, tmp_path: Path, kind: Kind) -> None:
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, kind))
    try:
        done = run(tmp_path, gateway.url, vertex=True)
        assert done.code == 0, done.whole
        assert FINAL in done.said and done.nonce in done.said, done.whole
        assert len(mock.requests(100)) == 2 and gateway.settled() > 0
    finally:
        gateway.stop()


def test_an_exhausted_budget_is_told_once(mock: RunningMock, tmp_path: Path) -> None:
    """In our words, and without a second try."""
    poor = [{"max_limit": "0.0001", "reset_duration": "1M"}]
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, CLAUDE, budgets=poor))
    try:
        done = run(tmp_path, gateway.url)
        assert done.code != 0
        assert "TerminalQuotaError" in done.whole and "budget of" in done.whole, done.whole
        assert "Attempt 1 failed" not in done.whole
        assert mock.requests(100) == []
    finally:
        gateway.stop()


def test_a_model_that_is_not_allowed_is_told_in_our_words(
    mock: RunningMock, tmp_path: Path
) -> None:
    narrow = [{"allowed_models": ["gemini-1.0"]}]
    config = served(mock.url, CLAUDE, provider_configs=narrow)
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        done = run(tmp_path, gateway.url)
        assert done.code != 0
        assert "may not use" in done.whole, done.whole
        assert mock.requests(100) == []
    finally:
        gateway.stop()


def test_a_stream_that_breaks_is_told_in_our_words(tmp_path: Path) -> None:
    """The client looks for an error between the events, and asks again some times."""
    mock = RunningMock(tmp_path, "--cut-after", "3", "--chunks", "9", "--output-tokens", "300")
    gateway = RunningGateway(tmp_path / "gateway", served(mock.url, CLAUDE))
    try:
        done = run(tmp_path, gateway.url)
        assert done.code != 0
        assert "in the middle of a response. Try again." in done.whole, done.whole
    finally:
        gateway.stop()
        mock.stop()

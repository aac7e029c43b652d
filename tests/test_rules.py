"""Routing rules: conditions in CEL, what they know, and what they may not change."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock as patching

import httpx
import pytest
from msgspec.structs import replace

from bifrost.config.conditions import FACTS, condition
from bifrost.config.load import load
from bifrost.errors import ConfigError
from bifrost.governance.entities import id_number
from bifrost.identify import budget_window
from bifrost.routing.rules import Rule, Rules
from tests.administration import Admin
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"


def held(text: str, **facts: Any) -> bool:
    return condition(text).holds({**FACTS, **facts})


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("model.startsWith('claude-') && stream", {}),
        ("team == 'core' || user in ['alice', 'bob']", {"user": "bob"}),
        ("budget_used > 0.8", {"budget_used": 0.81}),
        ("'x-priority' in headers && headers['x-priority'] == 'low'",
         {"headers": {"x-priority": "low"}}),
        ("headers.exists(name, name.startsWith('x-codex-'))", {"headers": {"x-codex-window": "1"}}),
        ("input_bytes > 200000 || max_tokens >= 32000", {}),
        ("api == 'responses' && session != ''", {"api": "responses", "session": "s"}),
    ],
)  # fmt: skip
def test_conditions_hold(text: str, facts: dict[str, Any]) -> None:
    assert held(text, **facts)
    assert not held(f"!({text})", **facts)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("team ==", "not an expression of CEL"),
        ("teem == 'core'", "there is no 'teem'; known are model"),
        ("team", "it must be true or false"),
        ("team + 1 == 2", "string + int"),
        ("nothing(model)", "nothing"),
        ("model.matches('(')", "regex"),
    ],
)
def test_a_wrong_condition_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="(?i)" + problem.replace("+", r"\+")) as caught:
        condition(text)
    assert "\n" not in str(caught.value)


def test_without_the_library_it_says_how_to_get_it() -> None:
    with (
        patching.patch.dict(sys.modules, {"cel": None}),
        pytest.raises(ValueError, match=r"pip install 'bifrost-gateway\[rules\]'"),
    ):
        condition("stream")


def test_what_cannot_be_decided_does_not_hold_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    goals = (("a", None, 1.0, False),)
    first = Rule("first", ("*",), condition("headers['x'] == '1'"), goals)
    rules = Rules([first, Rule("second", ("claude-*",), condition("stream"), goals)])
    for _ in range(3):
        found = rules.find("claude-x", lambda names: {name: FACTS[name] for name in names})
        assert found is not None and found.name == "second"
    assert len(caplog.records) == 1
    assert rules.find("gpt-x", lambda names: {name: FACTS[name] for name in names}) is None
    assert rules.concern("gpt-x") and not Rules().concern("gpt-x")


RULES: list[dict[str, Any]] = [
    {
        "name": "tight",
        "when": "budget_used > 0.5",
        "models": ["claude-sonnet-*"],
        "targets": [{"provider": "anthropic", "model": HAIKU}],
    },
    {
        "name": "background",
        "when": "'x-priority' in headers && team == 'core' && user == 'alice'",
        "targets": [{"provider": "other"}],
    },
    {"name": "blocked", "when": "input_bytes > 5000", "targets": [{"provider": "secret"}]},
]


def ruled(url: str) -> dict[str, Any]:
    """Three rules over three providers, one of which the key may not use."""
    config = configuration(
        url,
        provider_configs=[{"provider": "anthropic"}, {"provider": "other"}],
    )
    for name in ("other", "secret"):
        config["providers"][name] = config["providers"]["anthropic"]
    config["models"] = {"claude-*": [{"provider": "anthropic"}]}
    config["routing"] = {"rules": RULES}
    return config


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, ruled(mock.url))
    yield running
    running.stop()


def ask(gateway: RunningGateway, text: str = "Hello", **headers: str) -> httpx.Response:
    body = message(messages=[{"role": "user", "content": text}])
    lines = bearer() | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{gateway.url}/v1/messages", json=body, headers=lines)


def served(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-bf-provider"], answer.headers["x-bf-model"]


def test_rules_send_requests_elsewhere_as_long_as_they_hold(gateway: RunningGateway) -> None:
    assert served(ask(gateway)) == ("anthropic", SONNET)
    assert served(ask(gateway, x_priority="low")) == ("other", SONNET)
    directory, gate = gateway.stores()
    [budget] = directory.get("virtual_key", "alice-dev").budgets
    start, _ = budget_window(budget, time.time_ns())
    spent = gate.counters([(id_number(budget.id), start)])[0][0]
    smaller = replace(budget, max_limit=spent * 3 // 2, tight="refuse", overdraft="last_request")
    directory.update("virtual_key", "alice-dev", budgets=(smaller,))
    assert served(ask(gateway)) == ("anthropic", HAIKU)
    assert served(ask(gateway, x_priority="low")) == ("anthropic", HAIKU)  # the first that holds


def test_a_rule_allows_nothing(gateway: RunningGateway) -> None:
    answer = ask(gateway, "x" * 6_000)
    assert (answer.status_code, answer.headers["x-bf-error"]) == (400, "provider_blocked")


def test_a_name_cannot_be_a_rule(gateway: RunningGateway) -> None:
    assert served(ask(gateway, x_priority="low"))[0] == "other"
    body = message(model="('claude-sonnet-4-5', 'background')")
    answer = httpx.post(f"{gateway.url}/v1/messages", json=body, headers=bearer())
    assert answer.status_code in (400, 404)


def test_a_wrong_rule_is_an_error_of_the_file(tmp_path: Path) -> None:
    config = ruled("http://127.0.0.1:9")
    config["routing"]["rules"] = [
        {"name": "a", "when": "teem == 'x'", "targets": [{"provider": "anthropic"}]},
        {"name": "a", "when": "stream", "targets": [{"provider": "nobody"}]},
        {"name": "b", "when": "stream", "targets": []},
    ]
    path = tmp_path / "bifrost.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError) as caught:
        load(path)
    for place in ("rules[0].when", "rules[1].name", "rules[1].targets[0].provider",
                  "rules[2].targets"):  # fmt: skip
        assert f"routing.{place}" in str(caught.value)


def test_the_api_lists_the_rules(gateway: RunningGateway) -> None:
    with Admin(gateway) as admin:
        found = admin.get("/routing/rules")
    assert [one["name"] for one in found["items"]] == ["tight", "background", "blocked"]
    assert found["items"][0]["when"] == "budget_used > 0.5"
    assert found["items"][0]["targets"][0]["model"] == HAIKU

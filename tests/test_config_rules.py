"""What a configuration file may not say: shapes, references, budgets, features not there yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from bifrost.config import Settings, load, parse
from bifrost.config.findings import listed
from bifrost.config.hosts import TABLE, Kind
from bifrost.config.settings import instant_ns, nano_usd
from bifrost.errors import ConfigError
from bifrost.governance.windows import parse_duration

TYPES = listed(get_args(Kind))
KEY_VALUE = "sk-bf-" + "a1_-" * 8


def read(document: object) -> Settings:
    return parse(document, where="bifrost.json", base=Path("/nowhere"))


def problems(document: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(document)
    head, *lines = str(caught.value).splitlines()
    count = len(lines)
    assert head == f"bifrost.json cannot be used; {count} problem{'s' if count > 1 else ''}:"
    return lines


def only_problem(document: object) -> str:
    (line,) = problems(document)
    return line


def anthropic(**network: object) -> dict[str, Any]:
    keys = [{"name": "main", "value": "x"}]
    return {"providers": {"a": {"type": "anthropic", "keys": keys, "network": network}}}


def budgeted(**budget: object) -> dict[str, Any]:
    whole = {"max_limit": "75", "reset_duration": "1M", **budget}
    return {"governance": {"customers": [{"name": "acme", "budgets": [whole]}]}}


@pytest.mark.parametrize("document", [None, [], "x", 1])
def test_the_top_level_is_an_object(document: object) -> None:
    assert only_problem(document).startswith("the top level: expected an object, got ")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"servr": {}}, "servr: unknown key; did you mean 'server'? (valid: $schema, server,"),
        ({"zzz": {}}, "zzz: unknown key (valid: $schema, server,"),
        ({"server": {"Port": 1}}, "server.Port: unknown key; did you mean 'port'?"),
        ({"server": {1: 1}}, "server: expected text as a key, got 1; put it in quotes"),
        ({"models": {True: []}}, "models: expected text as a key, got true; put it in quotes"),
        ({"server": []}, "server: expected an object, got an array"),
        ({"server": None}, "server: expected an object, got null"),
        ({"models": {"gpt-4.1": {}}}, "models['gpt-4.1']: expected an array, got an object"),
        (
            {"server": {"port": "abc"}},
            "server.port: expected an integer from 0 to 65535, got 'abc'",
        ),
        (
            {"server": {"port": 65536}},
            "server.port: expected an integer from 0 to 65535, got 65536",
        ),
        ({"server": {"port": 80.0}}, "server.port: expected an integer from 0 to 65535, got 80.0"),
        ({"server": {"port": True}}, "server.port: expected an integer from 0 to 65535, got true"),
        ({"server": {"port": 10**9999}}, "server.port: expected an integer from 0 to 65535, got a"),
        ({"server": {"host": 5}}, "server.host: expected text of 1 to 128 characters, got 5; put"),
        (
            {"server": {"host": ""}},
            "server.host: expected text of 1 to 128 characters, got an empt",
        ),
        ({"server": {"host": "a\nb"}}, "server.host: holds a control or other unprintable char"),
        ({"data_dir": "\ud800"}, "data_dir: holds a control or other unprintable character"),
        ({"server": {"access_log": 1}}, "server.access_log: expected true or false, got 1"),
        (
            {"server": {"log_level": "warn"}},
            "server.log_level: expected 'debug', 'error', 'info' or 'warning', got 'warn'; did you"
            " mean 'warning'?",
        ),
        (
            {"server": {"ping_interval_s": 0}},
            "server.ping_interval_s: expected a number above 0, at most 86400, got 0",
        ),
        (
            {"server": {"ping_interval_s": float("nan")}},
            "server.ping_interval_s: expected a number",
        ),
        (
            {"server": {"ping_interval_s": float("inf")}},
            "server.ping_interval_s: expected a number",
        ),
        ({"providers": {"x": {}}}, f"providers.x.type: missing; expected {TYPES}"),
        (
            {"providers": {"x": {"type": "antropic"}}},
            f"providers.x.type: expected {TYPES}, got 'antropic'; did you mean 'anthropic'",
        ),
        ({"governance": {"users": [{}]}}, "governance.users[0].name: missing; expected text of"),
        ({"governance": {"users": ["al"]}}, "governance.users[0]: expected an object, got text"),
        ({"prices": {"unpriced": "allow"}}, "prices.unpriced: expected 'refuse', got 'allow'"),
    ],
)
def test_wrong_shapes(document: object, said: str) -> None:
    assert only_problem(document).startswith(said)


def test_numbers_are_not_referenced() -> None:
    assert only_problem({"server": {"port": "env.PORT"}}).endswith("got 'env.PORT'")


def test_all_problems_are_told_at_once() -> None:
    document = {
        "server": {"port": -1, "hots": "x"},
        "providers": {"a": {"type": "anthropic"}},
        "models": {"m": [{"provider": "b"}]},
        "governance": {
            "users": [{"name": "al", "team": "core"}, {"name": 7}],
            "teams": [{"name": "cor"}],
        },
    }
    assert [line.split(": ")[0] for line in problems(document)] == [
        "server.port",
        "server.hots",
        "governance.users[1].name",
        "providers.a.keys",
        "models.m[0].provider",
        "governance.users[0].team",
    ]


def test_one_mistake_gives_one_line() -> None:
    documents: list[dict[str, object]] = [
        {"providers": {"a": {"type": "anthropic", "keys": 1}}},
        {"models": {"m": 1}},
        {"governance": {"teams": 1, "users": [{"name": "u", "team": "core"}]}},
        {"governance": {"teams": [{"name": ""}, {"name": ""}]}},
        {"models": {"m": [{"provider": "mock", "weight": "x"}]}},
    ]
    assert [len(problems(document)) for document in documents] == [1, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [("75", 75 * 10**9), ("75.00", 75 * 10**9), (75, 75 * 10**9), ("0.000000001", 1), ("0", 0)],
)
def test_money_is_exact(amount: str | int, nanos: int) -> None:
    settings = read(budgeted(max_limit=amount))
    assert settings.governance.customers[0].budgets[0].nano_usd == nano_usd(amount) == nanos


@pytest.mark.parametrize(
    "amount", ["-1", "1e3", "1,000", " 1", "1.0000000001", "1000000001", -1, 2**80, True, None, "٣"]
)
def test_what_is_no_amount(amount: object) -> None:
    line = only_problem(budgeted(max_limit=amount))
    assert line.startswith(
        "governance.customers[0].budgets[0].max_limit: expected an amount in USD"
    )


def test_a_float_is_no_money() -> None:
    assert only_problem(budgeted(max_limit=0.001)).endswith("write it in quotes: '0.001'")
    assert "got nan" in only_problem(budgeted(max_limit=float("nan")))


@pytest.mark.parametrize("text", ["1", "1x", "0d", "1001d", "1.5h", "M", "1M ", "01M"])
def test_durations_are_those_of_the_windows(text: str) -> None:
    line = only_problem(budgeted(reset_duration=text))
    assert "reset_duration: expected a number from 1 to 1000 and one of m h d w M Q Y" in line
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["1m", "90d", "1000Y", "999h", "1Q"])
def test_good_durations(text: str) -> None:
    assert read(budgeted(reset_duration=text))
    assert parse_duration(text)


def test_time_zones() -> None:
    assert read(budgeted(time_zone="America/Sao_Paulo"))
    line = only_problem(budgeted(time_zone="Europe/Berln"))
    assert line.endswith("no time zone named 'Europe/Berln'; did you mean 'Europe/Berlin'?")
    for zone in ("../UTC", "America", "/etc/passwd"):
        assert "no time zone named" in only_problem(budgeted(time_zone=zone))


def test_two_budgets_on_the_same_windows() -> None:
    budget = {"max_limit": "1", "reset_duration": "1M"}
    customer = {"name": "c", "budgets": [budget, {**budget, "reset_duration": "1d"}, budget]}
    assert only_problem({"governance": {"customers": [customer]}}) == (
        "governance.customers[0].budgets[2]: a second limit on the same windows as"
        " governance.customers[0].budgets[0]"
    )


GOVERNANCE = {
    "customers": [{"name": "acme"}, {"name": "other"}],
    "teams": [{"name": "core", "customer": "acme"}, {"name": "free"}],
}


@pytest.mark.parametrize(
    ("group", "spec", "said"),
    [
        (
            "teams",
            {"name": "t", "customer": "acm"},
            "customer: no customer named 'acm'; did you me",
        ),
        ("users", {"name": "u", "team": "cor"}, "team: no team named 'cor'; did you mean 'core'?"),
        ("users", {"name": "u", "customer": "x"}, "customer: no customer named 'x'"),
        ("users", {"name": "u", "team": "core", "customer": "other"}, "customer: the user's team"),
        ("users", {"name": "u", "team": "free", "customer": "acme"}, "customer: the user's team"),
        ("virtual_keys", {"name": "k", "user": "al"}, "user: no user named 'al'"),
        ("teams", {"name": "core"}, "name: 'core' is already the name of governance.teams[0]"),
        ("teams", {"name": " x"}, "name: expected no space at either end"),
        ("virtual_keys", {"name": "k", "expires_at": "2027-01-01"}, "expires_at: expected a time"),
        ("virtual_keys", {"name": "k", "expires_at": "2027-13-01T00:00:00Z"}, "expires_at: expec"),
        ("virtual_keys", {"name": "k", "value": "sk-bf-short"}, "value: expected 'sk-bf-' and 32"),
        (
            "virtual_keys",
            {"name": "k", "provider_configs": [{"provider": "x"}]},
            "provider_configs",
        ),
    ],
)
def test_references_between_entities(group: str, spec: dict[str, object], said: str) -> None:
    others: list[dict[str, Any]] = GOVERNANCE.get(group, [])
    document = {"governance": {**GOVERNANCE, group: [*others, spec]}}
    line = only_problem(document)
    assert line.startswith(f"governance.{group}[{len(others)}].{said}")


def test_a_user_may_name_the_customer_of_the_team() -> None:
    user = {"name": "u", "team": "core", "customer": "acme"}
    assert read({"governance": {**GOVERNANCE, "users": [user]}})


def test_a_key_has_one_owner() -> None:
    key = {"name": "k", "team": "core", "customer": "acme"}
    assert only_problem({"governance": {**GOVERNANCE, "virtual_keys": [key]}}) == (
        "governance.virtual_keys[0]: expected one owner, got team and customer; keep one of them"
    )


def test_names_may_repeat_across_kinds() -> None:
    kinds = ("customers", "teams", "users", "virtual_keys")
    assert read({"governance": {kind: [{"name": "acme"}] for kind in kinds}})


def test_two_keys_with_one_value() -> None:
    keys = [{"name": name, "value": KEY_VALUE} for name in "ab"]
    assert only_problem({"governance": {"virtual_keys": keys}}) == (
        "governance.virtual_keys[1].value: the same value as governance.virtual_keys[0]"
    )


@pytest.mark.parametrize("value", ["with space", "new\nline", "umläut", "tab\t"])
def test_provider_keys_fit_into_a_header(value: str) -> None:
    keys = [{"name": "m", "value": value}]
    line = only_problem({"providers": {"a": {"type": "anthropic", "keys": keys}}})
    assert line.startswith("providers.a.keys[0].value: holds a space") and value not in line


def test_providers() -> None:
    assert only_problem({"providers": {"a": {"type": "anthropic"}}}) == (
        "providers.a.keys: a provider of type 'anthropic' needs at least one key"
    )
    assert read({"providers": {"m": {"type": "mock"}}}).providers["m"].network.base_url is None
    assert "letters, digits" in only_problem({"providers": {"a/b": {"type": "mock"}}})
    zero = [{"name": "m", "value": "x", "weight": 0}]
    assert "weight" in only_problem({"providers": {"a": {"type": "mock", "keys": zero}}})
    twice = [{"name": "m", "value": "x"}, {"name": "m", "value": "y"}]
    assert "already" in only_problem({"providers": {"a": {"type": "mock", "keys": twice}}})


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://host",
            "host:80",
            "https://",
            "https://u@host",
            "https://u:p@host/",
            "http://[::1",
        ),
        *(
            "http://h/?q=1",
            "http://h/#f",
            "http://h?",
            "http://h:99999",
            "http://h\t/",
            "https:///p",
        ),
    ],
)
def test_base_urls_that_are_refused(url: str) -> None:
    assert only_problem(anthropic(base_url=url)).startswith("providers.a.network.base_url: ")


@pytest.mark.parametrize("url", ["https://host", "http://127.0.0.1:8000/v1", "HTTPS://[::1]:8/"])
def test_base_urls(url: str) -> None:
    assert read(anthropic(base_url=url)).providers["a"].network.base_url == url


def test_models() -> None:
    def models(pattern: str, *targets: object) -> dict[str, object]:
        return {"providers": {"m": {"type": "mock"}}, "models": {pattern: list(targets)}}

    assert read(models("claude-*?", {"provider": "m"}))
    assert only_problem(models("x", {"provider": "mm"})) == (
        "models.x[0].provider: no provider named 'mm'; did you mean 'm'?"
    )
    assert "needs at least one target" in only_problem(models("x"))
    assert "weight" in only_problem(models("x", {"provider": "m", "weight": 0}))
    assert "no pattern" in only_problem(models("x", {"provider": "m", "model": "a*"}))
    for pattern in ("[ab]", "a b", "a,b", "^a$", "{a}"):
        assert "only * and ?" in only_problem(models(pattern, {"provider": "m"}))


def limited(*limits: object) -> dict[str, Any]:
    return {
        "providers": {"m": {"type": "mock"}},
        "governance": {"teams": [{"name": "core", "rate_limits": list(limits)}]},
    }


def test_rate_limits() -> None:
    most = {"metric": "tokens", "max_limit": 9}
    assert read(limited(most, {**most, "window": "1h"}, {**most, "provider": "m"}))
    place = "governance.teams[0].rate_limits[0]"
    for window in ("0m", "1w", "32d", "m", "1", "-1m"):
        line = only_problem(limited({**most, "window": window}))
        assert line.startswith(f"{place}.window: expected a number and one of s m h d")
    slots = {"metric": "concurrency", "max_limit": 2}
    assert read(limited(slots))
    assert "has no window; leave it out" in only_problem(limited({**slots, "window": "1m"}))
    assert only_problem(limited({**most, "provider": "mm"})) == (
        f"{place}.provider: no provider fits 'mm'; did you mean 'm'?"
    )
    assert "only * and ?" in only_problem(limited({**most, "model": "[x]"}))
    assert "a second limit on the same requests as" in only_problem(
        limited(most, {**most, "window": "1m", "max_limit": 3})
    )
    assert "expected 'concurrency', " in only_problem(limited({"metric": "rpm", "max_limit": 1}))
    assert "max_limit" in only_problem(limited({"metric": "tokens", "max_limit": -1}))


def test_what_a_budget_counts_and_how_it_ends() -> None:
    document = budgeted(
        provider="m*", overdraft="last_request", tight="wait", fiscal_start=10, reset_duration="1Y"
    )
    document["providers"] = {"mock": {"type": "mock"}}
    assert read(document).governance.customers[0].budgets[0].fiscal_start == 10
    document["providers"] = {"a": {"type": "mock"}}
    assert "no provider fits 'm*'" in only_problem(document)
    assert "from 1 to 12" in only_problem(budgeted(fiscal_start=13))
    assert "overdraft: expected 'last_request' or 'none'" in only_problem(budgeted(overdraft="1"))
    assert "tight: expected " in only_problem(budgeted(tight="clamp,wait"))


def test_allowances_of_a_team() -> None:
    rule = {"provider": "x", "allowed_models": ["claude-*"]}
    document = {"governance": {"teams": [{"name": "core", "provider_configs": [rule]}]}}
    assert "teams[0].provider_configs[0].provider: no provider named 'x'" in only_problem(document)


def test_patterns_of_a_key() -> None:
    rule = {"allowed_models": ["claude-haiku-*,claude-sonnet-*"], "blocked_models": ["[x]"]}
    lines = problems({"governance": {"virtual_keys": [{"name": "k", "provider_configs": [rule]}]}})
    assert ["provider_configs[0].allowed_models[0]" in lines[0], "blocked" in lines[1]] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"enterprise": {"sso": {}}}, "enterprise.sso: unknown key (valid: audit_logs)"),
        (
            {"governance": {"virtual_keys": [{"name": "k", "mcp_configs": []}]}},
            "governance.virtual_keys[0].mcp_configs: not enforced by this version; remove it",
        ),
        (
            {"providers": {"b": {"type": "cohere", "region": "us-east-1"}}},
            f"providers.b.type: 'cohere' is not served by this version; use {TYPES}",
        ),
    ],
)
def test_what_this_version_does_not_do(document: object, said: str) -> None:
    assert only_problem(document) == said


def test_warnings(tmp_path: Path) -> None:
    document = anthropic(base_url="http://example.org", verify=False)
    document["governance"] = {"virtual_keys": [{"name": "k", "expires_at": "2020-01-01T00:00:00Z"}]}
    (tmp_path / "bifrost.json").write_text(json.dumps(document))
    assert load(tmp_path / "bifrost.json").warnings == (
        "providers.a.network.base_url: http sends the provider's keys in the clear",
        "providers.a.network.verify: the provider's certificate is not checked",
        "governance.virtual_keys[0].expires_at: has passed; the key is refused",
    )


def test_times() -> None:
    assert instant_ns("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert instant_ns("1970-01-01T01:00:00.000000001+01:00") == 1
    for text in ("1970-01-01T00:00:00", "1970-01-01", "19700101T000000Z", "9999-99-99T00:00:00Z"):
        with pytest.raises(ValueError, match="RFC 3339"):
            instant_ns(text)


def test_a_budget_without_a_limit() -> None:
    document = {"governance": {"teams": [{"name": "t", "budgets": [{"reset_duration": "1M"}]}]}}
    assert problems(document) == [
        "governance.teams[0].budgets[0].max_limit: missing; expected an amount in USD such as"
        " '75.00'"
    ]


def test_every_type_of_provider_is_in_the_table() -> None:
    assert set(TABLE) == set(get_args(Kind))


def test_quirks_belong_to_hosts_that_can_have_them() -> None:
    network = {"base_url": "http://127.0.0.1:9/v1"}
    quirks = {"streams_only": True}
    local = {"type": "openai_compatible", "network": network, "quirks": quirks}
    assert read({"providers": {"x": local}}).providers["x"].quirks.streams_only
    for other in (
        {"type": "anthropic_compatible", "network": network, "quirks": quirks},
        {**local, "api": "messages"},
    ):
        assert only_problem({"providers": {"x": other}}) == (
            "providers.x.quirks.streams_only: only for hosts of the chat or responses API"
        )
    for name, value in {
        "reasoning_field": "reasoning", "reasoning_due": True, "short_call_ids": True
    }.items():  # fmt: skip
        quirk = {**local, "quirks": {name: value}}
        assert getattr(read({"providers": {"x": quirk}}).providers["x"].quirks, name) == value
        assert only_problem({"providers": {"x": {**quirk, "api": "responses"}}}) == (
            f"providers.x.quirks.{name}: only for hosts of the chat API"
        )


def test_where_a_provider_is() -> None:
    local: dict[str, object] = {"type": "openai_compatible"}
    assert only_problem({"providers": {"x": local}}) == (
        "providers.x.network.base_url: missing; type 'openai_compatible' has no address of its own"
    )
    local["network"] = {"base_url": "http://127.0.0.1:11434/v1"}
    assert read({"providers": {"x": local}}).providers["x"].api is None
    groq = {"type": "groq", "api": "messages", "keys": [{"name": "main", "value": "x"}]}
    assert only_problem({"providers": {"x": groq}}) == (
        "providers.x.api: type 'groq' has only 'chat'"
    )

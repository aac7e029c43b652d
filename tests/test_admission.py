"""Allowlists, governed fields, bounds and routes: the decisions before any money moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bifrost._fast import wire
from bifrost._fast.density import OVERHEAD
from bifrost.errors import FieldBlocked, ModelNotFound
from bifrost.governance.admission import check_fields, check_model, share
from bifrost.governance.entities import ProviderRule, Team, VirtualKey
from bifrost.metering.bound import LOOP, bound
from bifrost.patterns import matches, specificity
from bifrost.routing.targets import Alias, Router, Target


def key(*rules: ProviderRule, fields: tuple[str, ...] | None = None) -> VirtualKey:
    """A key with these rules."""
    return VirtualKey(
        id="vk_0000000000000001", name="k", digest="", hint="", created_at=0, updated_at=0,
        provider_configs=rules or (ProviderRule(),), allowed_fields=fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "provider", "asked", "upstream", "code"),
    [
        ([], "anthropic", "claude-x", "claude-x", None),
        ([ProviderRule(provider="anthropic")], "bedrock", "x", "x", "provider_blocked"),
        ([ProviderRule(allowed_models=("claude-haiku-*",))], "a", "claude-haiku-4", "y", None),
        ([ProviderRule(allowed_models=("claude-haiku-*",))], "a", "alias", "claude-haiku-4", None),
        ([ProviderRule(allowed_models=("claude-haiku-*",))], "a", "opus", "opus", "model_blocked"),
        ([ProviderRule(blocked_models=("*opus*",))], "a", "fast", "claude-opus", "model_blocked"),
        ([ProviderRule(blocked_models=("*opus*",))], "a", "opus", "claude-haiku", "model_blocked"),
        ([ProviderRule(allowed_models=())], "a", "x", "x", "model_blocked"),
        ([ProviderRule(provider="a", allowed_models=("x",)), ProviderRule(provider="b")],
         "a", "y", "y", "model_blocked"),
    ],
)  # fmt: skip
def test_allowlist(
    rules: list[ProviderRule], provider: str, asked: str, upstream: str, code: str | None
) -> None:
    found = check_model([("virtual key", key(*rules))], provider, asked, upstream)
    assert (found.code if found else None) == code


def team(*rules: ProviderRule) -> Team:
    """A team with these rules."""
    return Team(
        id="team_0000000000000001", name="core", created_at=0, updated_at=0, provider_configs=rules
    )


@pytest.mark.parametrize(
    ("inner", "outer", "code"),
    [
        ([], [], None),
        ([], [ProviderRule(allowed_models=("claude-*",))], None),
        ([], [ProviderRule(allowed_models=("gpt-*",))], "model_blocked"),
        ([], [ProviderRule(blocked_models=("*haiku*",))], "model_blocked"),
        ([], [ProviderRule(provider="openai")], "provider_blocked"),
        ([ProviderRule(allowed_models=("gpt-*",))], [ProviderRule()], "model_blocked"),
        ([ProviderRule(allowed_models=("claude-haiku-4",))], [ProviderRule(provider="a")], None),
    ],
)
def test_an_inner_level_can_only_narrow(
    inner: list[ProviderRule], outer: list[ProviderRule], code: str | None
) -> None:
    chain = [("virtual key", key(*inner)), ("team", team(*outer))]
    found = check_model(chain, "a", "claude-haiku-4", "claude-haiku-4")
    assert (found.code if found else None) == code
    if found is not None:
        assert ("Team 'core' may not use" in str(found)) == bool(not inner)


def test_a_key_without_rules_may_use_nothing() -> None:
    none = VirtualKey(
        id="vk_0000000000000001", name="k", digest="", hint="", created_at=0, updated_at=0,
        provider_configs=(),
    )  # fmt: skip
    found = check_model([("virtual key", none)], "anthropic", "x", "x")
    assert found is not None and found.code == "provider_blocked"


def test_fields_can_be_granted_but_never_the_unbounded_ones() -> None:
    check_fields(key(), frozenset({"service_tier", "speed", "inference_geo", "container"}))
    check_fields(key(fields=("mcp_servers",)), frozenset({"mcp_servers"}))
    for fields, wanted in (
        (None, "mcp_servers"),
        ((), "speed"),
        (("fallbacks", "thread"), "fallbacks"),
        (("advisor",), "advisor"),
    ):
        with pytest.raises(FieldBlocked, match=wanted):
            check_fields(key(fields=fields), frozenset({wanted}))


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("claude-opus-4-6[1m]", "claude-opus-4-6[1m]", True),
        ("claude-opus-4-6[1m]", "claude-*[1m]", True),
        ("claude-opus-4-6", "claude-opus-4-?", True),
        ("claude-opus-4-66", "claude-opus-4-?", False),
        ("a\nb", "a*b", True),
        ("Claude", "claude", False),
        ("x.y", "x?y", True),
        ("xzy", "x.y", False),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


def test_the_more_literal_pattern_is_more_specific() -> None:
    patterns = ["*", "claude-*", "claude-opus-*", "claude-opus-4"]
    assert sorted(patterns, key=specificity) == patterns


def scanned(**body: Any) -> tuple[wire.Scan, int]:
    """The scan and size of a request."""
    raw = json.dumps({"model": "m", "max_tokens": 100, "messages": [], **body}).encode()
    return wire.scan(raw), len(raw)


def test_the_bound_of_plain_text_follows_its_bytes() -> None:
    ask, size = scanned(system="x" * 3000)
    assert bound(ask, size, 200_000).input_tokens == size // 2 + OVERHEAD
    assert bound(ask, size, 200_000).output_tokens == 100
    assert bound(ask, 10_000_000, 200_000).input_tokens == 200_000


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}},
        {"type": "document", "source": {"type": "base64", "data": "AAAA"}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        {"type": "container_upload", "file_id": "f"},
    ],
)
def test_content_that_is_not_in_the_body_may_fill_the_window(block: dict[str, Any]) -> None:
    ask, size = scanned(messages=[{"role": "user", "content": [block]}])
    assert bound(ask, size, 200_000).input_tokens == 200_000
    assert bound(ask, size, None).input_tokens == 1_000_000


def test_a_small_image_counts_as_the_largest() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    ask, size = scanned(messages=[{"role": "user", "content": [image, image]}])
    assert bound(ask, size, 200_000).input_tokens == size // 2 + OVERHEAD + 10_000


def test_a_providers_own_tool_loop_multiplies_the_window() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    ask, size = scanned(tools=[search])
    most = bound(ask, size, 200_000)
    assert (most.input_tokens, most.output_tokens, most.web_searches) == (800_000, 400, 3)
    ask, size = scanned(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert bound(ask, size, 200_000).web_searches == LOOP
    own = [{"type": "bash_20250124", "name": "bash"}, {"name": "mine", "input_schema": {}}]
    ask, size = scanned(tools=own)
    assert bound(ask, size, 200_000).input_tokens == size // 2 + OVERHEAD
    ask, size = scanned(mcp_servers=[{"type": "url", "url": "https://x", "name": "n"}])
    assert bound(ask, size, 200_000).input_tokens == 200_000 * (LOOP + 1)


def router(*aliases: Alias) -> Router:
    """Two providers, of which the second also has gpt."""
    return Router(
        ["one", "two"], list(aliases), lambda name, model: model == "claude" or name == "two"
    )


def test_shares_among_providers() -> None:
    rules = (ProviderRule(weight=2.0), ProviderRule(provider="mirror*", weight=3.0))
    exact = ProviderRule(provider="mirror-1", weight=0.5)
    assert share(rules, "anthropic") == 2.0
    assert share(rules, "mirror-2") == 2.0  # the first that fits
    assert share((*rules, exact), "mirror-1") == 0.5
    assert share((), "anthropic") == 1.0


def test_routes() -> None:
    alias = Alias("claude-*", (("two", "gpt", 1.0, False),))
    narrow = Alias("claude-opus-*", (("one", None, 0.2, False), ("two", "gpt", 0.8, True)))
    found = router(alias, narrow)
    assert found.targets("claude-haiku") == [Target("two", "gpt")]
    assert found.targets("claude-opus-4") == [
        Target("one", "claude-opus-4", 0.2), Target("two", "gpt", 0.8, True)
    ]  # fmt: skip
    assert found.targets("one/anything/else") == [Target("one", "anything/else")]
    assert found.targets("claude") == [Target("one", "claude"), Target("two", "claude")]
    assert found.targets("gpt") == [Target("two", "gpt")]
    with pytest.raises(ModelNotFound, match="one, two"):
        Router(["one", "two"], [], lambda *_: False).targets("three/x")
    assert Router(["one"], [], lambda *_: False).targets("new") == [Target("one", "new")]


def test_which_of_a_models_names_leads_on() -> None:
    """Its own where something speaks of that in particular; else a plainer one that is known."""
    own, dated, plain = "us.anthropic.claude-x-20250101-v1:0", "claude-x-20250101", "claude-x"
    names = [own, dated, plain]

    def named(providers: list[str], served: set[tuple[str, str]], *patterns: str) -> str:
        aliases = [Alias(pattern, (("one", None, 1.0),)) for pattern in patterns]
        return Router(providers, aliases, lambda *pair: pair in served).named(names)

    assert named(["one"], {("one", own)}) == own
    assert named(["one", "two"], {("one", plain), ("two", own)}) == own
    assert named(["one"], set(), "us.anthropic.*") == own
    assert named(["one"], {("one", own)}, own, "claude-*") == own
    assert named(["one"], {("one", own), ("one", dated)}) == dated  # it takes any name
    assert named(["one"], set(), "*") == dated
    assert named(["one"], {("one", plain)}) == plain
    assert named(["one"], set(), "claude-x") == plain
    assert named(["one"], set()) == plain
    assert Router(["one"], [], lambda *_: False).named(["new"]) == "new"
    assert Router(["us"], [], lambda *_: False).named(["us/new", "x"]) == "us/new"

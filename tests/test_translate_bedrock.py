"""Anthropic clients on Bedrock's InvokeModel: what goes, and what keeps its bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_bedrock import FIELDS, AnthropicBedrock, accepted
from bifrost.translate.raw_json import members
from bifrost.translate.translation import Traits

SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))
MODEL = "us.anthropic.claude-opus-5-5"
OLD = "anthropic.claude-sonnet-4-20250514-v1:0"
# As Claude Code 2.1.330 sends them to Anthropic.
BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01,"
    "thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,effort-2025-11-24"
).split(",")


def translated(
    asked: dict[str, Any] | bytes, model: str = MODEL, max_tokens: int | None = None,
    betas: list[str] | None = None, **traits: Any,
) -> AnthropicBedrock:  # fmt: skip
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    traits_ = Traits(**traits)
    return AnthropicBedrock(body, model, max_tokens=max_tokens, traits=traits_, betas=betas or ())


def wanted(max_tokens: int | None = None, betas: list[str] | None = None, **asked: Any) -> Any:
    """The body for Bedrock of a small request with these fields."""
    whole = {"model": "claude-x", "max_tokens": 100, "messages": [], **asked}
    return json.loads(translated(whole, max_tokens=max_tokens, betas=betas).body)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_a_real_client_asks(sample: Path) -> None:
    """Every field but those that go keeps its very bytes."""
    body = sample.read_bytes()
    asked, made = json.loads(body), translated(body, betas=BETAS)
    told = json.loads(made.body)
    assert told.keys() <= FIELDS | {"anthropic_version", "anthropic_beta"}
    assert told["anthropic_version"] == "bedrock-2023-05-31"
    assert told["anthropic_beta"] == [
        "interleaved-thinking-2025-05-14", "context-management-2025-06-27",
        "mid-conversation-tool-changes-2026-07-01", "thinking-token-count-2026-05-13",
        "tool-search-tool-2025-10-19", "effort-2025-11-24",
    ]  # fmt: skip
    was, now = members(body), members(made.body)
    for field in ("tools", "metadata", "thinking", "output_config", "max_tokens"):
        assert bytes(was[field]) == bytes(now[field])
    assert told["system"] == asked["system"][1:]
    assert [{k: turn[k] for k in ("role", "content")} for turn in asked["messages"]] == told[
        "messages"
    ]
    assert bytes(now["system"])[1:-1] in body
    assert list(now)[: len(was) - 3] == [k for k in was if k in FIELDS and k in now]
    assert made.path == f"/model/{MODEL}/invoke-with-response-stream"


def test_nothing_is_written_anew() -> None:
    """Not even odd numbers, escapes, spaces and the order of keys inside of a value."""
    odd = b'[{"role":"user","content": [ {"text":"\\u0041\\/\xc3\xa4", "type" : "text"} ] }]'
    tools = b'[{"name":"t","input_schema":{"z":1.0,"a":1e2,"type":"object"}}]'
    body = b'{"model":"x","max_tokens":5,"messages":%b,"tools":%b,"stream":false}' % (odd, tools)
    assert translated(body).body == (
        b'{"max_tokens":5,"messages":%b,"tools":%b,"anthropic_version":"bedrock-2023-05-31"}'
        % (odd, tools)
    )


def test_the_path_says_the_model_and_whether_it_streams() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    assert translated({}, OLD).path == f"/model/{OLD}/invoke"
    assert translated({"stream": False}, OLD).path == f"/model/{OLD}/invoke"
    assert translated({"stream": True}, arn).path == (
        f"/model/{arn.replace('/', '%2F')}/invoke-with-response-stream"
    )


@pytest.mark.parametrize(
    "field", ["speed", "service_tier", "cache_control", "diagnostics", "anthropic_beta", "x_team"]
)
def test_fields_that_bedrock_refuses_go(field: str) -> None:
    assert wanted(**{field: {"type": "x"}}).keys() == {
        "max_tokens", "messages", "anthropic_version",
    }  # fmt: skip


def test_an_escaped_name_is_the_same_field() -> None:
    body = b'{"mod\\u0065l":"x","strea\\u006d":true,"max_tokens":1,"messages":[]}'
    made = translated(body)
    assert json.loads(made.body).keys() == {"max_tokens", "messages", "anthropic_version"}
    assert made.path.endswith("-stream")


@pytest.mark.parametrize(
    "field", ["container", "fallbacks", "inference_geo", "mcp_servers", "thread"]
)
def test_what_bedrock_cannot_do_is_refused(field: str) -> None:
    for nothing in (None, [], {}):
        assert field not in wanted(**{field: nothing})
    with pytest.raises(InvalidRequest, match=field):
        wanted(**{field: "x"})


@pytest.mark.parametrize(
    ("own", "lowered", "most", "says"),
    [(100, None, None, 100), (100, 7, None, 7), (5, 7, 9, 5), (100, 50, 40, 40), (None, 7, 9, 7),
     (None, None, None, None), (0, 7, None, 0)],
)  # fmt: skip
def test_limits(own: Any, lowered: Any, most: Any, says: Any) -> None:
    asked = {"messages": []} | ({} if own is None else {"max_tokens": own})
    made = translated(asked, max_tokens=lowered, max_output=most)
    assert json.loads(made.body).get("max_tokens") == says


def test_sampling_goes_where_the_model_takes_none() -> None:
    asked = {"temperature": 1, "top_p": 1, "top_k": 5, "stop_sequences": ["x"]}
    assert json.loads(translated(asked).body) == asked | {"anthropic_version": "bedrock-2023-05-31"}
    assert json.loads(translated(asked, sampling=False).body).keys() == {
        "stop_sequences", "anthropic_version",
    }  # fmt: skip


def test_betas_that_bedrock_knows() -> None:
    assert accepted(["advanced-tool-use-2025-11-20", "tool-search-tool-2025-10-19", "x"]) == [
        "tool-search-tool-2025-10-19"
    ]
    assert "anthropic_beta" not in wanted(betas=["claude-code-20250219", "oauth-2025-04-20"])


MARK = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
MARKED: dict[str, Any] = {
    "system": [{"type": "text", "text": "x", "cache_control": MARK}],
    "tools": [{"name": "t", "input_schema": {"properties": {"scope": {"ttl": 1}}},
               "cache_control": MARK}],
    "messages": [
        {"role": "user", "content": "the \"scope\""},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "t",
             "input": {"cache_control": MARK, "content": [{"cache_control": MARK}]}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "cache_control": MARK,
             "content": [{"type": "text", "text": "y", "cache_control": MARK}]}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (MODEL, {"type": "ephemeral", "ttl": "1h"}),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", {"type": "ephemeral", "ttl": "1h"}),
        (OLD, {"type": "ephemeral"}),
        ("anthropic.claude-opus-4-1-20250805-v1:0", {"type": "ephemeral"}),
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", {"type": "ephemeral"}),
    ],
)
def test_marks_of_the_cache(model: str, left: Any) -> None:
    """What is called so inside of a tool's input or schema is none."""
    told = json.loads(translated(MARKED, model).body)
    expected = json.loads(json.dumps(MARKED))
    result = expected["messages"][2]["content"][0]
    for block in (expected["system"][0], expected["tools"][0], result, result["content"][0]):
        block["cache_control"] = left
    assert {field: told[field] for field in MARKED} == expected


def test_the_billing_line_goes_and_takes_an_empty_system_with_it() -> None:
    line = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.440;"}
    talk = {"type": "text", "text": "About x-anthropic-billing-header."}
    assert wanted(system=[line, talk])["system"] == [talk]
    assert "system" not in wanted(system=[line])
    assert wanted(system="x-anthropic-billing-header")["system"] == "x-anthropic-billing-header"


def test_the_configuration_of_a_turn_needs_its_beta() -> None:
    turns = [
        {"role": "user", "content": 'What is "output_config"?'},
        {"role": "system", "output_config": {"effort": "low"}},
        {"role": "system", "content": "x", "output_config": {"effort": "low"}},
    ]
    assert wanted(messages=turns)["messages"] == [turns[0], {"role": "system", "content": "x"}]
    beta = "mid-conversation-output-config-2026-07-01"
    assert wanted(messages=turns, betas=[beta])["messages"] == turns


def test_context_edits_but_compaction_go() -> None:
    clear, compact = {"type": "clear_thinking_20251015"}, {"type": "compact_20260112", "x": 1}
    for edits, left in (
        ([clear], None), ([], None), ([compact], [compact]), ([clear, compact], [compact]),
    ):  # fmt: skip
        told = wanted(context_management={"edits": edits}).get("context_management")
        assert told == (None if left is None else {"edits": left})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"a":1} x', b'{"max_tokens":"many"}', b'{"tools":[{"scope"]}',
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"context_management":5}',
    ],
)  # fmt: skip
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a Messages request"):
        translated(body, max_tokens=5)


WORDS = st.sampled_from(
    ["", "edits", "type", "compact_20260112", "content", "cache_control", "scope", "ttl", "text",
     "output_config", "x-anthropic-billing-header", "\u00e4\n\u2028😀"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(FIELDS) + ["stream", "model"]), JSON))
def test_any_json_becomes_a_request_or_a_refusal(asked: dict[str, Any]) -> None:
    try:
        made = translated(asked, OLD, max_tokens=5)
    except InvalidRequest as refusal:
        assert str(refusal)
    else:
        told = json.loads(made.body)
        assert told.keys() <= FIELDS | {"anthropic_version"}

"""Anthropic's requests and errors on their way to and from Vertex AI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_vertex import AnthropicVertex, failure
from bifrost.translate.betas import accepted

ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
VERSION = {"anthropic_version": "vertex-2023-10-16"}


def made(asked: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(asked).encode()
    told: dict[str, Any] = json.loads(AnthropicVertex(body, "m", max_tokens=None).body)
    return told


def test_the_model_is_left_out_and_the_version_said() -> None:
    without = {name: value for name, value in ASKED.items() if name != "model"}
    assert made(ASKED) == without | VERSION
    assert made(ASKED | {"anthropic_version": "2026-10-21"}) == without | VERSION
    assert made(ASKED | {"mcp_servers": [], "container": None}) == without | VERSION


def test_values_keep_their_very_bytes() -> None:
    turns = b'[ {"role":"user","content":"\\u00e4 \\/"} ]'
    body = b'{"max_tokens":9,"model":"m", "messages" : %b,"n":1e1}' % turns
    told = AnthropicVertex(body, "x", max_tokens=7).body
    assert turns in told and b'"n":1e1' in told
    assert json.loads(told)["max_tokens"] == 7


def test_scopes_of_caches_and_billing_lines_go() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    block = {"type": "text", "text": "a", "cache_control": mark | {"scope": "global"}}
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2"}
    turn = {"role": "user", "content": [{"type": "tool_result", "content": [block]}]}
    told = made(ASKED | {"system": [billing, block], "messages": [turn]})
    assert told["system"] == [block | {"cache_control": mark}]
    assert told["messages"][0]["content"][0]["content"] == [block | {"cache_control": mark}]
    assert "system" not in made(ASKED | {"system": [billing]})


def test_a_turn_has_no_output_config_of_its_own() -> None:
    turns = [
        {"role": "user", "content": "a", "output_config": {"effort": "low"}},
        {"role": "system", "output_config": {"effort": "low"}},
    ]
    config = {"output_config": {"effort": "high"}}
    told = made(ASKED | config | {"messages": turns})
    assert told["messages"] == [{"role": "user", "content": "a"}]
    assert told["output_config"] == config["output_config"]


@pytest.mark.parametrize("field", ["container", "fallbacks", "mcp_servers", "thread"])
def test_what_only_claudes_own_service_holds_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: the model 'm' cannot be asked"):
        made(ASKED | {field: "x"})


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"model":', b"\xff"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a Messages request"):
        AnthropicVertex(body, "m", max_tokens=None)


@pytest.mark.parametrize(
    ("status", "body", "told", "kind", "said"),
    [
        (429, b'[{"error":{"code":429,"message":"Quota exceeded for projects/p-1/x."}}]',
         429, "rate_limit_error", "Quota exceeded for projects/(hidden)/x."),
        (403, b'{"error":{"message":"a@p-1.iam.gserviceaccount.com may not"}}',
         403, "permission_error", "(hidden) may not"),
        (503, b'{"error":{"message":"try later"}}', 529, "overloaded_error", "try later"),
        (500, b"<html>", 500, "api_error", "The provider answers 500."),
        (404, b"", 404, "not_found_error", "The provider answers 404."),
        (400, b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too '
         b'long: 9 tokens > 8 maximum"},"request_id":"r"}',
         400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
    ],
)  # fmt: skip
def test_errors_are_anthropics_whoever_made_them(
    status: int, body: bytes, told: int, kind: str, said: str
) -> None:
    status, text = failure(status, body)
    found = json.loads(text)
    assert (status, found["type"]) == (told, "error")
    assert (found["error"]["type"], found["error"]["message"]) == (kind, said)


def test_betas_are_those_that_the_host_knows() -> None:
    given = b"advanced-tool-use-2025-11-20, effort-2025-11-24,tool-search-tool-2025-10-19,x-1"
    assert accepted("vertex", given) == b"tool-search-tool-2025-10-19,effort-2025-11-24"
    assert accepted("bedrock_mantle", b"output-128k-2025-02-19") == b"output-128k-2025-02-19"
    assert accepted("vertex", b"output-128k-2025-02-19,x") == accepted("vertex", None) == b""

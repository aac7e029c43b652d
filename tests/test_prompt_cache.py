"""Providers' prompt caches: a conversation's beginning reaches every host as the same bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.config.hosts import Api
from bifrost.passage.ways import way
from bifrost.translate.anthropic_bedrock import AnthropicBedrock
from bifrost.translate.raw_json import members
from bifrost.translate.translation import Traits
from tests.running import RunningGateway, RunningMock, bearer
from tests.test_passages import CHAT, CONVERSE, GEMINI, RESPONSES, Kind, mapped

SAMPLES = Path(__file__).parent / "samples"
# Three turns of one session as the client sent them; the last is of a longer session.
FIRST, SECOND, LONG = (
    json.loads((SAMPLES / f"claude-2.1.330-print-turn{n}.json").read_bytes()) for n in (1, 2, 26)
)
CODEX = json.loads((SAMPLES / "codex" / "codex-0.169.0-lite-turn26.json").read_bytes())
MARK = {"type": "ephemeral"}
TRAITS = Traits(reasons=True, adaptive=True, max_output=32_000)
ANTHROPIC = Kind(
    "anthropic", "messages", "claude-sonnet-4-5", "", "/v1/messages", "/v1/messages?beta=true"
)
SAID = {"messages": "messages", "chat": "messages", "responses": "input", "gemini": "contents",
        "converse": "messages"}  # fmt: skip
LOOKS_BACK = 20  # blocks before a mark in which Claude looks for what it has cached


def claude_code() -> list[Any]:
    """The turns of the long session: the mark is always on what was said last."""
    turns = []
    for end in range(4, len(LONG["messages"]) + 1, 2):
        told = unmarked(LONG["messages"][:end])
        told[-1]["content"][-1]["cache_control"] = MARK
        turns.append({**LONG, "messages": told})
    return turns


def codex() -> list[Any]:
    """The turns of Codex's session, each behind the results of its last calls."""
    items = CODEX["input"]
    ends = [n + 1 for n, item in enumerate(items) if str(item["type"]).endswith("call_output")]
    assert len(ends) == 25
    return [{**CODEX, "input": items[:end]} for end in ends]


def chat() -> list[Any]:
    """The same session as a Chat client has it."""
    bodies = [
        json.loads(way("messages", "chat", encoded(one), "gpt-x", None, TRAITS).body)
        for one in claude_code()
    ]
    return bodies


CLIENTS: dict[Api, Any] = {"messages": claude_code, "responses": codex, "chat": chat}


def encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def unmarked(value: Any) -> Any:
    """Without marks for the cache, which are no part of what is cached."""
    if isinstance(value, dict):
        return {key: unmarked(one) for key, one in value.items() if key != "cache_control"}
    return [unmarked(one) for one in value] if isinstance(value, list) else value


def kept(before: bytes, after: bytes, said: str) -> None:
    """Asserts that the later body repeats every byte of the earlier one and says more behind."""
    was, now = members(before), members(after)
    assert list(was) == list(now)
    for field in was.keys() - {said}:
        assert bytes(was[field]) == bytes(now[field]), field
    assert bytes(now[said]).startswith(bytes(was[said])[:-1] + b",")


def unpointed(value: Any) -> Any:
    """Without Converse's marks for the cache."""
    if isinstance(value, list):
        return [
            unpointed(one) for one in value if not isinstance(one, dict) or "cachePoint" not in one
        ]
    return {k: unpointed(one) for k, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("host", ["chat", "responses", "gemini", "converse"])
@pytest.mark.parametrize("client", ["messages", "responses", "chat"])
def test_every_turn_begins_with_the_bytes_of_the_one_before(client: Api, host: Api) -> None:
    bodies = [
        way(client, host, encoded(one), "m-x", None, TRAITS).body for one in CLIENTS[client]()
    ]
    assert len(bodies) == 25
    for before, after in zip(bodies, bodies[1:], strict=False):
        kept(before, after, SAID[host])


def test_what_claude_code_rewrites_itself_stays_the_same_elsewhere() -> None:
    """Its system turn is a marked block in the first request and a bare text in all later ones."""
    assert isinstance(FIRST["messages"][1]["content"], list)
    assert isinstance(SECOND["messages"][1]["content"], str)
    hosts: tuple[Api, ...] = ("chat", "responses", "gemini", "converse")
    for host in hosts:
        first, second = (
            way("messages", host, encoded(one), "m-x", None, TRAITS).body for one in (FIRST, SECOND)
        )
        kept(first, second, SAID[host])


def test_bedrock_gets_the_clients_own_bytes() -> None:
    """All that Claude Code sends but what Bedrock refuses, and always the same of it."""
    bodies = []
    for one in claude_code():
        raw = encoded(one)
        body = AnthropicBedrock(raw, "anthropic.claude-x", max_tokens=None, traits=TRAITS).body
        was, now = members(raw), members(body)
        assert bytes(was["tools"]) == bytes(now["tools"])
        assert bytes(now["system"])[1:-1] in bytes(was["system"])
        bodies.append(encoded(unmarked(json.loads(body))))
    for before, after in zip(bodies, bodies[1:], strict=False):
        kept(before, after, "messages")


def blocks(body: Any) -> Iterator[tuple[str, bool]]:
    """What Claude caches, in its order: (block, whether it is marked)."""
    for tool in body.get("tools", ()):
        yield f"tool {unmarked(tool)}", "cache_control" in tool
    for block in body.get("system", ()):
        yield f"system {unmarked(block)}", "cache_control" in block
    for turn in body["messages"]:
        for block in turn["content"]:
            yield f"{turn['role']} {unmarked(block)}", "cache_control" in block


def found(before: Any, after: Any) -> int:
    """How many blocks of the later request Claude finds cached behind the earlier one."""
    was, now = list(blocks(before)), list(blocks(after))
    held = {tuple(one for one, _ in was[: n + 1]) for n, (_, mark) in enumerate(was) if mark}
    marks = [n + 1 for n, (_, mark) in enumerate(now) if mark]
    assert 1 <= len(marks) <= 4
    said = tuple(one for one, _ in now)
    ends = {end for mark in marks for end in range(max(1, mark - LOOKS_BACK), mark + 1)}
    return max((end for end in ends if said[:end] in held), default=0)


@pytest.mark.parametrize("client", ["responses", "chat"])
def test_claude_finds_all_of_the_last_turn_in_its_cache(client: Api) -> None:
    """The marks move with what is said last; what they marked before is found all the same."""
    bodies = [
        json.loads(way(client, "messages", encoded(one), "claude-x", None, TRAITS).body)
        for one in CLIENTS[client]()
    ]
    for before, after in zip(bodies, bodies[1:], strict=False):
        kept(encoded(unmarked(before)), encoded(unmarked(after)), "messages")
        assert found(before, after) == len(list(blocks(before)))


def test_claude_finds_the_last_turn_behind_many_calls_at_once() -> None:
    """Further back than Claude looks for it from the end alone."""
    asked = {"role": "user", "content": "Look at all of them."}
    made = [
        {"type": "function_call", "call_id": f"c{n}", "name": "look", "arguments": "{}"}
        for n in range(LOOKS_BACK)
    ]
    told = [
        {"type": "function_call_output", "call_id": one["call_id"], "output": "seen"}
        for one in made
    ]
    calls = [
        {"id": one["call_id"], "type": "function", "function": {"name": "look", "arguments": "{}"}}
        for one in made
    ]
    results = [{"role": "tool", "tool_call_id": one["call_id"], "content": "seen"} for one in made]
    look = {"name": "look", "parameters": {"type": "object"}}
    first: dict[Api, Any] = {
        "responses": {"model": "m", "tools": [{"type": "function", **look}], "input": [asked]},
        "chat": {
            "model": "m",
            "tools": [{"type": "function", "function": look}],
            "messages": [asked],
        },
    }
    more: dict[Api, Any] = {
        "responses": [*made, *told],
        "chat": [{"role": "assistant", "tool_calls": calls}, *results],
    }
    for client, body in first.items():
        said = SAID[client]
        later = {**body, said: [*body[said], *more[client]]}
        before, after = (
            json.loads(way(client, "messages", encoded(one), "claude-x", None, TRAITS).body)
            for one in (body, later)
        )
        assert found(before, after) == len(list(blocks(before)))


KINDS = [ANTHROPIC, CHAT, RESPONSES, GEMINI, CONVERSE]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.api)
def test_a_session_through_the_gateway(kind: Kind, tmp_path: Path) -> None:
    """Whatever the money does to a request, its beginning stays; on Claude, to the byte."""
    mock = RunningMock(tmp_path, "--record-bodies")
    config = mapped(mock.url, kind)
    config["models"] = {"claude-*": [{"provider": kind.type, "model": kind.model}]}
    gateway = RunningGateway(tmp_path / "g", config)
    try:
        for one in (FIRST, SECOND, *claude_code()[-2:]):
            path = f"{gateway.url}/v1/messages?beta=true"
            headers = bearer() | {"anthropic-beta": "context-management-2025-06-27"}
            answer = httpx.post(path, content=encoded(one), headers=headers, timeout=30)
            assert answer.status_code == 200, answer.text
        sent = [base64.b64decode(one["body"]) for one in mock.requests(4)]
        if kind is ANTHROPIC:
            asked = (FIRST, SECOND, *claude_code()[-2:])
            named = [encoded({**one, "model": kind.model}) for one in asked]
            assert sorted(sent) == sorted(named)
            return
        sent.sort(key=len)
        if kind is CONVERSE:
            assert all(b'"cachePoint"' in body for body in sent)
            sent = [encoded(unpointed(json.loads(body))) for body in sent]
        kept(sent[0], sent[1], SAID[kind.api])
        kept(sent[2], sent[3], SAID[kind.api])
    finally:
        gateway.stop()
        mock.stop()

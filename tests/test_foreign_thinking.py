"""A conversation that was with another vendor's model goes on at Claude, which refuses thinking
that is not its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.passage.ways import way
from bifrost.translate import foreign_thinking
from bifrost.translate.anthropic_bedrock import AnthropicBedrock
from bifrost.translate.gemini_request import signed
from bifrost.translate.raw_json import members
from bifrost.translate.responses_request import Reasoning
from bifrost.translate.sealed_thinking import seal
from bifrost.translate.translation import Traits
from tests.commands import until
from tests.running import RunningGateway, bearer, configuration, message
from tests.test_stream import Script

GEMINIS, GPTS = signed("U0lH", "c1"), Reasoning("rs_1", "secret", "gpt-5.1").sealed()
OWN = {"type": "thinking", "thinking": "Hm.", "signature": "Ep8CCkYI"}
FOREIGN = [
    {"type": "thinking", "thinking": "So.", "signature": GEMINIS},
    {"type": "redacted_thinking", "data": GPTS},
    {"type": "thinking", "thinking": "", "signature": "bifrost-chat"},
]
SAID = {"type": "text", "text": '"bifrost-gemini:" is a word.'}
CALL = {"type": "tool_use", "id": "c1", "name": "bifrost-tool", "input": {"signature": "bifrost-x"}}
TURNS = [
    {"role": "user", "content": "bifrost-chat"},
    {"role": "assistant", "content": [*FOREIGN, SAID, OWN, CALL]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"}]},
    {"role": "assistant", "content": FOREIGN},
    {"role": "user", "content": "Go on."},
]
LEFT = [TURNS[0], {"role": "assistant", "content": [SAID, OWN, CALL]}, TURNS[2], TURNS[4]]
REFUSED = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "messages.1.content.0: Invalid `signature` in `thinking` block",
    },
}
USAGE = {"input_tokens": 1_000, "output_tokens": 100}
COST = 1_000 * 3_000 + 100 * 15_000  # nano-USD


def test_all_but_such_thinking_keeps_its_bytes() -> None:
    body = b'{ "model":"m", "max_tokens": 1.0e2 ,"messages":%b}' % json.dumps(TURNS).encode()
    told = foreign_thinking.without(body)
    assert json.loads(told)["messages"] == LEFT
    assert bytes(members(told)["max_tokens"]) == b"1.0e2"
    assert foreign_thinking.without(told) is not None and json.loads(told)["model"] == "m"
    plain = json.dumps({"messages": LEFT}).encode()
    assert foreign_thinking.without(plain) == plain


def test_bedrock_and_clients_of_other_dialects_are_never_sent_it() -> None:
    body = json.dumps({"max_tokens": 9, "messages": TURNS}).encode()
    made = AnthropicBedrock(body, "anthropic.claude-x", max_tokens=None, traits=Traits()).body
    assert json.loads(made)["messages"] == LEFT
    thought = {"type": "reasoning", "encrypted_content": seal(json.dumps(FOREIGN[0]).encode())}
    items = [
        {"role": "user", "content": "Hi"}, thought,
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "ok"},
    ]  # fmt: skip
    asked = json.dumps({"model": "m", "input": items}).encode()
    on_claude = json.loads(way("responses", "messages", asked, "c", None, Traits()).body)
    assert [block["type"] for block in on_claude["messages"][1]["content"]] == ["tool_use"]
    on_gemini = json.loads(way("responses", "gemini", asked, "gemini-3-pro", None, Traits()).body)
    assert on_gemini["contents"][1]["parts"][0]["thoughtSignature"] == "U0lH"


def play(connection: socket.socket, body: bytes) -> None:
    """Claude as it refuses thinking of others, and other bad requests."""
    asked = json.loads(body)
    told: Any = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"],
        "content": [{"type": "text", "text": "Well."}], "stop_reason": "end_turn", "usage": USAGE,
    }  # fmt: skip
    status = b"200 OK"
    if asked["messages"] != LEFT:
        told, status = REFUSED, b"400 Bad Request"
    elif asked.get("stream"):
        kinds = [
            {"type": "message_start", "message": {**told, "content": []}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
            {"type": "message_stop"},
        ]
        lines = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in kinds]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        connection.sendall(head + "".join(lines).encode())
        return
    data = json.dumps(told).encode()
    connection.sendall(
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b" % (status, len(data), data)
    )


@pytest.fixture(params=["native", "asgi"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Script]]:
    """A gateway with either listener in front of that provider."""
    script = Script(play)
    running = RunningGateway(tmp_path, configuration(script.url), "--listener", request.param)
    yield running, script
    running.stop()
    script.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_conversation_goes_on_at_claude(served: tuple[Any, Script], stream: bool) -> None:
    """Sent once more without it; the client sees an answer and pays for that alone."""
    gateway, script = served
    asked = message(messages=TURNS, model="claude-sonnet-4-5", stream=stream)
    with httpx.Client(base_url=gateway.url, headers=bearer()) as client:
        for _ in range(2):  # also on the same connection
            answer = client.post("/v1/messages", json=asked)
            assert answer.status_code == 200, answer.text
            assert ("message_stop" in answer.text) is stream
    assert [json.loads(body)["messages"] for body in script.bodies] == [TURNS, LEFT] * 2
    until(lambda: gateway.spent()["keys:alice-dev"][1] == "0")
    assert Decimal(gateway.spent()["keys:alice-dev"][0]) == Decimal(2 * COST) / 10**9


def test_another_refusal_is_told_at_once(served: tuple[Any, Script]) -> None:
    gateway, script = served
    answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
    assert answer.status_code == 400 and answer.json()["error"] == REFUSED["error"]
    assert len(script.bodies) == 1
    foreign = message(messages=[*TURNS, TURNS[1]])
    answer = httpx.post(f"{gateway.url}/v1/messages", json=foreign, headers=bearer())
    assert answer.status_code == 400 and len(script.bodies) == 3
    until(lambda: gateway.spent()["keys:alice-dev"] == ("0", "0"))

"""Claude's whole answers and errors as the Responses API's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bifrost.mock import anthropic as mock
from bifrost.mock.exchange import Request
from bifrost.mock.options import MockOptions
from bifrost.mock.plan import default_plan
from bifrost.mock.script import Script
from tests.claude import (
    BLOCKS,
    COUNTED,
    HIDDEN,
    REDACTED,
    TEXT,
    THOUGHT,
    answered,
    final,
    message,
    replayed,
    streamed,
    translation,
)


def test_a_whole_answer() -> None:
    status, told = answered(message(*BLOCKS, stop="tool_use"))
    assert (status, told["status"], told["usage"]) == (200, "completed", COUNTED)
    assert (told["id"], told["model"], told["object"]) == ("resp_01A", "gpt-x", "response")
    kinds = [item["type"] for item in told["output"]]
    assert kinds == ["reasoning"] * 4 + ["message", "function_call", "function_call",
                                         "custom_tool_call"]  # fmt: skip
    assert [item["summary"] for item in told["output"][1:3]] == [[], []]
    assert told["output"][3]["encrypted_content"] is None
    bash, spaced, free = told["output"][5:]
    assert (bash["name"], json.loads(bash["arguments"])) == ("bash", {"cmd": "ls", "n": 1.5})
    assert (spaced["name"], spaced["namespace"], spaced["arguments"]) == ("f", "n.s", "{}")
    assert (free["call_id"], free["input"]) == ("toolu_3", 'a\n"\\😀')
    assert len({item["id"] for item in told["output"]}) == len(BLOCKS)


def test_thinking_goes_there_and_comes_back() -> None:
    """What the client got is what it sends; Claude gets its own blocks, leading their turn."""
    _, told = answered(message(*BLOCKS, stop="tool_use"))
    behind = [{"role": "user", "content": "Hi"}, *told["output"]]
    turn = json.loads(translation(input=behind).body)["messages"][1]
    assert turn["content"] == [THOUGHT, HIDDEN, REDACTED, *BLOCKS[4:]]


@pytest.mark.parametrize(
    ("stop", "status", "details"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("max_tokens", "incomplete", {"reason": "max_output_tokens"}),
        ("model_context_window_exceeded", "incomplete", {"reason": "max_output_tokens"}),
    ],
)
def test_how_an_answer_ends(stop: str, status: str, details: Any) -> None:
    for told in (answered(message(TEXT, stop=stop))[1], final(streamed(TEXT, stop=stop))):
        assert (told["status"], told["incomplete_details"]) == (status, details)
        assert told["output"][-1]["status"] == status


@pytest.mark.parametrize(
    ("details", "says"),
    [({"type": "refusal", "explanation": "No."}, "No."), (None, "The model refused to answer.")],
)
def test_a_refusal(details: Any, says: str) -> None:
    whole = answered(message(TEXT, stop="refusal", stop_details=details))[1]
    live = final(streamed(TEXT, stop="refusal", stop_details=details))
    for told in (whole, live):
        assert told["status"] == "completed"
        assert told["output"][-1]["content"] == [{"type": "refusal", "refusal": says}]
    assert whole["output"] == live["output"]


def test_nothing_is_free_where_the_host_counts_nothing() -> None:
    told = answered(message({"type": "text", "text": "word " * 100}, usage=None))[1]
    assert told["usage"]["input_tokens"] > 0 and told["usage"]["output_tokens"] >= 100
    live = final(streamed({"type": "text", "text": "word " * 100}, usage={}))
    assert live["usage"]["input_tokens"] == 77 and live["usage"]["output_tokens"] >= 100


@pytest.mark.parametrize(
    ("status", "kind", "text", "says"),
    [
        (400, "invalid_request_error", "x: bad", (400, "invalid_request_error", None)),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum",
         (400, "invalid_request_error", "context_length_exceeded")),
        (401, "authentication_error", "Who?", (401, "authentication_error", "invalid_api_key")),
        (404, "not_found_error", "model: x", (404, "invalid_request_error", "model_not_found")),
        (429, "rate_limit_error", "Slow.", (429, "rate_limit_error", "rate_limit_exceeded")),
        (500, "api_error", "Oh.", (500, "server_error", None)),
        (529, "overloaded_error", "Busy.", (503, "server_error", None)),
    ],
)  # fmt: skip
def test_errors(status: int, kind: str, text: str, says: tuple[int, str, str | None]) -> None:
    error = {"type": "error", "error": {"type": kind, "message": text}}
    found, told = answered(error, status)
    assert told == {"error": {"message": text, "type": says[1], "param": None, "code": says[2]}}
    assert found == says[0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"message":"Bad."}', "Bad."),
        (b'{"error":"Bad."}', "Bad."),
        (b"<html>", "The provider gave no reason."),
        (b"[1]", "The provider gave no reason."),
        (b"[" * 100_000, "The provider gave no reason."),
        (b'{"error":{"message":"Of org_0123456789ab."}}', "Of ****************."),
    ],
)
def test_errors_of_other_shapes(body: bytes, says: str) -> None:
    status, told = translation().answer(400, body)
    assert (status, json.loads(told)["error"]["message"]) == (400, says)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"content":5}', b"[" * 100_000])
def test_an_answer_that_is_none_is_a_failure(body: bytes) -> None:
    assert translation().answer(200, body)[0] == 502


@pytest.mark.parametrize("script", [None, Script("ls")])
def test_what_the_mock_provider_answers(script: Script | None) -> None:
    steps = default_plan(MockOptions(output_tokens=40, input_tokens=9))
    for stream in (False, True):
        made = translation(stream=stream)
        reply = mock.messages(Request(b"POST", b"/", {}, made.body), steps, script, "")
        if stream:
            told = final(replayed(reply.events or [], made))
        else:
            told = json.loads(made.answer(200, reply.body)[1])
        kinds = [item["type"] for item in told["output"]]
        assert kinds == ["function_call" if script else "message"]
        assert told["usage"]["output_tokens"] > 0 and told["status"] == "completed"

"""Claude's answers as the Responses API's: whole, streamed, cut and failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.mock import anthropic as mock
from bifrost.mock.exchange import Request
from bifrost.mock.options import MockOptions
from bifrost.mock.plan import default_plan
from bifrost.mock.script import Script
from bifrost.translate.free_text import FreeText
from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.translation import SENSELESS, Traits

TOOLS = [
    {"type": "function", "name": "bash", "parameters": {"properties": {"cmd": {}}}},
    {"type": "namespace", "name": "n.s", "tools": [{"type": "function", "name": "f"}]},
    {"type": "custom", "name": "exec"},
]
ASKED = {"model": "gpt-x", "input": "Hi", "tools": TOOLS, "reasoning": {"effort": "low"}}
USED = {
    "input_tokens": 10,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 20},
}
COUNTED = {
    "input_tokens": 710,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 760,
}


def translation(**asked: Any) -> ResponsesAnthropic:
    body = json.dumps({**ASKED, **asked}).encode()
    return ResponsesAnthropic(body, "claude-x", max_tokens=None, traits=Traits(reasons=True))


SPACED = json.loads(translation().body)["tools"][1]["name"]
TEXT = {"type": "text", "text": "So.\u00e9"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
HIDDEN = {"type": "thinking", "thinking": "", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "x"}
UNSIGNED = {"type": "thinking", "thinking": "Hm.", "signature": ""}


def use(name: str, given_: Any, number: int = 1) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given_}


BLOCKS = [
    THOUGHT, HIDDEN, REDACTED, UNSIGNED, TEXT,
    use("bash", {"cmd": "ls", "n": 1.5}), use(SPACED, {}, 2),
    use("exec", {"input": 'a\n"\\😀'}, 3),
]  # fmt: skip


def message(*blocks: Any, stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"id": "msg_01A", "type": "message", "role": "assistant", "content": list(blocks),
            "stop_reason": stop, "usage": USED, **more}  # fmt: skip


def answered(told: object, status: int = 200) -> tuple[int, Any]:
    status, body = translation().answer(status, json.dumps(told).encode())
    return status, json.loads(body)


# whole answers


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


# streams


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


PING = event("ping")


def deltas(block: Any) -> tuple[Any, list[Any]]:
    """The start of a block and its deltas, as Claude streams them."""
    if block["type"] == "text":
        pieces = [block["text"][:1], block["text"][1:]]
        return {**block, "text": ""}, [{"type": "text_delta", "text": one} for one in pieces]
    if block["type"] == "thinking":
        pieces = [{"type": "thinking_delta", "thinking": one} for one in block["thinking"]]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*pieces, signed]
    if block["type"] == "tool_use":
        whole = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
        cuts = range(0, len(whole), 3)
        pieces = [{"type": "input_json_delta", "partial_json": whole[at : at + 3]} for at in cuts]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": ""}, *pieces]
    return block, []


def parts(*blocks: Any, stop: str = "end_turn", **more: Any) -> list[bytes]:
    used = more.pop("usage", USED)
    early = {**used, "output_tokens": 1} if used else {}
    begun = {**message(), "stop_reason": None, "usage": early}
    made = [event("message_start", message=begun), PING]
    for index, block in enumerate(blocks):
        begins, told = deltas(block)
        made.append(event("content_block_start", index=index, content_block=begins))
        made += [event("content_block_delta", index=index, delta=delta) for delta in told]
        made.append(event("content_block_stop", index=index))
    late = {"output_tokens": used.get("output_tokens"), "output_tokens_details": {
        "thinking_tokens": 20}, "input_tokens": None}  # fmt: skip
    delta = {"stop_reason": stop, "stop_sequence": None, **more}
    return [*made, event("message_delta", delta=delta, usage=late), event("message_stop")]


def replayed(pieces: Sequence[bytes], translated: ResponsesAnthropic | None = None) -> bytes:
    stream = (translated or translation()).stream(77)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def streamed(*blocks: Any, stop: str = "end_turn", **more: Any) -> bytes:
    return replayed(parts(*blocks, stop=stop, **more))


def events(raw: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]


def final(raw: bytes) -> Any:
    return events(raw)[-1]["response"]


def test_the_same_events_at_every_split() -> None:
    raw = b"".join(parts(*BLOCKS, stop="tool_use"))
    translated = translation()
    once = replayed([raw], translated)
    for at in range(len(raw)):
        assert replayed([raw[:at], raw[at:]], translated) == once
    assert replayed([bytes([byte]) for byte in raw], translated) == once
    plain = raw.replace(b"\n", b"\r\n").replace(b"data: ", b"data:")
    assert replayed([plain], translated) == once
    assert replayed([raw.rstrip()], translated) == once


def test_a_stream_ends_with_what_a_whole_answer_is() -> None:
    raw = streamed(*BLOCKS, stop="tool_use")
    whole = answered(message(*BLOCKS, stop="tool_use"))[1]
    told = final(raw)
    sealed = [item.pop("encrypted_content", None) for item in (*whole["output"], *told["output"])]
    assert sum(one is not None for one in sealed) == 6
    arguments = [item.pop("arguments", "") for item in (*whole["output"], *told["output"])]
    assert [json.loads(one) for one in arguments if one] == [{"cmd": "ls", "n": 1.5}, {}] * 2
    assert told["output"] == whole["output"] and told["usage"] == whole["usage"] == COUNTED


def test_the_sdk_reads_it() -> None:
    """Every event as one of its types, and the same response in the end."""
    openai = pytest.importorskip("openai")
    raw = streamed(*BLOCKS, stop="tool_use")

    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    client = openai.OpenAI(api_key="k", base_url="http://x.test/v1", http_client=transport)
    with client.responses.stream(model="m", input="Hi") as stream:
        told = list(stream)
        response = stream.get_final_response()
    assert [one.sequence_number for one in told] == list(range(len(events(raw))))
    assert not [one for one in told if one.type == "unknown"]
    assert response.output_text == "So.\u00e9" and response.usage.to_dict() == COUNTED
    kinds = [item["type"] for item in final(raw)["output"]]
    assert [item.type for item in response.output] == kinds


def test_items_open_grow_and_close_in_order() -> None:
    told = events(streamed(*BLOCKS, stop="tool_use"))
    assert [one["type"] for one in told[:2]] == ["response.created", "response.in_progress"]
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    indexes = [one["output_index"] for one in told if "output_index" in one]
    assert indexes == sorted(indexes)
    for index, item in enumerate(told[-1]["response"]["output"]):
        mine = [one for one in told if one.get("output_index") == index]
        assert mine[0]["type"] == "response.output_item.added"
        assert mine[-1] == {**mine[-1], "type": "response.output_item.done", "item": item}
        assert all(one.get("item_id", item["id"]) == item["id"] for one in mine)
        grown = "".join(one["delta"] for one in mine if one["type"].endswith(".delta"))
        summary = "".join(one["text"] for one in item.get("summary", ()))
        text = "".join(one["text"] for one in item.get("content", ()))
        assert grown == item.get("arguments", item.get("input", summary or text))


def test_pings_and_what_nobody_knows_say_nothing() -> None:
    clean = [one for one in parts(TEXT) if one != PING]
    noisy = [PING, event("new_event", x=1), b": comment\n\n"]
    translated = translation()
    said = replayed([one for part in clean for one in (*noisy, part)], translated)
    assert said == replayed(clean, translated)
    assert final(streamed({"type": "server_tool_use", "id": "x", "name": "y"}))["output"] == []
    assert final(streamed({"type": "text", "text": ""}))["output"] == []


@pytest.mark.parametrize("count", range(len(parts(TEXT)) - 1))
def test_a_stream_that_is_cut_gets_no_end(count: int) -> None:
    assert b"response.completed" not in replayed(parts(TEXT)[:count])


def test_a_stream_whose_last_word_is_missing_ends_all_the_same() -> None:
    """Why it stopped and what it used has been said."""
    translated = translation()
    assert replayed(parts(TEXT)[:-1], translated) == replayed(parts(TEXT), translated)


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("overloaded_error", "Overloaded", "server_error"),
        ("rate_limit_error", "Slow.", "rate_limit_exceeded"),
        ("invalid_request_error", "Bad.", "invalid_prompt"),
        ("invalid_request_error", "prompt is too long: 9 > 8", "context_length_exceeded"),
        ("api_error", "Of wrkspc_0123456789ab.", "server_error"),
    ],
)
@pytest.mark.parametrize("before", [0, 5])
def test_an_error_in_the_middle(kind: str, text: str, code: str, before: int) -> None:
    failed = event("error", error={"type": kind, "message": text})
    told = events(replayed([*parts(TEXT)[:before], failed, *parts(TEXT)]))
    assert [one["type"] for one in told][:2] == ["response.created", "response.in_progress"]
    assert told[-1]["type"] == "response.failed"
    response = told[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", code)
    assert "0123456789ab" not in response["error"]["message"]


@pytest.mark.parametrize("name", ["bash", "exec"])
@pytest.mark.parametrize("given_", ['{"input": "rm -rf /tmp', '{"input": "a"', "{"])
def test_a_call_that_was_cut_off_is_never_done(name: str, given_: str) -> None:
    """A client runs a call as soon as it is said to be done; half of one is another one."""
    told = events(streamed(TEXT, use(name, given_), stop="max_tokens"))
    done = [one["item"]["type"] for one in told if one["type"] == "response.output_item.done"]
    assert done == ["message"] and told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["output"][-1]["status"] == "incomplete"
    assert not [one for one in told if one["type"].endswith(("arguments.done", "input.done"))]


def test_a_call_that_is_no_json() -> None:
    """Its client refuses the arguments; a free text that nobody knows the end of goes nowhere."""
    for blocks in ([use("bash", "{"), TEXT], [use("bash", "{")]):
        told = final(streamed(*blocks, stop="tool_use"))["output"][0]
        assert (told["arguments"], told["status"]) == ("{", "completed")
    with pytest.raises(ValueError, match="no JSON"):
        streamed(use("exec", '{"input": "rm'), stop="tool_use")


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ('{"input": "x", "more": 1}', "x"),
        ('{"more": 1, "input": "x"}', "x"),
        ('{"command": "x"}', '{"command": "x"}'),
        ('{"input": 5}', '{"input": 5}'),
        (' { "input" : "\\u00e9\\ud83d\\ude00\\n" } ', "é😀\n"),
    ],
)
def test_the_text_of_a_free_tool(given_: str, text: str) -> None:
    told = events(streamed(use("exec", given_), stop="tool_use"))
    assert told[-1]["response"]["output"][0]["input"] == text
    assert "".join(one["delta"] for one in told if "delta" in one) == text
    _, whole = answered(message(use("exec", json.loads(given_))))
    assert whole["output"][0]["input"].replace(" ", "") == text.replace(" ", "")


@given(st.text(), st.booleans(), st.lists(st.integers(1, 9), min_size=1))
def test_free_text_is_read_as_it_comes(text: str, escaped: bool, cuts: list[int]) -> None:
    whole = json.dumps({"input": text}, ensure_ascii=escaped)
    reader, at, read = FreeText(), 0, ""
    while at < len(whole):
        step = cuts[at % len(cuts)]
        read += reader.feed(whole[at : at + step])
        assert text.startswith(read)
        at += step
    assert read == reader.read == text


def test_some_hosts_give_the_input_at_once() -> None:
    begins = event("content_block_start", index=0, content_block=use("bash", {"cmd": "ls"}))
    start, _, *_, stop, delta, end = parts(TEXT, stop="tool_use")
    told = final(replayed([start, begins, stop, delta, end]))
    assert told["output"][0]["arguments"] == '{"cmd":"ls"}'


@pytest.mark.parametrize(
    "broken",
    [b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"data: " + b"[" * 100_000 + b"\n\n",
     event("content_block_start", content_block={"type": "tool_use", "name": 5})],
)  # fmt: skip
def test_a_stream_that_makes_no_sense(broken: bytes) -> None:
    with pytest.raises(SENSELESS):
        replayed([parts(TEXT)[0], broken])


def test_a_line_without_an_end() -> None:
    with pytest.raises(ValueError, match="without an end"):
        replayed([b"data: " + b"x" * (17 << 20)])


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

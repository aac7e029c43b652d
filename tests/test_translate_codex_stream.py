"""Claude's streams as events of the Responses API: at every split, cut, failed, read by the SDK."""

from __future__ import annotations

import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.translate.free_text import FreeText
from bifrost.translate.translation import SENSELESS
from tests.claude import (
    BLOCKS,
    COUNTED,
    PING,
    TEXT,
    answered,
    event,
    events,
    final,
    message,
    parts,
    replayed,
    streamed,
    translation,
    use,
)


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

"""Claude's answers for Gemini clients: whole, at every split, cut and failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from bifrost.translate.gemini_anthropic import GeminiAnthropic
from bifrost.translate.gemini_chunks import GeminiChunks
from bifrost.translate.gemini_signature import opened
from bifrost.translate.translation import Traits
from tests.claude import HIDDEN, REDACTED, TEXT, THOUGHT, USED, event, message, parts, use

LINES = {"type": "text", "text": "a\u2028b\u2029c \u201d\n"}
DOTTED = {"name": "a.b", "parameters": {"type": "OBJECT"}}
SHOWN = {"thinkingConfig": {"includeThoughts": True}}
COUNTED = {
    "promptTokenCount": 710,
    "cachedContentTokenCount": 600,
    "candidatesTokenCount": 30,
    "thoughtsTokenCount": 20,
    "totalTokenCount": 760,
}


def translation(**asked: Any) -> GeminiAnthropic:
    told = {"model": "gemini-x", "contents": [{"parts": [{"text": "Hi"}]}],
            "tools": [{"functionDeclarations": [DOTTED]}],
            "generationConfig": SHOWN, **asked}  # fmt: skip
    body = json.dumps(told).encode()
    return GeminiAnthropic(body, "claude-x", max_tokens=None, traits=Traits())


RENAMED = json.loads(translation().body)["tools"][0]["name"]
BLOCKS = [
    THOUGHT, TEXT, HIDDEN, REDACTED, use("bash", {"cmd": "ls", "n": 1.5, "s": "\u2028"}),
    LINES, use(RENAMED, {}, 2),
]  # fmt: skip


def answered(told: object, status: int = 200, **asked: Any) -> tuple[int, Any]:
    status, body = translation(**asked).answer(status, json.dumps(told).encode())
    return status, json.loads(body)


def replayed(pieces: list[bytes], **asked: Any) -> bytes:
    stream = translation(**asked).stream(77)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def chunks(raw: bytes) -> list[Any]:
    """As Google's clients read them: each a line of its own, nothing else between."""
    made = []
    for piece in raw.split(b"\r\n\r\n")[:-1]:
        assert piece.startswith(b"data: ")
        assert len(piece.decode().splitlines()) == 1
        made.append(json.loads(piece[6:]))
    assert not raw or raw.endswith(b"\r\n\r\n")
    return made


def merged(told: list[Any]) -> list[Any]:
    """The parts of a stream, pieces of one text put together."""
    whole: list[Any] = []
    for one in told:
        for part in one["candidates"][0]["content"]["parts"]:
            last = whole[-1] if whole else {}
            if "text" in part and "text" in last and "thoughtSignature" not in part and (
                part.get("thought") == last.get("thought")
            ):  # fmt: skip
                last["text"] += part["text"]
            elif part != {"text": ""}:
                whole.append(dict(part))
    return whole


def test_a_whole_answer() -> None:
    status, told = answered(message(*BLOCKS, stop="tool_use", model="claude-y"))
    [candidate] = told["candidates"]
    assert (status, told["modelVersion"], told["responseId"]) == (200, "claude-y", "msg_01A")
    assert (candidate["finishReason"], candidate["index"]) == ("STOP", 0)
    assert candidate["content"]["role"] == "model"
    thought, text, call, lines, last = candidate["content"]["parts"]
    assert thought == {"text": "Hm.", "thought": True}
    assert (text["text"], opened(text["thoughtSignature"])) == (TEXT["text"], [THOUGHT])
    assert opened(call["thoughtSignature"]) == [HIDDEN, REDACTED]
    assert call["functionCall"] == {
        "id": "toolu_1", "name": "bash", "args": {"cmd": "ls", "n": 1.5, "s": "\u2028"},
    }  # fmt: skip
    assert lines == {"text": LINES["text"]}
    assert last == {"functionCall": {"id": "toolu_2", "name": "a.b", "args": {}}}
    assert told["usageMetadata"] == COUNTED


def test_googles_sdk_reads_it_and_sends_it_back() -> None:
    """Its signatures are bytes, which it writes in another alphabet."""
    pieces = chunks(replayed(parts(*BLOCKS, stop="tool_use")))
    whole = answered(message(*BLOCKS, stop="tool_use", model="x"))[1]
    for told in ([whole], pieces):
        read = [types.GenerateContentResponse.model_validate(one) for one in told]
        history = [
            candidate.content.model_dump(mode="json", by_alias=True, exclude_none=True)
            for one in read
            for candidate in one.candidates or ()
            if candidate.content
        ]
        wanted = json.loads(translation(contents=[{"parts": [{"text": "Hi"}]}, *history]).body)
        said = wanted["messages"][1]["content"]
        assert [block["type"] for block in said] == [
            "thinking", "text", "thinking", "redacted_thinking", "tool_use", "text", "tool_use",
        ]  # fmt: skip
        assert [said[0], said[2], said[3]] == [THOUGHT, HIDDEN, REDACTED]
        assert said[6]["name"] == RENAMED


def test_thoughts_are_shown_to_those_who_ask() -> None:
    told = answered(message(*BLOCKS, model="x"), generationConfig={})[1]
    [quiet] = [p for p in told["candidates"][0]["content"]["parts"] if p.get("text") == "So.é"]
    assert opened(quiet["thoughtSignature"]) == [THOUGHT]
    assert "Hm." not in json.dumps(told["candidates"])
    raw = replayed(parts(*BLOCKS, stop="tool_use"), generationConfig={})
    assert b'"thought"' not in raw and merged(chunks(raw))[0]["thoughtSignature"]


def test_a_stream_says_the_same() -> None:
    told = chunks(replayed(parts(*BLOCKS, stop="tool_use")))
    whole = answered(message(*BLOCKS, stop="tool_use", model="claude-x"))[1]
    assert merged(told) == merged([whole])
    assert told[-1]["usageMetadata"] == COUNTED
    assert told[-1]["candidates"][0]["finishReason"] == "STOP"
    assert [one for one in told[:-1] if "finishReason" in one["candidates"][0]] == []
    assert {one["responseId"] for one in told} == {"msg_01A"}


def test_every_split_gives_the_same_bytes() -> None:
    raw = b"".join(parts(*BLOCKS, stop="tool_use"))
    whole = replayed([raw])
    for cut in range(len(raw) + 1):
        assert replayed([raw[:cut], raw[cut:]]) == whole
    assert replayed([raw[at : at + 1] for at in range(len(raw))]) == whole


@given(st.lists(st.integers(0, 2_000), max_size=8))
def test_any_splits_give_the_same_bytes(cuts: list[int]) -> None:
    raw = b"".join(parts(*BLOCKS))
    edges = [0, *sorted(cuts), len(raw)]
    pieces = [raw[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert replayed(pieces) == replayed([raw])


@pytest.mark.parametrize(
    ("stop", "reason"),
    [("end_turn", "STOP"), ("stop_sequence", "STOP"), ("max_tokens", "MAX_TOKENS"),
     ("model_context_window_exceeded", "MAX_TOKENS"), ("refusal", "SAFETY")],
)  # fmt: skip
def test_why_it_ended(stop: str, reason: str) -> None:
    details = {"stop_details": {"explanation": "It may harm."}} if stop == "refusal" else {}
    for told in (
        answered(message(TEXT, stop=stop, model="x", **details))[1],
        chunks(replayed(parts(TEXT, stop=stop, **details)))[-1],
    ):
        [candidate] = told["candidates"]
        assert candidate["finishReason"] == reason
        assert candidate.get("finishMessage") == ("It may harm." if details else None)


def test_an_answer_of_nothing_has_an_empty_text() -> None:
    told = answered(message(model="x"))[1]
    assert told["candidates"][0]["content"]["parts"] == [{"text": ""}]
    assert len(chunks(replayed(parts()))) == 1


def test_a_call_that_was_cut_off_is_not_told() -> None:
    half = use("bash", '{"cmd": "rm -r')
    told = chunks(replayed(parts(TEXT, half, stop="max_tokens")))
    assert "functionCall" not in json.dumps(told)
    assert told[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    for broken in (parts(half, stop="tool_use"), parts(half, TEXT)):
        with pytest.raises(ValueError, match="no JSON"):
            replayed(broken)


def test_input_that_comes_with_the_block() -> None:
    block = use("bash", {"cmd": "ls"})
    pieces = parts()
    opens = event("content_block_start", index=0, content_block=block)
    closes = event("content_block_stop", index=0)
    [part, _] = [one["candidates"][0]["content"]["parts"][0] for one in chunks(replayed(
        [*pieces[:2], opens, closes, *pieces[2:]]))]  # fmt: skip
    assert part["functionCall"]["args"] == {"cmd": "ls"}


def test_a_stream_that_is_cut_gets_no_end() -> None:
    raw = replayed(parts(TEXT)[:-2])
    assert all("finishReason" not in one["candidates"][0] for one in chunks(raw))


def test_an_error_in_a_stream_is_bare_as_googles() -> None:
    error = {"type": "overloaded_error", "message": "Busy in org-0123456789abcdef."}
    raw = replayed([*parts(TEXT)[:4], event("error", error=error)])
    last = raw.rpartition(b"\r\n\r\n")[2]
    assert last.endswith(b"\n\n")
    told = json.loads(last)["error"]
    assert (told["code"], told["status"]) == (503, "UNAVAILABLE")
    assert told["message"].startswith("Busy in *")


@pytest.mark.parametrize(
    ("status", "body", "shown", "kind"),
    [
        (400, {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9"}},
         400, "INVALID_ARGUMENT"),
        (401, {"error": {"message": "x"}}, 401, "UNAUTHENTICATED"),
        (402, {}, 402, "FAILED_PRECONDITION"),
        (429, {"error": {"message": "x"}}, 429, "RESOURCE_EXHAUSTED"),
        (500, "not an object", 500, "INTERNAL"),
        (529, {"error": {"message": "x"}}, 503, "UNAVAILABLE"),
        (200, {"no": "message"}, 502, "INTERNAL"),
    ],
)  # fmt: skip
def test_errors_in_googles_words(status: int, body: Any, shown: int, kind: str) -> None:
    found, told = answered(body, status)
    assert (found, told["error"]["code"], told["error"]["status"]) == (shown, shown, kind)
    said = body.get("error", {}).get("message") if isinstance(body, dict) else None
    assert told["error"]["message"] == (said or "The provider gave no reason.")


def test_usage_without_thoughts_or_cache() -> None:
    told = answered(message(TEXT, model="x", usage={"input_tokens": 3, "output_tokens": 4}))[1]
    assert told["usageMetadata"] == {
        "promptTokenCount": 3,
        "candidatesTokenCount": 4,
        "totalTokenCount": 7,
    }
    assert sum(USED[name] for name in USED if name.endswith("tokens")) == 760


def test_a_line_without_an_end_is_no_event() -> None:
    stream: GeminiChunks = translation().stream(1)
    with pytest.raises(ValueError, match="without an end"):
        stream.feed(b"data: " + b"x" * (17 << 20))

"""Answers of Bedrock's InvokeModel as Anthropic's: whole, streamed, cut and failed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from bifrost.translate.anthropic_bedrock import AnthropicBedrock
from bifrost.translate.event_stream import encode
from bifrost.translate.translation import SENSELESS, Traits

CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
METRICS = '"amazon-bedrock-invocationMetrics":{"inputTokenCount":7,"outputTokenCount":3}'
EVENTS = [
    '{"type":"message_start","message":{"id":"msg_bdrk_1","type":"message","role":"assistant",'
    '"model":"claude-opus-5-5","content":[],"stop_reason":null,"stop_sequence":null,'
    '"usage":{"input_tokens":7,"output_tokens":1}}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"H\\u00e4,\\n😀"}}',
    '{"type":"content_block_stop","index":0}',
    '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    '"usage":{"output_tokens":3}}',
    '{"type":"message_stop",' + METRICS + "}",
]


def translated() -> AnthropicBedrock:
    return AnthropicBedrock(b"{}", "m", max_tokens=None, traits=Traits())


def framed(event: str, **more: str) -> bytes:
    told = {"bytes": b64encode(event.encode()).decode(), "p": "abcdefghij", **more}
    return encode(CHUNK, json.dumps(told).encode())


def replayed(*chunks: bytes) -> bytes:
    stream = translated().stream(5)
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


def sse(events: list[str]) -> bytes:
    named = ((json.loads(event)["type"], event) for event in events)
    return "".join(f"event: {name}\ndata: {event}\n\n" for name, event in named).encode()


TOLD = sse([*EVENTS[:-1], '{"type":"message_stop"}'])


def test_a_stream_at_every_cut() -> None:
    data = b"".join(framed(event) for event in EVENTS)
    assert replayed(data) == TOLD
    assert replayed(*(bytes((byte,)) for byte in data)) == TOLD
    for at in range(len(data)):
        assert replayed(data[:at], data[at:]) == TOLD


def accumulated(raw: bytes) -> anthropic.types.Message:
    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    client = anthropic.Anthropic(api_key="k", http_client=transport)
    with client.messages.stream(model="m", max_tokens=5, messages=[]) as stream:
        return stream.get_final_message()


def test_the_sdk_reads_the_stream() -> None:
    message = accumulated(replayed(b"".join(framed(event) for event in EVENTS)))
    assert message.content[0].to_dict() == {"type": "text", "text": "Hä,\n😀"}
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 3)


def test_what_bedrock_counted_is_kept_for_us() -> None:
    stream = translated().stream(5)
    for event in EVENTS[:-1]:
        stream.feed(framed(event))
    assert stream.metrics is None
    stream.feed(framed(EVENTS[-1]))
    assert stream.metrics == {"inputTokenCount": 7, "outputTokenCount": 3}


def test_the_name_of_the_metrics_inside_a_text_stays() -> None:
    said = json.dumps({"type": "content_block_delta", "delta": {"text": METRICS}}, indent=None)
    assert replayed(framed(said)) == sse([said])


def test_an_event_on_many_lines_is_one() -> None:
    told = json.dumps({"type": "ping", "x": [1, 2]}, indent=1).replace("\n", "\r\n")
    (line,) = (one for one in replayed(framed(told)).splitlines() if one.startswith(b"data:"))
    assert json.loads(line[5:]) == {"type": "ping", "x": [1, 2]}


def test_a_stream_cut_short_gets_no_end() -> None:
    data = b"".join(framed(event) for event in EVENTS)
    assert replayed(data[:-1]) == sse(EVENTS[:-1])
    assert replayed() == b""


def test_other_events_say_nothing() -> None:
    other = encode(CHUNK | {":event-type": "initial-response"}, b"{}")
    assert replayed(other, framed('{"completion":"old"}'), framed(EVENTS[3])) == sse([EVENTS[3]])


@pytest.mark.parametrize(
    "data",
    [
        b"event: ping\ndata: {}\n\n",
        framed("no JSON"),
        framed("[]"),
        framed('{"type":"a\\nevent: x"}'),
        framed('{"type":5}'),
        framed('{"type":"ping","x":"a\nb"}'),
        encode(CHUNK, b"no JSON"),
        encode(CHUNK, b'{"bytes":"***"}'),
        encode(CHUNK, b"{}"),
    ],
)
def test_a_stream_of_something_else_breaks(data: bytes) -> None:
    with pytest.raises(SENSELESS):
        replayed(data)
    assert replayed(framed(EVENTS[0])) == sse([EVENTS[0]])


def test_what_came_before_a_broken_frame_is_told() -> None:
    broken = bytearray(framed(EVENTS[1]))
    broken[-1] ^= 1
    stream = translated().stream(5)
    assert stream.feed(framed(EVENTS[0]) + broken) == sse([EVENTS[0]])
    with pytest.raises(ValueError, match="checksum"):
        stream.finish()


def exception(name: str, **told: Any) -> bytes:
    headers = {":exception-type": name, ":content-type": "application/json"}
    return encode(headers | {":message-type": "exception"}, json.dumps(told).encode())


def errors(raw: bytes) -> Iterator[Any]:
    for part in raw.decode().split("\n\n")[:-1]:
        event, data = part.split("\n")
        assert event == "event: error"
        yield json.loads(data.removeprefix("data: "))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("modelStreamErrorException", "api_error"),
        ("modelTimeoutException", "timeout_error"),
        ("internalServerException", "api_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("validationException", "invalid_request_error"),
        ("somethingNewException", "api_error"),
    ],
)
def test_an_exception_ends_the_stream_with_an_error(name: str, kind: str) -> None:
    raw = replayed(framed(EVENTS[0]), exception(name, message="So."), framed(EVENTS[1]))
    assert raw.startswith(sse([EVENTS[0]]))
    assert list(errors(raw[len(sse([EVENTS[0]])) :])) == [
        {"type": "error", "error": {"type": kind, "message": "So."}}
    ]


def test_more_that_a_stream_can_break_with() -> None:
    coded = {":message-type": "error", ":error-code": "throttling", ":error-message": "Slow."}
    model = exception(
        "modelStreamErrorException", message="x", originalStatusCode=529, originalMessage="Busy."
    )
    long = exception("validationException", message="Input is too long for requested model.")
    bare = encode({":message-type": "exception"}, b"")
    told = [next(errors(replayed(one)))["error"] for one in (encode(coded, b""), model, long, bare)]
    assert told == [
        {"type": "rate_limit_error", "message": "Slow."},
        {"type": "overloaded_error", "message": "Busy."},
        {"type": "invalid_request_error",
         "message": "prompt is too long: Input is too long for requested model."},
        {"type": "api_error", "message": "The provider gave no reason."},
    ]  # fmt: skip


def answered(status: int, told: object) -> tuple[int, Any]:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    status, body = translated().answer(status, body)
    return status, json.loads(body)


def test_an_answer_passes_as_it_is() -> None:
    body = b'{ "id":"msg_bdrk_1", "content":[] }'
    assert translated().answer(200, body) == (200, body)


@pytest.mark.parametrize(
    ("status", "says", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (408, 504, "timeout_error"),
        (413, 413, "request_too_large"),
        (424, 500, "api_error"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (502, 502, "api_error"),
        (503, 529, "overloaded_error"),
    ],
)
def test_statuses(status: int, says: int, kind: str) -> None:
    expected = {"type": "error", "error": {"type": kind, "message": "So."}}
    assert answered(status, {"message": "So."}) == (says, expected)
    assert answered(status, {"Message": "So."}) == (says, expected)


@pytest.mark.parametrize(
    ("original", "says"),
    [(400, 400), (429, 429), (503, 529), (504, 504), (403, 500), (200, 500), ("x", 500), ([], 500)],
)
def test_what_the_model_itself_failed_with(original: Any, says: int) -> None:
    told = {"message": "So.", "originalStatusCode": original}
    assert answered(424, told)[0] == says


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("Input is too long for requested model.",
         "prompt is too long: Input is too long for requested model."),
        ("prompt is too long: 210000 tokens > 200000 maximum",
         "prompt is too long: 210000 tokens > 200000 maximum"),
        ("The model returned the following errors: prompt is too long: 9 tokens > 8 maximum",
         "prompt is too long: 9 tokens > 8 maximum"),
        ("Malformed input request: #: prompt is too long: 9 tokens > 8 maximum",
         "prompt is too long: 9 tokens > 8 maximum"),
        ("The model returned the following errors: input length and `max_tokens` exceed context "
         "limit: 190000 + 20000 > 200000", "input length and `max_tokens` exceed context limit: "
         "190000 + 20000 > 200000"),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long(said: str, says: str) -> None:
    status, told = answered(400, {"message": said})
    assert (status, told["error"]) == (400, {"type": "invalid_request_error", "message": says})


def test_the_account_stays_hidden() -> None:
    said = (
        "User: arn:aws:sts::123456789012:assumed-role/gate/i-0 is not authorized to perform: "
        "bedrock:InvokeModel on resource: arn:aws-us-gov:bedrock:us-east-1::foundation-model/x.y-v1"
        ":0, account 123456789012."
    )
    assert answered(403, {"message": said})[1]["error"]["message"] == (
        "User: (hidden) is not authorized to perform: bedrock:InvokeModel on resource: (hidden), "
        "account (hidden)."
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"message":5}', b"{}", b"[" * 100_000])
def test_an_error_that_says_nothing(body: bytes) -> None:
    error = {"type": "overloaded_error", "message": "The provider gave no reason."}
    assert answered(503, body) == (529, {"type": "error", "error": error})

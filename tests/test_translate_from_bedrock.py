"""Clients that speak Bedrock on Anthropic hosts: what they ask, and what they and botocore read."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib.bedrock._stream_decoder import AWSEventStreamDecoder
from botocore.eventstream import EventStreamBuffer
from botocore.loaders import Loader

from bifrost._fast.wire import scan
from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_bedrock import AnthropicBedrock, path
from bifrost.translate.bedrock_anthropic import (
    CONTENT_TYPE,
    MOST_EVENT,
    AnthropicStream,
    address,
    answer,
    counted,
    counting,
    names,
    request,
)
from bifrost.translate.raw_json import members
from bifrost.translate.translation import SENSELESS, Traits

SAMPLES = sorted((Path(__file__).parent / "samples" / "bedrock").glob("*.json"))
STREAMS = "invoke-with-response-stream"
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
EVENTS = [
    b'{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"x",'
    b'"content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":7,"output_tokens":1}}}',
    b'{"type":"ping"}',
    b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xc3\xa4 \\n"}}',
    b'{"type":"content_block_stop","index":0}',
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":3}}',
    b'{"type":"message_stop"}',
]
FAILED = b'{"type":"error","error":{"type":"overloaded_error","message":"Busy."}}'


def sse(*events: bytes, end: bytes = b"\n") -> bytes:
    lines = (b"event: %b%bdata: %b%b%b" % (b"x", end, event, end, end) for event in events)
    return b"".join(lines)


def framed(*chunks: bytes) -> bytes:
    stream = AnthropicStream()
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


def told(frames: bytes) -> list[Any]:
    """What each frame brings, as botocore reads it: the event's bytes or (exception, message)."""
    buffer = EventStreamBuffer()
    buffer.add_data(frames)
    found: list[Any] = []
    for message in buffer:
        headers, payload = message.headers, json.loads(message.payload)
        assert headers[":content-type"] == "application/json"
        if headers[":message-type"] == "event":
            assert headers[":event-type"] == "chunk"
            found.append(b64decode(payload["bytes"]))
        else:
            assert headers[":message-type"] == "exception"
            found.append((headers[":exception-type"], payload["message"]))
    return found


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
@pytest.mark.parametrize("stream", [True, False])
def test_what_a_real_client_asks(sample: Path, stream: bool) -> None:
    """A whole Messages request whose values keep their very bytes."""
    body = sample.read_bytes()
    asked = request(body, MODEL, stream=stream)
    was, now = members(body), members(asked.body)
    gone = {"anthropic_version", "anthropic_beta"}
    assert now.keys() - was.keys() == {"model", "stream"} - (set() if stream else {"stream"})
    assert all(bytes(now[key]) == bytes(was[key]) for key in was.keys() - gone)
    assert was.keys() - now.keys() == gone & was.keys()
    read = scan(asked.body)
    assert (read.model, read.stream) == (MODEL, stream)
    assert asked.version == "2023-06-01"
    assert list(asked.betas) == json.loads(body).get("anthropic_beta", [])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_there_and_back(sample: Path) -> None:
    """For Bedrock again nothing has changed but the place of two fields and the billing line."""
    body = sample.read_bytes()
    asked = request(body, MODEL, stream=True)
    back = AnthropicBedrock(
        asked.body, MODEL, max_tokens=None, traits=Traits(), betas=list(asked.betas)
    )
    expected = json.loads(body)
    expected["system"] = expected["system"][1:]
    assert json.loads(back.body) == expected
    assert address(back.path) == (MODEL, STREAMS)


def test_what_the_body_says_of_the_path_does_not_count() -> None:
    body = b'{"model":"other","stream":true,"max_tokens":1}'
    assert request(body, 'a"b', stream=False).body == b'{"model":"a\\"b","max_tokens":1}'


@pytest.mark.parametrize(
    ("version", "says"),
    [("bedrock-2023-05-31", "2023-06-01"), ("2026-10-21", "2026-10-21"), (None, "2023-06-01")],
)
def test_versions(version: str | None, says: str) -> None:
    body = json.dumps({} if version is None else {"anthropic_version": version}).encode()
    assert request(body, "m", stream=False).version == says


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not one for InvokeModel"),
        (b"[]", "not one for InvokeModel"),
        (b'{"a":1', "not one for InvokeModel"),
        (b'{"anthropic_beta":"a"}', "not one for InvokeModel"),
        (b'{"anthropic_beta":[1]}', "not one for InvokeModel"),
        (b'{"anthropic_version":null}', "not one for InvokeModel"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not one for InvokeModel"),
        (b'{"anthropic_beta":["a\\r\\nx-api-key: b"]}', "no name of a version or a beta"),
        (b'{"anthropic_beta":["a,b"]}', "no name of a version or a beta"),
        (b'{"anthropic_beta":[""]}', "no name of a version or a beta"),
        (b'{"anthropic_version":"x\\n"}', "no name of a version or a beta"),
    ],
)
def test_what_is_no_request(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        request(body, "m", stream=False)


def test_addresses() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    for model in (MODEL, arn, "ä b%"):
        for stream in (True, False):
            assert address(path(model, stream=stream)) == (model, STREAMS if stream else "invoke")
    assert address(f"/model/{arn}/invoke") == (arn, "invoke")
    assert address("/model/x%3A0/count-tokens") == ("x:0", "count-tokens")
    for other in ("/model//invoke", "/model/x/converse", "/model/x/invoke/", "/v1/messages", ""):
        assert address(other) is None


@pytest.mark.parametrize(
    ("model", "elsewhere"),
    [
        (MODEL, ["claude-sonnet-4-5-20250929", "claude-sonnet-4-5"]),
        ("global.anthropic.claude-opus-4-6-v1", ["claude-opus-4-6"]),
        ("us-gov.anthropic.claude-opus-5-5", ["claude-opus-5-5"]),
        ("anthropic.claude-3-haiku-20240307-v1:0:200k",
         ["claude-3-haiku-20240307", "claude-3-haiku"]),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODEL}",
         ["claude-sonnet-4-5-20250929", "claude-sonnet-4-5"]),
        ("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/anthropic.claude-opus-5-5",
         ["claude-opus-5-5"]),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2", []),
        ("meta.llama3-8b-instruct-v1:0", []),
        ("claude-opus-5-5", []),
    ],
)  # fmt: skip
def test_names_of_a_model_elsewhere(model: str, elsewhere: list[str]) -> None:
    assert names(model) == [model, *elsewhere]


def counts(invoked: bytes) -> bytes:
    told = {"invokeModel": {"body": b64encode(invoked).decode()}}
    return json.dumps({"input": told}).encode()


def test_a_token_count_tells_what_is_counted() -> None:
    asked = counting(counts(SAMPLES[-1].read_bytes()), MODEL)
    whole = request(SAMPLES[-1].read_bytes(), MODEL, stream=False)
    was, now = members(whole.body), members(asked.body)
    assert was.keys() - now.keys() == {"max_tokens", "metadata"}
    assert all(bytes(was[key]) == bytes(now[key]) for key in now)
    assert (asked.betas, asked.version) == (whole.betas, whole.version)
    assert counted(b'{"input_tokens":7}') == b'{"inputTokens":7}'


@pytest.mark.parametrize(
    "body", [b"", b'{"input":{"converse":{}}}', b'{"input":{"invokeModel":{"body":"?"}}}']
)
def test_what_is_no_token_count(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"not one for CountTokens with input\.invokeModel"):
        counting(body, MODEL)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_at_every_cut(end: bytes) -> None:
    data = sse(*EVENTS, end=end)
    whole = framed(data)
    assert told(whole) == EVENTS
    assert framed(*(bytes((byte,)) for byte in data)) == whole
    for at in range(len(data)):
        assert framed(data[:at], data[at:]) == whole


def test_what_is_no_event_makes_no_frame() -> None:
    data = b": waiting\n\nid: 5\nretry: 1\n\nevent: x\n\n" + b"data:" + EVENTS[1] + b"\n\n"
    assert told(framed(data)) == [EVENTS[1]]


def test_data_on_many_lines_is_one_event() -> None:
    (event,) = told(framed(b'data: {"type":\ndata: "ping"}\n\n'))
    assert json.loads(event) == {"type": "ping"}


def test_a_stream_cut_short_gets_no_end() -> None:
    assert told(framed(sse(*EVENTS)[:-1])) == EVENTS[:-1]
    assert framed() == b""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("overloaded_error", "serviceUnavailableException"),
        ("api_error", "internalServerException"),
        ("rate_limit_error", "throttlingException"),
        ("timeout_error", "modelTimeoutException"),
        ("invalid_request_error", "validationException"),
        ("billing_error", "validationException"),
        ("policy_blocked", "validationException"),
    ],
)
def test_an_error_is_an_exception_and_the_end(kind: str, name: str) -> None:
    error = json.dumps({"type": "error", "error": {"type": kind, "message": "So."}}).encode()
    assert told(framed(sse(EVENTS[0], error, EVENTS[1]))) == [EVENTS[0], (name, "So.")]
    shape = Loader().load_service_model("bedrock-runtime", "service-2")["shapes"]
    assert name in shape["ResponseStream"]["members"]


def test_an_error_that_says_nothing() -> None:
    for error in (b'{"type":"error"}', b'{"type":"error","error":{}}'):
        assert told(framed(sse(error))) == [("internalServerException", "The stream broke.")]


@pytest.mark.parametrize("data", [b"no JSON", b"[]", b"{}", b'{"type":5}', b"[" * 100_000])
def test_a_stream_of_something_else_breaks(data: bytes) -> None:
    with pytest.raises(SENSELESS):
        framed(sse(data))


@pytest.mark.parametrize("data", [b"data: ", b"data: x\n" * 5_000])
def test_an_event_without_an_end_breaks(data: bytes) -> None:
    stream = AnthropicStream()
    stream.feed(data)
    with pytest.raises(ValueError, match=r"longer than 16777216 bytes\.$"):
        for _ in range(MOST_EVENT // 1_000_000 + 1):
            stream.feed(b"data: " + b"x" * 1_000_000 + data[-1:])


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "ValidationException"),
        (401, "AccessDeniedException"),
        (402, "ServiceQuotaExceededException"),
        (403, "AccessDeniedException"),
        (404, "ResourceNotFoundException"),
        (408, "ModelTimeoutException"),
        (413, "ValidationException"),
        (429, "ThrottlingException"),
        (451, "ValidationException"),
        (500, "InternalServerException"),
        (502, "InternalServerException"),
        (503, "ServiceUnavailableException"),
        (504, "ModelTimeoutException"),
        (529, "ServiceUnavailableException"),
    ],
)
def test_errors(status: int, name: str) -> None:
    error = {"type": "error", "error": {"type": "x", "message": "So."}, "request_id": "r"}
    assert answer(status, json.dumps(error).encode()) == (b'{"message":"So."}', name)
    errors = Loader().load_service_model("bedrock-runtime", "service-2")["operations"]
    assert name in {one["shape"] for one in errors["InvokeModel"]["errors"]}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":"x"}', b"[" * 100_000])
def test_an_answer_that_is_no_error_of_anthropics(body: bytes) -> None:
    assert answer(500, body)[0] == b'{"message":"The provider gave no reason."}'
    assert answer(200, body) == (body, None)


def test_the_sdk_decodes_the_frames() -> None:
    chunks = iter([framed(sse(*EVENTS)), framed(sse(FAILED))])
    found = list(AWSEventStreamDecoder().iter_bytes(chunks))
    assert [event.data.encode() for event in found[:-1]] == EVENTS
    assert [event.event for event in found[:-1]] == [json.loads(one)["type"] for one in EVENTS]
    assert found[-1].json()["error"] == {
        "type": "serviceUnavailableException", "message": "Busy.",
    }  # fmt: skip


@pytest.fixture
def client() -> Iterator[Callable[..., anthropic.AnthropicBedrock]]:
    """The official client for Bedrock; what it asks goes to ``serve`` as a Messages request."""
    transports: list[httpx2.Client] = []

    def made(serve: Callable[..., tuple[int, bytes]]) -> anthropic.AnthropicBedrock:
        def handle(sent: httpx2.Request) -> httpx2.Response:
            found = address(sent.url.raw_path.decode())
            assert found is not None
            asked = request(sent.content, found[0], stream=found[1] == STREAMS)
            status, body = serve(asked, scan(asked.body))
            headers = {"content-type": CONTENT_TYPE}
            if found[1] != STREAMS or status != 200:
                body, name = answer(status, body)
                headers = {"content-type": "application/json", "x-amzn-errortype": name or ""}
            return httpx2.Response(status, content=body, headers=headers)

        transports.append(httpx2.Client(transport=httpx2.MockTransport(handle)))
        return anthropic.AnthropicBedrock(
            api_key="k", aws_region="eu-west-1", max_retries=0, http_client=transports[-1]
        )

    yield made
    for transport in transports:
        transport.close()


def test_the_sdk_reads_a_stream(client: Any) -> None:
    def serve(asked: Any, read: Any) -> tuple[int, bytes]:
        assert (read.model, read.stream, read.max_tokens) == (MODEL, True, 5)
        assert asked.version == "2026-10-21"
        return 200, framed(sse(*EVENTS))

    with client(serve).messages.stream(model=MODEL, max_tokens=5, messages=[]) as stream:
        message = stream.get_final_message()
    assert message.content[0].text == "ä \n" and message.usage.output_tokens == 3


def test_the_sdk_reads_an_answer_and_errors(client: Any) -> None:
    whole = json.loads(EVENTS[0])["message"] | {"content": [{"type": "text", "text": "Hi."}]}

    def serve(asked: Any, read: Any) -> tuple[int, bytes]:
        assert (read.model, read.stream) == ("m", False)
        assert asked.betas == ("a-1", "b-2")
        if read.max_tokens == 5:
            return 200, json.dumps(whole).encode()
        error = {"type": "rate_limit_error", "message": "The budget is spent."}
        return 429, json.dumps({"type": "error", "error": error}).encode()

    ask = {"model": "m", "messages": [], "extra_headers": {"anthropic-beta": "a-1, b-2"}}
    messages = client(serve).messages
    assert messages.create(max_tokens=5, **ask).content[0].text == "Hi."
    with pytest.raises(anthropic.RateLimitError, match="The budget is spent"):
        messages.create(max_tokens=6, **ask)

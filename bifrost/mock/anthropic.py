"""The Anthropic dialect of the mock provider: messages, token counts, models, errors.

Field names, event order and error texts follow the Messages API as the official SDK types it.
"""

from __future__ import annotations

import time

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.exchange import Heads, Reply, Request, serial
from bifrost.mock.plan import Plan, UsageOverride
from bifrost.mock.script import Offer, Script, Text, ToolCall, objects, prose, said, sample, spoken

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_MODELS = (
    ("claude-opus-5-5", "Claude Opus 5.5", "opus"),
    ("claude-sonnet-5-5", "Claude Sonnet 5.5", "sonnet"),
    ("claude-haiku-5-5", "Claude Haiku 5.5", "haiku"),
)


class OutputConfig(msgspec.Struct, gc=False):
    """The wish for JSON output."""

    format: dict[str, object] | None = None


class MessagesBody(msgspec.Struct, gc=False):
    """The fields of a messages request that an answer depends on."""

    model: str | None = None
    max_tokens: int | None = None
    stream: bool | None = False
    messages: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    output_config: OutputConfig | None = None


_decode = msgspec.json.Decoder(MessagesBody).decode
_escape = msgspec.json.Encoder().encode


def _own_head(now: int) -> bytes:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 1)).encode()
    lines = [b"request-id: req_011C%b\r\n"]
    for kind, limit in (
        (b"requests", 4_000),
        (b"tokens", 12_000_000),
        (b"input-tokens", 10_000_000),
        (b"output-tokens", 2_000_000),
    ):
        prefix = b"anthropic-ratelimit-" + kind
        lines.append(prefix + b"-limit: %d\r\n" % limit)
        lines.append(prefix + b"-remaining: %d\r\n" % (limit - 1))
        lines.append(prefix + b"-reset: " + reset + b"\r\n")
    lines.append(b"anthropic-organization-id: 0b1f0057-0000-4000-8000-00000000c0de\r\n")
    return b"".join(lines)


_heads = Heads(_own_head)

_USAGE = (
    b'"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d},'
    b'"output_tokens":%d'
)
_MESSAGE = (
    b'{"model":%b,"id":"msg_01%b","type":"message","role":"assistant","content":[%b],'
    b'"stop_reason":%b,"stop_sequence":null,"usage":{%b}}'
)
_START = b'event: message_start\ndata: {"type":"message_start","message":' + _MESSAGE + b"}\n\n"
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_BLOCK = (
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","index":0,"content_block":%b}\n\n'
)
_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)
_TOOL_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"input_json_delta","partial_json":%b}}\n\n'
)
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
_DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":%b,'
    b'"stop_sequence":null},"usage":{"input_tokens":%d,"cache_creation_input_tokens":%d,'
    b'"cache_read_input_tokens":%d,"output_tokens":%d%b}}\n\n'
)
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_ERROR_EVENT = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Overloaded"}}\n\n'
)


def credential(request: Request) -> str | None:
    """None if the request carries a credential, else the sentence of the 401."""
    headers = request.headers
    if b"x-api-key" in headers or b"authorization" in headers:
        return None
    return "x-api-key header is required"


def error(status: int, message: str, plan: Plan | None = None) -> Reply:
    """An error answer in the Anthropic shape."""
    number = serial()
    body = b'{"type":"error","error":{"type":"%b","message":%b},"request_id":"req_011C%b"}' % (
        _KINDS.get(status, "api_error").encode(),
        _escape(message),
        number,
    )
    return Reply(_heads.error(number, len(body), status, plan), body, status=status)


def _json(body: bytes, model: str = "", usage: Usage | None = None) -> Reply:
    return Reply(_heads.json(serial(), len(body)), body, model=model, usage=usage)


def _parse(request: Request) -> MessagesBody:
    try:
        body = _decode(request.content())
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    if not body.model:
        raise InvalidRequest("model: Field required")
    if not body.messages:
        raise InvalidRequest("messages: Field required")
    return body


def messages(request: Request, plan: Plan, script: Script | None, _: str) -> Reply:
    """``POST /v1/messages``: a JSON message or its SSE events."""
    body = _parse(request)
    limit = body.max_tokens
    if limit is None:
        raise InvalidRequest("max_tokens: Field required")
    if limit < 0:
        raise InvalidRequest("max_tokens: Input should be greater than or equal to 0")
    if bytes(body.messages)[:1] != b"[":
        raise InvalidRequest("messages: Input should be a valid list")
    usage = plan.usage(len(request.body), limit)
    answer: Text | ToolCall | None = None
    if script is not None:
        answer = _scripted(body, script, plan.chunks)
    if answer is None and body.output_config is not None and body.output_config.format:
        shape = sample(body.output_config.format.get("schema"))
        answer = said(_escape(shape).decode(), plan.chunks)
    if answer is None:
        answer = prose(usage.output, plan.chunks, usage.output >= limit)
    model = body.model or ""
    if body.stream:
        return _stream(request, model, answer, usage, plan.override)
    content, stop = _content(answer)
    shown = _usage(usage, plan.override)
    text = _MESSAGE % (_escape(model), serial(), content, stop, shown)
    return _json(text, model, usage)


def _content(answer: Text | ToolCall) -> tuple[bytes, bytes]:
    """The one content block of a whole message, and its stop_reason."""
    if isinstance(answer, ToolCall):
        block = b'{"type":"tool_use","id":"toolu_01%b","name":%b,"input":%b}'
        return block % (serial(), _escape(answer.name), answer.arguments.encode()), b'"tool_use"'
    stop = b'"max_tokens"' if answer.limited else b'"end_turn"'
    return (b'{"type":"text","text":%b}' % answer.whole if answer.pieces else b""), stop


def _usage(usage: Usage, override: UsageOverride | None, start: bool = False) -> bytes:
    """A usage object's inside; at the ``start`` of a stream one output token has been made."""
    shown = _USAGE % (
        usage.input,
        usage.cache_5m + usage.cache_1h,
        usage.cache_read,
        usage.cache_5m,
        usage.cache_1h,
        1 if start else usage.output,
    )
    if override is None:
        return shown + b',"service_tier":"standard"'
    shown += b',"service_tier":' + _escape(override.service_tier)
    for name in ("speed", "inference_geo"):
        if (value := getattr(override, name)) is not None:
            shown += b',"%b":%b' % (name.encode(), _escape(value))
    return shown if start else shown + _late_usage(usage, override)


def _late_usage(usage: Usage, override: UsageOverride | None) -> bytes:
    """The usage fields that are only known at the end of an answer."""
    if override is None:
        return b""
    shown = b""
    if usage.thinking:
        shown += b',"output_tokens_details":{"thinking_tokens":%d}' % usage.thinking
    if override.server_tool_use:
        shown += b',"server_tool_use":' + bytes(override.server_tool_use)
    if override.iterations:
        shown += b',"iterations":' + bytes(override.iterations)
    return shown


def _stream(
    request: Request,
    model: str,
    answer: Text | ToolCall,
    usage: Usage,
    override: UsageOverride | None,
) -> Reply:
    shown = _usage(usage, override, start=True)
    events = [_START % (_escape(model), serial(), b"", b"null", shown)]
    before = 1
    if answer.pieces:
        events += (_BLOCK % _opened(answer), _PING)
        before = 3
    delta_sizes: list[int]
    if isinstance(answer, ToolCall):
        events += [_TOOL_DELTA % _escape(piece) for piece in ("", *answer.pieces)]
        delta_sizes = [0, *(len(piece.encode()) for piece in answer.pieces)]
        stop = b'"tool_use"'
    else:
        events += [_TEXT_DELTA % piece for piece in answer.pieces]
        delta_sizes = list(answer.sizes)
        stop = b'"max_tokens"' if answer.limited else b'"end_turn"'
    if answer.pieces:
        events.append(_BLOCK_STOP)
    late = _late_usage(usage, override)
    written = usage.cache_5m + usage.cache_1h
    events.append(_DELTA % (stop, usage.input, written, usage.cache_read, usage.output, late))
    events.append(_STOP)
    sizes = [0] * before + delta_sizes
    sizes += [0] * (len(events) - len(sizes))
    return Reply(
        _heads.stream(serial(), request),
        model=model,
        usage=usage,
        events=events,
        sizes=sizes,
        error_event=_ERROR_EVENT,
    )


def _opened(answer: Text | ToolCall) -> bytes:
    if isinstance(answer, ToolCall):
        block = b'{"type":"tool_use","id":"toolu_01%b","name":%b,"input":{}}'
        return block % (serial(), _escape(answer.name))
    return b'{"type":"text","text":""}'


def _scripted(body: MessagesBody, script: Script, chunks: int) -> Text | ToolCall | None:
    tools = objects(msgspec.json.decode(body.tools)) if body.tools else []
    offers = [Offer(str(tool.get("name")), tool.get("input_schema")) for tool in tools]
    results: list[str] = []
    fresh = False
    for message in objects(msgspec.json.decode(body.messages)):
        if message.get("role") != "user":
            continue
        found = [
            spoken(block.get("content", ""))
            for block in objects(message.get("content"))
            if block.get("type") == "tool_result"
        ]
        results += found
        fresh = bool(found)
    return script.play(offers, results, fresh, chunks)


def count_tokens(request: Request, plan: Plan, _script: Script | None, _: str) -> Reply:
    """``POST /v1/messages/count_tokens``: the input an answer to this body would be charged."""
    body = _parse(request)
    usage = plan.usage(len(request.body), 0)
    total = usage.input + usage.cache_read + usage.cache_write
    return _json(b'{"input_tokens":%d}' % total, body.model or "")


def models(_request: Request, _plan: Plan, _script: Script | None, name: str) -> Reply:
    """``GET /v1/models[/{id}]``."""
    items = [_model(*model) for model in _MODELS]
    if not name:
        page = {
            "data": items,
            "has_more": False,
            "first_id": items[0]["id"],
            "last_id": items[-1]["id"],
        }
        return _json(_escape(page))
    for item in items:
        if item["id"] == name:
            return _json(_escape(item))
    return error(404, f"model: {name}")


def _model(name: str, title: str, line: str) -> dict[str, object]:
    return {
        "type": "model",
        "id": name,
        "display_name": title,
        "created_at": "2026-10-21T00:00:00Z",
        "lifecycle": "active",
        "line": line,
        "max_input_tokens": 1_000_000,
        "max_tokens": 128_000,
    }

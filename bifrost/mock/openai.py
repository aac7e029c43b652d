"""The OpenAI dialect of the mock provider: chat completions, models, errors.

``prompt_tokens`` includes cache reads and writes; a stream tells usage only if it was asked to.
"""

from __future__ import annotations

import time

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.exchange import Heads, Reply, Request, serial
from bifrost.mock.manners import OPENAI, Manner
from bifrost.mock.plan import Plan
from bifrost.mock.script import Offer, Script, Text, ToolCall, objects, prose, spoken

_KINDS = {401: "invalid_request_error", 429: "requests", 402: "insufficient_quota"}
_MODELS = ("gpt-6.1-sol", "gpt-5.1-codex", "gpt-5.1")


class StreamOptions(msgspec.Struct, gc=False):
    """What a chat stream should tell."""

    include_usage: bool | None = False


class ChatBody(msgspec.Struct, gc=False):
    """The fields of a chat request that an answer depends on."""

    model: str | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    messages: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(ChatBody).decode
escape = msgspec.json.Encoder().encode


def _own_head(now: int) -> bytes:
    return (
        b"x-request-id: req_%b\r\n"
        b"openai-organization: bifrost-mock\r\nopenai-processing-ms: 1\r\n"
        b"openai-version: 2020-10-01\r\n"
        b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\n"
        b"x-ratelimit-reset-requests: 6ms\r\nx-ratelimit-limit-tokens: 2000000\r\n"
        b"x-ratelimit-remaining-tokens: 1999000\r\nx-ratelimit-reset-tokens: 30ms\r\n"
    )


heads = Heads(_own_head)


def credential(request: Request) -> str | None:
    """None if the request carries a credential, else the sentence of the 401."""
    if b"authorization" in request.headers or b"api-key" in request.headers:
        return None
    return (
        "You didn't provide an API key. You need to provide your API key in an Authorization "
        "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
    )


def error(status: int, message: str, plan: Plan | None = None) -> Reply:
    """An error answer in the OpenAI shape."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = "rate_limit_exceeded" if status == 429 else None
    shown = {"message": message, "type": kind, "param": None, "code": code}
    body = escape({"error": shown})
    return Reply(heads.error(serial(), len(body), status, plan), body, status=status)


def json_reply(body: bytes, model: str = "", usage: Usage | None = None) -> Reply:
    """A JSON answer with this dialect's headers."""
    return Reply(heads.json(serial(), len(body)), body, model=model, usage=usage)


def _parse(request: Request) -> ChatBody:
    try:
        body = _decode(request.content())
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid type: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request. {error}"
        ) from error
    if not body.model:
        raise InvalidRequest("you must provide a model parameter")
    if not body.messages:
        raise InvalidRequest("Missing required parameter: 'messages'.")
    return body


def chat(request: Request, plan: Plan, script: Script | None, _: str) -> Reply:
    """``POST /chat/completions``: a JSON completion or its SSE chunks."""
    body = _parse(request)
    if plan.manner is not OPENAI:
        plan.manner.check(objects(msgspec.json.decode(body.messages)))
    limit = body.max_completion_tokens
    if limit is None:
        limit = body.max_tokens
    usage = plan.usage(len(request.body), limit)
    answer = _scripted(body, script, plan.chunks) if script is not None else None
    if answer is None:
        answer = prose(usage.output, plan.chunks, limit is not None and usage.output >= limit)
    if body.stream:
        return _stream(request, body, answer, usage, plan.manner)
    model = body.model or ""
    choice = b'{"index":0,"message":%b,"logprobs":null,"finish_reason":%b}' % (
        _message(answer, plan.manner),
        _finish(answer),
    )
    text = (
        b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,"model":%b,"choices":[%b],'
        b'"usage":%b,"service_tier":"default","system_fingerprint":"fp_mock"}'
    ) % (serial(), time.time(), escape(model), choice, _usage(usage))
    return json_reply(text, model, usage)


def _usage(usage: Usage) -> bytes:
    prompt = usage.input + usage.cache_read + usage.cache_write
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ) % (
        prompt,
        usage.output,
        prompt + usage.output,
        usage.cache_read,
        usage.cache_write,
        usage.thinking,
    )


def _message(answer: Text | ToolCall, manner: Manner) -> bytes:
    thought = manner.thought()
    if isinstance(answer, Text):
        form = b'{"role":"assistant",%b"content":%b,"refusal":null,"annotations":[]}'
        return form % (thought, answer.whole)
    call = b'{"id":"%b","type":"function","function":{"name":%b,"arguments":%b}}' % (
        manner.call_id(serial()),
        escape(answer.name),
        escape(answer.arguments),
    )
    form = b'{"role":"assistant",%b"content":null,"refusal":null,"tool_calls":[%b]}'
    return form % (thought, call)


def _finish(answer: Text | ToolCall) -> bytes:
    if isinstance(answer, ToolCall):
        return b'"tool_calls"'
    return b'"length"' if answer.limited else b'"stop"'


def _stream(
    request: Request, body: ChatBody, answer: Text | ToolCall, usage: Usage, manner: Manner
) -> Reply:
    model = body.model or ""
    asked = body.stream_options is not None and bool(body.stream_options.include_usage)
    start = (
        b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,'
        b'"service_tier":"default","system_fingerprint":"fp_mock",'
    ) % (serial(), time.time(), escape(model))
    end = b',"usage":null}\n\n' if asked else b"}\n\n"
    deltas, sizes = _deltas(answer, manner)
    events = [_choice(start, delta, b"null", end) for delta in deltas]
    events.append(_choice(start, b"{}", _finish(answer), end))
    if asked:
        events.append(start + b'"choices":[],"usage":%b}\n\n' % _usage(usage))
    events.append(b"data: [DONE]\n\n")
    sizes += [0] * (len(events) - len(sizes))
    return Reply(
        heads.stream(serial(), request),
        model=model,
        usage=usage,
        events=events,
        sizes=sizes,
        error_event=_ERROR_EVENT,
    )


_ERROR_EVENT = (
    b'data: {"error":{"message":"The server had an error while processing your request.",'
    b'"type":"server_error","param":null,"code":null}}\n\n'
)


def _choice(start: bytes, delta: bytes, finish: bytes, end: bytes) -> bytes:
    choice = b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]'
    return start + choice % (delta, finish) + end


def _deltas(answer: Text | ToolCall, manner: Manner) -> tuple[list[bytes], list[int]]:
    """Deltas of a stream and the answer's bytes in each; the first opens the message."""
    thought = manner.thought()
    thoughts = [b'{"role":"assistant",%b"content":null}' % thought] if thought else []
    nothing = [0] * (len(thoughts) + 1)
    if isinstance(answer, Text):
        opened = b'{"role":"assistant","content":"","refusal":null}'
        deltas = [*thoughts, opened, *(b'{"content":%b}' % piece for piece in answer.pieces)]
        return deltas, [*nothing, *answer.sizes]
    call = (
        b'{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"%b",'
        b'"type":"function","function":{"name":%b,"arguments":""}}]}'
    ) % (manner.call_id(serial()), escape(answer.name))
    more = b'{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}'
    deltas = [*thoughts, call, *(more % escape(piece) for piece in answer.pieces)]
    return deltas, [*nothing, *(len(piece.encode()) for piece in answer.pieces)]


def _scripted(body: ChatBody, script: Script, chunks: int) -> Text | ToolCall | None:
    offers = [
        Offer(str(function.get("name")), function.get("parameters"))
        for tool in objects(msgspec.json.decode(body.tools) if body.tools else None)
        if isinstance(function := tool.get("function"), dict)
    ]
    turns = objects(msgspec.json.decode(body.messages))
    results = [spoken(turn.get("content", "")) for turn in turns if turn.get("role") == "tool"]
    asking = [turn for turn in turns if turn.get("role") in ("tool", "user")]
    fresh = bool(asking) and asking[-1].get("role") == "tool"
    return script.play(offers, results, fresh, chunks)


def models(_request: Request, _plan: Plan, _script: Script | None, name: str) -> Reply:
    """``GET /v1/models[/{id}]``."""
    items = [
        {"id": model, "object": "model", "created": 1_790_000_000, "owned_by": "bifrost-mock"}
        for model in _MODELS
    ]
    if not name:
        return json_reply(escape({"object": "list", "data": items}))
    for item in items:
        if item["id"] == name:
            return json_reply(escape(item))
    return error(404, f"The model '{name}' does not exist or you do not have access to it.")

"""OpenAI's Responses API in the mock provider: JSON, named SSE events, input token counts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.exchange import Reply, Request, serial
from bifrost.mock.openai import escape, heads, json_reply
from bifrost.mock.plan import Plan
from bifrost.mock.script import Offer, Script, Text, ToolCall, objects, prose, spoken


class ResponsesBody(msgspec.Struct, gc=False):
    """The fields of a request that an answer depends on."""

    model: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    input: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


# The fields of a token count, as openai 3.57 has them.
_COUNTED = frozenset({
    "conversation", "input", "instructions", "model", "parallel_tool_calls", "personality",
    "previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation",
})  # fmt: skip
_decode = msgspec.json.Decoder(ResponsesBody).decode

_ERROR_EVENT = (
    b'event: error\ndata: {"type":"error","code":"server_error","message":"The server had an '
    b'error while processing your request.","param":null,"sequence_number":0}\n\n'
)


def _parse(request: Request) -> ResponsesBody:
    try:
        body = _decode(request.content())
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid type: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request. {error}"
        ) from error
    if not body.model:
        raise InvalidRequest("Missing required parameter: 'model'.")
    if not body.input:
        raise InvalidRequest("Missing required parameter: 'input'.")
    return body


def respond(request: Request, plan: Plan, script: Script | None, _: str) -> Reply:
    """``POST /responses``: a JSON response or its SSE events."""
    body = _parse(request)
    limit = body.max_output_tokens
    usage = plan.usage(len(request.body), limit)
    answer = _scripted(body, script, plan.chunks) if script is not None else None
    if answer is None:
        answer = prose(usage.output, plan.chunks, limit is not None and usage.output >= limit)
    model = body.model or ""
    item = _item(answer)
    shell = {
        "id": f"resp_{serial().decode()}",
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
    }
    done = {**shell, "status": "completed", "output": [item], "usage": _usage(usage)}
    if isinstance(answer, Text) and answer.limited:
        done |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    if not body.stream:
        return json_reply(escape(done), model, usage)
    begun = {**shell, "status": "in_progress", "output": [], "usage": None}
    events, sizes = [], []
    for number, (kind, fields, size) in enumerate(_events(begun, item, answer, done)):
        data = escape({"type": kind, "sequence_number": number, **fields})
        events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
        sizes.append(size)
    return Reply(
        heads.stream(serial(), request),
        model=model,
        usage=usage,
        events=events,
        sizes=sizes,
        error_event=_ERROR_EVENT,
    )


def _usage(usage: Usage) -> dict[str, object]:
    total_input = usage.input + usage.cache_read + usage.cache_write
    return {
        "input_tokens": total_input,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.thinking},
        "total_tokens": total_input + usage.output,
    }


def _item(answer: Text | ToolCall) -> dict[str, object]:
    number = serial().decode()
    if isinstance(answer, Text):
        part = {"type": "output_text", "text": msgspec.Raw(answer.whole), "annotations": []}
        return {
            "id": f"msg_{number}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [part],
        }
    call = {"status": "completed", "call_id": f"call_{number}", "name": answer.name}
    if answer.free:
        return {
            "id": f"ctc_{number}",
            "type": "custom_tool_call",
            **call,
            "input": answer.arguments,
        }
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        **call,
        "arguments": answer.arguments,
    }


_Event = tuple[str, dict[str, object], int]


def _events(
    begun: dict[str, object],
    item: dict[str, object],
    answer: Text | ToolCall,
    done: dict[str, object],
) -> Iterator[_Event]:
    """Name, fields and answer bytes of each event of a stream."""
    yield "response.created", {"response": begun}, 0
    yield "response.in_progress", {"response": begun}, 0
    yield from (
        _text_events(item, answer) if isinstance(answer, Text) else _call_events(item, answer)
    )
    yield "response.output_item.done", {"output_index": 0, "item": item}, 0
    yield f"response.{done['status']}", {"response": done}, 0


def _text_events(item: dict[str, object], answer: Text) -> Iterator[_Event]:
    opened = {**item, "status": "in_progress", "content": []}
    yield "response.output_item.added", {"output_index": 0, "item": opened}, 0
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    yield "response.content_part.added", {**place, "part": part}, 0
    for piece, size in zip(answer.pieces, answer.sizes, strict=True):
        fields = {**place, "delta": msgspec.Raw(piece), "logprobs": []}
        yield "response.output_text.delta", fields, size
    whole = msgspec.Raw(answer.whole)
    yield "response.output_text.done", {**place, "text": whole, "logprobs": []}, 0
    yield "response.content_part.done", {**place, "part": {**part, "text": whole}}, 0


def _call_events(item: dict[str, object], answer: ToolCall) -> Iterator[_Event]:
    field, stem = ("arguments", "response.function_call_arguments")
    if answer.free:
        field, stem = ("input", "response.custom_tool_call_input")
    opened = {**item, "status": "in_progress", field: ""}
    yield "response.output_item.added", {"output_index": 0, "item": opened}, 0
    place = {"item_id": item["id"], "output_index": 0}
    for piece in answer.pieces:
        yield f"{stem}.delta", {**place, "delta": piece}, len(piece.encode())
    yield f"{stem}.done", {**place, field: answer.arguments}, 0


def _scripted(body: ResponsesBody, script: Script, chunks: int) -> Text | ToolCall | None:
    items = objects(msgspec.json.decode(body.input))
    offers = list(_offers(msgspec.json.decode(body.tools) if body.tools else None))
    results: list[str] = []
    fresh = False
    for item in items:
        kind = str(item.get("type", "message"))
        if kind == "additional_tools":
            offers += _offers(item.get("tools"))
        elif kind.endswith("call_output"):
            results.append(spoken(item.get("output", "")))
            fresh = True
        elif item.get("role") == "user":
            fresh = False
    return script.play(offers, results, fresh, chunks)


def _offers(tools: object) -> Iterator[Offer]:
    """Function and free-form tools, also those inside namespaces."""
    for tool in objects(tools):
        if tool.get("type") == "namespace":
            yield from _offers(tool.get("tools"))
        elif isinstance(name := tool.get("name"), str):
            yield Offer(name, tool.get("parameters"), free=tool.get("type") == "custom")


def count_tokens(request: Request, plan: Plan, _script: Script | None, _: str) -> Reply:
    """``POST /responses/input_tokens``: the input an answer to this body would be charged."""
    body = _parse(request)
    for field in sorted(msgspec.json.decode(request.content(), type=dict).keys() - _COUNTED):
        raise InvalidRequest(f"Unknown parameter: '{field}'.")
    usage = plan.usage(len(request.body), 0)
    total = usage.input + usage.cache_read + usage.cache_write
    shown = {"object": "response.input_tokens", "input_tokens": total}
    return json_reply(escape(shown), body.model or "")

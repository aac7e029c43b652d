"""Bedrock's Converse as the mock provider speaks it: whole, as a stream of frames, CountTokens.

As strict as the service (``converse_rules``). ``inputTokens`` has no cached tokens in it, and a
stream tells the usage only in its last event.
"""

from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.converse_rules import check
from bifrost.mock.exchange import Heads, Reply, Request, serial
from bifrost.mock.plan import Plan
from bifrost.mock.script import Offer, Script, Text, ToolCall, objects, prose, said, sample, spoken

Json = dict[str, Any]

_FAULTS = {400: "Validation", 401: "AccessDenied", 403: "AccessDenied", 404: "ResourceNotFound",
           408: "ModelTimeout", 424: "ModelError", 429: "Throttling", 500: "InternalServer",
           503: "ServiceUnavailable"}  # fmt: skip
_CODED = {":event-type": "", ":content-type": "application/json", ":message-type": "event"}
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_heads = Heads(lambda now: b"x-amzn-requestid: %b\r\n", b"application/vnd.amazon.eventstream")


def credential(request: Request) -> str | None:
    """None if the request carries a credential, else the sentence of the refusal."""
    return None if b"authorization" in request.headers else "Missing Authentication Token"


def error(status: int, message: str, plan: Plan | None = None) -> Reply:
    """An error answer in AWS's form."""
    body = _encode({"message": message})
    line, rest = _heads.error(serial(), len(body), status, plan).split(b"\r\n", 1)
    kind = _FAULTS.get(status, "InternalServer").encode()
    head = b"%b\r\nx-amzn-errortype: %bException:http://internal.amazon.com/\r\n%b"
    return Reply(head % (line, kind, rest), body, status=status)


def models(_request: Request, _plan: Plan, _script: Script | None, _name: str) -> Reply:
    """The runtime lists none."""
    return error(404, "Not Found")


def _json(told: Json, model: str, usage: Usage | None = None) -> Reply:
    body = _encode(told)
    return Reply(_heads.json(serial(), len(body)), body, model=model, usage=usage)


def _parse(content: bytes, model: str) -> Json:
    try:
        body = _decode(content)
        check(body, model)
    except msgspec.DecodeError as wrong:
        raise InvalidRequest(f"Unable to parse the request body: {wrong}") from wrong
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise InvalidRequest(f"1 validation error detected: {wrong!r}") from wrong
    return body


def _answer(
    request: Request, plan: Plan, script: Script | None, model: str
) -> tuple[Text | ToolCall, Usage]:
    body = _parse(request.content(), model)
    limit = (body.get("inferenceConfig") or {}).get("maxTokens")
    usage = plan.usage(len(request.body), limit)
    answer = _scripted(body, script, plan.chunks) if script is not None else None
    form = (body.get("outputConfig") or {}).get("textFormat")
    if answer is None and form:
        schema = msgspec.json.decode(form["structure"]["jsonSchema"]["schema"])
        answer = said(_encode(sample(schema)).decode(), plan.chunks)
    if answer is None:
        limited = limit is not None and usage.output >= limit
        answer = prose(usage.output, plan.chunks, limited)
    return answer, usage


def _scripted(body: Json, script: Script, chunks: int) -> Text | ToolCall | None:
    specs = [
        tool["toolSpec"]
        for tool in (body.get("toolConfig") or {}).get("tools", ())
        if "toolSpec" in tool
    ]
    offers = [Offer(spec["name"], spec["inputSchema"]["json"]) for spec in specs]
    results: list[str] = []
    fresh = False
    for turn in body["messages"]:
        if turn["role"] == "user":
            found = [one["toolResult"] for one in objects(turn["content"]) if "toolResult" in one]
            results += [spoken(one["content"]) for one in found if isinstance(one, dict)]
            fresh = bool(found)
    return script.play(offers, results, fresh, chunks)


def _usage(usage: Usage) -> Json:
    told: Json = {
        "inputTokens": usage.input, "outputTokens": usage.output,
        "totalTokens": usage.input + usage.cache_read + usage.cache_write + usage.output,
        "cacheReadInputTokens": usage.cache_read, "cacheWriteInputTokens": usage.cache_write,
    }  # fmt: skip
    split = {"1h": usage.cache_1h, "5m": usage.cache_5m}
    details = [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in split.items() if tokens]
    return told | {"cacheDetails": details} if details else told


def _reason(answer: Text | ToolCall) -> str:
    if isinstance(answer, ToolCall):
        return "tool_use"
    return "max_tokens" if answer.limited else "end_turn"


def converse(request: Request, plan: Plan, script: Script | None, model: str) -> Reply:
    """``/model/{id}/converse``: one JSON answer."""
    answer, usage = _answer(request, plan, script, model)
    if isinstance(answer, ToolCall):
        call = {"toolUseId": _call_id(), "name": answer.name, "input": _decode(answer.arguments)}
        block: Json = {"toolUse": call}
    else:
        block = {"text": msgspec.json.decode(answer.whole)}
    told = {
        "output": {"message": {"role": "assistant", "content": [block]}},
        "stopReason": _reason(answer), "usage": _usage(usage), "metrics": {"latencyMs": 7},
    }  # fmt: skip
    return _json(told, model, usage)


def stream(request: Request, plan: Plan, script: Script | None, model: str) -> Reply:
    """``/model/{id}/converse-stream``: frames of events."""
    answer, usage = _answer(request, plan, script, model)
    events = [frame("messageStart", {"role": "assistant"})]
    sizes = [0]
    pieces: list[Json]
    if isinstance(answer, ToolCall):
        start = {"toolUse": {"toolUseId": _call_id(), "name": answer.name}}
        events.append(frame("contentBlockStart", {"contentBlockIndex": 0, "start": start}))
        sizes.append(0)
        pieces = [{"toolUse": {"input": piece}} for piece in answer.pieces]
        sizes += [len(piece.encode()) for piece in answer.pieces]
    else:
        pieces = [{"text": msgspec.json.decode(piece)} for piece in answer.pieces]
        sizes += answer.sizes
    events += [frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": one}) for one in pieces]
    events.append(frame("contentBlockStop", {"contentBlockIndex": 0}))
    events.append(frame("messageStop", {"stopReason": _reason(answer)}))
    told = {"usage": _usage(usage), "metrics": {"latencyMs": 7}}
    events.append(frame("metadata", told))
    head = _heads.stream(serial(), request)
    sizes += [0, 0, 0]
    return Reply(
        head, model=model, usage=usage, events=events, sizes=sizes, error_event=_ERROR_EVENT
    )


def count_tokens(request: Request, plan: Plan, _script: Script | None, model: str) -> Reply:
    """``/model/{id}/count-tokens``: of foundation models alone, by their own ids."""
    try:
        content = request.content()
        told = _decode(content)["input"]["converse"]
    except (msgspec.DecodeError, KeyError, TypeError) as wrong:
        raise InvalidRequest(f"1 validation error detected: {wrong!r}") from wrong
    if model.split(".")[0] in ("us", "eu", "apac", "global") or "llama" in model:
        raise InvalidRequest("The provided model doesn't support counting tokens.")
    body = _encode(told)
    _parse(body, model)
    usage = plan.usage(len(body), 1)
    return _json({"inputTokens": usage.input + usage.cache_read + usage.cache_write}, model)


def _call_id() -> str:
    return f"tooluse_{serial().decode()}"


def frame(name: str, told: Json, **headers: str) -> bytes:
    """An event of that name as a frame: lengths, headers, payload and their checksums."""
    coded = {**_CODED, ":event-type": name} if not headers else headers
    block = b"".join(
        b"%c%b\x07%b%b" % (len(key), key.encode(), struct.pack("!H", len(one)), one.encode())
        for key, one in coded.items()
    )
    payload = _encode({**told, "p": "abcdefgh"})
    sizes = struct.pack("!II", 16 + len(block) + len(payload), len(block))
    data = sizes + struct.pack("!I", crc32(sizes)) + block + payload
    return data + struct.pack("!I", crc32(data))


_ERROR_EVENT = frame(
    "",
    {"message": "The system encountered an unexpected error during processing. Try again."},
    **{":message-type": "exception", ":exception-type": "serviceUnavailableException",
       ":content-type": "application/json"},
)  # fmt: skip

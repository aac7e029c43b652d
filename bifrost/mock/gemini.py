"""The Gemini dialect of the mock provider: generateContent, its stream, countTokens, models.

``promptTokenCount`` includes cached tokens, ``candidatesTokenCount`` excludes thoughts; usage is
cumulative and repeated in every stream chunk. Gemini has no cache writes: they count as input.
"""

from __future__ import annotations

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.exchange import Heads, Reply, Request, serial
from bifrost.mock.plan import Plan
from bifrost.mock.script import Offer, Script, Text, ToolCall, objects, prose, said, sample, spoken

_KINDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MODELS = (("gemini-3-pro", "Gemini 3 Pro"), ("gemini-3-flash", "Gemini 3 Flash"))
# Gemini 3 refuses a function call that comes back without its signature.
_SIGNATURE = "bW9jay10aG91Z2h0LXNpZ25hdHVyZQ=="


class GenerationConfig(msgspec.Struct, gc=False, rename="camel"):
    """The output limit and the wish for JSON output."""

    max_output_tokens: int | None = None
    response_mime_type: str | None = None
    response_json_schema: object = None
    response_schema: object = None


class GenerateBody(msgspec.Struct, gc=False, rename="camel"):
    """The fields of a request that an answer depends on."""

    contents: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    generation_config: GenerationConfig | None = None


# The fields of a token count: of Gemini's own API, and of Vertex AI's.
_COUNTED = frozenset({"model", "contents", "generateContentRequest"})
_PUBLISHED = frozenset({
    "model", "contents", "instances", "systemInstruction", "tools", "generationConfig"
})  # fmt: skip
_decode = msgspec.json.Decoder(GenerateBody).decode
_escape = msgspec.json.Encoder().encode
_heads = Heads(lambda now: b"server-timing: gfet4t7; dur=1\r\nx-goog-request-id: %b\r\n")


def credential(request: Request) -> str | None:
    """None if the request carries a credential, else the sentence of the 401."""
    if b"x-goog-api-key" in request.headers or b"authorization" in request.headers:
        return None
    query = request.target.partition(b"?")[2]
    if query.startswith(b"key=") or b"&key=" in query:
        return None
    return "Request is missing required authentication credential."


def error(status: int, message: str, plan: Plan | None = None) -> Reply:
    """An error answer in the Google shape."""
    kind = _KINDS.get(status, "UNKNOWN")
    body = _escape({"error": {"code": status, "message": message, "status": kind}})
    return Reply(_heads.error(serial(), len(body), status, plan), body, status=status)


def json_reply(body: bytes, model: str = "", usage: Usage | None = None) -> Reply:
    """A JSON answer with this dialect's headers."""
    return Reply(_heads.json(serial(), len(body)), body, model=model, usage=usage)


def _parse(request: Request) -> GenerateBody:
    try:
        body = _decode(request.content())
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"Invalid JSON payload received. {error}") from error
    if not body.contents:
        raise InvalidRequest("* GenerateContentRequest.contents: contents is not specified")
    return body


def _answer(request: Request, plan: Plan, script: Script | None) -> tuple[Text | ToolCall, Usage]:
    body = _parse(request)
    config = body.generation_config or GenerationConfig()
    usage = plan.usage(len(request.body), config.max_output_tokens)
    if usage.cache_write:
        usage = msgspec.structs.replace(
            usage, input=usage.input + usage.cache_write, cache_5m=0, cache_1h=0
        )
    answer = _scripted(body, script, plan.chunks) if script is not None else None
    if answer is None and config.response_mime_type == JSON_OUTPUT:
        shape = sample(config.response_json_schema or config.response_schema)
        answer = said(_escape(shape).decode(), plan.chunks)
    if answer is None:
        limit = config.max_output_tokens
        limited = limit is not None and usage.output >= limit
        answer = prose(usage.output, plan.chunks, limited)
    return answer, usage


JSON_OUTPUT = "application/json"


def _scripted(body: GenerateBody, script: Script, chunks: int) -> Text | ToolCall | None:
    offers = [
        Offer(str(item.get("name")), item.get("parametersJsonSchema") or item.get("parameters"))
        for tool in objects(msgspec.json.decode(body.tools) if body.tools else None)
        for item in objects(tool.get("functionDeclarations"))
    ]
    results: list[str] = []
    fresh = False
    for turn in objects(msgspec.json.decode(body.contents)):
        if turn.get("role") == "model":
            continue
        found = [
            spoken(response.get("response", ""))
            for part in objects(turn.get("parts"))
            if isinstance(response := part.get("functionResponse"), dict)
        ]
        results += found
        fresh = bool(found)
    return script.play(offers, results, fresh, chunks)


def _usage(usage: Usage) -> bytes:
    prompt = usage.input + usage.cache_read
    shown = b'"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d' % (
        prompt,
        usage.output - usage.thinking,
    )
    if usage.cache_read:
        shown += b',"cachedContentTokenCount":%d' % usage.cache_read
    if usage.thinking:
        shown += b',"thoughtsTokenCount":%d' % usage.thinking
    return shown + b',"totalTokenCount":%d}' % (prompt + usage.output)


def _response(part: bytes, finish: bytes, usage: Usage, model: bytes, number: bytes) -> bytes:
    return (
        b'{"candidates":[{"content":{"parts":[%b],"role":"model"}%b,"index":0}],'
        b'%b,"modelVersion":%b,"responseId":"%b"}'
    ) % (part, finish, _usage(usage), model, number)


def _parts(answer: Text | ToolCall) -> list[bytes]:
    """One part per stream chunk; a function call comes whole."""
    if isinstance(answer, ToolCall):
        call = b'{"functionCall":{"name":%b,"args":%b},"thoughtSignature":"%b"}'
        name, arguments = _escape(answer.name), answer.arguments.encode()
        return [call % (name, arguments, _SIGNATURE.encode())]
    return [b'{"text":%b}' % piece for piece in answer.pieces] or [b'{"text":""}']


def _finish(answer: Text | ToolCall) -> bytes:
    limited = isinstance(answer, Text) and answer.limited
    return b',"finishReason":"MAX_TOKENS"' if limited else b',"finishReason":"STOP"'


def generate(request: Request, plan: Plan, script: Script | None, model: str) -> Reply:
    """``:generateContent``: one JSON response."""
    answer, usage = _answer(request, plan, script)
    part = b'{"text":%b}' % answer.whole if isinstance(answer, Text) else _parts(answer)[0]
    body = _response(part, _finish(answer), usage, _escape(model), serial())
    return json_reply(body, model, usage)


def stream(request: Request, plan: Plan, script: Script | None, model: str) -> Reply:
    """``:streamGenerateContent``: SSE with ``alt=sse``, else one JSON array of the chunks."""
    answer, usage = _answer(request, plan, script)
    parts, name, number = _parts(answer), _escape(model), serial()
    chunks = []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        now = usage if last else _so_far(usage, i + 1, len(parts))
        chunks.append(_response(part, _finish(answer) if last else b"", now, name, number))
    if b"alt=sse" not in request.target:
        return json_reply(b"[" + b",\r\n".join(chunks) + b"]", model, usage)
    sizes = list(answer.sizes) if isinstance(answer, Text) else [len(answer.arguments)]
    return Reply(
        _heads.stream(serial(), request),
        model=model,
        usage=usage,
        events=[b"data: %b\r\n\r\n" % piece for piece in chunks],
        sizes=sizes or [0],
        error_event=_ERROR_EVENT,
    )


_ERROR_EVENT = (
    b'data: {"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}'
    b"\r\n\r\n"
)


def _so_far(usage: Usage, done: int, of: int) -> Usage:
    """Cumulative usage after ``done`` of ``of`` chunks: thoughts come first."""
    candidates = (usage.output - usage.thinking) * done // of
    return msgspec.structs.replace(usage, output=usage.thinking + candidates)


def count_tokens(request: Request, plan: Plan, _script: Script | None, model: str) -> Reply:
    """``:countTokens``: the prompt tokens an answer to this body would be charged."""
    try:
        asked = msgspec.json.decode(request.content(), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"Invalid JSON payload received. {error}") from error
    published = b"/publishers/google/" in request.target
    for field in sorted(asked.keys() - (_PUBLISHED if published else _COUNTED)):
        raise InvalidRequest(
            f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
        )
    if "contents" in asked and "generateContentRequest" in asked:
        raise InvalidRequest("generate_content_request and contents cannot both be set.")
    usage = plan.usage(len(request.body), 0)
    total = usage.input + usage.cache_read + usage.cache_write
    return json_reply(b'{"totalTokens":%d}' % total, model)


def models(_request: Request, _plan: Plan, _script: Script | None, name: str) -> Reply:
    """``GET /v1beta/models[/{id}]``."""
    items = [
        {
            "name": f"models/{model}",
            "displayName": title,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for model, title in _MODELS
    ]
    if not name:
        return json_reply(_escape({"models": items}))
    for item in items:
        if item["name"] == f"models/{name}":
            return json_reply(_escape(item))
    return error(404, f"models/{name} is not found")

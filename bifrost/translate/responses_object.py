"""Answers of Claude's as objects of the Responses API: the response, its items, usage, errors."""

from __future__ import annotations

import re
import time
from secrets import token_hex
from typing import Any

import msgspec

from bifrost.translate import anthropic_anthropic
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.messages_tools import Tool, ToolNames
from bifrost.translate.sealed_thinking import seal

Json = dict[str, Any]

_ECHOED = ("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning",
           "temperature", "text", "tool_choice", "top_p")  # fmt: skip
_LIMITS = ("max_tokens", "model_context_window_exceeded")
_REFUSED = "The model refused to answer."
_TOO_LONG = re.compile(r"prompt is too long|input is too long|exceed context limit", re.I)
# By status: OpenAI's (type, code).
_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
# By Claude's error: the code of a stream that failed.
_CODES = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt",
          "request_too_large": "invalid_prompt"}  # fmt: skip
_encode = msgspec.json.Encoder().encode


class _Block(msgspec.Struct):
    """A block of an answer, with what the kinds have between them."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    content: list[msgspec.Raw]
    id: str | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_block = msgspec.json.Decoder(_Block).decode
_decode = msgspec.json.Decoder().decode


class Response:
    """The response object of one request, from its beginning to its end."""

    def __init__(self, asked: Json, model: str, names: ToolNames) -> None:
        """``asked``: the client's request; ``model``: the name the client knows."""
        self.names = names
        self._shell: Json = {
            "object": "response", "created_at": int(time.time()), "model": model,
            "background": False, "error": None, "incomplete_details": None, "instructions": None,
            "metadata": {}, "parallel_tool_calls": True, "previous_response_id": None,
            "store": False, "tool_choice": "auto", "tools": [], "truncation": "disabled",
            **{key: asked[key] for key in _ECHOED if asked.get(key) is not None},
        }  # fmt: skip
        self.number = ""

    def named(self, message: str | None) -> None:
        """Takes its name, and those of its items, from the message that answers."""
        self.number = (message or "").removeprefix("msg_") or token_hex(12)

    def id(self, kind: str, index: int) -> str:
        """The id of the item at ``index`` of the output."""
        return f"{kind}_{self.number}_{index}"

    def begun(self) -> Json:
        """The object before there is any output."""
        return self._at("in_progress", [])

    def ended(self, output: list[Json], reason: str | None, used: Json) -> Json:
        """The object at the end; ``reason`` is Claude's for stopping."""
        if reason in _LIMITS:
            more = {"usage": used, "incomplete_details": {"reason": "max_output_tokens"}}
            return self._at("incomplete", output, more)
        return self._at("completed", output, {"usage": used})

    def failed(self, output: list[Json], error: Json, used: Json) -> Json:
        """The object of an answer that broke off with Claude's ``error``."""
        text = _said(error)
        code = _CODES.get(str(error.get("type")), "server_error")
        code = "context_length_exceeded" if _TOO_LONG.search(text) else code
        return self._at("failed", output, {"usage": used, "error": {"code": code, "message": text}})

    def _at(self, status: str, output: list[Json], more: Json | None = None) -> Json:
        shown = {"id": f"resp_{self.number}", **self._shell, "status": status, "output": output}
        return {**shown, "usage": None, **(more or {})}


def limited(reason: str | None) -> bool:
    """Whether an answer was cut off, and with it its last item."""
    return reason in _LIMITS


def cut(output: list[Json], reason: str | None) -> None:
    """Says of the last item that it is not whole, if the answer was cut off there."""
    if output and limited(reason) and "status" in output[-1]:
        output[-1]["status"] = "incomplete"


def reasoning(name: str, said: str, block: bytes | None) -> Json:
    """A reasoning item; ``block`` is what Claude wants back, None where it could not be read."""
    summary = [{"type": "summary_text", "text": said}] if said else []
    sealed = seal(block) if block is not None else None
    return {"id": name, "type": "reasoning", "summary": summary, "encrypted_content": sealed}


def spoken(name: str, said: str) -> Json:
    """A message of text."""
    return _message(name, {"type": "output_text", "text": said, "annotations": []})


def refusal(name: str, details: Json | None) -> Json:
    """A message that says why there is no other."""
    text = (details or {}).get("explanation") or _REFUSED
    return _message(name, {"type": "refusal", "refusal": text})


def _message(name: str, part: Json) -> Json:
    whole = {"id": name, "type": "message", "status": "completed", "role": "assistant"}
    return {**whole, "content": [part]}


def called(name: str, call_id: str, tool: Tool, given: str, status: str = "completed") -> Json:
    """A call with what it is given: arguments in JSON or, if the tool is ``free``, text."""
    kind, field = ("custom_tool_call", "input") if tool.free else ("function_call", "arguments")
    item = {"id": name, "type": kind, "status": status, "call_id": call_id, "name": tool.name}
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    return {**item, field: given}


def free_text(given: str) -> str:
    """The text for a custom tool in the JSON that Claude gave; all of it if it has no such text."""
    told = _decode(given)
    text = told.get("input") if isinstance(told, dict) else None
    return text if isinstance(text, str) else given


def usage(told: Json | None, input_estimate: int, output_bytes: int) -> Json:
    """Claude's usage in OpenAI's terms, in tokens; by size where the host counted nothing."""
    told = told or {}
    read = told.get("cache_read_input_tokens") or 0
    wrote = told.get("cache_creation_input_tokens") or 0
    taken = (told.get("input_tokens") or 0) + read + wrote or max(1, input_estimate)
    made = told.get("output_tokens") or int(-(-output_bytes // BYTES_A_TOKEN))
    thought = (told.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return {
        "input_tokens": taken,
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": wrote},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": taken + made,
    }


def answer(status: int, body: bytes, response: Response, input_estimate: int) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client."""
    if status >= 400:
        return failure(status, body)
    try:
        told = _decode_message(body)
    except (ValueError, RecursionError):
        return failure(502, body)
    response.named(told.id)
    output: list[Json] = []
    for raw in told.content:
        item = _item(bytes(raw), response, len(output))
        output += [item] if item else []
    cut(output, told.stop_reason)
    made = len(_encode(output)) if output else 0
    if told.stop_reason == "refusal":
        output.append(refusal(response.id("msg", len(output)), told.stop_details))
    used = usage(told.usage, input_estimate, made)
    return status, _encode(response.ended(output, told.stop_reason, used))


def _item(raw: bytes, response: Response, index: int) -> Json | None:
    """The item of a block; None for one that says nothing to the client."""
    block = _decode_block(raw)
    if block.type == "text":
        return spoken(response.id("msg", index), block.text) if block.text else None
    if block.type in ("thinking", "redacted_thinking"):
        sealed = raw if block.signature or block.data else None
        return reasoning(response.id("rs", index), block.thinking or "", sealed)
    if block.type != "tool_use":
        return None
    tool = response.names.back(block.name or "")
    given = bytes(block.input).decode()
    given = free_text(given) if tool.free else given
    return called(response.id("ctc" if tool.free else "fc", index), block.id or "", tool, given)


def failure(status: int, body: bytes) -> tuple[int, bytes]:
    """(status, body) of an error in OpenAI's words, without what names the gateway's account."""
    try:
        told = _decode(anthropic_anthropic.error(body))
    except (ValueError, RecursionError):
        told = None
    text = _said(told.get("error") or told if isinstance(told, dict) else {})
    status = 503 if status == 529 else status
    kind, code = _KINDS.get(
        status, ("server_error" if status >= 500 else "invalid_request_error", None)
    )
    if status in (400, 413) and _TOO_LONG.search(text):
        status, code = 400, "context_length_exceeded"
    error = {"message": text, "type": kind, "param": None, "code": code}
    return status, _encode({"error": error})


def _said(error: object) -> str:
    """The sentence of an error; some hosts have it bare."""
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) and said else "The provider gave no reason."

"""Answers of Chat Completions, whole ones and errors, as Anthropic's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import msgspec

from bifrost.translate.chat_request import Names
from bifrost.translate.translation import Traits

Json = dict[str, Any]

SIGNATURE = "bifrost-chat"  # of thinking whose host signs none
_STOPS = {"stop": "end_turn", "length": "max_tokens", "model_length": "max_tokens",
          "content_filter": "refusal"}  # fmt: skip
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error",
          403: "permission_error", 404: "not_found_error", 413: "request_too_large",
          429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}  # fmt: skip
_CODES = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "server_error": 500,
          "invalid_api_key": 401, "model_not_found": 404, "service_unavailable": 503,
          **{kind: status for status, kind in _KINDS.items()}}  # fmt: skip
_TOO_LONG = re.compile(
    r"context[ _](length|size)|context window|too many (input )?tokens|prompt is too long|"
    r"maximum (prompt|context|input)|exceeded model token limit|prompt exceeds max length",
    re.I,
)
# What names the gateway's account there, which is none of the client's business.
_ACCOUNT = re.compile(r"\b(?:sk|org|proj|acct)[-_][\w*.-]*\w")
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")
BYTES_A_TOKEN = 3.6  # of text, where the host counted nothing
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def masked(body: bytes) -> bytes:
    """An error as its host told it, without the names of the gateway's account there."""
    return _ACCOUNT.sub("(hidden)", body.decode("utf-8", "replace")).encode()


def decoded(given: bytes | str) -> Any:
    """The JSON of a host. Raises ValueError, also where it is nested without end."""
    try:
        return _decode(given)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def counted(told: Json | None, traits: Traits, input_estimate: int, output_bytes: int) -> Json:
    """The host's usage in Anthropic's disjoint buckets, in tokens.

    What the host did not count, or counts as nothing although it is there, is guessed by size.
    """
    guess = guessed(input_estimate, output_bytes)
    if not told:
        return guess
    return completed(usage(told, traits), guess, counts_input=bool(told.get("prompt_tokens")))


def usage(told: Json, traits: Traits) -> Json:
    """Chat's usage in Anthropic's disjoint buckets, in tokens."""
    prompt = told.get("prompt_tokens_details") or {}
    read, wrote = prompt.get("cached_tokens") or 0, prompt.get("cache_write_tokens") or 0
    thought = (told.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    output = told.get("completion_tokens") or 0
    return {
        "input_tokens": max(0, (told.get("prompt_tokens") or 0) - read - wrote),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": wrote,
        "output_tokens": output + thought if traits.splits_reasoning else output,
        "output_tokens_details": {"thinking_tokens": thought},
    }


def guessed(input_estimate: int, output_bytes: int) -> Json:
    """A usage where the host gave none: by size, so that nothing is free; ``estimated`` says which
    counts are, to the client and to the meters."""
    output = -(-output_bytes // BYTES_A_TOKEN)
    return {
        "input_tokens": max(1, input_estimate),
        "output_tokens": int(output),
        "estimated": ["input_tokens", "output_tokens"],
    }


def completed(used: Json, guess: Json, *, counts_input: bool) -> Json:
    """The host's usage with what it did not count, or counts as nothing, as ``guessed`` has it."""
    missing = [] if counts_input else ["input_tokens"]
    if not used["output_tokens"] and guess["output_tokens"]:
        missing.append("output_tokens")
    if not missing:
        return used
    return used | {name: guess[name] for name in missing} | {"estimated": missing}


def stop_reason(told: str | None, *, called: bool, refused: bool) -> str:
    """Anthropic's reason; hosts do not agree on what they say of an answer with calls.

    Raises ValueError for an answer that its host gave up.
    """
    if told == "error":
        raise ValueError("the host could not finish its answer")
    if refused:
        return "refusal"
    found = _STOPS.get(told or "stop", "end_turn")
    return "tool_use" if called and found == "end_turn" else found


def tool_use(call: Json, names: Names) -> Json:
    """The block that a call begins, its input still empty. Ids are unique in a conversation."""
    name = _NO_ID.sub("_", call.get("id") or "") or f"call_{token_hex(12)}"
    given = call.get("function") or {}
    return {"type": "tool_use", "id": name, "name": names.back(given["name"]), "input": {}}


def message(name: object, model: str, used: Json) -> Json:
    """An Anthropic message without content."""
    return {"id": f"msg_{name or 0}", "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": used}  # fmt: skip


def answer(
    status: int, body: bytes, model: str, names: Names, traits: Traits, input_estimate: int
) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client, who asked for ``model``."""
    try:
        told = decoded(body)
    except ValueError:
        told = {}
    if status >= 400 or not isinstance(told, dict) or not told.get("choices"):
        status, error = failure(status if status >= 400 else 502, told)
        return status, _encode({"type": "error", "error": error})
    choice = told["choices"][0]
    blocks = _blocks(choice["message"], names)
    used = counted(told.get("usage"), traits, input_estimate, len(_encode(blocks)) if blocks else 0)
    reason = stop_reason(
        choice.get("finish_reason"),
        called=any(block["type"] == "tool_use" for block in blocks),
        refused=bool(choice["message"].get("refusal")),
    )
    whole = message(told.get("id"), model, used)
    return status, _encode(whole | {"content": blocks, "stop_reason": reason})


def listed(content: list[Json]) -> Iterator[tuple[str, str]]:
    """("thinking" or "text", what) where a host has both in one list."""
    for part in content:
        if part["type"] == "thinking":
            yield "thinking", "".join(one["text"] for one in part["thinking"])
        elif part["type"] == "text":
            yield "text", part["text"]


def _blocks(said: Json, names: Names) -> list[Json]:
    blocks: list[Json] = []
    thought = said.get("reasoning_content") or said.get("reasoning")
    content = said.get("content") or said.get("refusal") or ""
    found = listed(content) if isinstance(content, list) else [("text", content)]
    for kind, text in [("thinking", thought), *found]:
        if text:
            block = {"type": kind, kind: text}
            blocks.append(block | {"signature": SIGNATURE} if kind == "thinking" else block)
    for call in said.get("tool_calls") or ():
        arguments = call["function"].get("arguments") or "{}"
        blocks.append(tool_use(call, names) | {"input": tool_input(arguments)})
    return blocks


def tool_input(arguments: str) -> Json:
    """What a call is given; what is no JSON object reaches the tool, which refuses it."""
    try:
        given = decoded(arguments)
    except ValueError:
        given = None
    return given if isinstance(given, dict) else {"arguments": arguments}


def failure(status: int, told: object) -> tuple[int, Json]:
    """(status, error) in Anthropic's words; a prompt that is too long makes an agent compact."""
    error = _error(told)
    said = error.get("message") or error.get("detail")
    text = said if isinstance(said, str) else _encode(said).decode() if said else ""
    text = _ACCOUNT.sub("(hidden)", text) or "The provider gave no reason."
    said = f"{error.get('code')} {error.get('type')} {text}"
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return 400, {"type": "invalid_request_error", "message": f"prompt is too long: {text}"}
    status = 529 if status == 503 else status
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return status, {"type": kind, "message": text}


def broken(told: Json) -> Json:
    """The error of a stream that a host ends with one."""
    return given_up(told)[1]


def given_up(told: Json) -> tuple[int, Json]:
    """(status, error) of an answer that its host began and ends with an error."""
    error = _error(told)
    found = (_status(error.get(key)) for key in ("code", "status", "type"))
    status = next((status for status in found if status), 500)
    return failure(400 if _TOO_LONG.search(str(error)) else status, told)


def _error(told: object) -> Json:
    """The object that says what went wrong; some hosts have it bare, or only a sentence."""
    if not isinstance(told, dict):
        return {}
    error = told.get("error") or told
    return error if isinstance(error, dict) else {**told, "message": error}


def _status(said: object) -> int | None:
    """The HTTP status that an error's code, status or type means."""
    number = said if isinstance(said, int) else _CODES.get(str(said)) or str(said)
    number = int(number) if str(number).isdecimal() else 0
    return number if 400 <= number < 600 else None

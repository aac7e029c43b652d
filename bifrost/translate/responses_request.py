"""A Messages request in the words of OpenAI's Responses (types of anthropic 2.12, openai 3.57).

Nothing is kept at the host: the conversation goes there whole each time. Its reasoning items, which
it encrypts, travel to the client inside the signatures of thinking blocks and come back in them.

Dropped by rule: what ``chat_request`` drops, and thinking that another host or model signed.
Refused: what only Claude's own service runs or holds, and ``stop_sequences``.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import (
    CHOICES,
    Names,
    blocks,
    call_id,
    effort,
    functions,
    parts,
    prose,
    refuse_held,
    result_parts,
    untold,
)
from bifrost.translate.translation import SENSELESS, Traits

Json = dict[str, Any]

SEAL = "bifrost-responses:"
LEAST_OUTPUT = 16  # tokens; the host refuses a lower limit
_ENCRYPTED = "reasoning.encrypted_content"
_encode = msgspec.json.Encoder().encode


class Reasoning(msgspec.Struct, omit_defaults=True):
    """What a reasoning item of the model ``model`` must bring back, beside its summary.

    ``phase`` is that of the message behind it, which Anthropic's blocks have no place for.
    """

    id: str
    encrypted_content: str
    model: str
    phase: str | None = None

    def sealed(self) -> str:
        """As the signature of a thinking block, or the data of a redacted one."""
        return SEAL + base64.b64encode(_encode(self)).decode()

    def item(self, summary: str) -> Json:
        """The item for the host."""
        told = [{"type": "summary_text", "text": summary}] if summary else []
        return {"type": "reasoning", "id": self.id, "summary": told,
                "encrypted_content": self.encrypted_content}  # fmt: skip


_decode = msgspec.json.Decoder(Reasoning).decode


def opened(seal: object) -> Reasoning | None:
    """What was sealed; None for anything that this gateway did not seal."""
    if not isinstance(seal, str) or not seal.startswith(SEAL):
        return None
    try:
        return _decode(base64.b64decode(seal[len(SEAL) :], validate=True))
    except SENSELESS:
        return None


def request(asked: Json, model: str, names: Names, max_tokens: int | None, traits: Traits) -> Json:
    """The Responses request for a Messages request; ``max_tokens`` lowers the client's own limit.

    Raises InvalidRequest for what Responses cannot be told.
    """
    refuse_held(asked, model)
    if asked.get("stop_sequences"):
        raise InvalidRequest(f"stop_sequences: the model {model!r} takes none.")
    wanted: Json = {"model": model, "store": False}
    wanted["input"] = _items(asked["messages"], model, names, traits)
    if not wanted["input"]:
        raise InvalidRequest("messages: there is nothing in them to answer.")
    instructions = prose(asked.get("system") or ())
    if instructions:
        wanted["instructions"] = instructions
    own = asked.get("max_tokens")
    least = None if own is None else max(own, LEAST_OUTPUT)
    limits = [one for one in (least, max_tokens, traits.max_output) if one]
    if limits:
        wanted["max_output_tokens"] = min(limits)
    if traits.sampling:
        wanted |= {k: asked[k] for k in ("temperature", "top_p") if asked.get(k) is not None}
    wanted |= _thinking(asked, traits)
    form = (asked.get("output_config") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        schema = {"type": "json_schema", "name": "answer", "schema": form["schema"]}
        wanted["text"] = {"format": schema}
    if asked.get("tools"):
        wanted |= _tools(asked, names)
    if asked.get("stream"):
        wanted["stream"] = True
    return wanted


def thinks(asked: Json) -> bool:
    """Whether the client is to get what comes of thinking; one that did not ask expects none."""
    told = (asked.get("thinking") or {}).get("type")
    return told != "disabled" and bool(told or effort(asked, Traits(reasons=True)))


def _thinking(asked: Json, traits: Traits) -> Json:
    hard = effort(asked, traits)
    reasoning = {"effort": hard} if hard else {}
    if traits.reasons and thinks(asked):
        return {"reasoning": reasoning | {"summary": "auto"}, "include": [_ENCRYPTED]}
    return {"reasoning": reasoning} if reasoning else {}


def _tools(asked: Json, names: Names) -> Json:
    tools = []
    for function in functions(asked, names):
        schema = function["parameters"]
        if schema.get("type") == "object":  # which the host refuses without properties
            function["parameters"] = {"properties": {}, **schema}
        tools.append({"type": "function", **function, "strict": False})
    wanted: Json = {"tools": tools}
    choice = asked.get("tool_choice") or {}
    if choice.get("type") == "tool":
        wanted["tool_choice"] = {"type": "function", "name": names.to(choice["name"])}
    elif choice:
        wanted["tool_choice"] = CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        wanted["parallel_tool_calls"] = False
    return wanted


def _items(turns: list[Json], model: str, names: Names, traits: Traits) -> list[Json]:
    """The conversation, every call answered right behind the calls of its turn.

    A call without its result gets one that says so; a result without its call becomes the user's
    text.
    """
    told: list[Json] = []
    due: list[str] = []
    behind = 0  # where the results of the last calls go
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if role == "assistant":
            told[behind:behind] = _missing(due)
            said = _assistant(blocks(content), model, names, traits)
            due = [one["call_id"] for one in said if one["type"] == "function_call"]
            told += said
            behind = len(told)
        elif role == "system":
            text = prose(content)
            told += [_message("developer", text)] if text else []
        else:
            results, said = _user(blocks(content), due, names, traits)
            told[behind:behind] = results
            behind += len(results)
            told += [_message("user", said)] if said else []
    told[behind:behind] = _missing(due)
    return told


def _message(role: str, content: str | list[Json]) -> Json:
    return {"type": "message", "role": role, "content": content}


def _missing(due: list[str]) -> list[Json]:
    return [_output(name, "(no result)") for name in due]


def _output(name: str, output: str | list[Json]) -> Json:
    return {"type": "function_call_output", "call_id": name, "output": output}


def _assistant(told: list[Json], model: str, names: Names, traits: Traits) -> list[Json]:
    items: list[Json] = []
    phase: str | None = None
    for block in told:
        kind = block["type"]
        if kind == "text" and block["text"]:
            items.append(_message("assistant", block["text"]) | ({"phase": phase} if phase else {}))
        elif kind == "tool_use":
            arguments = _encode(block["input"]).decode()
            items.append({"type": "function_call", "call_id": call_id(block["id"]),
                          "name": names.to(block["name"]), "arguments": arguments})  # fmt: skip
            phase = None
        elif kind in ("thinking", "redacted_thinking"):
            kept = opened(block.get("signature" if kind == "thinking" else "data"))
            if kept and traits.reasons and kept.model == model:
                items.append(kept.item(block.get("thinking") or ""))
                phase = kept.phase
        elif kind != "text":
            raise untold(kind)
    while items and items[-1]["type"] == "reasoning":  # refused without what it led to
        items.pop()
    return items


def _user(
    told: list[Json], due: list[str], names: Names, traits: Traits
) -> tuple[list[Json], list[Json]]:
    """The results of calls that are ``due``, which they leave, and the parts of the message."""
    results: list[Json] = []
    said: list[Json] = []
    for block in told:
        if block["type"] != "tool_result":
            said += _parts(block, traits)
            continue
        name = call_id(block["tool_use_id"])
        found = _result(block, names, traits)
        if name in due:
            due.remove(name)
            text = [part.get("text") for part in found]
            results.append(_output(name, found if None in text else "\n".join(map(str, text))))
        else:
            said += [_text("Result of an earlier call:"), *found]
    return results, said


def _result(block: Json, names: Names, traits: Traits) -> list[Json]:
    found = [_part(part) for part in result_parts(block, names, traits)]
    if not block.get("is_error"):
        return found
    first = found.pop(0)["text"] if found and "text" in found[0] else ""
    return [_text(f"Error: {first}"), *found]


def _parts(block: Json, traits: Traits) -> list[Json]:
    source = block.get("source") or {}
    if block["type"] == "document" and source.get("type") == "url":
        return [{"type": "input_file", "file_url": source["url"]}]
    return [_part(part) for part in parts(block, traits)]


def _part(part: Json) -> Json:
    """A part of a message, from Chat's words."""
    if part["type"] == "text":
        return _text(part["text"])
    if part["type"] == "image_url":
        return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
    return {"type": "input_file", **part["file"]}


def _text(text: str) -> Json:
    return {"type": "input_text", "text": text}

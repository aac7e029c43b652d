"""A Messages request in the words of Gemini's generateContent (types of google-genai 3.6).

Dropped by rule: ``cache_control`` (Gemini caches by itself), the text of earlier thinking and the
signatures of other providers, the volatile billing line of Claude Code, ``metadata``,
``disable_parallel_tool_use`` and the fields that Gemini has no word for. Refused: what only
Claude's own service runs or holds.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections import deque
from hashlib import sha256
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import Names, effort, prose, refuse_held, titled, untold
from bifrost.translate.translation import Traits

Json = dict[str, Any]

MOST_STOPS = 5
SIGNED = "bifrost-gemini:"  # what our signatures begin with; bare where Gemini signed nothing
# What Google documents for calls that no Gemini made: without any signature it refuses them.
UNSIGNED = "skip_thought_signature_validator"
_CHOICES = {"auto": "AUTO", "any": "ANY", "none": "NONE"}
_LEVELS = {"low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
# Gemini 2.x has no levels; these are the budgets that Google gives for them, in tokens.
_BUDGETED = "gemini-2."
_BUDGETS = {"LOW": 1_024, "MEDIUM": 8_192, "HIGH": 24_576, "XHIGH": 24_576}
_SAMPLING = {"temperature": "temperature", "top_p": "topP", "top_k": "topK"}
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MEDIA = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp",
          "gif": "image/gif", "pdf": "application/pdf"}  # fmt: skip
_SUFFIX = re.compile(r"\.(\w+)(?:[?#].*)?$")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class GeminiNames(Names):
    """Tools' names as Gemini takes them (letters, digits and _.:- behind a letter), and back."""

    def to(self, name: str) -> str:
        """The name for the host."""
        if _NAME.fullmatch(name):
            return name
        short = f"t_{_NO_NAME.sub('_', name)[:53]}_{sha256(name.encode()).hexdigest()[:8]}"
        self._own[short] = name
        return short


class _Turn(msgspec.Struct):
    """What one side said until the other did."""

    role: str
    parts: list[Json] = []
    results: list[tuple[str, Json]] = []  # (id of its call, response)
    signatures: dict[str, str] = {}  # by the id of the call


def signed(signature: str, call: str) -> str:
    """A call's thought signature in a form that Anthropic clients carry and send back."""
    return SIGNED + b64encode(_encode({"signature": signature, "call": call})).decode()


def _carried(told: object) -> dict[str, str]:
    """A call's signature by its id, out of what ``signed`` made; nothing out of all else."""
    if not isinstance(told, str) or not told.startswith(SIGNED):
        return {}
    try:
        held = _decode(b64decode(told[len(SIGNED) :], validate=True))
        return {str(held["call"]): str(held["signature"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def request(asked: Json, model: str, names: Names, max_tokens: int | None, traits: Traits) -> Json:
    """The Gemini request for a Messages request; ``max_tokens`` lowers the client's own limit.

    Raises InvalidRequest for what Gemini cannot be told.
    """
    refuse_held(asked, model)
    wanted: Json = {"contents": _contents(asked["messages"], names, traits)}
    system = prose(asked.get("system") or ())
    if system:
        wanted["systemInstruction"] = {"parts": [{"text": system}]}
    if asked.get("tools"):
        wanted |= _tools(asked, names)
    config = _config(asked, model, max_tokens, traits)
    return wanted | {"generationConfig": config} if config else wanted


def _config(asked: Json, model: str, max_tokens: int | None, traits: Traits) -> Json:
    config: Json = {}
    limits = [one for one in (asked.get("max_tokens"), max_tokens, traits.max_output) if one]
    if limits:
        config["maxOutputTokens"] = min(limits)
    stops = asked.get("stop_sequences") or ()
    if len(stops) > MOST_STOPS:
        raise InvalidRequest(f"stop_sequences: the model {model!r} takes at most {MOST_STOPS}.")
    if stops:
        config["stopSequences"] = stops
    if traits.sampling:
        known = {name: asked[key] for key, name in _SAMPLING.items() if asked.get(key) is not None}
        config |= known
    thinking = _thinking(asked, model, traits)
    if thinking:
        config["thinkingConfig"] = thinking
    form = (asked.get("output_config") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        config |= {"responseMimeType": "application/json", "responseJsonSchema": form["schema"]}
    return config


def _thinking(asked: Json, model: str, traits: Traits) -> Json:
    if not traits.reasons:
        return {}
    hard, thinking = effort(asked, traits), asked.get("thinking") or {}
    told: Json = {}
    if hard and model.startswith(_BUDGETED):
        told = {"thinkingBudget": _BUDGETS[_LEVELS[hard]]}
    elif hard:
        told = {"thinkingLevel": _LEVELS[hard]}
    wished = thinking["type"] != "disabled" if thinking else bool(hard)
    return told | {"includeThoughts": True} if wished else told


def _tools(asked: Json, names: Names) -> Json:
    tools = []
    for tool in asked["tools"]:
        if (tool.get("type") or "custom") != "custom":
            raise InvalidRequest(f"Tool {tool['type']!r} runs only on Claude's own service.")
        declared = {"name": names.to(tool["name"]), "parametersJsonSchema": tool["input_schema"]}
        if tool.get("description"):
            declared["description"] = tool["description"]
        tools.append(declared)
    wanted: Json = {"tools": [{"functionDeclarations": tools}]}
    choice = asked.get("tool_choice") or {}
    if choice.get("type") == "tool":
        called = {"mode": "ANY", "allowedFunctionNames": [names.to(choice["name"])]}
        wanted["toolConfig"] = {"functionCallingConfig": called}
    elif choice:
        wanted["toolConfig"] = {"functionCallingConfig": {"mode": _CHOICES[choice["type"]]}}
    return wanted


def _contents(messages: list[Json], names: Names, traits: Traits) -> list[Json]:
    """The turns as Gemini demands them: a user's at both ends, each call answered right behind.

    A call without its result gets one that says so; a result without its call becomes the user's
    text. Results stand alone: behind one that also holds text or images, Gemini 3 takes the
    conversation for one that the model ended, and refuses it.
    """
    contents: list[Json] = []
    due: list[tuple[str, str]] = []
    for turn in _turns(messages, names, traits):
        if turn.role == "model":
            contents.append({"role": "model", "parts": _marked(turn)})
            due = _calls(turn)
            continue
        answers, lost = _answers(due, turn.results)
        contents += [{"role": "user", "parts": one} for one in (answers, lost + turn.parts) if one]
        due = []
    if due:
        contents.append({"role": "user", "parts": _answers(due, [])[0]})
    if not contents:
        raise InvalidRequest("messages: nothing is said in them.")
    if contents[0]["role"] == "model":
        contents.insert(0, {"role": "user", "parts": [{"text": "Begin."}]})
    if contents[-1]["role"] == "model":
        contents.append({"role": "user", "parts": [{"text": "Continue."}]})
    return contents


def _turns(messages: list[Json], names: Names, traits: Traits) -> list[_Turn]:
    """What is said, turn by turn; what says nothing is left out, as Gemini refuses it."""
    turns: list[_Turn] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            content = prose(content)
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said = _model(blocks, names) if role == "assistant" else _user(blocks, names, traits)
        if not said.parts and not said.results:
            continue
        if turns and turns[-1].role == said.role:
            turns[-1].parts += said.parts
            turns[-1].results += said.results
            turns[-1].signatures |= said.signatures
        else:
            turns.append(said)
    return turns


def _model(blocks: list[Json], names: Names) -> _Turn:
    turn = _Turn("model")
    for block in blocks:
        kind = block["type"]
        if kind == "text":
            turn.parts += _text(block["text"])
        elif kind == "tool_use":
            given = block["input"]
            arguments = given if isinstance(given, dict) else {"arguments": given}
            call = {"id": block["id"], "name": names.to(block["name"]), "args": arguments}
            turn.parts.append({"functionCall": call})
        elif kind in ("thinking", "redacted_thinking"):
            turn.signatures |= _carried(block.get("signature") or block.get("data"))
        else:
            raise untold(kind)
    return turn


def _marked(turn: _Turn) -> list[Json]:
    """The parts with the signatures of their calls; the first call must have one."""
    calls = [part for part in turn.parts if "functionCall" in part]
    for number, part in enumerate(calls):
        found = turn.signatures.get(part["functionCall"]["id"])
        if found or number == 0:
            part["thoughtSignature"] = found or UNSIGNED
    return turn.parts


def _calls(turn: _Turn) -> list[tuple[str, str]]:
    """(id, name) of each call of a turn."""
    calls = [part["functionCall"] for part in turn.parts if "functionCall" in part]
    return [(call["id"], call["name"]) for call in calls]


def _answers(
    due: list[tuple[str, str]], results: list[tuple[str, Json]]
) -> tuple[list[Json], list[Json]]:
    """(a functionResponse for each call in its order, the results without a call as text)."""
    held: dict[str, deque[Json]] = {}
    for call, response in results:
        held.setdefault(call, deque()).append(response)
    answers = []
    for call, name in due:
        found = held.get(call)
        response = found.popleft() if found else {"output": "(no result)"}
        answers.append({"functionResponse": {"id": call, "name": name, "response": response}})
    left = (text for responses in held.values() for one in responses for text in one.values())
    return answers, [{"text": f"Result of an earlier call: {text}"} for text in left]


def _user(blocks: list[Json], names: Names, traits: Traits) -> _Turn:
    turn = _Turn("user")
    for block in blocks:
        if block["type"] == "tool_result":
            turn.results.append((block["tool_use_id"], _result(block, turn.parts, names, traits)))
        else:
            turn.parts += _parts(block, traits)
    return turn


def _result(block: Json, parts: list[Json], names: Names, traits: Traits) -> Json:
    """A result's response; what is no text in it goes into the parts behind."""
    inner = block.get("content") or ()
    inner = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner
    texts = []
    for one in inner:
        if one["type"] == "tool_reference":
            texts.append(f"The tool {names.to(one['tool_name'])} can be used now.")
            continue
        for part in _parts(one, traits):
            texts.append(part["text"]) if "text" in part else parts.append(part)
    return {"error" if block.get("is_error") else "output": "\n".join(texts)}


def _text(text: str) -> list[Json]:
    return [{"text": text}] if text else []


def _parts(block: Json, traits: Traits) -> list[Json]:
    """A block of a user's turn as parts of a content."""
    kind, source = block["type"], block.get("source") or {}
    form = source.get("type") if isinstance(source, dict) else None
    if kind == "text":
        return _text(block["text"])
    seen = kind == "document" or (kind == "image" and traits.vision)
    if seen and form == "base64":
        return [{"inlineData": {"mimeType": source["media_type"], "data": source["data"]}}]
    if seen and form == "url":
        return [{"fileData": _file(source["url"], kind)}]
    if kind == "document" and form == "text":
        return _text("\n".join([*titled(block), source["data"]]))
    if kind == "document" and form == "content":
        inner = source["content"]
        inner = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner
        return [part for one in inner for part in _parts(one, traits)]
    if kind == "search_result":
        return _text("\n".join([*titled(block), *(one["text"] for one in block["content"])]))
    raise untold(kind)


def _file(url: str, kind: str) -> Json:
    """Gemini wants the type of what a url names, Anthropic does not say it."""
    suffix = _SUFFIX.search(url)
    found = _MEDIA.get(suffix[1].lower()) if suffix else None
    return {"fileUri": url, "mimeType": found or _MEDIA["pdf" if kind == "document" else "jpg"]}

"""What Bedrock's Converse refuses, in its words as far as they are known.

Sources: botocore's service model ``bedrock-runtime`` (1.44.8), AWS's guide, and the errors that
clients of the service report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bifrost.errors import InvalidRequest

Json = dict[str, Any]

_TOP = frozenset({
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "requestMetadata",
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "performanceConfig",
    "serviceTier", "outputConfig", "promptVariables", "projectIdentifier",
})  # fmt: skip
_INFERENCE = frozenset({"maxTokens", "temperature", "topP", "stopSequences"})
_BLOCKS = frozenset({
    "text", "image", "document", "toolUse", "toolResult", "cachePoint", "reasoningContent",
})  # fmt: skip
_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TITLE = re.compile(r"[a-zA-Z0-9()\[\]-]+(?: [a-zA-Z0-9()\[\]-]+)*")
_RICH = re.compile(r"claude|amazon\.nova")
_TURNS = "A conversation must alternate between user and assistant roles."


def check(body: Json, model: str) -> None:
    """Raises InvalidRequest for what the service answers with a ValidationException."""
    for key in body.keys() - _TOP:
        raise _extraneous("", key)
    messages = body.get("messages") or []
    if not messages or messages[0]["role"] != "user":
        raise InvalidRequest("A conversation must start with a user message. Try again.")
    if messages[-1]["role"] != "user" and "claude" not in model:
        raise InvalidRequest("The conversation must end with a user message.")
    _inference(body.get("inferenceConfig") or {})
    for number, block in enumerate(body.get("system") or ()):
        _block(block, f"system.{number}", model, ("text", "cachePoint"))
    _turns(messages, model)
    _tools(body, model)
    _pages(body)


def _extraneous(place: str, key: str) -> InvalidRequest:
    return InvalidRequest(
        f"Malformed input request: #{place}: extraneous key [{key}] is not permitted, please "
        "reformat your input and try again."
    )


def _inference(config: Json) -> None:
    for key in config.keys() - _INFERENCE:
        raise _extraneous("/inferenceConfig", key)
    if not isinstance(config.get("maxTokens", 1), int) or config.get("maxTokens", 1) < 1:
        raise InvalidRequest("The maxTokens field must be at least 1.")
    for name in ("temperature", "topP"):
        if not 0 <= config.get(name, 0) <= 1:
            raise InvalidRequest(f"The {name} field must be between 0 and 1.")
    if "" in config.get("stopSequences", ()):
        raise InvalidRequest("A stop sequence is empty.")


def _turns(messages: list[Json], model: str) -> None:
    before = ""
    due: list[str] = []
    for number, message in enumerate(messages):
        place = f"messages.{number}"
        if message.keys() != {"role", "content"} or message["role"] not in ("user", "assistant"):
            raise InvalidRequest(f"{place}: expected a role and content.")
        if message["role"] == before:
            raise InvalidRequest(_TURNS)
        before = message["role"]
        if not message["content"]:
            raise InvalidRequest(f"The content field in the Message object at {place} is empty.")
        for at, block in enumerate(message["content"]):
            _block(block, f"{place}.content.{at}", model, _BLOCKS)
        results = [one["toolResult"]["toolUseId"] for one in _of(message, "toolResult")]
        if len(results) > len(due):
            raise InvalidRequest(
                f"The number of toolResult blocks at {place}.content exceeds the number of toolUse "
                "blocks of previous turn."
            )
        if sorted(results) != sorted(due):
            missing = ", ".join(sorted(set(due) - set(results)))
            raise InvalidRequest(
                f"Expected toolResult blocks at {place}.content for the following Ids: {missing}"
            )
        due = [one["toolUse"]["toolUseId"] for one in _of(message, "toolUse")]
        if len(set(due)) < len(due):
            raise InvalidRequest(f"The toolUse blocks at {place}.content have the same Ids.")
        own = "toolUse" if before == "user" else "toolResult"
        if list(_of(message, own)):
            raise InvalidRequest(f"{own} blocks are not for the role {before} at {place}.")


def _of(message: Json, kind: str) -> Iterator[Json]:
    return (block for block in message["content"] if kind in block)


def _block(block: Json, place: str, model: str, kinds: Any) -> None:
    if len(block) != 1 or not block.keys() <= set(kinds):
        raise InvalidRequest(f"The ContentBlock object at {place} must set one of its fields.")
    [(kind, told)] = block.items()
    if kind == "text" and not told.strip():
        raise InvalidRequest(f"The text field in the ContentBlock object at {place} is blank.")
    if kind == "cachePoint":
        _point(told, model)
    elif kind in ("toolUse", "toolResult"):
        if not _ID.fullmatch(told["toolUseId"]):
            raise InvalidRequest(f"{place}.{kind}.toolUseId: {told['toolUseId']!r} is no id.")
        if kind == "toolUse" and not (
            _NAME.fullmatch(told["name"]) and isinstance(told["input"], dict)
        ):
            raise InvalidRequest(f"{place}.toolUse: the name or the input is none.")
        for at, one in enumerate(told["content"] if kind == "toolResult" else ()):
            kept = ("text", "json", "image", "document")
            _block(one, f"{place}.toolResult.content.{at}", model, kept)
            if "text" not in one and not _RICH.search(model):
                raise InvalidRequest("This model takes only text in a toolResult.")
        if kind == "toolResult" and not told["content"]:
            raise InvalidRequest(f"{place}.toolResult: the content is empty.")
        if "status" in told and not _RICH.search(model):
            raise InvalidRequest("This model doesn't support the status field. Remove status.")
    elif kind == "image" and told["format"] not in ("png", "jpeg", "gif", "webp"):
        raise InvalidRequest(f"{place}.image.format: {told['format']!r} is none.")
    elif kind == "reasoningContent" and "claude" not in model:
        raise InvalidRequest("This model doesn't support the reasoningContent field.")


def _point(told: Json, model: str) -> None:
    if told.get("type") != "default" or not told.keys() <= {"type", "ttl"}:
        raise InvalidRequest("A cachePoint has the type 'default'.")
    if not _RICH.search(model) or ("ttl" in told and "claude" not in model):
        raise InvalidRequest(
            "You invoked an unsupported model or your request did not allow prompt caching."
        )


def _tools(body: Json, model: str) -> None:
    uses = any(
        "toolUse" in one or "toolResult" in one
        for turn in body["messages"]
        for one in turn["content"]
    )
    config = body.get("toolConfig")
    if config is None:
        if uses:
            raise InvalidRequest(
                "The toolConfig field must be defined when using toolUse and toolResult content "
                "blocks."
            )
        return
    if not config.get("tools"):
        raise InvalidRequest("toolConfig.tools: Member must have length greater than or equal to 1")
    names = []
    for number, tool in enumerate(config["tools"]):
        if "cachePoint" in tool:
            if "nova" in model:
                raise _extraneous(f"/toolConfig/tools/{number}", "cachePoint")
            _point(tool["cachePoint"], model)
            continue
        spec = tool["toolSpec"]
        names.append(spec["name"])
        schema = spec["inputSchema"]["json"]
        if not _NAME.fullmatch(spec["name"]) or schema.get("type") != "object":
            raise InvalidRequest(f"toolConfig.tools.{number}.toolSpec: the name or schema is none.")
        if "description" in spec and not spec["description"]:
            raise InvalidRequest(f"toolConfig.tools.{number}.toolSpec.description is empty.")
        for key in schema.keys() - {"type", "properties", "required"} if "nova" in model else ():
            raise _extraneous(f"/toolConfig/tools/{number}/toolSpec/inputSchema/json", key)
    if len(set(names)) < len(names):
        raise InvalidRequest("The toolConfig has tools with the same name.")
    for choice, told in (config.get("toolChoice") or {}).items():
        known = {"any": "claude|nova|mistral", "tool": "claude|nova", "auto": ""}[choice]
        if not re.search(known, model):
            raise InvalidRequest(
                f"This model doesn't support the toolConfig.toolChoice.{choice} field. Remove "
                f"toolConfig.toolChoice.{choice} and try again."
            )
        if choice == "tool" and told["name"] not in names:
            raise InvalidRequest(f"toolConfig.toolChoice.tool.name: {told['name']!r} is none.")


def _pages(body: Json) -> None:
    """Documents have names of their own, and stand beside a text."""
    names: list[str] = []
    for turn in body["messages"]:
        inner = [part for one in _of(turn, "toolResult") for part in one["toolResult"]["content"]]
        names += [
            one["document"]["name"] for one in [*turn["content"], *inner] if "document" in one
        ]
        if list(_of(turn, "document")) and not list(_of(turn, "text")):
            raise InvalidRequest("A document needs a ContentBlock with a text beside it.")
    for name in names:
        if not _TITLE.fullmatch(name) or len(name) > 200:
            raise InvalidRequest(f"The document name {name!r} has characters that it may not have.")
    if len(set(names)) < len(names):
        raise InvalidRequest("Documents of a request must have different names.")

"""Responses items as turns of Claude's: user and assistant alternate, every call is answered."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.messages_parts import blocks, text
from bifrost.translate.messages_tools import ToolNames
from bifrost.translate.sealed_thinking import opened
from bifrost.translate.translation import Traits

Json = dict[str, Any]

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALLS = {"function_call": False, "custom_tool_call": True}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
# What ran at OpenAI, and what is told elsewhere.
_PASSED = ("additional_tools", "configuration_update", "web_search_call")
_SILENT = text("(no message)")
_GO_ON = text("Continue.")
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Conversation:
    """The items of one request. ``system`` has the texts that come before everything said,
    ``turns`` the messages, the last one the user's.

    Building one raises InvalidRequest for an item that Claude cannot be told.
    """

    def __init__(self, items: list[Json], names: ToolNames, traits: Traits) -> None:
        self.system: list[str] = []
        self.turns: list[Json] = []
        self._items, self._names, self._traits = items, names, traits
        self._outputs: dict[str, list[int]] = {}  # places of the results of a call, last first
        for index in reversed(range(len(items))):
            if items[index].get("type") in _OUTPUTS:
                self._outputs.setdefault(str(items[index].get("call_id")), []).append(index)
        self._ids: set[str] = set()
        self._due: list[tuple[str, int, str]] = []  # of this turn: call id, place, id for Claude
        self._told: set[int] = set()  # places of results
        self._thoughts: list[msgspec.Raw] = []
        for index, item in enumerate(items):
            self._item(index, item)
        self._answer()
        self._framed()

    def _item(self, index: int, item: Json) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            self._message(index, item)
        elif kind == "agent_message":  # Codex's agents among each other
            self._say("user", blocks(item["content"], f"input[{index}].content", self._traits))
        elif kind in _CALLS:
            self._call(index, item, free=_CALLS[kind])
        elif kind in _OUTPUTS:
            self._answer()
            if index not in self._told:
                self._say("user", [text("Result of an earlier call:"), *self._content(index)])
        elif kind == "reasoning":
            block = opened(item.get("encrypted_content"))
            self._thoughts += [block] if block is not None else []
        elif kind == "item_reference":
            raise InvalidRequest(f"input[{index}]: nothing is kept here; send the item itself.")
        elif kind not in _PASSED:
            raise InvalidRequest(f"input[{index}]: this model takes no item of type {kind!r}.")

    def _message(self, index: int, item: Json) -> None:
        role = item["role"]
        said = blocks(item["content"], f"input[{index}].content", self._traits)
        if role in ("user", "assistant"):
            self._say(role, said)
        elif role not in ("system", "developer"):
            raise InvalidRequest(f"input[{index}]: there is no role {role!r}.")
        elif not self.turns and all(block["type"] == "text" for block in said):
            self.system += [block["text"] for block in said]
        elif said:
            texts = [block["text"] for block in said if block["type"] == "text"]
            others = [block for block in said if block["type"] != "text"]
            whole = "\n\n".join(texts)
            self._say("user", [text(f"<developer>\n{whole}\n</developer>"), *others])

    def _call(self, index: int, item: Json, *, free: bool) -> None:
        name = self._names.call(item, free=free)
        given = {"input": item["input"]} if free else _given(item["arguments"])
        theirs = item["call_id"]
        ours = self._id(theirs)
        self._say("assistant", [{"type": "tool_use", "id": ours, "name": name, "input": given}])
        self._due.append((theirs, index, ours))

    def _id(self, theirs: str) -> str:
        """A call's id as Claude takes it: unique in the conversation, and the same every time."""
        plain = bool(_ID.fullmatch(theirs))
        name = theirs if plain else f"call_{sha256(theirs.encode()).hexdigest()[:32]}"
        ours, again = name, 1
        while ours in self._ids:
            again += 1
            ours = f"{name}_{again}"
        self._ids.add(ours)
        return ours

    def _say(self, role: str, said: list[Any]) -> None:
        if role == "user":
            self._answer()
            self._thoughts = []  # nothing came of them; a turn may not end with them
        elif said and self._thoughts:
            said, self._thoughts = [*self._thoughts, *said], []
        if not said:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += said
        else:
            self.turns.append({"role": role, "content": list(said)})

    def _answer(self) -> None:
        """Answers the calls of the assistant's turn, which ends with that."""
        due, self._due = self._due, []
        said: list[Json] = []
        for theirs, place, ours in due:
            waiting = self._outputs.get(theirs) or []
            while waiting and waiting[-1] < place:
                waiting.pop()  # came before its call
            content: Any = "(no result)"
            if waiting:
                self._told.add(waiting[-1])
                content = self._content(waiting.pop())
            result = {"type": "tool_result", "tool_use_id": ours}
            said.append({**result, "content": content} if content else result)
        if said:
            self._say("user", said)

    def _content(self, index: int) -> list[Json]:
        return blocks(self._items[index]["output"], f"input[{index}].output", self._traits)

    def _framed(self) -> None:
        """The user begins and ends: Claude takes no other beginning, and an assistant's turn at the
        end would be gone on with instead of answered."""
        if self.turns and self.turns[0]["role"] == "assistant":
            self.turns.insert(0, {"role": "user", "content": [dict(_SILENT)]})
        if not self.turns or self.turns[-1]["role"] == "assistant":
            self.turns.append({"role": "user", "content": [dict(_GO_ON)]})


def _given(arguments: str) -> msgspec.Raw | Json:
    """What a call was given, byte for byte (caching is by prefix), if it is a JSON object."""
    try:
        _object(arguments)
    except (ValueError, RecursionError):
        return {"arguments": arguments} if arguments.strip() else {}
    return msgspec.Raw(arguments.encode())

"""Items of a streamed answer in events of the Responses API, each one from a block of Claude's."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.free_text import FreeText
from bifrost.translate.messages_tools import Tool
from bifrost.translate.responses_object import Response, called, free_text, reasoning, spoken

Json = dict[str, Any]

_LEAD = b'event: response.%b.delta\ndata: {"type":"response.%b.delta","sequence_number":'
_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Events:
    """The events of one stream, numbered."""

    def __init__(self) -> None:
        self._number = 0
        self._made: list[bytes] = []
        self.size = 0  # bytes of output in them

    def say(self, kind: str, **fields: Any) -> None:
        """An event ``response.<kind>``."""
        told = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        self._made.append(b"event: response.%b\ndata: %b\n\n" % (kind.encode(), _encode(told)))

    def delta(self, lead: bytes, place: bytes, text: str) -> None:
        """A piece of an item: ``lead`` to the event's number, ``place`` from there to the text.

        What most of a stream is made of, put together without an object.
        """
        piece = _encode(text)
        self._made.append(b"%b%d%b%b}\n\n" % (lead, self._number, place, piece))
        self._number += 1
        self.size += len(piece) - 2

    def taken(self) -> bytes:
        """What has come since the last time."""
        if len(self._made) == 1:
            return self._made.pop()
        made, self._made = b"".join(self._made), []
        return made


class Item:
    """An item under way. ``item`` is what the response has of it, None as long as there is none."""

    def __init__(self, events: Events, name: str, index: int) -> None:
        self.item: Json | None = None
        self._events, self._name, self._index = events, name, index
        self._around: dict[bytes, tuple[bytes, bytes]] = {}  # a kind's deltas, made once
        self._place: Json = {"item_id": name, "output_index": index}

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""

    def say(self, name: str, text: str) -> None:
        """Takes a delta that holds no more than that member."""
        self.feed({name: text})

    def close(self) -> bool:
        """The block's end; False where it is not whole, and ``done`` waits to be called."""
        return True

    def done(self) -> None:
        """Says that the item is whole."""
        self._events.say("output_item.done", output_index=self._index, item=self.item)

    def _opened(self, item: Json) -> None:
        self.item = item
        self._events.say("output_item.added", output_index=self._index, item=item)

    def _piece(self, kind: bytes, text: str, more: bytes = b"") -> None:
        around = self._around.get(kind)
        if around is None:
            place = b',"item_id":%b,"output_index":%d,%b"delta":'
            around = _LEAD % (kind, kind), place % (_encode(self._name), self._index, more)
            self._around[kind] = around
        lead, place = around
        self._events.delta(lead, place, text)


class Words(Item):
    """A message, from a block of text; none as long as there is no text in it."""

    def __init__(self, events: Events, name: str, index: int, block: Json) -> None:
        super().__init__(events, name, index)
        self._texts: list[str] = []
        self.feed(block)

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        text = delta.get("text")
        if not text:
            return
        if self.item is None:
            self._opened({**spoken(self._name, ""), "status": "in_progress", "content": []})
            self._place["content_index"] = 0
            part = spoken(self._name, "")["content"][0]
            self._events.say("content_part.added", **self._place, part=part)
        self._said(text)

    def say(self, name: str, text: str) -> None:
        """Takes a delta that holds no more than that member."""
        if self.item is None or name != "text":
            self.feed({name: text})
        elif text:
            self._said(text)

    def _said(self, text: str) -> None:
        self._texts.append(text)
        self._piece(b"output_text", text, b'"content_index":0,"logprobs":[],')

    def close(self) -> bool:
        """The block's end."""
        if self.item is not None:
            text = "".join(self._texts)
            self.item = spoken(self._name, text)
            self._events.say("output_text.done", **self._place, text=text, logprobs=[])
            part = self.item["content"][0]
            self._events.say("content_part.done", **self._place, part=part)
            self.done()
        return True


class Thoughts(Item):
    """A reasoning item, from a block of thinking, its text as the summary."""

    def __init__(self, events: Events, name: str, index: int, block: Json) -> None:
        super().__init__(events, name, index)
        self._opened(reasoning(name, "", None))
        self._texts: list[str] = []
        self._signature = ""
        self._data = block.get("data")
        self.feed(block)

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        self._signature += delta.get("signature") or ""
        text = delta.get("thinking")
        if not text:
            return
        if not self._texts:
            self._place["summary_index"] = 0
            part = {"type": "summary_text", "text": ""}
            self._events.say("reasoning_summary_part.added", **self._place, part=part)
        self._texts.append(text)
        self._piece(b"reasoning_summary_text", text, b'"summary_index":0,')

    def close(self) -> bool:
        """The block's end."""
        text = "".join(self._texts)
        block: Json | None = None
        if self._data:
            block = {"type": "redacted_thinking", "data": self._data}
        elif self._signature:
            block = {"type": "thinking", "thinking": text, "signature": self._signature}
        self.item = reasoning(self._name, text, _encode(block) if block else None)
        if text:
            self._events.say("reasoning_summary_text.done", **self._place, text=text)
            part = self.item["summary"][0]
            self._events.say("reasoning_summary_part.done", **self._place, part=part)
        self.done()
        return True


class Call(Item):
    """A call, from a use of a tool.

    A client may run it as soon as it is said to be done, so one whose input broke off never is.
    """

    def __init__(self, events: Events, name: str, index: int, block: Json, tool: Tool) -> None:
        super().__init__(events, name, index)
        self._tool, self._call_id = tool, block["id"]
        self._text = FreeText() if tool.free else None
        self._kind = b"custom_tool_call_input" if tool.free else b"function_call_arguments"
        self._pieces: list[str] = []
        self._first = block.get("input")  # some hosts give the input here
        self._opened(self._called("", "in_progress"))

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        piece = delta.get("partial_json")
        if not piece:
            return
        self._say(piece)

    def say(self, name: str, text: str) -> None:
        """Takes a delta that holds no more than that member."""
        if text and name == "partial_json":
            self._say(text)

    def _say(self, piece: str) -> None:
        self._pieces.append(piece)
        text = piece if self._text is None else self._text.feed(piece)
        if text:
            self._piece(self._kind, text)

    def close(self) -> bool:
        """The block's end; False where it is not whole, and ``done`` waits to be called."""
        if not self._pieces:
            self.feed({"partial_json": _encode(self._first or {}).decode()})
        given = "".join(self._pieces)
        try:
            _object(given)
        except (ValueError, RecursionError):
            given = given if self._text is None else self._text.read
            self.item = self._called(given, "incomplete")
            return False
        if self._text is not None:
            given = self._rest(self._text.read, free_text(given))
        self.item = self._called(given, "completed")
        self.done()
        return True

    def done(self) -> None:
        """Says that the item is whole. Raises ValueError for half a text, which nobody may run."""
        assert self.item is not None
        whole = self.item["status"] == "completed"
        if self._text is not None and not whole:
            raise ValueError("a call whose input is no JSON")
        self.item["status"] = "completed"
        if self._text is not None:
            kind, given = "custom_tool_call_input.done", {"input": self.item["input"]}
        else:
            arguments = self.item["arguments"]
            kind = "function_call_arguments.done"
            given = {"arguments": arguments, "name": self._tool.name}
        self._events.say(kind, **self._place, **given)
        super().done()

    def _rest(self, read: str, given: str) -> str:
        """The whole text, of which ``read`` has been told."""
        if not given.startswith(read):
            return read
        if given != read:
            self._piece(self._kind, given[len(read) :])
        return given

    def _called(self, given: str, status: str) -> Json:
        return called(self._name, self._call_id, self._tool, given, status)


def item(events: Events, response: Response, index: int, block: Json) -> Item | None:
    """The item that a block begins at ``index`` of the output; None for one that is not shown."""
    kind = block["type"]
    if kind == "text":
        return Words(events, response.id("msg", index), index, block)
    if kind in ("thinking", "redacted_thinking"):
        return Thoughts(events, response.id("rs", index), index, block)
    if kind == "tool_use":
        tool = response.names.back(block["name"])
        name = response.id("ctc" if tool.free else "fc", index)
        return Call(events, name, index, block, tool)
    return None

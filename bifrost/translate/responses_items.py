"""Items of a streamed answer in events of the Responses API, each one from a block of Claude's."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.free_text import FreeText
from bifrost.translate.messages_tools import Tool
from bifrost.translate.responses_object import Response, called, free_text, reasoning, spoken

Json = dict[str, Any]

_LEAD = b'event: response.%b.delta\ndata: {"type":"response.%b.delta","sequence_number":'
_BEHIND = b',"item_id":%b,"output_index":%d,%b"delta":'
_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_text = msgspec.json.Decoder(str).decode
_EMPTY = b'""'


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

    def delta(self, lead: bytes, place: bytes, piece: bytes) -> None:
        """A piece of an item: ``lead`` to the event's number, ``place`` from there to the text, and
        that in JSON.

        What most of a stream is made of, put together without an object.
        """
        self._made.append(b"%b%d%b%b}\n\n" % (lead, self._number, place, piece))
        self._number += 1
        self.size += len(piece) - 2

    def taken(self) -> bytes:
        """What has come since the last time."""
        if len(self._made) == 1:
            return self._made.pop()
        made, self._made = b"".join(self._made), []
        return made


class Pieces(list[bytes]):
    """A text that comes in pieces of JSON, each with its quotes; read when it is whole."""

    def whole(self) -> str:
        """All of it."""
        return _text(b'"%b"' % b"".join([piece[1:-1] for piece in self]))


class Item:
    """An item under way. ``item`` is what the response has of it, None as long as there is none."""

    def __init__(
        self, events: Events, name: str, index: int, kind: bytes, more: bytes = b""
    ) -> None:
        """``kind`` of its deltas, and what ``more`` stands in each."""
        self.item: Json | None = None
        self._events, self._name, self._index = events, name, index
        self._lead = _LEAD % (kind, kind)
        self._behind = _BEHIND % (_encode(name), index, more)  # the number
        self._place: Json = {"item_id": name, "output_index": index}

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""

    def say(self, name: bytes, text: bytes) -> None:
        """Takes a delta that holds no more than that member, whose text is in JSON."""

    def close(self) -> bool:
        """The block's end; False where it is not whole, and ``done`` waits to be called."""
        return True

    def done(self) -> None:
        """Says that the item is whole."""
        self._events.say("output_item.done", output_index=self._index, item=self.item)

    def _opened(self, item: Json) -> None:
        self.item = item
        self._events.say("output_item.added", output_index=self._index, item=item)

    def _piece(self, piece: bytes) -> None:
        self._events.delta(self._lead, self._behind, piece)


class Words(Item):
    """A message, from a block of text; none as long as there is no text in it."""

    def __init__(self, events: Events, name: str, index: int, block: Json) -> None:
        super().__init__(events, name, index, b"output_text", b'"content_index":0,"logprobs":[],')
        self._text = Pieces()
        self.feed(block)

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        if delta.get("text"):
            self._said(_encode(delta["text"]))

    def say(self, name: bytes, text: bytes) -> None:
        """Takes a delta that holds no more than that member."""
        if name != b"text" or text == _EMPTY:
            return
        if self.item is None:
            self._said(text)
        else:  # as most of a stream comes
            self._text.append(text)
            self._events.delta(self._lead, self._behind, text)

    def _said(self, piece: bytes) -> None:
        if self.item is None:
            self._opened({**spoken(self._name, ""), "status": "in_progress", "content": []})
            self._place["content_index"] = 0
            part = spoken(self._name, "")["content"][0]
            self._events.say("content_part.added", **self._place, part=part)
        self._text.append(piece)
        self._piece(piece)

    def close(self) -> bool:
        """The block's end."""
        if self.item is not None:
            text = self._text.whole()
            self.item = spoken(self._name, text)
            self._events.say("output_text.done", **self._place, text=text, logprobs=[])
            part = self.item["content"][0]
            self._events.say("content_part.done", **self._place, part=part)
            self.done()
        return True


class Thoughts(Item):
    """A reasoning item, from a block of thinking, its text as the summary."""

    def __init__(self, events: Events, name: str, index: int, block: Json) -> None:
        super().__init__(events, name, index, b"reasoning_summary_text", b'"summary_index":0,')
        self._opened(reasoning(name, "", None))
        self._text = Pieces()
        self._signature = ""
        self._data = block.get("data")
        self.feed(block)

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        self._signature += delta.get("signature") or ""
        if delta.get("thinking"):
            self._said(_encode(delta["thinking"]))

    def say(self, name: bytes, text: bytes) -> None:
        """Takes a delta that holds no more than that member."""
        if name == b"thinking" and text != _EMPTY:
            self._said(text)

    def _said(self, piece: bytes) -> None:
        if not self._text:
            self._place["summary_index"] = 0
            part = {"type": "summary_text", "text": ""}
            self._events.say("reasoning_summary_part.added", **self._place, part=part)
        self._text.append(piece)
        self._piece(piece)

    def close(self) -> bool:
        """The block's end."""
        text = self._text.whole()
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
        kind = b"custom_tool_call_input" if tool.free else b"function_call_arguments"
        super().__init__(events, name, index, kind)
        self._tool, self._call_id = tool, block["id"]
        self._free = FreeText() if tool.free else None
        self._given = Pieces()
        self._first = block.get("input")  # some hosts give the input here
        self._opened(self._called("", "in_progress"))

    def feed(self, delta: Json) -> None:
        """Takes a delta of the block."""
        if delta.get("partial_json"):
            self._said(_encode(delta["partial_json"]))

    def say(self, name: bytes, text: bytes) -> None:
        """Takes a delta that holds no more than that member."""
        if name != b"partial_json" or text == _EMPTY:
            return
        if self._free is not None:
            self._said(text)
        else:  # as most of a stream comes
            self._given.append(text)
            self._events.delta(self._lead, self._behind, text)

    def _said(self, piece: bytes) -> None:
        self._given.append(piece)
        if self._free is None:
            self._piece(piece)
        elif text := self._free.feed(_text(piece)):
            self._piece(_encode(text))

    def close(self) -> bool:
        """The block's end; False where it is not whole, and ``done`` waits to be called."""
        if not self._given:
            self.feed({"partial_json": _encode(self._first or {}).decode()})
        given = self._given.whole()
        try:
            _object(given)
        except (ValueError, RecursionError):
            given = given if self._free is None else self._free.read
            self.item = self._called(given, "incomplete")
            return False
        if self._free is not None:
            given = self._rest(self._free.read, free_text(given))
        self.item = self._called(given, "completed")
        self.done()
        return True

    def done(self) -> None:
        """Says that the item is whole. Raises ValueError for half a text, which nobody may run."""
        assert self.item is not None
        whole = self.item["status"] == "completed"
        if self._free is not None and not whole:
            raise ValueError("a call whose input is no JSON")
        self.item["status"] = "completed"
        if self._free is not None:
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
            self._piece(_encode(given[len(read) :]))
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

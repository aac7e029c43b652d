"""Streams of OpenAI's Responses as Anthropic events: one block at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.chat_answer import decoded, guessed, message
from bifrost.translate.chat_request import Names
from bifrost.translate.chat_stream import DELTA, event, size
from bifrost.translate.data_lines import DataLines
from bifrost.translate.responses_answer import (
    PARTS,
    UNSEALED,
    call,
    counted,
    failed,
    redacted,
    refuses,
    sealed,
    stop_reason,
    summary,
    texts,
)

Json = dict[str, Any]
Key = tuple[int, int]  # a block by its item and the part of it
_KINDS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_summary_text.delta": "thinking",
    "response.reasoning_text.delta": "thinking",
    "response.function_call_arguments.delta": "tool_use",
}
_DELTAS = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
_encode = msgspec.json.Encoder().encode


class Event(msgspec.Struct, gc=False):
    """What of an event is looked at; nothing else is made an object of."""

    type: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    item: Any = None
    response: Any = None
    error: Any = None


_SHORT = 16  # bytes; an event has more
_event = msgspec.json.Decoder(Event).decode


class _Block:
    """A block of the answer: its turn may have come or not."""

    __slots__ = ("begun", "done", "part", "seal", "source", "waiting")

    def __init__(self, begun: Json, *, done: bool = False) -> None:
        self.begun, self.done = begun, done
        self.waiting: list[str] = []
        self.seal = UNSEALED
        self.source: str | None = None  # which of two kinds of deltas tells the thinking
        self.part = 0  # of a summary


class ResponsesStream(DataLines):
    """One answer. Blocks of Anthropic's never interleave: while one is open, the others wait.
    Raises ValueError where the stream makes no sense."""

    def __init__(self, asked: str, model: str | None, names: Names, input_estimate: int) -> None:
        """``asked``, ``model``: as ``responses_answer.answer`` has them."""
        super().__init__()
        self._asked, self._model, self._names = asked, model, names
        self._estimate = max(1, input_estimate)
        self._started = self._refused = False
        self._made = 0  # bytes of output
        self._index = -1
        self._open: Key | None = None
        self._blocks: dict[Key, _Block] = {}  # not yet closed, in their order
        self._calls: set[int] = set()
        self._said: set[int] = set()  # items that deltas told of
        self._held: tuple[int, Json] | None = None  # reasoning, until it is known what follows

    def _event(self, data: bytes, out: list[bytes]) -> None:
        if len(data) < _SHORT and data.strip() in (b"", b"[DONE]"):
            return
        told = event_of(data)
        kind = told.type or ("error" if told.error else "")
        if self._started and kind in _KINDS:
            self._delta(kind, told, out)
        elif kind == "error":
            self._fail(told.error or decoded(data), out)
        elif kind == "response.failed":
            self._fail(told.response.get("error"), out)
        elif kind.startswith("response."):
            if not self._started:
                self._started = True
                name = (told.response or {}).get("id")
                begun = message(name, self._asked, guessed(self._estimate, 0))
                out.append(event("message_start", message=begun))
            self._answer(kind, told, out)

    def _fail(self, error: object, out: list[bytes]) -> None:
        self._over = True
        out.append(event("error", error=failed(error)[1]))

    def _answer(self, kind: str, told: Event, out: list[bytes]) -> None:
        number = told.output_index or 0
        if kind in _KINDS:
            self._delta(kind, told, out)
        elif kind == "response.output_item.added":
            item = told.item
            self._release(out, item.get("phase"))
            if item["type"] == "function_call":
                self._call(number, item, out)
        elif kind == "response.content_part.done":
            self._done((number, told.content_index or 0), out)
        elif kind == "response.output_item.done":
            self._item(number, told.item, out)
        elif kind in ("response.completed", "response.incomplete"):
            self._end({"status": kind[9:], **(told.response or {})}, out)

    def _delta(self, kind: str, told: Event, out: list[bytes]) -> None:
        shape, text, number = _KINDS[kind], told.delta, told.output_index or 0
        self._refused = self._refused or kind == "response.refusal.delta"
        if not text or (shape == "tool_use" and number not in self._calls):
            return
        if shape != "thinking":
            self._piece((number, told.content_index or 0), shape, text, out)
            return
        if self._model is None:
            self._made += size(text)
            return
        part = told.summary_index or told.content_index or 0
        block = self._blocks.get((number, 0))
        if block and block.source != kind:
            return
        if block and block.part != part:
            text = PARTS + text
        self._piece((number, 0), shape, text, out)
        block = self._blocks[number, 0]
        block.source, block.part = kind, part

    def _item(self, number: int, item: Json, out: list[bytes]) -> None:
        """An item is whole; what no delta told of it is told now."""
        kind, told = item["type"], number in self._said
        if kind == "reasoning" and self._model is not None:
            text = "" if told else summary(item)
            if text:
                self._piece((number, 0), "thinking", text, out)
            self._release(out)
            self._held = number, item
            return
        if kind == "message":
            self._refused = self._refused or refuses(item)
            for part, text in enumerate(() if told else texts(item)):
                if text:
                    self._piece((number, part), "text", text, out)
        elif kind == "function_call":
            self._call(number, item, out)
            if item.get("arguments") and not told:
                self._piece((number, 0), "tool_use", item["arguments"], out)
        for key in [key for key in self._blocks if key[0] == number]:
            self._done(key, out)

    def _call(self, number: int, item: Json, out: list[bytes]) -> None:
        if number not in self._calls:
            self._calls.add(number)
            self._begin((number, 0), _Block(call(item, self._names)), out)

    def _piece(self, key: Key, shape: str, text: str, out: list[bytes]) -> None:
        block = self._blocks.get(key)
        if block is None:
            begun = {"type": shape, shape: ""}
            block = _Block(begun | {"signature": ""} if shape == "thinking" else begun)
            self._begin(key, block, out)
        self._said.add(key[0])
        self._made += size(text)
        if key == self._open:
            self._say(block, text, out)
        else:
            block.waiting.append(text)

    def _say(self, block: _Block, text: str, out: list[bytes]) -> None:
        kind, name = _DELTAS[block.begun["type"]]
        piece = _encode(text)
        out.append(DELTA % (self._index, kind, name, piece))
        self.said = name, piece

    def _begin(self, key: Key, block: _Block, out: list[bytes]) -> None:
        self._release(out)
        self._blocks[key] = block
        self._advance(out)

    def _done(self, key: Key, out: list[bytes]) -> None:
        block = self._blocks.get(key)
        if block and block.begun["type"] != "thinking":
            block.done = True
            self._advance(out)

    def _release(self, out: list[bytes], phase: str | None = None) -> None:
        """Ends the reasoning that was held, as a message of that phase follows it."""
        if self._held is None or self._model is None:
            return
        (number, item), self._held = self._held, None
        seal, block = sealed(item, self._model, phase), self._blocks.get((number, 0))
        if block:
            block.seal, block.done = seal or UNSEALED, True
        elif seal:
            self._blocks[number, 0] = _Block(redacted(seal), done=True)
        self._advance(out)

    def _advance(self, out: list[bytes]) -> None:
        """Closes what is done and opens what comes next."""
        for key, block in list(self._blocks.items()):
            if self._open != key:
                self._open = key
                self._index += 1
                begun = {"index": self._index, "content_block": block.begun}
                out.append(event("content_block_start", **begun))
                if block.waiting:
                    self._say(block, "".join(block.waiting), out)
            if not block.done:
                return
            if block.begun["type"] == "thinking":
                signed = {"type": "signature_delta", "signature": block.seal}
                out.append(event("content_block_delta", index=self._index, delta=signed))
            out.append(event("content_block_stop", index=self._index))
            del self._blocks[key]
            self._open = None

    def _end(self, response: Json, out: list[bytes]) -> None:
        self._release(out)
        for block in self._blocks.values():
            block.done = True
        self._advance(out)
        self._over = True
        reason = stop_reason(response, called=bool(self._calls), refused=self._refused)
        used = counted(response.get("usage"), self._estimate, self._made)
        delta = {"stop_reason": reason, "stop_sequence": None}
        out.append(event("message_delta", delta=delta, usage=used))
        out.append(event("message_stop"))


def event_of(data: bytes) -> Event:
    """What a line's data tell. Raises ValueError where they are no event."""
    try:
        return _event(data)
    except (msgspec.ValidationError, RecursionError) as error:
        decoded(data)
        raise ValueError("an event of another shape") from error

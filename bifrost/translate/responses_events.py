"""Claude's streams as events of the Responses API."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost._fast.pieces import delta
from bifrost.translate import anthropic_anthropic
from bifrost.translate.data_lines import MOST_LINE
from bifrost.translate.responses_items import Events, Item, item
from bifrost.translate.responses_object import Response, cut, limited, refusal, usage

Json = dict[str, Any]

_KNOWN = {
    "message_start", "content_block_start", "content_block_delta", "content_block_stop",
    "message_delta", "message_stop", "error",
}  # fmt: skip
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ResponsesStream:
    """One answer. Raises ValueError where the stream makes no sense."""

    def __init__(self, response: Response, input_estimate: int) -> None:
        """``input_estimate``: tokens of the input where the host counts none."""
        self._response, self._estimate = response, input_estimate
        self._events = Events()
        self._rest = b""
        self._started = self._over = False
        self._reason: str | None = None
        self._details: Json | None = None
        self._used: Json = {}
        self._output: list[Json] = []
        self._open: Item | None = None
        self._held: Item | None = None  # a call that is not whole, until it is clear why

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the host, cut anywhere; whole events."""
        found = delta(chunk) if self._open is not None and not self._rest else None
        if found is not None:
            return self.say(*found)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        for line in lines:
            self._line(line)
        return self._events.taken()

    def say(self, name: bytes, text: bytes) -> bytes:
        """As ``feed`` of one delta."""
        if self._open is None or self._over:
            return b""
        self._open.say(name, text)
        return self._events.taken()

    def finish(self) -> bytes:
        """The end, if the host said why it stopped; a stream that was cut short gets none."""
        self._line(self._rest)
        if self._reason is not None and not self._over:
            self._end()
        return self._events.taken()

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:") or self._over:
            return
        try:
            told = _decode(line[5:])
            if told["type"] == "error":
                told = _decode(anthropic_anthropic.error(line[5:]))
        except RecursionError as error:
            raise ValueError("JSON that is nested too deeply") from error
        self._event(told["type"], told)

    def _event(self, kind: str, told: Json) -> None:
        if kind not in _KNOWN:
            return
        if not self._started:
            self._start(told.get("message") or {})
        if kind == "content_block_delta":
            if self._open is not None:
                self._open.feed(told["delta"])
        elif kind == "content_block_start":
            self._close()
            self._release()
            index = len(self._output)
            self._open = item(self._events, self._response, index, told["content_block"])
        elif kind == "content_block_stop":
            self._close()
        elif kind == "message_delta":
            self._reason = told["delta"].get("stop_reason") or self._reason
            self._details = told["delta"].get("stop_details") or self._details
            self._count(told.get("usage"))
        elif kind == "message_stop":
            self._end()
        elif kind == "error":
            self._over = True
            failed = self._response.failed(self._output, told.get("error") or {}, self._usage())
            self._events.say("failed", response=failed)

    def _start(self, message: Json) -> None:
        self._started = True
        self._response.named(message.get("id"))
        self._count(message.get("usage"))
        for kind in ("created", "in_progress"):
            self._events.say(kind, response=self._response.begun())

    def _count(self, told: Json | None) -> None:
        """What a later account does not say stands as the earlier one said it."""
        self._used |= {key: value for key, value in (told or {}).items() if value is not None}

    def _close(self) -> None:
        closing, self._open = self._open, None
        if closing is None:
            return
        whole = closing.close()
        if closing.item is not None:
            self._output.append(closing.item)
        if not whole:
            self._held = closing

    def _release(self) -> None:
        """A call that is not whole goes out as it is: it was not cut off but made so."""
        held, self._held = self._held, None
        if held is not None:
            held.done()

    def _end(self) -> None:
        self._close()
        if not limited(self._reason):
            self._release()
        cut(self._output, self._reason)
        if self._reason == "refusal":
            self._refuse()
        self._over = True
        whole = self._response.ended(self._output, self._reason, self._usage())
        self._events.say(whole["status"], response=whole)

    def _usage(self) -> Json:
        return usage(self._used, self._estimate, self._events.size)

    def _refuse(self) -> None:
        index = len(self._output)
        whole = refusal(self._response.id("msg", index), self._details)
        part = whole["content"][0]
        place = {"item_id": whole["id"], "output_index": index, "content_index": 0}
        opened = {**whole, "status": "in_progress", "content": []}
        self._events.say("output_item.added", output_index=index, item=opened)
        empty = {**part, "refusal": ""}
        self._events.say("content_part.added", **place, part=empty)
        self._events.say("refusal.delta", **place, delta=part["refusal"])
        self._events.say("refusal.done", **place, refusal=part["refusal"])
        self._events.say("content_part.done", **place, part=part)
        self._events.say("output_item.done", output_index=index, item=whole)
        self._output.append(whole)

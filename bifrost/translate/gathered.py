"""Whole answers out of streams: for clients that asked for none, of hosts that do nothing else.

The answer is in the host's own dialect, as if the host had given it whole; whatever reads or
translates whole answers goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bifrost.config.hosts import Api
from bifrost.translate.chat_answer import decoded, given_up
from bifrost.translate.chat_stream import size
from bifrost.translate.data_lines import DataLines
from bifrost.translate.raw_json import Raw, members, object_of

Json = dict[str, Any]

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_SAID = ("content", "reasoning_content", "reasoning", "refusal")  # what grows piece by piece
_OPTIONS = b'{"include_usage":true}'
_encode = msgspec.json.Encoder().encode


class Gathered(DataLines):
    """One answer. ``whole`` is (status, body) once it is complete, None before; ``made`` the bytes
    of what it says so far. Raises ValueError where the stream makes no sense."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: tuple[int, bytes] | None = None
        self.made = 0

    def _failed(self, told: Json) -> None:
        """An error in place of an answer has its status; one behind a part of it ends it.

        Raises ValueError for the second.
        """
        status, error = given_up(told)
        if self.made:
            raise ValueError(error["message"])
        self._over = True
        self.whole = (
            status,
            _encode(told if isinstance(told.get("error"), dict) else {"error": told}),
        )


class GatheredChat(Gathered):
    """A stream of Chat Completions: its deltas put together."""

    def __init__(self) -> None:
        super().__init__()
        self._shell: Json = {}
        self._choices: dict[int, Json] = {}

    def _event(self, data: bytes, out: list[bytes]) -> None:
        if data.strip() == b"[DONE]":
            self._over = True
            return
        told = decoded(data)
        if told.get("error"):
            self._failed(told)
            return
        for choice in told.pop("choices", None) or ():
            self._choice(choice)
        self._shell |= {name: value for name, value in told.items() if value is not None}

    def _ended(self, out: list[bytes]) -> None:
        """A stream that does not say why its answer ends was cut."""
        choices = [self._choices[number] for number in sorted(self._choices)]
        if self.whole is None and choices and all(one["finish_reason"] for one in choices):
            for choice in choices:
                calls = choice["message"].pop("tool_calls", None)
                if calls:
                    choice["message"]["tool_calls"] = list(calls.values())
            shell = self._shell | {"object": "chat.completion", "choices": choices}
            self.whole = 200, _encode(shell)

    def _choice(self, told: Json) -> None:
        number = told.get("index") or 0
        fresh: Json = {"index": number, "message": {"role": "assistant", "content": None},
                       "finish_reason": None}  # fmt: skip
        choice = self._choices.setdefault(number, fresh)
        for name, value in (told.pop("delta", None) or {}).items():
            if value is not None:
                self._delta(choice["message"], name, value)
        choice |= {name: value for name, value in told.items() if value is not None}

    def _delta(self, message: Json, name: str, value: Any) -> None:
        if name == "tool_calls":
            calls = message.setdefault(name, {})
            for piece in value:
                self._call(calls, piece)
        elif name in _SAID or isinstance(value, list):
            self.made += size(value) if isinstance(value, str) else len(_encode(value))
            message[name] = _joined(message.get(name), value)
        else:
            message[name] = value

    def _call(self, calls: dict[int, Json], piece: Json) -> None:
        """A fragment belongs to the call of its number; some hosts number none."""
        number = piece.pop("index", None)
        if not isinstance(number, int):
            number = len(calls) if piece.get("id") else max(len(calls) - 1, 0)
        function = piece.pop("function", None) or {}
        call = calls.setdefault(number, {"type": "function", "function": {"arguments": ""}})
        call |= {name: value for name, value in piece.items() if value}
        arguments = function.pop("arguments", None) or ""
        self.made += size(arguments)
        call["function"]["arguments"] += arguments
        call["function"] |= {name: value for name, value in function.items() if value}


class GatheredResponses(Gathered):
    """A stream of Responses: its last event holds all, but for the output at some hosts."""

    def __init__(self) -> None:
        super().__init__()
        self._items: list[Json] = []

    def _event(self, data: bytes, out: list[bytes]) -> None:
        told = decoded(data)
        kind = str(told.get("type"))
        if kind.endswith(".delta") and isinstance(told.get("delta"), str):
            self.made += size(told["delta"])
        elif kind == "response.output_item.done":
            self._items.append(told["item"])
        elif kind == "error":
            self._failed(told)
        elif kind in _ENDS:
            self._over = True
            response = told["response"]
            self.whole = 200, _encode(response | {"output": response.get("output") or self._items})


GATHERED: dict[Api, Callable[[], Gathered]] = {
    "chat": GatheredChat,
    "responses": GatheredResponses,
}


def streaming(host: Api, body: bytes) -> bytes:
    """A request for a whole answer, in that dialect, as one for a stream that tells its usage."""
    wanted: dict[str, Raw] = {"stream": b"true"}
    if host == "chat":
        wanted["stream_options"] = _OPTIONS
    return object_of(members(body) | wanted)


def _joined(had: Any, more: Any) -> Any:
    """Pieces of a text, or of a list of parts; a host that mixes them gets a list."""
    if had is None or isinstance(had, str) is isinstance(more, str):
        return more if had is None else had + more
    parts = [
        one if isinstance(one, list) else [{"type": "text", "text": one}] for one in (had, more)
    ]
    return parts[0] + parts[1]

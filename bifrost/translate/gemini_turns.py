"""Gemini's contents as turns of Claude's: user and assistant alternate, every call is answered."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import Names
from bifrost.translate.gemini_signature import opened, plain
from bifrost.translate.translation import Traits

Json = dict[str, Any]

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_LINK = re.compile(r"https?://", re.I)
_AT_GOOGLE = re.compile(r"gs://|https?://generativelanguage\.googleapis\.com/", re.I)
_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
_TEXTS = {"application/json", "application/xml", "application/javascript",
          "application/x-javascript", "application/x-python", "application/yaml"}  # fmt: skip
_ROLES = {"user": "user", "model": "assistant", "function": "user", "": "user"}
_SILENT, _GO_ON = "(no message)", "Continue."
_encode = msgspec.json.Encoder().encode


class ClaudeNames(Names):
    """Functions' names as Claude takes them (128 letters, digits, _ and -), and back."""

    def to(self, name: str) -> str:
        """The name for Claude."""
        if _NAME.fullmatch(name):
            return name
        short = f"{_NO_NAME.sub('_', name)[:55]}_{sha256(name.encode()).hexdigest()[:8]}"
        self._own[short] = name
        return short


_Placed = tuple[str, Json]  # (where a part is, the part)


class _Due(NamedTuple):
    """A call that waits for its result: the client's id (or none), its name, the id for Claude."""

    theirs: str | None
    name: str
    ours: str


class Conversation:
    """The contents of one request. ``turns``: the messages, the user's at both ends.

    Building one raises InvalidRequest for what Claude cannot be told, a SENSELESS error for what
    makes no contents.
    """

    def __init__(self, contents: list[Json], names: Names, traits: Traits) -> None:
        self.turns: list[Json] = []
        self._names, self._traits = names, traits
        self._ids: set[str] = set()
        self._due: list[_Due] = []  # the calls of the assistant's last turn
        for role, parts in _grouped(contents):
            if role == "assistant":
                self._model(parts)
            else:
                self._user(parts)
        self._user([])
        if self.turns and self.turns[0]["role"] == "assistant":
            self.turns.insert(0, {"role": "user", "content": [text(_SILENT)]})
        if not self.turns or self.turns[-1]["role"] == "assistant":
            self._say("user", [text(_GO_ON)])

    def _model(self, parts: list[_Placed]) -> None:
        said: list[Json] = []
        for place, part in parts:
            thoughts = opened(part.get("thoughtSignature"))
            if part.get("functionCall"):
                said += [*thoughts, self._call(part["functionCall"])]
            elif part.get("thought"):
                continue  # its text is in what the next part carries
            elif part.get("text"):
                if said and said[-1]["type"] == "text" and not thoughts:
                    said[-1]["text"] += part["text"]  # pieces of a stream
                else:
                    said += [*thoughts, text(part["text"])]
            elif part.keys() - {"text", "thoughtSignature"}:
                raise _unknown(part, place)
        said = [block for block in said if block.get("text", "x").strip()]
        while said and "thinking" in said[-1]["type"]:
            said.pop()  # nothing came of it; a turn may not end so
        self._say("assistant", said)

    def _user(self, parts: list[_Placed]) -> None:
        """What the user said, behind the results of all calls of the turn before: Claude insists on
        one for each of them."""
        asked, results, said = list(self._due), {}, []
        for place, part in parts:
            if part.get("functionResponse"):
                given = part["functionResponse"]
                found = self._match(given.get("id"), given.get("name"))
                content, failed = self._response(given, place)
                if found is None:
                    said += [text("Result of an earlier call:"), *content]
                else:
                    results[found.ours] = _result(found.ours, content, failed=failed)
            elif part.get("text") is not None:
                if part["text"].strip() and not part.get("thought"):
                    said.append(text(part["text"]))
            elif part.keys() - {"thoughtSignature", "thought"}:
                said.append(self._part(part, place))
        none = [text("(no result)")]
        told = [results.get(due.ours) or _result(due.ours, none, failed=False) for due in asked]
        self._due = []
        self._say("user", told + said)

    def _call(self, given: Json) -> Json:
        name, theirs = given["name"], given.get("id")
        ours = self._id(theirs or f"call_{len(self._ids)}")
        arguments = given.get("args") or {}
        if not isinstance(arguments, dict):
            arguments = {"arguments": arguments}
        self._due.append(_Due(theirs, name, ours))
        return {"type": "tool_use", "id": ours, "name": self._names.to(name), "input": arguments}

    def _id(self, theirs: str) -> str:
        """A call's id as Claude takes it: unique in the conversation, and the same every time."""
        good = _ID.fullmatch(theirs)
        name = theirs if good else f"call_{sha256(theirs.encode()).hexdigest()[:32]}"
        ours, again = name, 1
        while ours in self._ids:
            again += 1
            ours = f"{name[:56]}_{again}"
        self._ids.add(ours)
        return ours

    def _match(self, theirs: str | None, name: str | None) -> _Due | None:
        """The call of a result: by its id, else by name and order."""
        same = [due for due in self._due if theirs and due.theirs == theirs]
        named = [due for due in self._due if due.name == name and not (theirs and due.theirs)]
        found = next(iter(same or named), None)
        if found is not None:
            self._due.remove(found)
        return found

    def _response(self, given: Json, place: str) -> tuple[list[Json], bool]:
        """(what a function answered, whether that is an error); Google names both members."""
        told = given.get("response")
        failed = isinstance(told, dict) and "error" in told and "output" not in told
        if isinstance(told, dict) and len(told) == 1:
            told = told.get("output", told.get("error", told))
        words = told if isinstance(told, str) else "" if told is None else _encode(told).decode()
        content = [text(words)] if words.strip() else []
        for number, part in enumerate(given.get("parts") or ()):
            content.append(self._part(part, f"{place}.functionResponse.parts[{number}]"))
        return content, failed

    def _say(self, role: str, said: list[Json]) -> None:
        if not said:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += said
        else:
            self.turns.append({"role": role, "content": said})

    def _part(self, part: Json, place: str) -> Json:
        """An image, a document or a text that is no ``text``."""
        if part.get("inlineData"):
            return _inline(part["inlineData"], place, self._traits)
        if part.get("fileData"):
            return _linked(part["fileData"], place, self._traits)
        raise _unknown(part, place)


def _grouped(contents: list[Json]) -> Iterator[tuple[str, list[_Placed]]]:
    """(role for Claude, parts) of those who speak by turns; some clients keep every piece of a
    stream as a content of its own. Raises InvalidRequest for a role that there is not."""
    last = ""
    parts: list[_Placed] = []
    for number, content in enumerate(contents):
        role = content.get("role") or ""
        if role not in _ROLES:
            raise InvalidRequest(
                f"contents[{number}].role: {role!r} is neither 'user' nor 'model'."
            )
        given = content.get("parts") or ()
        placed = [(f"contents[{number}].parts[{at}]", part) for at, part in enumerate(given)]
        if placed and _ROLES[role] != last:
            if parts:
                yield last, parts
            last, parts = _ROLES[role], []
        parts += placed
    if parts:
        yield last, parts


def _result(call: str, content: list[Json], *, failed: bool) -> Json:
    told: Json = {"type": "tool_result", "tool_use_id": call}
    if content:
        told["content"] = content
    return told | {"is_error": True} if failed else told


def _unknown(part: Json, place: str) -> InvalidRequest:
    kind = next(iter(part.keys() - {"thought", "thoughtSignature"}), "nothing")
    return InvalidRequest(f"{place}: this model cannot be told a part with {kind!r}.")


def text(value: str) -> Json:
    """A block of text."""
    return {"type": "text", "text": value}


def _inline(given: Json, place: str, traits: Traits) -> Json:
    media = str(given.get("mimeType") or "").partition(";")[0].strip().lower()
    data = plain(given["data"])
    if media in _IMAGES and traits.vision:
        return _sourced("image", {"type": "base64", "media_type": media, "data": data})
    if media == "application/pdf":
        return _sourced("document", {"type": "base64", "media_type": media, "data": data})
    if media.startswith("text/") or media in _TEXTS:
        try:
            words = b64decode(data, validate=True).decode()
        except ValueError:
            raise InvalidRequest(f"{place}: expected UTF-8 text in base64.") from None
        return _sourced("document", {"type": "text", "media_type": "text/plain", "data": words})
    raise _untold(media, place, traits)


def _linked(given: Json, place: str, traits: Traits) -> Json:
    link, media = given["fileUri"], str(given.get("mimeType") or "").lower()
    if _AT_GOOGLE.match(link) or not _LINK.match(link):
        raise InvalidRequest(
            f"{place}: this model cannot read files that are kept at Google; send inlineData."
        )
    if media.startswith("image/") and traits.vision:
        return _sourced("image", {"type": "url", "url": link})
    if media == "application/pdf":
        return _sourced("document", {"type": "url", "url": link})
    raise _untold(media, place, traits)


def _untold(media: str, place: str, traits: Traits) -> InvalidRequest:
    seen = "JPEG, PNG, GIF, WebP, PDF and text" if traits.vision else "PDF and text"
    return InvalidRequest(f"{place}: this model takes {seen}, not {media or 'data of no type'!r}.")


def _sourced(kind: str, source: Json) -> Json:
    return {"type": kind, "source": source}

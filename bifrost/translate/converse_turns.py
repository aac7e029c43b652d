"""Messages as Converse's turns: user and assistant alternate, every call is answered right behind.

A call without its result gets one that says so; a result without its call becomes the user's text.
Blank texts, which Converse refuses, are left out. Models that take no images in results get them
behind the results, and a failure as text.
"""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from typing import Any, NamedTuple

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import Names, blocks, prose, titled, untold
from bifrost.translate.converse_families import Family
from bifrost.translate.converse_tools import Marks
from bifrost.translate.translation import Traits

Json = dict[str, Any]

SIGNED = "bifrost-converse"  # thinking whose signature means nothing elsewhere, or that has none
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_NO_TITLE = re.compile(r"[^a-zA-Z0-9 ()\[\]-]+")
_SPACES = re.compile(r" {2,}")
_BEGIN, _GO_ON, _SEE = ({"text": text} for text in ("Begin.", "Continue.", "See the document."))


def call_id(name: str) -> str:
    """A call's id as Converse takes it; the same for the call and its result."""
    return name if _ID.fullmatch(name) else f"call_{sha256(name.encode()).hexdigest()[:32]}"


class _Result(NamedTuple):
    call: str  # its id
    told: list[Json]  # the result, and the cache point behind it


class _Turn(NamedTuple):
    role: str
    said: list[Json]
    results: list[_Result]


class Conversation:
    """The turns of one request. ``turns``: the messages; ``called``: the tools that they call.

    Building one raises InvalidRequest for what the model cannot be told, a SENSELESS error for what
    makes no messages.
    """

    def __init__(
        self, messages: list[Json], names: Names, traits: Traits, family: Family, marks: Marks
    ) -> None:
        self.turns: list[Json] = []
        self.called: list[str] = []
        self._names, self._traits, self._family, self._marks = names, traits, family, marks
        self._titles: dict[str, int] = {}
        due: list[str] = []
        for turn in self._merged(messages):
            if turn.role == "assistant":
                self.turns.append({"role": "assistant", "content": turn.said})
                due = [block["toolUse"]["toolUseId"] for block in turn.said if "toolUse" in block]
                continue
            content = _answered(due, turn.results) + turn.said
            if any("document" in one for one in content) and not any(
                "text" in one for one in content
            ):
                content.append(_SEE)
            self.turns.append({"role": "user", "content": content})
            due = []
        self._closed(due)

    def _closed(self, due: list[str]) -> None:
        """The user has the first word and the last, unless the model can go on with its own."""
        turns = self.turns
        if not turns:
            raise InvalidRequest("messages: nothing is said in them.")
        if turns[0]["role"] == "assistant":
            turns.insert(0, {"role": "user", "content": [_BEGIN]})
        if due:
            turns.append({"role": "user", "content": _answered(due, [])})
        elif turns[-1]["role"] == "assistant" and not (
            self._family.claude and self._traits.prefill
        ):
            turns.append({"role": "user", "content": [_GO_ON]})

    def _merged(self, messages: list[Json]) -> list[_Turn]:
        """What is said, side by side; what says nothing is left out."""
        turns: list[_Turn] = []
        for message in messages:
            role, content = message["role"], message["content"]
            if role == "system":
                content = prose(content)
            told = blocks(content)
            turn = self._model(told) if role == "assistant" else self._user(told)
            if turn.role == "assistant" and all("reasoningContent" in one for one in turn.said):
                continue
            if not turn.said and not turn.results:
                continue
            if turns and turns[-1].role == turn.role:
                turns[-1].said.extend(turn.said)
                turns[-1].results.extend(turn.results)
            else:
                turns.append(turn)
        return turns

    def _model(self, told: list[Json]) -> _Turn:
        said: list[Json] = []
        for block in told:
            kind = block["type"]
            if kind == "text":
                made = _text(block["text"])
            elif kind == "tool_use":
                name = self._names.to(block["name"])
                self.called.append(name)
                given = block["input"]
                given = given if isinstance(given, dict) else {"arguments": given}
                call = {"toolUseId": call_id(block["id"]), "name": name, "input": given}
                made = [{"toolUse": call}]
            elif kind in ("thinking", "redacted_thinking"):
                said += self._thought(block)
                continue
            else:
                raise untold(kind)
            said += made + (self._marks.behind(block, "messages") if made else [])
        return _Turn("assistant", said, [])

    def _thought(self, block: Json) -> list[Json]:
        """Earlier thinking, for Claude alone: others take none back, and none but its maker's."""
        if not self._family.claude:
            return []
        if block["type"] == "thinking":
            signature = block.get("signature") or ""
            if not signature or signature.startswith("bifrost-"):
                return []
            told = {"text": block["thinking"], "signature": signature}
            return [{"reasoningContent": {"reasoningText": told}}]
        data = block["data"]
        try:
            b64decode(data, validate=True)
        except ValueError:  # none of Bedrock's
            return []
        return [{"reasoningContent": {"redactedContent": data}}]

    def _user(self, told: list[Json]) -> _Turn:
        turn = _Turn("user", [], [])
        for block in told:
            if block["type"] == "tool_result":
                result = [self._result(block, turn.said), *self._marks.behind(block, "messages")]
                turn.results.append(_Result(call_id(block["tool_use_id"]), result))
                continue
            made = self._parts(block)
            turn.said.extend(made + (self._marks.behind(block, "messages") if made else []))
        return turn

    def _result(self, block: Json, behind: list[Json]) -> Json:
        content: list[Json] = []
        for one in blocks(block.get("content") or []):
            if one["type"] == "tool_reference":
                name = self._names.to(one["tool_name"])
                content += _text(f"The tool {name} can be used now.")
                continue
            for part in self._parts(one):
                (content if self._family.rich or "text" in part else behind).append(part)
        failed = bool(block.get("is_error"))
        if failed and not self._family.rich:
            content.insert(0, {"text": "Error:"})
        told = {
            "toolUseId": call_id(block["tool_use_id"]),
            "content": content or _none("(no output)"),
        }
        return {"toolResult": told | {"status": "error"} if failed and self._family.rich else told}

    def _parts(self, block: Json) -> list[Json]:
        """A block of a user's turn, or of a result, as Converse's."""
        kind, source = block["type"], block.get("source") or {}
        form = source.get("type") if isinstance(source, dict) else None
        if kind == "text":
            return _text(block["text"])
        if kind == "image" and self._traits.vision and form == "base64":
            media = source["media_type"]
            if media not in _FORMATS:
                raise InvalidRequest(f"This model takes PNG, JPEG, GIF and WebP, not {media!r}.")
            return [{"image": {"format": _FORMATS[media], "source": {"bytes": source["data"]}}}]
        if kind == "document" and form == "text":
            return _text("\n".join([*titled(block), source["data"]]))
        if kind == "document" and form == "base64":
            if source["media_type"] != "application/pdf":
                raise InvalidRequest(f"A document of {source['media_type']!r} cannot be told.")
            name = self._title(block.get("title") or "document")
            told = {"format": "pdf", "name": name, "source": {"bytes": source["data"]}}
            return [{"document": told}]
        if kind == "document" and form == "content":
            return [part for one in blocks(source["content"]) for part in self._parts(one)]
        if kind == "search_result":
            texts = [one["text"] for one in block["content"]]
            return _text("\n".join([*titled(block), *texts]))
        if form == "url" and kind in ("image", "document"):
            raise InvalidRequest(
                f"This model reads no {kind} from a URL; send its bytes in base64."
            )
        raise untold(kind)

    def _title(self, given: str) -> str:
        """A document's name of the letters that Converse takes, no two of a request the same."""
        name = _SPACES.sub(" ", _NO_TITLE.sub("-", given)).strip()[:180] or "document"
        seen = self._titles[name] = self._titles.get(name, 0) + 1
        return name if seen == 1 else self._title(f"{name} ({seen})")


def _text(text: str) -> list[Json]:
    return [{"text": text}] if text.strip() else []


def _none(text: str) -> list[Json]:
    return [{"text": text}]


def _answered(due: list[str], results: list[_Result]) -> list[Json]:
    """A result for each call in its order, and behind them what belongs to no call, as text."""
    held: dict[str, list[_Result]] = {}
    for one in results:
        held.setdefault(one.call, []).append(one)
    told: list[Json] = []
    for call in due:
        if held.get(call):
            told += held[call].pop(0).told
        else:
            told.append({"toolResult": {"toolUseId": call, "content": _none("(no result)")}})
    for one in (left for several in held.values() for left in several):
        content = one.told[0]["toolResult"]["content"]
        told += [{"text": "Result of an earlier call:"}, *content]
    return told
